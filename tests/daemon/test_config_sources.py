"""Flags, variables, file, defaults: which counts, where it came from, and what is wrong with any of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from vestal.backend import BackendOptions
from vestal.options import SECRET, Trait, about
from vestal_adapters.echo import EchoBackend
from vestald import adapters
from vestald.config import BadSettings, Config, Origin, Reading, Sources
from vestald.config.backends import faults_of, resolved
from vestald.failures import BadConfiguration

Read = Callable[..., Reading]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(text, flags, environ)`: what a file, flags and variables together give."""

    def run(
        text: str = "", flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, **more: Any
    ) -> Reading:
        path = tmp_path / "v.toml"
        path.write_text(text)
        return Sources(path, flags or {}, environ or {}, **more).examine()

    return run


def told(reading: Reading) -> list[str]:
    """The faults, without the directory."""
    return [str(fault).rpartition("/")[2] for fault in reading.faults]


# --- which counts ---------------------------------------------------------------------------------------------


def test_a_flag_counts_before_a_variable_and_that_before_the_file(read: Read) -> None:
    text = "[admission]\nqueue_depth = 1\nper_caller = 1\nrequests_per_connection = 1\n"
    config = read(
        text,
        {"--admission-queue-depth": "3"},
        {"VESTAL_ADMISSION_QUEUE_DEPTH": "2", "VESTAL_ADMISSION_PER_CALLER": "2"},
    ).config
    admission = config.admission
    assert (admission.queue_depth, admission.per_caller, admission.requests_per_connection) == (3, 2, 1)
    assert admission.write_timeout == 30.0
    assert config.origins["admission.queue_depth"] == Origin("flag", "--admission-queue-depth")
    assert config.origins["admission.per_caller"] == Origin("variable", "VESTAL_ADMISSION_PER_CALLER")
    place = config.origins["admission.requests_per_connection"].place
    assert place == f"{config.source}:4"
    assert "admission.write_timeout" not in config.origins


def test_values_of_every_kind_come_by_flag_and_variable(read: Read) -> None:
    config = read(
        "",
        {"--sockets-mode": "0600", "--audit-enabled": "false", "--sockets-infer-allow-users": '["root", 7]'},
        {
            "VESTAL_ADMISSION_WRITE_TIMEOUT": "1m",
            "VESTAL_ADMISSION_WEIGHTS": '{ "7" = 2 }',
            "VESTAL_LOG_LEVEL": "error",
        },
    ).config
    assert (config.sockets.mode, config.audit.enabled, config.sockets.infer.allow_users) == (0o600, False, ["root", 7])
    assert (config.admission.write_timeout, config.admission.weights) == (60.0, {"7": 2.0})
    assert config.daemon.log_level == "error"


def test_the_runtime_directory_of_the_variable_is_that_of_every_client(read: Read) -> None:
    text = '[daemon]\nruntime_dir = "/run/file"\n'
    assert read(text, environ={"VESTAL_RUNTIME_DIR": "/run/var"}).config.runtime_dir() == Path("/run/var")
    both = read(text, {"--runtime-dir": "/run/flag"}, {"VESTAL_RUNTIME_DIR": "/run/var"}).config
    assert both.runtime_dir() == Path("/run/flag")


def test_an_empty_variable_counts_as_none(read: Read) -> None:
    reading = read(
        "[admission]\nqueue_depth = 9\n", environ={"VESTAL_ADMISSION_QUEUE_DEPTH": "", "VESTAL_ADMISSION_X": ""}
    )
    assert reading.config.admission.queue_depth == 9
    assert not reading.faults


# --- what is wrong --------------------------------------------------------------------------------------------


def test_every_fault_is_told_with_its_line(read: Read) -> None:
    reading = read(
        """\
[daemon]
ready_timeout = "5"

[admision]
queue_depth = 3
[admission]
queue_depth = 0
per_caller = 3
[admission.weights]
"a" = 0
[[backend]]
name = "a"
[[backend]]
name = "b"
adapter = "echo"
[[backend]]
name = "b"
adapter = "echo"
"""
    )
    assert [line.partition(" ")[0] for line in told(reading)] == [f"v.toml:{n}:" for n in (2, 4, 7, 10, 11, 17)]
    assert "unknown key admision; did you mean admission?" in told(reading)[1]
    assert "admission.queue_depth: expected `int` >= 1, got 0; legal: 1 to 1,000,000" in told(reading)[2]
    assert reading.config.admission.per_caller == 3
    with pytest.raises(BadSettings, match=r"v\.toml:2: daemon\.ready_timeout.*5 more faults") as bad:
        Sources(reading.config.source, environ={}).read()
    assert bad.value.exit_code == 78


