"""A stream that nobody reads: bounded, and nothing lost before the bound."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import EndEvent, PromptEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import SlowConsumer
from vestal.values import TokenLogprob, TopLogprob, Usage
from vestal_adapters.worker import stream as module
from vestal_adapters.worker.stream import Stream
from vestal_adapters.worker.wire import JobEvent

pieces = st.lists(
    st.one_of(
        st.builds(TextEvent, st.text(max_size=4), st.integers(0, 9)),
        st.builds(ThinkingEvent, st.text(max_size=4), st.integers(0, 9)),
    ),
    max_size=100,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 4)
    monkeypatch.setattr(module, "MAX_CHARACTERS", 1000)


def test_below_the_bound_events_stay_as_they_came() -> None:
    stream = Stream(1, v2=True)
    events: list[JobEvent] = [
        PromptEvent(3),
        TextEvent("a"),
        ThinkingEvent("b"),
        ToolUseEvent("1", "f", {}),
        EndEvent("end", Usage()),
    ]
    for event in events:
        stream.put(event)
    assert list(stream.events) == events
    assert stream.ended


@given(events=pieces)
def test_joining_keeps_the_text_the_tokens_and_the_order(events: list[TextEvent | ThinkingEvent]) -> None:
    joined = list(module._joined(events))
    for kind in (TextEvent, ThinkingEvent):
        assert said(joined, kind) == said(events, kind)
    assert [type(event) for event in joined] == [
        type(event) for index, event in enumerate(events) if index == 0 or type(events[index - 1]) is not type(event)
    ]


def said(events: Sequence[object], kind: type) -> tuple[str, int]:
    mine = [event for event in events if type(event) is kind]
    return "".join(event.text for event in mine), sum(event.tokens for event in mine)  # type: ignore[attr-defined]


def test_past_the_bound_text_is_put_together(small: None) -> None:
    stream = Stream(1, v2=False)
    for number in range(100):
        stream.put(TextEvent(f"{number} "))
        assert len(stream.events) <= 5
    assert "".join(event.text for event in stream.events if isinstance(event, TextEvent)) == "".join(
        f"{number} " for number in range(100)
    )
    assert sum(event.tokens for event in stream.events if isinstance(event, TextEvent)) == 100
    assert not stream.ended


def test_more_text_than_any_answer_has_ends_the_stream(small: None) -> None:
    stream = Stream(1, v2=False)
    ended = []
    for text in ("x" * 600, "y" * 600):
        stream.put(TextEvent(text))
        ended.append(stream.ended)
    assert ended == [False, True]
    assert isinstance(stream.error, SlowConsumer)
    assert not stream.events


def test_more_events_than_can_be_put_together_end_the_stream(small: None) -> None:
    stream = Stream(1, v2=True)
    for _ in range(5):
        stream.put(ToolUseEvent("1", "f", {}))
    assert isinstance(stream.error, SlowConsumer)


def test_logprobs_are_kept_together_with_their_tokens_and_weigh(small: None) -> None:
    stream = Stream(1, v2=False)
    given = [TokenLogprob(str(n).encode(), -float(n)) for n in range(12)]
    for token in given[:9]:
        stream.put(TextEvent("x", 1, (token,)))
    assert [token for event in stream.events if isinstance(event, TextEvent) for token in event.logprobs] == given[:9]
    for token in given[9:]:
        stream.put(TextEvent("x", 1, (token,)))
    assert isinstance(stream.error, SlowConsumer)


@pytest.mark.parametrize(
    "event",
    [
        TextEvent("x", -1),
        TextEvent("x", 2**60),
        ThinkingEvent("x", -1),
        ToolUseEvent("1", "f", {}, -1),
        TextEvent("x", 2, (TokenLogprob(b"x", -1.0),)),
        TextEvent("x", 1, (TokenLogprob(b"x", float("nan")),)),
        TextEvent("x", 1, (TokenLogprob(b"x", -1.0, (TopLogprob(b"y", float("inf")),)),)),
        PromptEvent(-1),
        PromptEvent(1, 2),
        PromptEvent(1, 0, float("nan")),
        PromptEvent(1, 0, float("inf")),
        EndEvent("end", Usage(1, 2, 0)),
        EndEvent("end", Usage(0, 0, -1)),
    ],
)
def test_numbers_that_no_engine_can_mean_are_refused(event: TextEvent) -> None:
    with pytest.raises(ValueError):
        Stream(1, v2=True).put(event)


def test_v1_takes_no_v2_event_and_no_prompt_comes_twice() -> None:
    stream = Stream(1, v2=False)
    for event in (ThinkingEvent("x"), ToolUseEvent("1", "f", {})):
        with pytest.raises(ValueError, match="in answer to a v1 request"):
            stream.put(event)
    stream.put(PromptEvent(1))
    with pytest.raises(ValueError, match="second prompt"):
        stream.put(PromptEvent(1))
