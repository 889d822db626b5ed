"""The table of options: complete, with names that are each one option's, and a help that people can read."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from vestal.options import LIVE, REQUIRED, SECRET, DurationText, Trait, about, fields_of
from vestald.adapters import ADAPTER_GROUP
from vestald.config import Config, Duration, Mode
from vestald.config.flags import parser
from vestald.config.reader import OWN_VARIABLES
from vestald.config.table import Option, options_of

OPTIONS = options_of(Config)
ADAPTERS = [point.load() for point in entry_points(group=ADAPTER_GROUP)]


class Every(Struct, frozen=True, kw_only=True):
    needed: Annotated[str, Meta(min_length=1), about("what it is", "this")]
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    least: Annotated[int, Meta(ge=0), LIVE, Trait(unit="bytes")] = 0
    most: Annotated[float, Meta(le=2.5)] = 1.0
    any: float = 0.0
    choice: Annotated[Literal["z", "a"], about("which")] = "z"
    one: Literal[7] = 7
    flag: bool = False
    names: Annotated[list[str | int], SECRET, LIVE] = []
    table: dict[str, Annotated[int, Meta(ge=0)]] = {}
    maybe: Annotated[Duration | None, about("how long")] = None
    bits: Mode = Mode(0)
    time: Annotated[DurationText, about("how long")] = "1s"
    formed: Annotated[str, Trait(form='"x:N"')] = ""


def test_a_declaration_says_what_is_legal() -> None:
    fields = {field.name: field for field in fields_of(Every)}
    length = 'a length of time such as "250ms", "10s" or "5m", or seconds'
    assert {name: field.legal for name, field in fields.items()} == {
        "needed": "a text that is not empty",
        "count": "1 to 1,000",
        "least": "a whole number, 0 or more",
        "most": "a number up to 2.5",
        "any": "a number",
        "choice": '"z" or "a"',
        "one": "7",
        "flag": "true or false",
        "names": "a list: each a text or a whole number",
        "table": "a table: each value a whole number, 0 or more",
        "maybe": length,
        "bits": 'permission bits as octal text like "0660"',
        "time": length,
        "formed": '"x:N"',
    }
    assert (fields["needed"].default, fields["needed"].examples) == (REQUIRED, ("this",))
    assert fields["least"].trait == Trait(live=True, unit="bytes")
    assert fields["names"].trait == Trait(live=True, secret=True)
    assert (fields["maybe"].description, fields["names"].default) == ("how long", [])


def test_traits_change_nothing_of_what_is_taken() -> None:
    assert msgspec.convert({"needed": "x", "least": 0}, Every).least == 0
    with pytest.raises(msgspec.ValidationError, match=r"least"):
        msgspec.convert({"needed": "x", "least": -1}, Every)


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_every_option_of_the_daemon_is_described_with_an_example(option: Option) -> None:
    assert option.field.description[-1] not in ".\n"
    assert option.field.examples
    assert option.field.legal


@pytest.mark.parametrize(("adapter", "field"), [(a.__name__, f) for a in ADAPTERS for f in fields_of(a.Options)])
def test_every_option_of_an_adapter_is_described_with_an_example(adapter: str, field: Any) -> None:
    assert field.description, (adapter, field.name)
    assert field.examples, (adapter, field.name)


def test_no_two_options_share_a_flag_or_a_variable() -> None:
    assert len({option.flag for option in OPTIONS}) == len(OPTIONS)
    assert len({option.variable for option in OPTIONS} | set(OWN_VARIABLES)) == len(OPTIONS) + len(OWN_VARIABLES)
    assert not [option for option in OPTIONS if option.flag.startswith("--backend-")]


def test_the_names_are_those_of_the_design() -> None:
    names = {option.key: (option.flag, option.variable) for option in OPTIONS}
    assert names["admission.queue_depth"] == ("--admission-queue-depth", "VESTAL_ADMISSION_QUEUE_DEPTH")
    assert names["sockets.infer.allow_users"] == ("--sockets-infer-allow-users", "VESTAL_SOCKETS_INFER_ALLOW_USERS")
    assert names["daemon.runtime_dir"] == ("--runtime-dir", "VESTAL_RUNTIME_DIR")
    assert names["daemon.log_level"] == ("--log-level", "VESTAL_LOG_LEVEL")


def test_the_help_has_every_option_and_fits_a_terminal() -> None:
    text = parser().format_help()
    assert all(f"  {option.flag} " in text for option in OPTIONS)
    assert max(map(len, text.splitlines())) <= 80
    for section in ("daemon", "sockets", "sockets.infer", "admission", "audit"):
        assert f"\n{section}:\n" in text


def test_a_flag_that_there_is_none_of_is_refused_with_the_nearest() -> None:
    for words, says in (
        (["--admision-queue-depth", "3"], "did you mean --admission-queue-depth?"),
        (["--backend-chat-slots"], "expected one argument"),
        (["nonsense"], "no place for nonsense: its words are config, doctor, install-service"),
        (["--log-level", "debug", "doctor"], "no place for doctor: its words are config, doctor, install-service, and"),
        (["confg"], "no place for confg: did you mean config?"),
        (["--admission-queue", "3"], "there is no option --admission-queue"),
    ):
        done = subprocess.run([sys.executable, "-m", "vestald", *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 2, done
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
