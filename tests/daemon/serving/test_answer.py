"""The one terminal frame: the first word counts, whoever says it, and it is always one that can be read."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from vestal import messages as m
from vestal.backend import EndEvent, PromptEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.connection import ClientConnection, ServerConnection
from vestal.errors import BackendRefused, InternalError
from vestal.negotiation import Offer
from vestal.values import Capabilities, Message, MessageV2, Notice, TextBlock, ThinkingBlock, ToolUseBlock, Usage
from vestald.entrance.peer import Peer
from vestald.routing.blame import internal_error
from vestald.serving.answer import Answer, Collected, Terminal
from vestald.serving.job import Ended, Job
from vestald.serving.session import Session


class Line:
    """A session without a socket: two engines back to back, so that an illegal frame is refused."""

    peer = Peer(pid=1, uid=1, gid=1)
    client = "test"

    def __init__(self, version: int) -> None:
        self._client = ClientConnection("infer")
        self.conn = ServerConnection("infer", self._offer)
        self._client.hello(versions=(version,))
        self.conn.receive(self._client.data_to_send())
        self._client.receive(self.conn.data_to_send())
        self.alive = True

    @staticmethod
    def _offer() -> Offer:
        info = m.BackendInfo(name="b", model="m", capabilities=Capabilities(v2=True))
        limits = m.Limits(frame=2**26, requests_per_connection=8, queue_depth=8, per_caller=8)
        return Offer(server="s", session="x", versions=(1, 2), limits=limits, backends=[info])

    def open(self, id: int) -> None:
        if self.conn.version == 1:
            self._client.send(m.Generate(id=id, messages=[Message("user", "Hi")]))
        else:
            self._client.send(m.GenerateV2(id=id, messages=[MessageV2("user", [TextBlock("Hi")])]))
        self.conn.receive(self._client.data_to_send())

    def send(self, message: m.AnyMessage) -> None:
        self.conn.send(message)

    def sent(self) -> list[m.AnyMessage]:
        return self._client.receive(self.conn.data_to_send())


class Desk:
    """An answer to request 7, and what was counted at its end."""

    def __init__(self, version: int = 1, *, stream: bool = True) -> None:
        self.line = Line(version)
        self.line.open(7)
        self.job = Job(1, 7, self.line, time.monotonic())
        self.job.backend = "b"
        self.counted: list[tuple[str, Usage]] = []
        self.answer = Answer(cast(Session, self.line), self.job, self._count, stream=stream)
        self.answer.model = "m"

    def _count(self, job: Job, outcome: str, usage: Usage) -> None:
        assert job is self.job
        self.counted.append((outcome, usage))


def end_calls() -> list[Any]:
    """Every way to end a request, and what it is counted as."""
    return [
        pytest.param(lambda a: a.finish(EndEvent("stop_sequence", Usage(1, 0, 2))), "stop_sequence", id="finish"),
        pytest.param(lambda a: a.fail(BackendRefused("no")), "backend_refused", id="fail"),
        pytest.param(lambda a: a.interrupted(Ended.CLIENT), "cancelled", id="client"),
        pytest.param(lambda a: a.interrupted(Ended.OPERATOR), "cancelled", id="operator"),
        pytest.param(lambda a: a.interrupted(Ended.SHUTDOWN), "shutting_down", id="shutdown"),
    ]


@pytest.mark.parametrize(("first", "outcome"), end_calls())
@pytest.mark.parametrize(("second", "_outcome"), end_calls())
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("stream", [True, False])
def test_the_first_end_counts_and_a_second_is_not_heard(
    first: Any, outcome: str, second: Any, _outcome: str, version: int, stream: bool
) -> None:
    desk = Desk(version, stream=stream)
    desk.answer.add(TextEvent("a"))
    first(desk.answer)
    second(desk.answer)
    *_, last = desk.line.sent()
    assert [word for word, _ in desk.counted] == [outcome]
    assert outcome == (last.code if isinstance(last, m.Error) else cast(m.Done, last).stop_reason)
    assert desk.answer.sent


@pytest.mark.parametrize(("end", "outcome"), end_calls())
def test_where_nobody_is_left_the_end_is_counted_and_not_sent(end: Any, outcome: str) -> None:
    desk = Desk()
    desk.line.alive = False
    end(desk.answer)
    assert desk.line.sent() == []
    assert [word for word, _ in desk.counted] == [outcome]


def test_what_was_used_is_the_backends_word_and_before_it_what_was_seen() -> None:
    desk = Desk()
    assert desk.answer.usage() == Usage()
    desk.answer.add(PromptEvent(input_tokens=10, cached_tokens=4))
    desk.answer.add(TextEvent("ab", tokens=2))
    desk.answer.add(TextEvent("", tokens=0))
    assert desk.answer.usage() == Usage(10, 4, 2)
    desk.answer.finish(EndEvent("end", Usage(11, 5, 3)))
    assert desk.answer.usage() == Usage(11, 5, 3)
    assert desk.counted == [("end", Usage(11, 5, 3))]


def test_an_operators_cancel_is_said_and_a_clients_is_not() -> None:
    for why, codes in ((Ended.OPERATOR, ["cancelled_by_operator"]), (Ended.CLIENT, [])):
        desk = Desk()
        desk.answer.interrupted(why)
        (done,) = desk.line.sent()
        assert isinstance(done, m.Done)
        assert [notice.code for notice in done.notices] == codes


def test_times_rise_from_the_queue_to_the_end() -> None:
    desk = Desk()
    desk.answer.started = time.monotonic()
    desk.answer.add(PromptEvent(input_tokens=1, prefill_ms=0.5))
    desk.answer.add(TextEvent("a"))
    desk.answer.finish(EndEvent("end", Usage()))
    done = desk.line.sent()[-1]
    assert isinstance(done, m.Done)
    assert 0 <= done.timings.queue_ms <= done.timings.first_token_ms
    assert done.timings.prefill_ms == 0.5
    assert done.timings.decode_ms >= 0


def test_a_request_that_made_nothing_has_no_first_token() -> None:
    desk = Desk()
    desk.answer.interrupted(Ended.CLIENT)
    (done,) = desk.line.sent()
    assert isinstance(done, m.Done)
    assert (done.timings.first_token_ms, done.timings.decode_ms) == (0.0, 0.0)


def test_text_of_one_kind_in_a_row_is_one_block() -> None:
    collected = Collected()
    for event in (
        TextEvent("a"),
        TextEvent("b"),
        ThinkingEvent("c"),
        ToolUseEvent("1", "t", {}),
        ThinkingEvent("d"),
        TextEvent("e"),
        TextEvent(""),
    ):
        collected.add(event)
    expected = [
        TextBlock("ab"),
        ThinkingBlock("c"),
        ToolUseBlock("1", "t", {}),
        ThinkingBlock("d"),
        TextBlock("e"),
    ]
    assert collected.blocks() == expected
    assert collected.blocks() == expected


def test_nothing_collected_is_no_block_and_on_version_1_an_empty_text() -> None:
    assert Collected().blocks() == []
    for version, text, content in ((1, "", None), (2, None, [])):
        desk = Desk(version, stream=False)
        desk.answer.finish(EndEvent("end", Usage()))
        (done,) = desk.line.sent()
        assert isinstance(done, m.Done)
        assert (done.text, done.content) == (text, content)


def test_thinking_is_no_part_of_version_1s_text() -> None:
    desk = Desk(1, stream=False)
    for event in (ThinkingEvent("Hm"), TextEvent("a"), ThinkingEvent("Hm"), TextEvent("b")):
        desk.answer.add(event)
    desk.answer.finish(EndEvent("end", Usage()))
    (done,) = desk.line.sent()
    assert isinstance(done, m.Done)
    assert done.text == "ab"


@pytest.mark.parametrize("notices", [[Notice("x", "\ud800")], [object()]])
def test_an_end_that_cannot_be_written_is_an_error_instead(notices: list[Any]) -> None:
    desk = Desk()
    desk.answer.finish(EndEvent("end", Usage(), notices))
    (error,) = desk.line.sent()
    assert isinstance(error, m.Error)
    assert (error.id, error.code) == (7, "internal")
    assert [word for word, _ in desk.counted] == ["internal"]


def test_a_plain_terminal_ends_an_embed() -> None:
    desk = Desk()
    terminal = Terminal(cast(Session, desk.line), desk.job, desk._count)
    terminal.interrupted(Ended.CLIENT)
    (done,) = desk.line.sent()
    assert isinstance(done, m.Done)
    assert (done.stop_reason, done.timings.decode_ms) == ("cancelled", 0.0)


def test_an_internal_error_says_the_type_and_never_the_text(caplog: pytest.LogCaptureFixture) -> None:
    fault = KeyError("my secret prompt")
    try:
        raise fault
    except KeyError as caught:
        error = internal_error("chat", caught)
    assert isinstance(error, InternalError)
    assert error.message == "backend 'chat' failed with KeyError"
    assert "secret" not in str(error) + caplog.text
    assert "test_answer.py" in caplog.text
