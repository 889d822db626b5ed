"""Log-probabilities: arithmetic on logits, and what the engine reports of chain models."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import TextEvent
from vestal_adapters.llamacpp.batching.likelihood import token_logprob
from vestal_adapters.worker.wire import check_event

COUNT = ["a", " one", " two", " three", "<|end|>"]


def piece(token: int) -> bytes:
    return bytes([token])


def of(logits: list[float], token: int, top: int) -> Any:
    return token_logprob(numpy.array(logits, numpy.float32).tobytes(), token, top, piece)


def test_they_are_the_logarithms_of_the_softmax() -> None:
    found = of([math.log(1), math.log(2), math.log(5)], 1, 2)
    assert found.token == b"\x01"
    assert found.logprob == pytest.approx(math.log(2 / 8))
    assert [(top.token, top.logprob) for top in found.top] == [
        (b"\x02", pytest.approx(math.log(5 / 8))),
        (b"\x01", pytest.approx(math.log(2 / 8))),
    ]


def test_none_is_a_legal_number_of_alternatives_and_so_is_more_than_there_are() -> None:
    assert of([0.0, 1.0], 0, 0).top == ()
    assert len(of([0.0, 1.0], 0, 20).top) == 2


def test_large_logits_do_not_overflow() -> None:
    assert of([1e4, -1e4], 0, 1).logprob == 0.0


def test_what_the_model_rules_out_is_still_a_number() -> None:
    assert math.isfinite(of([0.0, -math.inf], 1, 2).logprob)


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=200), st.integers(0, 20))
def test_the_top_is_what_sorting_gives(logits: list[float], top: int) -> None:
    found = of(logits, 0, top)
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top]
    assert [entry.logprob for entry in found.top] == sorted((entry.logprob for entry in found.top), reverse=True)
    assert sum(math.exp(entry.logprob) for entry in found.top) <= 1.0001
    assert [logits[entry.token[0]] for entry in found.top] == pytest.approx([logits[token] for token in ranked])


# --- in the engine --------------------------------------------------------------------------------------------


def events(driver: Any, job: int) -> list[TextEvent]:
    return [event for event in driver.events[job] if isinstance(event, TextEvent)]


def test_every_token_of_the_text_is_reported_by_its_bytes(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT))
    driver.ask(1, "a", logprobs=3)
    driver.run()
    reported = [entry for event in events(driver, 1) for entry in event.logprobs]
    assert [entry.token for entry in reported] == [b" one", b" two", b" three"]
    assert all(entry.top[0].token == entry.token and len(entry.top) == 3 for entry in reported)
    assert all(-0.01 < entry.logprob <= 0 for entry in reported), "a chain leaves no doubt"


def test_sampling_options_do_not_change_them(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT))
    for job, options in enumerate([{"temperature": 0.0}, {"temperature": 2.0, "top_k": 1, "frequency_penalty": 1.0}]):
        driver.ask(job, "a", logprobs=2, **options)
        driver.run()
    assert events(driver, 0)[0].logprobs == events(driver, 1)[0].logprobs


def test_tokens_that_make_no_text_yet_are_reported_with_the_text(make_model: Any, start: Any) -> None:
    driver = start(make_model(["a", *[bytes([byte]) for byte in "😀".encode()], " so", "<|end|>"]))
    driver.ask(1, "a", logprobs=0)
    driver.run()
    assert [(event.text, len(event.logprobs)) for event in events(driver, 1)] == [("😀", 4), (" so", 1)]
    for event in events(driver, 1):
        check_event(event)


def test_unasked_nothing_is_reported(make_model: Any, start: Any) -> None:
    driver = start(make_model(COUNT))
    driver.ask(1, "a")
    driver.run()
    assert all(event.logprobs == () for event in events(driver, 1))
    assert driver.capabilities.logprobs
