"""Events and lines of the log in one line each; nothing that a stranger chose reaches the terminal raw."""

from __future__ import annotations

from vestal import messages as m
from vestal.cli.events import is_trouble, line_of, said
from vestal.cli.logs import readable
from vestal.cli.terminal import Style

PLAIN = Style(coloured=False, drawn=False)


def event(kind: str, **data: object) -> m.Event:
    return m.Event(id=1, seq=1, kind=kind, data=data)


def test_trouble_is_what_failed_or_went_away() -> None:
    assert is_trouble(event("request_failed", code="queue_full"))
    assert is_trouble(event("backend_state", backend="chat", state="unavailable"))
    assert not is_trouble(event("backend_state", backend="chat", state="ready"))
    assert not is_trouble(event("of_a_later_version"))


def test_an_error_is_named_by_its_code() -> None:
    failed = event("request_failed", request=7, backend="chat", uid=0, code="queue_full")
    assert said(failed) == "queue_full request=7 backend=chat uid=0"
    assert said(event("requests_cut", count=2)) == "requests_cut count=2"


def test_facts_are_quoted_where_they_have_blanks_and_escaped_where_they_are_hostile() -> None:
    line = line_of(
        "13:00:00", "x", {"detail": "two words", "empty": "", "bad": "\x1b[31m\n", "many": ["a", "b"]}, PLAIN
    )
    assert line == '13:00:00 x detail="two words" bad=\\x1b[31m\\n many="a b"'


def test_a_line_of_the_log_is_readable_and_one_of_another_form_is_kept() -> None:
    facts = '"event":"daemon_state","before":"starting","state":"loading"'
    line = f'{{"time":"2026-11-20T13:12:14.896+00:00","level":"info",{facts}}}'
    assert readable(line, PLAIN).endswith(":14 daemon_state before=starting state=loading")
    said_so = '{"time":"2026-11-20T13:12:14.896+00:00","level":"error","message":"it broke"}'
    assert readable(said_so, PLAIN).endswith(":14 it broke")
    for other in ("Traceback (most recent call last):", "[1, 2]", '{"level": 3}', "\x1b[2J"):
        assert readable(other, PLAIN) == other.replace("\x1b", "\\x1b")
