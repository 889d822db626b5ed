"""Answers streamed side by side, whoever gives them: when each piece came, and what that makes a second."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Answer", "Ask", "rate", "together"]

Answer = tuple[list[float], int]
"""(times of the pieces in seconds, output tokens) of one answer."""

Ask = Callable[[], Answer]
"""Ask for one answer, read it to its end."""


def together(ask: Ask, streams: int) -> list[Answer]:
    """As many answers at once."""
    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(lambda _: ask(), range(streams)))


def rate(answers: list[Answer]) -> float:
    """Tokens per second of all answers, while all were decoding."""
    begun, ended = max(times[0] for times, _ in answers), min(times[-1] for times, _ in answers)
    pieces = sum(begun < moment <= ended for times, _ in answers for moment in times)
    tokens_per_piece = sum(tokens for _, tokens in answers) / sum(len(times) for times, _ in answers)
    return pieces * tokens_per_piece / (ended - begun)
