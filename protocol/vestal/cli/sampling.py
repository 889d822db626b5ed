"""The options that shape an answer, as `run` and `chat` take them: within the bounds that the protocol declares."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from vestal.cli.parser import Parser, seconds
from vestal.requests import Options
from vestal.values import GenerateOptions, Priority

__all__ = ["add_sampling", "sampling_of"]

_OPTIONS = (
    ("model", "NAME", "the model, or the backend, that answers (default: the daemon's first)"),
    ("max_tokens", "N", "the longest answer, in tokens"),
    ("temperature", "T", "0 always takes the likeliest token; higher is more varied"),
    ("top_p", "P", "sample from the likeliest tokens that make up P"),
    ("top_k", "N", "sample from the N likeliest tokens; 0 is off"),
    ("min_p", "P", "drop tokens less likely than P times the likeliest; 0 is off"),
    ("seed", "N", "the same seed gives the same answer"),
)


def add_sampling(parser: Parser) -> None:
    """All of them."""
    for name, metavar, help in _OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=_legal(name), help=help)
    parser.add_argument("--stop", metavar="TEXT", action="append", help="end before this text; may be repeated")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_milliseconds, help="give up after so long, queue included"
    )
    parser.add_argument("--priority", choices=get_args(Priority), help="place among other requests (default: normal)")


def sampling_of(args: Namespace) -> Options:
    """What was asked for, as options of a request."""
    return Options(
        model=args.model,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        seed=args.seed,
        stop=args.stop,
        priority=args.priority,
        timeout_ms=args.timeout,
    )


@cache
def _kinds() -> dict[str, Any]:
    # Any: an annotation is whatever typing makes of it.
    return get_type_hints(GenerateOptions, include_extras=True)


def _legal(name: str) -> Callable[[str], object]:
    """The text of an option as its value, within the bounds that `GenerateOptions` declares."""

    def convert(text: str) -> object:
        try:
            return msgspec.convert(text, get_args(_kinds()[name])[0], strict=False)
        except msgspec.ValidationError as error:
            raise ArgumentTypeError(f"{_in_words(str(error))}, got {text!r}") from None

    return convert


def _in_words(fault: str) -> str:
    kind = fault.partition(", got")[0].replace("`int`", "a whole number").replace("`float`", "a number")
    return kind.replace("`str` of length >= 1", "a text that is not empty").replace("Expected", "expected")


def _milliseconds(text: str) -> int:
    if milliseconds := round(1000 * seconds(text)):
        return milliseconds
    raise ArgumentTypeError(f"expected a time longer than 0, got {text!r}")
