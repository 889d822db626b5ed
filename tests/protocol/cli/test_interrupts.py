"""Ctrl-C: the first cancels, the second leaves, and one more while that is done ends nothing."""

from __future__ import annotations

import io
import os
import signal
from argparse import Namespace
from collections.abc import Iterator
from threading import Event

import pytest

from vestal import Client
from vestal import messages as m
from vestal.cli.chat import Chat
from vestal.cli.chat import parser as chat_parser
from vestal.cli.interrupts import FirstCancels, between_answers, once
from vestal.cli.terminal import Screen
from vestal.testing import Gone, Peer, ScriptedDaemon


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _as_in_a_foreground() -> Iterator[None]:
    """A test run in a shell's background ignores SIGINT; and what a test leaves behind is put right."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_cancels_and_the_second_is_told_apart() -> None:
    cancelled = Event()
    with pytest.raises(KeyboardInterrupt), FirstCancels(then=signal.default_int_handler) as ctrl_c:
        ctrl_c.aim(cancelled.set)
        press()
        assert ctrl_c.seen
        assert cancelled.wait(10)
        press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_comes_before_there_is_an_answer_is_kept_for_it() -> None:
    cancelled = Event()
    with FirstCancels() as ctrl_c:
        press()
        ctrl_c.aim(cancelled.set)
        assert cancelled.is_set()


def test_what_comes_while_an_answer_is_left_ends_nothing() -> None:
    with between_answers():
        with pytest.raises(KeyboardInterrupt), FirstCancels(then=once):
            press()
            try:
                press()
            finally:
                press()  # as when what is left is being closed
        press()  # as when that is being told
        with FirstCancels(then=once) as ctrl_c:  # the next answer is cancelled as the first was
            press()
            assert ctrl_c.seen
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_background_job_stays_one() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with between_answers(), FirstCancels(then=once) as ctrl_c:
        press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert not ctrl_c.seen


class _Impatient(io.StringIO):
    """A terminal at which Ctrl-C is pressed with every line that comes."""

    def write(self, text: str) -> int:
        press()
        return super().write(text)


def test_a_chat_goes_on_however_often_it_is_pressed() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.Generate)
        peer.send(m.Token(request.id, "well"))
        os.kill(os.getpid(), signal.SIGINT)
        peer.expect(m.Cancel)  # and does not answer it
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Gone):
            while True:
                peer.next()

    lines = iter(["a question", "/system be brief", "/quit"])
    noted = _Impatient()
    args: Namespace = chat_parser("chat", "").parse([], Namespace())
    with ScriptedDaemon(infer=script, versions=(1,)) as daemon, Client(runtime_dir=daemon.runtime_dir) as client:
        chat = Chat(client, args, Screen(noted), second=once)
        try:
            with between_answers():
                code = chat.talk(lambda: next(lines), patient=True)
        except KeyboardInterrupt:  # of which pytest would die
            pytest.fail("the third ended the chat")
    assert code == 0
    assert noted.getvalue() == "vestal: not waiting any longer\nvestal: system message: be brief\n"
    assert list(lines) == []
