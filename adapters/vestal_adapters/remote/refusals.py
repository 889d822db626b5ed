"""What a server's refusal means here: status, headers and body in, one error of the wire out. No I/O, no clock.

    3xx        backend_refused      redirects are not followed: a key would go where nobody meant it to
    400 422    backend_refused, or context_overflow if that is what the body says (as some do with 500)
    401 403    backend_refused      with the name of what holds the key
    404        model_not_found if the body speaks of the model, else backend_refused
    408 425 429 502 503 504 529     backend_unavailable, to be retried, after Retry-After if it came
    other 5xx  backend_crashed, to be retried

429 is no `quota_exceeded`: that is the caller's own, and this one is everybody's who shares the key. A quota that
is used up for good says so in its code, and is not to be retried.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct

from vestal.errors import (
    BackendCrashed,
    BackendRefused,
    BackendUnavailable,
    ContextOverflow,
    ModelNotFound,
    WireError,
)
from vestal_adapters.remote.key import Key

__all__ = [
    "MAX_ERROR_BODY",
    "MAX_SHOWN",
    "Refusal",
    "one_line",
    "read_refusal",
    "refused",
    "retry_after_ms",
    "whole_characters",
    "words_of",
]

MAX_ERROR_BODY = 16 * 1024  # bytes of an error's body that are read
MAX_SHOWN = 300  # characters of a server's own words that an error repeats
_LONGEST_WAIT = 24 * 3600.0  # seconds: a server that says more is not obeyed, but the wait is still told
_UNAVAILABLE = frozenset({408, 425, 429, 502, 503, 504, 529})
_FOR_GOOD = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits")
_OVERFLOW = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "context length",
    "context window",
    "context size",
    "prompt is too long",
    "exceed context limit",
)


class Refusal(Struct, frozen=True):
    """What a server said when it refused. `message` is one line of its own words, masked and cut short."""

    status: int
    message: str = ""
    code: str = ""
    retry_after_ms: int | None = None


def refused(refusal: Refusal, backend: str, key: Key | None, model: str = "") -> WireError:
    """The error for a client."""
    kind, retryable = _kind(refusal)
    said = f": {refusal.message}" if refusal.message else " and says nothing of the reason"
    details: dict[str, Any] = {"backend": backend, "status": refusal.status}
    if refusal.code:
        details["upstream_code"] = refusal.code
    if kind is ModelNotFound:
        details["models"] = []
    return kind(
        f"the server of backend {backend!r} answered {refusal.status}{said}",
        hint=_hint(refusal, kind, key, model),
        details=details,
        retryable=retryable,
        retry_after_ms=refusal.retry_after_ms if retryable else None,
    )


def _kind(refusal: Refusal) -> tuple[type[WireError], bool]:
    status, words = refusal.status, f"{refusal.code} {refusal.message}".lower()
    if any(sign in words for sign in _FOR_GOOD) or status == 402:
        return BackendRefused, False
    if status in _UNAVAILABLE:
        return BackendUnavailable, True
    if status in (400, 413, 422, 500) and any(sign in words for sign in _OVERFLOW):
        return ContextOverflow, False
    if status >= 500:
        return BackendCrashed, True
    if status == 404 and "model" in words:
        return ModelNotFound, False
    return BackendRefused, False


def _hint(refusal: Refusal, kind: type[WireError], key: Key | None, model: str) -> str | None:
    if refusal.status in (401, 403):
        return f"check the key in {key.source}" if key else "name a key with api_key_env or api_key_file"
    if 300 <= refusal.status < 400:
        return "redirects are not followed: set base_url to where the server really is"
    if kind is ModelNotFound:
        return f"the operator configured model {model!r}: is it still served?" if model else None
    if refusal.status == 404:
        return "base_url should end where the API begins, often in /v1"
    if kind is ContextOverflow:
        return "shorten the conversation or ask for fewer tokens"
    return None


def read_refusal(status: int, headers: Mapping[str, str], body: bytes, key: Key | None, now: float) -> Refusal:
    """What is to be kept of a refusal: `body` may be anything, and may be cut off anywhere."""
    text = whole_characters(body)
    message, code = _words(text)
    shown = one_line(key.masked(message) if key else message)
    code = one_line(key.masked(code) if key else code, 64)
    return Refusal(status, shown, code, retry_after_ms(headers, now))


def whole_characters(body: bytes, limit: int = MAX_ERROR_BODY) -> str:
    """The first `limit` bytes as text, without half a character at the end."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(body[:limit])


def one_line(text: str, limit: int = MAX_SHOWN) -> str:
    """Printable, in one line, `limit` characters at most."""
    flat = " ".join(text[: limit * 4].split())
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in flat)
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


def _words(text: str) -> tuple[str, str]:
    """(message, code) of an error's body: `{"error": {"message", "code", "type"}}` and what else there is about."""
    try:
        said = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):  # a page of a proxy, a traceback, or JSON that was cut off
        return text, ""
    return words_of(said)


def words_of(said: Any) -> tuple[str, str]:
    """(message, code) of an error that was JSON."""
    if isinstance(said, dict) and isinstance(inner := said.get("error", said), (dict, str)):
        said = inner
    if isinstance(said, str):
        return said, ""
    if not isinstance(said, dict):
        return "", ""
    message = next((said[name] for name in ("message", "detail", "title") if said.get(name)), "")
    code = next((said[name] for name in ("code", "type", "status") if said.get(name)), "")
    return message if isinstance(message, str) else msgspec.json.encode(message).decode(), str(code)


def retry_after_ms(headers: Mapping[str, str], now: float) -> int | None:
    """`Retry-After` in seconds or as a date, or `retry-after-ms`; `None` if it is not there or makes no sense."""
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            seconds = float(lower["retry-after-ms"]) / 1000
        elif (told := lower.get("retry-after", "").strip()).replace(".", "", 1).isdigit():
            seconds = float(told)
        elif told:
            seconds = parsedate_to_datetime(told).timestamp() - now
        else:
            return None
    except (ValueError, OverflowError):
        return None
    if not seconds >= 0:  # NaN is not either
        return None if seconds != seconds else 0
    return int(min(seconds, _LONGEST_WAIT) * 1000)
