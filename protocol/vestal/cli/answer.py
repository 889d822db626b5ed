"""An answer on its way to the user: text to stdout as it comes, everything else to stderr."""

from __future__ import annotations

import sys
from argparse import Namespace
from time import monotonic

from vestal import messages as m
from vestal.cli.terminal import Screen, escaped_answer
from vestal.cli.wording import count, elapsed
from vestal.results import GenerateEvent, Result

__all__ = ["Printer", "notes_of", "stats_line"]

_PAUSE = 0.1  # seconds between two changes of the status line while text is written elsewhere


class Printer:
    """Shows the frames of one answer. `quiet` keeps the text: it will be printed as JSON."""

    def __init__(self, screen: Screen, *, quiet: bool) -> None:
        self._screen = screen
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._beside = quiet or not self._terminal  # the status line and the text do not share a screen
        self._pieces = 0
        self._next_status = 0.0
        self._last = "\n"

    def show(self, event: GenerateEvent) -> None:
        """One frame of the answer."""
        if isinstance(event, m.Token):
            self._text(event.text)
        elif isinstance(event, m.Text):
            self._text(event.delta)
        elif isinstance(event, m.ThinkingDelta):
            self._screen.aside(event.delta)
        elif isinstance(event, m.Queued):
            self._screen.status(_waiting(event))
        elif isinstance(event, m.Started):
            self._screen.status(f"{event.model} on {event.backend} reads the prompt")

    def end(self) -> None:
        """The answer is over, or was cut off: what is on the screen gets its newline."""
        self._screen.erase()
        if self._last != "\n":
            sys.stdout.write("\n")
        sys.stdout.flush()

    def _text(self, text: str) -> None:
        self._pieces += 1
        if self._beside:
            self._count()
        else:
            self._screen.erase()
        if text and not self._quiet:
            sys.stdout.write(escaped_answer(text) if self._terminal else text)
            sys.stdout.flush()
            self._last = text[-1]

    def _count(self) -> None:
        if self._screen.live and (now := monotonic()) >= self._next_status:
            self._next_status = now + _PAUSE
            self._screen.status(f"answering: {count(self._pieces, 'piece')}")


def _waiting(event: m.Queued) -> str:
    soon = f", about {elapsed(event.eta_ms / 1000)}" if event.eta_ms is not None else ""
    return f"waiting: number {event.position} of {event.depth} in the queue{soon}"


def notes_of(result: Result, args: Namespace, *, interrupted: bool) -> list[str]:
    """What the user should know of an answer that is not simply whole."""
    made = count(result.usage.output_tokens, "token")
    by = "" if interrupted else " by the daemon's operator"
    ends = {
        "length": f"cut after {made}: "
        + ("--max-tokens allows no more" if args.max_tokens else "the context or the model's limit is reached"),
        "cancelled": f"cancelled{by} after {made}",
        "refused": "the model refused to go on",
        "tool_use": "the model asks for a tool, and this command has none",
    }
    notes = [ends[result.stop_reason]] if result.stop_reason in ends else []
    if not result.text and not interrupted:
        notes.append(f"the answer is empty (stop reason: {result.stop_reason})")
    return [*notes, *(f"{notice.code}: {notice.message}" for notice in result.notices)]


def stats_line(result: Result) -> str:
    """`42 tokens, 34.1 tok/s, first token after 210 ms, queued 0 ms, prompt 12 tokens (4 cached)`."""
    usage, timings = result.usage, result.timings
    later = usage.output_tokens - 1  # the first token is the prompt's work
    rate = f", {later / timings.decode_ms * 1000:,.1f} tok/s" if later > 0 and timings.decode_ms > 0 else ""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return (
        f"{count(usage.output_tokens, 'token')}{rate}, first after {elapsed(timings.first_token_ms / 1000)}, "
        f"queued {elapsed(timings.queue_ms / 1000)}, prompt {count(usage.input_tokens, 'token')}{cached}; "
        f"{result.model} on {result.backend}"
    )
