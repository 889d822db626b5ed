"""Prefixes that are computed once, in the engine: what is reused, what is told, and that answers stay the same."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestal.backend import EndEvent, GenerateRequest, PromptEvent
from vestal.values import GenerateOptions, Message
from vestal_adapters.llamacpp.native import Batch

END = "<|end|>"
COUNT = ["a", " one", " two", " three", END]
LOOP = ["b", " la", " la"]
SHARED = "x" * 60


def ask(driver: Any, job: int, text: str, scope: str | None = "1000", **options: Any) -> None:
    request = GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(**options), cache_scope=scope)
    driver.submit(job, request)


def cached(driver: Any, job: int) -> int:
    (event,) = [event for event in driver.events[job] if isinstance(event, PromptEvent)]
    tokens: int = event.cached_tokens
    ends = [event for event in driver.events[job] if isinstance(event, EndEvent)]
    assert all(end.usage.cached_tokens == tokens for end in ends)
    return tokens


@pytest.fixture
def counting(make_model: Any, start: Any) -> Any:
    return start(make_model(COUNT, LOOP))


def test_a_second_request_of_the_same_scope_computes_only_what_differs(counting: Any) -> None:
    for job, last in ((1, "a"), (2, "b"), (3, "a")):
        ask(counting, job, SHARED + last, max_tokens=5)
        counting.run()
    assert [cached(counting, job) for job in (1, 2, 3)] == [0, 60, 60]
    assert [counting.text(job) for job in (1, 2, 3)] == [" one two three", " la" * 5, " one two three"]


def test_the_next_turn_reuses_the_answer_too(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, ["c", b"d", b"d"]))
    ask(driver, 1, SHARED + "c", max_tokens=5)
    driver.run()
    ask(driver, 2, SHARED + "c" + driver.text(1) + "a")
    driver.run()
    assert cached(driver, 2) == 61 + 4, "all but the last token of the answer, which was never an input"
    assert driver.text(2) == " one two three"


@pytest.mark.parametrize("scopes", [("1000", "1001"), ("1000", None), (None, "1000"), (None, None)])
def test_nothing_is_reused_across_scopes_or_without_one(counting: Any, scopes: Any) -> None:
    for job, scope in enumerate(scopes):
        ask(counting, job, SHARED + "a", scope)
        counting.run()
        assert cached(counting, job) == 0
        assert counting.text(job) == " one two three"


def test_a_cancelled_request_leaves_what_it_computed(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT), batch=32)
    ask(driver, 1, "x" * 99 + "a")
    driver.step()
    driver.engine.cancel(1)
    ask(driver, 2, "x" * 99 + "a")
    driver.run()
    assert cached(driver, 2) == 32
    assert driver.text(2) == " one two three"


def test_requests_at_the_same_time_compute_their_shared_beginning_once(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, LOOP), batch=16)
    for job in range(4):
        ask(driver, job, SHARED + "yz" * job + "a")
    ask_tokens = count_tokens(driver)
    assert ask_tokens == 61 + 3 + 5 + 7
    assert [cached(driver, job) for job in range(4)] == [0, 60, 60, 60]
    assert {driver.text(job) for job in range(4)} == {" one two three"}


def count_tokens(driver: Any) -> int:
    """Runs to the end of every prompt; how many prompt tokens that took."""
    tokens = 0
    while not all(slot.decoding for slot in driver.engine._part._slots if slot.taken):
        decoding = sum(slot.decoding and slot.running for slot in driver.engine._part._slots)
        driver.step()
        tokens += driver.engine._part._batch.count - decoding
    driver.run()
    return tokens


def test_when_the_first_of_them_is_cancelled_the_others_go_on_from_there(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, LOOP), batch=16)
    for job in range(3):
        ask(driver, job, SHARED + "yz" * job + "a")
    driver.step()
    driver.engine.cancel(0)
    driver.run()
    assert [cached(driver, job) for job in (1, 2)] == [16, 62], "and the last has more in common with the second"
    assert {driver.text(job) for job in (1, 2)} == {" one two three"}


def test_a_failed_step_leaves_nothing_to_reuse(counting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(counting, 1, SHARED + "b")
    counting.step()
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "add_one", lambda self, token, position, sequence: self.add_run([-5], position, sequence))
        counting.step()
    ask(counting, 2, SHARED + "a")
    counting.run()
    assert cached(counting, 2) == 0
    assert counting.text(2) == " one two three"


def test_a_slot_whose_window_slid_leaves_only_its_beginning(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT, LOOP), slots=1)
    ask(driver, 1, "<s>" + SHARED + "b", max_tokens=200, context_policy="shift")
    driver.run()
    ask(driver, 2, "<s>" + SHARED + "a")
    driver.run()
    assert cached(driver, 2) == 0
    assert driver.text(2) == " one two three"


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from(["", "x" * 20, "x" * 40, "x" * 20 + "y" * 30]),
            st.integers(0, 9),
            st.sampled_from("ab"),
            st.sampled_from(["1", "2", None]),
        ),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
    ),
    max_size=25,
)


@given(actions)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whoever_comes_and_goes_every_answer_is_right_and_ends_once(counting: Any, acts: Any) -> None:
    counting.events.clear()
    expected: dict[int, str] = {}
    cancelled: set[int] = set()
    for act in acts:
        if act[0] == "ask" and len(counting.engine._part._jobs) < 4:
            job = len(expected)
            ask(counting, job, act[1] + "z" * act[2] + act[3], act[4], max_tokens=12)
            expected[job] = " one two three" if act[3] == "a" else " la" * 12
        elif act[0] == "step":
            for _ in range(act[1]):
                counting.step()
        elif act[0] == "cancel" and act[1] in counting.engine._part._jobs:
            counting.engine.cancel(act[1])
            cancelled.add(act[1])
    counting.run()
    for job, text in expected.items():
        assert text.startswith(counting.text(job))
        if job not in cancelled:
            assert counting.text(job) == text
            assert counting.end(job)


# --- the real model -------------------------------------------------------------------------------------------


STORY = "You are a careful assistant who answers briefly and never makes anything up. " * 12


def logits_after(driver: Any, text: str, scope: str | None) -> Any:
    """The logits of the first token of the answer."""
    ask(driver, 1, text, scope, max_tokens=1)
    part = driver.engine._part
    while 1 in part._jobs:
        driver.step()
    row = part._batch.count - 1
    data = part._context.logits(row, part._vocabulary.size)
    return numpy.frombuffer(data, numpy.float32).copy()


@pytest.mark.model
def test_smollm2_gives_the_same_logits_on_a_reused_prefix_as_on_a_cold_one(smollm2_path: str, start: Any) -> None:
    """What other batches do to the sums is 0.6 of a logit at most; another word in the prefix does 2, others 11."""
    driver = start(smollm2_path, context_length=1024)
    cold = logits_after(driver, STORY + "What is the sea?", None)
    logits_after(driver, STORY + "Who are you?", "1000")
    driver.events.clear()
    warm = logits_after(driver, STORY + "What is the sea?", "1000")
    assert cached(driver, 1) > 150
    assert numpy.abs(cold - warm).max() < 1
    assert numpy.abs(cold - warm).mean() < 0.25
    assert cold.argmax() == warm.argmax()


@pytest.mark.model
def test_smollm2_copies_a_prefix_that_answers_like_its_own(smollm2_path: str, start: Any) -> None:
    driver = start(smollm2_path, context_length=1024)
    for job, scope in ((1, None), (2, "1"), (3, "1")):
        ask(driver, job, STORY + "Name a colour.", scope, max_tokens=1, temperature=0, logprobs=5)
    driver.run()
    assert (cached(driver, 1), cached(driver, 2)) == (0, 0)
    assert cached(driver, 3) > 150
    (own, other) = (driver.events[job][1].logprobs[0] for job in (2, 3))
    assert own.token == other.token
    assert own.logprob == pytest.approx(other.logprob, abs=0.3)


@pytest.mark.model
def test_smollm2_answers_the_same_for_the_same_seed_whatever_is_cached(smollm2_path: str, start: Any) -> None:
    driver = start(smollm2_path, context_length=1024)
    for job in (1, 2):
        ask(driver, job, STORY + "Name a colour.", seed=3, max_tokens=16)
        driver.run()
    assert driver.text(1) == driver.text(2)
    assert cached(driver, 2) == 0