def test_an_alias_that_cannot_be_one_is_told_with_what_may(read: Read) -> None:
    reading = read('[[backend]]\nname = "a"\nadapter = "echo"\naliases = ["fine", "two words"]\n')
    (fault,) = faults_of(reading.config)
    assert "v.toml:4: backend a.aliases[1]: 'two words' does not match '^[A-Za-z0-9]" in str(fault)


def test_where_the_users_own_file_cannot_be_looked_for_it_says_so() -> None:
    """A home that is somebody else's, or a name that no file may have."""
    with pytest.raises(
        BadConfiguration, match=r"cannot look for /x{300}/vestal/vestald\.toml: File name too long .*HOME"
    ):
        Sources(environ={"XDG_CONFIG_HOME": f"/{'x' * 300}"}).read()


def test_a_value_that_is_overridden_is_looked_at_all_the_same(read: Read) -> None:
    reading = read("[admission]\nqueue_depth = 0\n", {"--admission-queue-depth": "3"})
    assert reading.config.admission.queue_depth == 3
    assert [line.partition(" ")[0] for line in told(reading)] == ["v.toml:2:"]


def test_a_quoted_key_with_a_dot_is_no_path(read: Read) -> None:
    reading = read('"admission.queue_depth" = 3\n[sockets."infer.allow_users"]\n')
    assert [line.partition(";")[0] for line in told(reading)] == [
        'v.toml:1: unknown key "admission.queue_depth"',
        'v.toml:2: unknown key sockets."infer.allow_users"',
    ]
    assert reading.config.admission.queue_depth == 64


@pytest.mark.parametrize(
    ("flags", "environ", "says"),
    [
        ({"--admission-queue-depth": "many"}, {}, "--admission-queue-depth: admission.queue_depth: expected `int`"),
        ({}, {"VESTAL_SOCKETS_MODE": "rw"}, "VESTAL_SOCKETS_MODE: sockets.mode: expected permission bits"),
        ({}, {"VESTAL_ADMISSION_QUEUE_DEPT": "3"}, "did you mean VESTAL_ADMISSION_QUEUE_DEPTH?"),
        ({}, {"VESTAL_DAEMON_XYZ": "3"}, "VESTAL_DAEMON_XYZ: no option has this variable"),
    ],
)
def test_a_bad_flag_or_variable_is_named(read: Read, flags: Any, environ: Any, says: str) -> None:
    (fault,) = read("", flags, environ).faults
    assert says in str(fault)


def test_a_variable_that_resembles_an_options_is_a_warning_and_others_are_nobodys_business(read: Read) -> None:
    strangers = {"VESTAL_KILLS": "3", "VESTAL_HOME": "/x", "VESTAL_DEBUG": "1", "VESTALD_ADMISSION_X": "1", "PATH": "x"}
    assert read(environ=strangers).config.warnings == ()
    reading = read(environ={"VESTAL_LOGLEVEL": "debug", "VESTAL_RUNTIMEDIR": "/x"})
    assert not reading.faults
    assert reading.config.warnings == (
        "the variable VESTAL_LOGLEVEL means nothing here: did you mean VESTAL_LOG_LEVEL?",
        "the variable VESTAL_RUNTIMEDIR means nothing here: did you mean VESTAL_RUNTIME_DIR?",
    )


# --- names that changed, options that go, secrets -------------------------------------------------------------


class Later(Struct, frozen=True):
    """A section of a later version."""

    depth: Annotated[int, Meta(ge=1), about("how deep", 7), Trait(formerly=("later.length", "old.deep"))] = 1
    key: Annotated[int, Meta(ge=1), about("what opens it", 7), SECRET] = 1
    gone: Annotated[int, about("no use"), Trait(deprecated="leave it out")] = 0


