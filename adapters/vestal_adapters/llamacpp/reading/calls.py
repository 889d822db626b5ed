"""Splits an answer's text into calls of tools and what is no call. Pure, and blind to where the pieces are cut.

Text that may be the beginning of a call is held back, with the white space before it, for as long as it can
still become one. If it does, the calls come out whole and the white space around them is gone with their
syntax; if not, all of it comes out as text, and a notice says so where it can hardly have been meant as text.
"""

from __future__ import annotations

from collections.abc import Collection

from vestal_adapters.llamacpp.families import Call, Family, Form, Malformed, NotACall, Place
from vestal_adapters.llamacpp.families.scan import Verdict
from vestal_adapters.llamacpp.reading.spans import Span

__all__ = ["CallSplitter"]


class CallSplitter:
    """Reads one answer. `tools` are the names that may be called."""

    def __init__(self, family: Family, tools: Collection[str]) -> None:
        self._family = family
        self._tools = frozenset(tools)
        self._space = ""  # white space that may turn out to be a call's
        self._held = ""  # what the forms have read
        self._forms: list[Form] = []
        self._place: Place = "start"
        self._flawed = False

    def __repr__(self) -> str:
        return f"<CallSplitter of {self._family.name}, holds {len(self._space) + len(self._held)} characters>"

    def feed(self, text: str) -> list[Span]:
        """Take the next piece; returns what is certain."""
        spans: list[Span] = []
        while text:
            text = self._feed_forms(text, spans) if self._forms else self._feed_text(text, spans)
        return spans

    def finish(self) -> list[Span]:
        """The text has ended."""
        spans: list[Span] = []
        while self._forms:
            form = next((form for form in self._forms if form.settled), None)
            calls = None if form is None else self._read(form, spans)
            if calls is not None:
                self._emit(calls, spans)
                continue
            if any(form.committed for form in self._forms):
                self._complain("it is not complete", spans)
            rest = self._give_up(spans)
            spans += self.feed(rest)
        if self._space:
            spans.append(Span.skip(len(self._space)) if self._place == "after" else Span.of_text(self._space))
            self._space = ""
        return spans

    def _feed_text(self, text: str, spans: list[Span]) -> str:
        """Up to the next character that a call can begin with; returns the rest."""
        firsts = self._family.firsts
        end = next((index for index, char in enumerate(text) if char in firsts), len(text))
        whole = self._space + text[:end]
        plain = whole.rstrip()
        self._space = whole[len(plain) :]
        if plain:
            spans.append(Span.of_text(plain))
            self._place = "middle"
        if end < len(text):
            self._forms = self._family.forms(self._place)
        return text[end:]

    def _feed_forms(self, text: str, spans: list[Span]) -> str:
        """Up to where the calls are complete or cannot be any; returns the rest."""
        for index, char in enumerate(text):
            self._held += char
            were_committed = any(form.committed for form in self._forms)
            verdicts = [(form, form.feed(char)) for form in self._forms]
            done = next((form for form, verdict in verdicts if verdict is Verdict.DONE), None)
            if done is not None:
                calls = self._read(done, spans)
                rest = text[index + 1 :]
                if calls is None:
                    return self._give_up(spans) + rest
                self._emit(calls, spans)
                return rest
            self._forms = [form for form, verdict in verdicts if verdict is Verdict.TAKEN]
            if not self._forms:
                if were_committed:
                    self._complain("it is not in the syntax of calls", spans)
                return self._give_up(spans) + text[index + 1 :]
        return ""

    def _read(self, form: Form, spans: list[Span]) -> list[Call] | None:
        try:
            calls = form.calls()
        except NotACall:
            return None
        except Malformed as error:
            self._complain(str(error), spans)
            return None
        if all(call.name in self._tools for call in calls):
            return calls
        self._complain("it names no tool of the request", spans)
        return None

    def _complain(self, why: str, spans: list[Span]) -> None:
        """Once: the first flaw explains the others."""
        if not self._flawed:
            spans.append(Span("flaw", 0, why))
            self._flawed = True

    def _emit(self, calls: list[Call], spans: list[Span]) -> None:
        if self._space:
            spans.append(Span.skip(len(self._space)))
        width = len(self._held)
        for call in calls:
            spans.append(Span.of_call(call, width))
            width = 0
        self._space, self._held, self._forms, self._place = "", "", [], "after"

    def _give_up(self, spans: list[Span]) -> str:
        """No call begins here: the first character is text, the others are looked at again."""
        spans.append(Span.of_text(self._space + self._held[0]))
        rest, self._space, self._held, self._forms, self._place = self._held[1:], "", "", [], "middle"
        return rest
