"""Lengths of time as people write them in configuration: `250ms`, `1.5s`, `5m`, `1h30m`, or a number of seconds.

A bare number inside a string is refused: whether `"10"` means seconds or milliseconds is a guess that other
programs make differently.
"""

from __future__ import annotations

import math
import re

__all__ = ["LEGAL_FORMS", "MAX_SECONDS", "parse_duration"]

LEGAL_FORMS = 'a number of seconds, or a string such as "250ms", "1.5s", "5m", "1h30m" (units: us, ms, s, m, h, d)'
MAX_SECONDS = 365 * 86400.0  # past every timer's use, and small enough for every event loop's clock

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_WHOLE = re.compile(f"(?:{_PART.pattern})+")
_MAX_LENGTH = 64  # of a string: int() of a long run of digits is slow, and no duration needs one


def parse_duration(value: str | int | float) -> float:
    """Seconds, from 0 to `MAX_SECONDS`. Raises `ValueError` that names the value and the legal forms."""
    if isinstance(value, str):
        seconds = _parse_text(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_expected(value))
    else:
        seconds = float(min(value, 2 * MAX_SECONDS))  # float() of a huge int overflows
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"duration {_shown(value)} is out of range: from 0 to 365d")
    return seconds


def _parse_text(text: str) -> float:
    stripped = text.strip()
    if len(stripped) > _MAX_LENGTH or not _WHOLE.fullmatch(stripped):
        raise ValueError(_expected(text))
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(stripped))


def _expected(value: object) -> str:
    return f"{_shown(value)} is not a duration: expected {LEGAL_FORMS}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "…"
