"""One request after the other on a healthy daemon: what comes back, on either version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.harness import Daemon
from vestal import messages as m
from vestal.values import Message, MessageV2, TextBlock, Usage

VERSIONS = pytest.mark.parametrize("version", [1, 2])


@VERSIONS
def test_an_answer_is_streamed_token_by_token(shared: Daemon, version: int) -> None:
    with shared.infer(version) as peer:
        peer.ask(7, "Why is  the sky\nblue?")
        *pieces, done = peer.answer(7)
    kind, key = (m.Token, "text") if version == 1 else (m.Text, "delta")
    assert [type(piece) for piece in pieces] == [kind] * 5
    assert [getattr(piece, key) for piece in pieces] == ["Why", " is", "  the", " sky", "\nblue?"]
    assert isinstance(done, m.Done)
    assert (done.stop_reason, done.backend, done.model) == ("end", "echo", "echo")
    assert done.usage == Usage(5, 0, 5)
    assert (done.text, done.content, done.notices) == (None, None, [])
    assert done.timings.first_token_ms >= done.timings.queue_ms >= 0


@VERSIONS
def test_an_answer_that_is_not_streamed_comes_whole_in_done(shared: Daemon, version: int) -> None:
    with shared.infer(version) as peer:
        peer.ask(1, "all at once", stream=False)
        (done,) = peer.answer(1)
    assert isinstance(done, m.Done)
    assert done.usage.output_tokens == 3
    if version == 1:
        assert (done.text, done.content) == ("all at once", None)
    else:
        assert (done.text, done.content) == (None, [TextBlock("all at once")])


@VERSIONS
def test_an_empty_answer_is_still_answered(shared: Daemon, version: int) -> None:
    with shared.infer(version) as peer:
        text, done = peer.generate(1, " ")
        assert (text, done.stop_reason, done.usage.output_tokens) == ("", "end", 0)
        peer.ask(2, " ", stream=False)
        assert peer.done(2).usage.output_tokens == 0


@VERSIONS
def test_max_tokens_ends_with_length(shared: Daemon, version: int) -> None:
    with shared.infer(version) as peer:
        text, done = peer.generate(1, "one two three", max_tokens=2)
    assert (text, done.stop_reason, done.usage.output_tokens) == ("one two", "length", 2)


@VERSIONS
def test_a_stop_string_ends_the_answer_before_it(shared: Daemon, version: int) -> None:
    with shared.infer(version) as peer:
        text, done = peer.generate(1, "one two STOP three", stop=["nowhere", " ST"])
    assert (text, done.stop_reason) == ("one two", "stop_sequence")


@VERSIONS
def test_counting_takes_the_whole_conversation(shared: Daemon, version: int) -> None:
    turns = [("system", "be brief"), ("user", "one two three")]
    with shared.infer(version) as peer:
        if version == 1:
            peer.send(m.Count(id=3, messages=[Message(role, text) for role, text in turns]))  # type: ignore[arg-type]
        else:
            peer.send(m.CountV2(id=3, messages=[MessageV2(role, [TextBlock(text)]) for role, text in turns]))  # type: ignore[arg-type]
        counted = peer.end(3)
    assert isinstance(counted, m.Counted)
    assert counted.input_tokens == 5


def test_a_ping_is_answered_on_every_socket(shared: Daemon) -> None:
    for peer in (shared.infer(), shared.embed(), shared.admin()):
        with peer:
            peer.ping()


def test_the_model_chooses_the_backend_by_name_or_by_model(shared: Daemon) -> None:
    with shared.infer(1) as peer:
        assert peer.generate(1, model="v1")[1].backend == "v1"
        assert peer.generate(2, model="echo")[1].backend == "echo"
        peer.ask(3, model="gpt-7")
        error = peer.error(3)
    assert error.code == "model_not_found"
    assert error.details is not None
    assert error.details["models"] == ["echo", "v1"]
    assert not error.retryable


def test_a_backend_without_version_2_is_not_asked_for_it(shared: Daemon) -> None:
    with shared.infer(2) as peer:
        peer.ask(1, model="v1")
        error = peer.error(1)
    assert error.code == "unsupported"
    assert "version 2" in error.message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"logprobs": 3}, "logprobs"),
        ({"context_policy": "truncate"}, "context_policy"),
    ],
)
@VERSIONS
def test_an_option_that_the_backend_cannot_honour_is_named(
    shared: Daemon, version: int, options: dict[str, Any], named: str
) -> None:
    with shared.infer(version) as peer:
        peer.ask(1, **options)
        error = peer.error(1)
    assert error.code == "unsupported"
    assert named in error.message
    assert error.details is not None
    assert error.details["option"] == named


def test_an_option_of_version_2_that_the_backend_cannot_honour_is_named(shared: Daemon) -> None:
    with shared.infer(2) as peer:
        peer.ask(1, thinking="high")
        assert (peer.error(1).details or {})["option"] == "thinking"


def test_a_long_answer_comes_whole_and_in_order(shared: Daemon) -> None:
    words = " ".join(map(str, range(50_000)))
    with shared.infer() as peer:
        text, done = peer.generate(1, words)
    assert text == words
    assert done.usage.output_tokens == 50_000


def test_text_of_every_script_survives(shared: Daemon) -> None:
    words = "Жили-были 🔥 火 \u0000 \u2028 é e\u0301 end"
    with shared.infer() as peer:
        assert peer.generate(1, words)[0] == words
