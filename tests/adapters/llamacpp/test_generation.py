"""Answering, on chain models: every token of every answer is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from llama_cpp import llama_cpp as lib

from vestal.backend import EndEvent, GenerateRequestV2, PromptEvent, TextEvent
from vestal.errors import BackendRefused, ContextOverflow, InternalError, InvalidRequest
from vestal.values import GenerateOptions, MessageV2, TextBlock, Usage
from vestal_adapters.llamacpp.native import Batch, Context, Sampler

END = "<|end|>"
COUNT = ["a", " one", " two", " three", END]
LOOP = ["b", " la", " la"]
"""Says " la" for ever."""


@pytest.fixture
def counting(make_model: Any, start: Any) -> Any:
    """An engine that says " one two three" after "a" and " la" for ever after "b"; four slots of 128 tokens."""
    return start(make_model(COUNT, LOOP))


def texts(driver: Any, job: int) -> list[TextEvent]:
    return [event for event in driver.events[job] if isinstance(event, TextEvent)]


def test_an_answer_ends_where_the_model_ends_it(counting: Any) -> None:
    counting.ask(1, "xa")
    counting.run()
    assert counting.text(1) == " one two three"
    assert counting.end(1).stop_reason == "end"


def test_the_token_that_ends_an_answer_is_not_output(counting: Any) -> None:
    counting.ask(1, "xa")
    counting.run()
    assert counting.end(1).usage == Usage(input_tokens=2, cached_tokens=0, output_tokens=3)
    assert [event.tokens for event in texts(counting, 1)] == [1, 1, 1]


def test_the_prompt_is_reported_once_before_any_text(counting: Any) -> None:
    counting.ask(1, "xxa")
    counting.run()
    first, *rest = counting.events[1]
    assert isinstance(first, PromptEvent)
    assert (first.input_tokens, first.cached_tokens) == (3, 0)
    assert first.prefill_ms > 0
    assert not any(isinstance(event, PromptEvent) for event in rest)


def test_max_tokens_cuts_the_answer_at_exactly_that_many(counting: Any) -> None:
    counting.ask(1, "a", max_tokens=2)
    counting.run()
    assert counting.text(1) == " one two"
    assert counting.end(1) == EndEvent("length", Usage(input_tokens=1, output_tokens=2), [])


def test_without_max_tokens_the_answer_may_fill_the_context(counting: Any) -> None:
    counting.ask(1, "xxxxxxxb")
    counting.run()
    assert counting.end(1).stop_reason == "length"
    assert counting.end(1).usage == Usage(input_tokens=8, output_tokens=120)


def test_a_prompt_and_answer_that_fill_the_context_exactly_are_taken(counting: Any) -> None:
    counting.ask(1, "x" * 99 + "b", max_tokens=28)
    counting.run()
    assert counting.end(1).usage.output_tokens == 28


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "details"),
    [
        (100, 29, {"prompt_tokens": 100, "max_tokens": 29, "context_length": 128}),
        (128, None, {"prompt_tokens": 128, "max_tokens": 1, "context_length": 128}),
        (2000, 5, {"prompt_tokens": 2000, "max_tokens": 5, "context_length": 128}),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    counting: Any, prompt: int, max_tokens: int | None, details: dict[str, int]
) -> None:
    with pytest.raises(ContextOverflow) as caught:
        counting.ask(1, "x" * prompt, max_tokens=max_tokens)
    assert caught.value.details == details
    for number in (*details.values(), details["prompt_tokens"] + details["max_tokens"]):
        assert f"{number:,}" in caught.value.message
    assert not counting.engine.busy


def test_a_text_far_too_long_is_refused_without_being_tokenised(counting: Any) -> None:
    with pytest.raises(ContextOverflow) as caught:
        counting.ask(1, "x" * 1_000_000)
    assert "at least" in caught.value.message
    assert 128 < caught.value.details["prompt_tokens"] <= 1_000_000


def test_an_empty_prompt_is_refused(counting: Any) -> None:
    with pytest.raises(InvalidRequest, match="0 tokens"):
        counting.ask(1, "")


# --- text -----------------------------------------------------------------------------------------------------


def test_nothing_of_a_stop_string_that_spans_tokens_gets_out(counting: Any) -> None:
    counting.ask(1, "a", stop=["e tw"])
    counting.run()
    assert counting.text(1) == " on"
    assert counting.end(1).stop_reason == "stop_sequence"
    assert counting.end(1).usage.output_tokens == 2


def test_what_was_held_back_for_a_stop_string_comes_out_at_the_end(counting: Any) -> None:
    counting.ask(1, "a", stop=["three and more"])
    counting.run()
    assert counting.text(1) == " one two three"
    assert counting.end(1).stop_reason == "end"
    assert sum(event.tokens for event in texts(counting, 1)) == 3


def test_what_was_held_back_comes_out_when_max_tokens_ends_the_answer(counting: Any) -> None:
    counting.ask(1, "a", stop=["two three"], max_tokens=2)
    counting.run()
    assert counting.text(1) == " one two"
    assert counting.end(1).stop_reason == "length"


def test_a_character_that_spans_tokens_comes_whole(make_model: Any, start: Any) -> None:
    smile = [bytes([byte]) for byte in "😀".encode()]
    driver = start(make_model(["a", " so", *smile, "!", END]))
    driver.ask(1, "a")
    driver.run()
    assert [(event.text, event.tokens) for event in texts(driver, 1)] == [(" so", 1), ("😀", 4), ("!", 1)]


def test_half_a_character_at_the_end_is_a_replacement_character(make_model: Any, start: Any) -> None:
    driver = start(make_model(["a", b"\xf0", b"\x9f", END]))
    driver.ask(1, "a")
    driver.run()
    assert [(event.text, event.tokens) for event in texts(driver, 1)] == [("\N{REPLACEMENT CHARACTER}", 2)]


def test_a_control_token_in_an_answer_makes_no_text_and_counts_as_output(make_model: Any, start: Any) -> None:
    driver = start(make_model(["a", " one", "<|role|>", " two", END]))
    driver.ask(1, "a")
    driver.run()
    assert [(event.text, event.tokens) for event in texts(driver, 1)] == [(" one", 1), (" two", 2)]
    assert driver.end(1).usage.output_tokens == 3


# --- many jobs ------------------------------------------------------------------------------------------------


def test_jobs_join_and_leave_between_any_two_steps(counting: Any) -> None:
    counting.ask(1, "xb", max_tokens=9)
    counting.step()
    counting.ask(2, "xxa")
    counting.step()
    counting.ask(3, "b", max_tokens=3)
    counting.run()
    assert [counting.text(job) for job in (1, 2, 3)] == [" la" * 9, " one two three", " la" * 3]


def test_a_slot_serves_one_job_after_another(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, LOOP), slots=1)
    for job in range(5):
        driver.ask(job, "xa" if job % 2 else "xxxb", max_tokens=20)
        driver.run()
    assert [driver.text(job) for job in range(5)] == [" la" * 20, " one two three"] * 2 + [" la" * 20]


def test_a_long_prompt_does_not_hold_up_an_answer(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, LOOP), step_target="1us")
    driver.ask(1, "b")
    driver.step()
    driver.ask(2, "x" * 99 + "a", max_tokens=1)
    steps = 0
    while 2 not in driver.events:
        assert [job for job, _ in driver.step()].count(1) == 1, "the answer goes on in every step"
        steps += 1
    assert steps >= 100 / 8, "no step is quick enough for more than the fewest tokens"


def test_with_nobody_to_wait_a_prompt_is_taken_in_one_step(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT))
    driver.ask(1, "x" * 99 + "a")
    driver.step()
    assert driver.text(1) == " one"


def test_a_prompt_longer_than_a_batch_takes_several_steps(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT), batch=32)
    driver.ask(1, "x" * 99 + "a")
    for _ in range(3):
        assert driver.step() == []
    driver.step()
    assert driver.text(1) == " one"


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancelling_frees_the_slot_at_once_and_touches_no_neighbour(make_model: Any, start: Any, steps: int) -> None:
    driver = start(make_model(COUNT, LOOP), slots=2, batch=16)
    driver.ask(1, "x" * 19 + "b", max_tokens=9)
    driver.ask(2, "x" * 39 + "b", max_tokens=9)
    for _ in range(steps):
        driver.step()
    driver.engine.cancel(2)
    seen = len(driver.events.get(2, []))
    driver.ask(3, "xa")
    driver.run()
    assert len(driver.events.get(2, [])) == seen
    assert [driver.text(job) for job in (1, 3)] == [" la" * 9, " one two three"]


def test_cancelling_what_is_not_there_is_no_error(counting: Any) -> None:
    counting.engine.cancel(7)
    counting.ask(1, "a")
    counting.run()
    counting.engine.cancel(1)
    assert counting.text(1) == " one two three"


def test_more_jobs_than_slots_are_a_bug_of_the_caller(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT), slots=1)
    driver.ask(1, "a")
    for job in (1, 2):
        with pytest.raises(InternalError):
            driver.ask(job, "a")
    driver.run()
    assert driver.text(1) == " one two three"


def test_a_step_that_fails_costs_its_jobs_and_nothing_else(counting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counting.ask(1, "xb")
    counting.ask(2, "xxb")
    counting.step()
    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", lambda self, batch: -3)
        counting.step()
    for job in (1, 2):
        error = counting.events[job][-1]
        assert isinstance(error, BackendRefused)
        assert error.details["status"] == -3
        assert "-3" in error.message
    assert not counting.engine.busy
    counting.ask(3, "xa")
    counting.run()
    assert counting.text(3) == " one two three"


def test_an_invalid_batch_is_refused_by_the_library_and_survived(
    counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.ask(1, "xb")
    add_run = Batch.add_run
    with monkeypatch.context() as patch:
        patch.setattr(
            Batch, "add_run", lambda self, tokens, start, seq: add_run(self, [10**6] * len(tokens), start, seq)
        )
        counting.step()
    (error,) = counting.events[1]
    assert isinstance(error, BackendRefused)
    assert error.details["status"] == -1
    assert "invalid token" in error.message, "llama.cpp's own reason is told"
    counting.ask(2, "xa")
    counting.run()
    assert counting.text(2) == " one two three"


# --- sampling -------------------------------------------------------------------------------------------------


def answer(driver: Any, job: int, **options: Any) -> str:
    """What follows a token that nothing follows: every token is as likely as any other."""
    driver.ask(job, "?", max_tokens=12, **options)
    driver.run()
    text: str = driver.text(job)
    return text


def test_the_same_seed_gives_the_same_answer(counting: Any) -> None:
    assert answer(counting, 1, seed=7) == answer(counting, 2, seed=7)


def test_another_seed_gives_another_answer(counting: Any) -> None:
    assert answer(counting, 1, seed=7) != answer(counting, 2, seed=8)


def test_without_a_seed_answers_differ(counting: Any) -> None:
    assert answer(counting, 1) != answer(counting, 2)


def test_at_temperature_zero_the_seed_is_nothing(counting: Any) -> None:
    assert answer(counting, 1, temperature=0.0, seed=7) == answer(counting, 2, temperature=0.0, seed=8)


def test_at_temperature_zero_it_is_the_token_that_llama_cpp_would_take(
    counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, compared = Sampler.sample, []

    def both(self: Sampler, context: Context, row: int) -> int:
        compared.append((sample(self, context, row), lib.llama_sampler_sample(self._chain, context.handle, row)))
        return compared[-1][0]

    monkeypatch.setattr(Sampler, "sample", both)
    counting.ask(1, "xa", temperature=0.0)
    counting.ask(2, "xb", temperature=0.0, max_tokens=20)
    counting.run()
    assert len(compared) > 20
    assert all(ours == theirs for ours, theirs in compared)


def test_penalties_lead_out_of_a_loop(counting: Any) -> None:
    counting.ask(1, "b", max_tokens=30, temperature=0.0)
    counting.ask(2, "b", max_tokens=30, temperature=0.0, frequency_penalty=2.0)
    counting.run()
    assert counting.text(1) == " la" * 30
    assert counting.text(2).startswith(" la" * 3)
    assert not counting.text(2).startswith(" la" * 20)


def test_penalties_see_the_prompt(make_model: Any, start: Any) -> None:
    driver = start(make_model(["c", b"d", b"d"]))
    driver.ask(1, "c", max_tokens=3, temperature=0.0, frequency_penalty=2.0)
    driver.ask(2, "d" * 20 + "c", max_tokens=3, temperature=0.0, frequency_penalty=2.0)
    driver.run()
    assert driver.text(1) == "ddd"
    assert "d" not in driver.text(2)


# --- requests -------------------------------------------------------------------------------------------------


def test_a_v2_request_is_answered_like_a_v1_request(counting: Any) -> None:
    message = MessageV2("user", [TextBlock("x"), TextBlock("a")])
    counting.submit(1, GenerateRequestV2(messages=[message], options=GenerateOptions(max_tokens=2)))
    counting.run()
    assert counting.text(1) == " one two"
    assert counting.end(1).usage.input_tokens == 2


def test_a_model_without_a_template_says_so_in_every_answer(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, template=None))
    driver.ask(1, "a", max_tokens=1)
    driver.run()
    (notice,) = driver.end(1).notices
    assert notice.code == "chat_template_missing"
    assert "ChatML" in notice.message


def test_closing_in_the_middle_of_answers_is_clean(counting: Any) -> None:
    counting.ask(1, "b")
    counting.step()
    counting.engine.close()
    counting.engine.close()
    assert not counting.engine.busy