class LaterConfig(Config, frozen=True, kw_only=True):
    later: Later = Later()


def test_an_option_is_taken_under_the_names_it_had_with_a_warning(read: Read) -> None:
    for text, flags, environ, says in (
        ("[later]\nlength = 3\n", {}, {}, "v.toml:2: later.length is now later.depth"),
        ("[old]\ndeep = 3\n", {}, {}, "v.toml:2: old.deep is now later.depth"),
        ("", {"--later-length": "3"}, {}, "--later-length: --later-length is now --later-depth"),
        ("", {}, {"VESTAL_OLD_DEEP": "3"}, "VESTAL_OLD_DEEP: VESTAL_OLD_DEEP is now VESTAL_LATER_DEPTH"),
    ):
        reading = read(text, flags, environ, root=LaterConfig)
        assert not reading.faults, told(reading)
        assert reading.config.later.depth == 3  # type: ignore[attr-defined]  # it is a LaterConfig
        (warning,) = reading.config.warnings
        assert warning.endswith(says)


def test_an_old_name_beside_the_new_one_is_refused(read: Read) -> None:
    (fault,) = read("[later]\nlength = 3\ndepth = 4\n", root=LaterConfig).faults
    assert "later.depth is given twice" in str(fault)
    reading = read("[later]\nlength = 3\n", {"--later-depth": "5"}, root=LaterConfig)
    assert reading.config.later.depth == 5  # type: ignore[attr-defined]  # it is a LaterConfig
    assert not reading.faults


def test_an_option_that_goes_away_says_what_to_do(read: Read) -> None:
    (warning,) = read("[later]\ngone = 3\n", root=LaterConfig).config.warnings
    assert warning.endswith("v.toml:2: later.gone is going away: leave it out")


def test_a_secrets_value_is_in_no_message(read: Read) -> None:
    (fault,) = read("[later]\nkey = 'hunter2'\n", root=LaterConfig).faults
    assert "hunter2" not in str(fault)
    assert str(fault).endswith("later.key: not what it takes; legal: a whole number, 1 or more")


def test_a_secret_is_no_flag(read: Read) -> None:
    reading = read("", {"--later-key": "31337"}, root=LaterConfig)
    (fault,) = reading.faults
    assert str(fault).startswith("--later-key: later.key is a secret, and every user")
    assert "VESTAL_LATER_KEY" in fault.hint
    assert read("", environ={"VESTAL_LATER_KEY": "31337"}, root=LaterConfig).config.later.key == 31337  # type: ignore[attr-defined]  # a LaterConfig


# --- backends -------------------------------------------------------------------------------------------------

TWO = """\
[[backend]]
name = "chat"
adapter = "echo"
[[backend]]
name = "chat.big"
adapter = "echo"
slots = 2
"""


def test_a_backends_keys_are_changed_by_flag_and_variable(read: Read) -> None:
    config = read(
        TWO,
        {"--backend-chat-slots": "3", "--backend-chat-big-token-delay": "10ms"},
        {"VESTAL_BACKEND_CHAT_SLOTS": "9", "VESTAL_BACKEND_CHAT_V2": "false", "VESTAL_BACKEND_CHAT_BIG_SLOTS": "4"},
    ).config
    assert [table.options for table in config.backends] == [
        {"slots": 3, "v2": False},
        {"slots": 4, "token_delay": "10ms"},
    ]
    assert config.place("backend.chat.slots") == "--backend-chat-slots"
    assert config.place("backend.chat.big.slots") == "VESTAL_BACKEND_CHAT_BIG_SLOTS"
    assert config.place("backend.chat.adapter").endswith("v.toml:3")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--backend-chat-slotz", "backend chat has no option slotz (did you mean slots?)"),
        ("--backend-other-slots", "names no [[backend]] of the file (its backends: chat, chat.big)"),
        ("--backend-chat", "names no [[backend]]"),
    ],
)
def test_a_flag_of_no_backend_or_no_option_is_refused(read: Read, flag: str, says: str) -> None:
    (fault,) = read(TWO, {flag: "3"}).faults
    assert str(fault).startswith(f"{flag}: ")
    assert says in str(fault)


def test_a_flag_that_two_backends_could_mean_is_refused(read: Read) -> None:
    text = TWO.replace('"chat"', '"chat-big"')
    (fault,) = read(text, {"--backend-chat-big-slots": "3"}).faults
    assert "could mean the backends chat-big and chat.big" in str(fault)


def test_what_an_adapter_does_not_like_is_told_with_the_line(read: Read) -> None:
    reading = read(
        TWO + 'slotz = 3\ntoken_delay = "10"\n[[backend]]\nname="x"\nadapter="ecko"\n', {"--backend-chat-slots": "0"}
    )
    assert not reading.faults
    said = [str(fault).rpartition("/")[2].partition(" installed")[0] for fault in faults_of(reading.config)]
    assert said == [
        "--backend-chat-slots: backend chat.slots: expected `int` >= 1, got 0; legal: 1 to 4,096",
        "v.toml:8: unknown key backend chat.big.slotz; did you mean slots?",
        "v.toml:9: backend chat.big.token_delay: '10' is not a duration: expected a number of seconds, or a string "
        'such as "250ms", "1.5s", "5m", "1h30m" (units: us, ms, s, m, h, d)',
        "v.toml:12: backend x: there is no adapter 'ecko' (did you mean 'echo'?",
    ]


def test_what_no_key_shows_alone_has_the_line_of_the_key_it_names(read: Read) -> None:
    (fault,) = faults_of(read(TWO + 'fault = "crash:3"\n').config)
    assert str(fault).rpartition("/")[2].startswith("v.toml:8: backend chat.big.fault: 'crash:3' kills a worker")


def test_a_key_that_must_be_there_is_missed_with_an_example(read: Read) -> None:
    reading = read('[[backend]]\nname = "m"\nadapter = "llamacpp"\n')
    with pytest.raises(BadConfiguration, match=r'v\.toml:1: backend m\.model is missing: .*\(.*model = "smollm2-135m"'):
        resolved(reading.config, reading.config.backends[0])


class Keyed(EchoBackend):
    """An adapter with a secret."""

    class Options(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        key: Annotated[int, about("what the server wants to see", 1), SECRET] = 0


def test_an_adapters_secret_is_in_no_message_either(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("keyed", f"{__name__}:Keyed", adapters.ADAPTER_GROUP)]
    monkeypatch.setattr(adapters, "entry_points", lambda *, group: points)
    reading = read('[[backend]]\nname = "a"\nadapter = "keyed"\nkey = "hunter2"\n')
    (fault,) = faults_of(reading.config)
    assert "hunter2" not in str(fault)
    (fault,) = read('[[backend]]\nname = "a"\nadapter = "keyed"\n', {"--backend-a-key": "31337"}).faults
    assert "31337" not in str(fault)
    assert "VESTAL_BACKEND_A_KEY" in fault.hint


# --- whatever is in the file ----------------------------------------------------------------------------------

WORDS = [
    "daemon",
    "sockets",
    "admission",
    "backend",
    "infer",
    "name",
    "adapter",
    "queue_depth",
    "weights",
    "slots",
    "é.x",
]
SCALARS = [
    "1",
    "-1",
    "1.5",
    "true",
    "inf",
    '"10s"',
    '"echo"',
    '""',
    "1979-05-27",
    "07:32:00",
    "[]",
    "{}",
    "[[1], {a=1}]",
]


@given(st.lists(st.tuples(st.sampled_from(["", "[", "[["]), st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
                          st.sampled_from(SCALARS)), max_size=8))  # fmt: skip
def test_a_file_is_read_or_refused_and_nothing_else(parts: list[tuple[str, list[str], str]]) -> None:
    lines = []
    for bracket, words, scalar in parts:
        key = ".".join(f'"{word}"' for word in words)
        lines.append(f"{bracket}{key}{']' * len(bracket)}" if bracket else f"{key} = {scalar}")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("\n".join(lines))
        file.flush()
        try:
            reading = Sources(Path(file.name), environ={}).examine()
        except BadConfiguration as refused:
            assert "is not TOML" in refused.message
            return
    assert all(str(fault).startswith(f"{file.name}:") for fault in [*reading.faults, *faults_of(reading.config)])
