"""The configuration file: every key, every way to get one wrong, and which file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vestal.framing import MAX_FRAME_LIMIT
from vestald.config import (
    AccessConfig,
    AdmissionConfig,
    AuditConfig,
    BackendTable,
    Config,
    DaemonConfig,
    Duration,
    MetricsConfig,
    RouterConfig,
    SocketsConfig,
    load,
)
from vestald.failures import BadConfiguration

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "daemon": DaemonConfig,
    "sockets": SocketsConfig,
    "admission": AdmissionConfig,
    "router": RouterConfig,
    "audit": AuditConfig,
    "metrics": MetricsConfig,
}
KEYS = [(section, field.name) for section, cls in SECTIONS.items() for field in msgspec.structs.fields(cls)]


@pytest.fixture
def parse(tmp_path: Path) -> Any:
    def run(text: str) -> Config:
        path = tmp_path / "vestald.toml"
        path.write_text(text)
        return load(path, {})

    return run


@pytest.fixture
def refuse(parse: Any) -> Any:
    """The whole message with which a configuration is refused; it names the file."""

    def run(text: str) -> str:
        with pytest.raises(BadConfiguration) as refused:
            parse(text)
        assert refused.value.exit_code == 78
        assert "vestald.toml" in str(refused.value)
        return str(refused.value)

    return run


def test_the_defaults_are_those_of_the_design() -> None:
    config = Config()
    assert config.daemon == DaemonConfig(None, 10.0, 300.0)  # type: ignore[arg-type]  # seconds compare as floats
    assert (config.sockets.mode, config.sockets.group) == (0o660, None)
    assert (config.sockets.max_frame, float(config.sockets.handshake_timeout)) == (MAX_FRAME_LIMIT, 5.0)
    assert (config.admission.queue_depth, config.admission.per_caller) == (64, 16)
    assert (config.admission.requests_per_connection, float(config.admission.write_timeout)) == (64, 30.0)
    assert config.backends == ()


def test_an_empty_file_is_the_defaults(parse: Any) -> None:
    config = parse("")
    assert msgspec.structs.replace(config, source=None) == Config()
    assert config.source is not None


WHOLE = """
[daemon]
runtime_dir = "/run/v"
drain_deadline = "1m30s"
ready_timeout = 12.5
idle_exit = "10m"
probe_interval = "7s"
log_level = "debug"
[sockets]
mode = "0600"
group = "users"
max_frame = 65536
handshake_timeout = "250ms"
connections_per_uid = 9
infer = { allow_groups = ["users", 7] }
embed = { deny_users = [0] }
[admission]
queue_depth = 1
per_caller = 2
requests_per_connection = 3
write_timeout = 4
queue_timeout = "20s"
max_queue_timeout = "1m"
timeout = "2m"
max_timeout = "1h"
unavailable_timeout = "30s"
tokens_per_minute = 1000
quotas = { "7" = 0 }
weights = { "7" = 2 }
interactive = ["alice", 7]
[router]
policy = "least_busy"
retry_before_first_token = 1
breaker_failures = 5
breaker_window = "2m"
breaker_cold = "15s"
unnamed = "local"
[audit]
enabled = false
directory = "/var/log/v"
max_bytes = 100000
files = 1
[metrics]
textfile = "/var/lib/v.prom"
interval = "1m"
socket = true
[[backend]]
name = "a"
adapter = "echo"
slots = 2
[[backend]]
name = "b.c_d-9"
adapter = "other"
"""


def test_every_key_is_read(parse: Any) -> None:
    config = parse(WHOLE)
    assert config.daemon.runtime_dir == "/run/v"
    assert (float(config.daemon.drain_deadline), float(config.daemon.ready_timeout)) == (90.0, 12.5)
    assert (config.daemon.idle_exit, config.daemon.probe_interval, config.daemon.log_level) == (600.0, 7.0, "debug")
    assert (int(config.sockets.mode), config.sockets.group) == (0o600, "users")
    assert (config.sockets.max_frame, float(config.sockets.handshake_timeout)) == (65536, 0.25)
    assert (config.admission.queue_depth, config.admission.per_caller) == (1, 2)
    assert (config.admission.requests_per_connection, float(config.admission.write_timeout)) == (3, 4.0)
    assert (config.admission.queue_timeout, config.admission.max_queue_timeout) == (20.0, 60.0)
    assert (config.admission.timeout, config.admission.max_timeout) == (120.0, 3600.0)
    assert (config.admission.unavailable_timeout, config.admission.tokens_per_minute) == (30.0, 1000)
    assert (config.admission.quotas, config.admission.weights) == ({"7": 0}, {"7": 2.0})
    assert config.admission.interactive == ["alice", 7]
    assert config.sockets.connections_per_uid == 9
    assert config.sockets.infer == AccessConfig(allow_groups=["users", 7])
    assert config.sockets.embed == AccessConfig(deny_users=[0])
    assert config.router == RouterConfig("least_busy", 1, 5, Duration(120), Duration(15), "local")
    assert config.audit == AuditConfig(enabled=False, directory="/var/log/v", max_bytes=100_000, files=1)
    assert str(config.audit_dir()) == "/var/log/v"
    assert config.metrics == MetricsConfig(textfile="/var/lib/v.prom", interval=Duration(60), socket=True)
    assert str(config.metrics_file()) == "/var/lib/v.prom"
    assert config.backends == (BackendTable("a", "echo", {"slots": 2}), BackendTable("b.c_d-9", "other", {}))
    assert all(f"{key} =" in WHOLE for _, key in KEYS), "a new key: add it above"


WRONG = ("[]", "{}", "true", '"nonsense"', "-1", "1979-05-27")
LEGAL = {
    '"nonsense"': ("runtime_dir", "group", "directory", "textfile"),
    "{}": ("quotas", "weights", "infer", "embed"),
    "[]": ("interactive",),
    "true": ("enabled", "socket"),
}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [(*where, value) for where in KEYS for value in WRONG if where[1] not in LEGAL.get(value, ())],
)
def test_a_value_that_is_none_of_a_keys_names_the_key(refuse: Any, section: str, key: str, value: str) -> None:
    assert f"{section}.{key}: " in refuse(f"[{section}]\n{key} = {value}\n")


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_misspelt_key_is_refused_with_the_nearest(refuse: Any, section: str, key: str) -> None:
    wrong = key[:-1]
    assert f"unknown key {section}.{wrong}; did you mean {key}?" in refuse(f"[{section}]\n{wrong} = 1\n")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_section_is_refused_with_the_nearest(refuse: Any, section: str) -> None:
    assert f"unknown key {section}s; did you mean {section}?" in refuse(f"[{section}s]\n")


def test_a_key_that_resembles_none_is_refused_with_all_there_are(refuse: Any) -> None:
    assert "known keys: runtime_dir, drain_deadline, ready_timeout" in refuse("[daemon]\nxyzzy = 1\n")
    assert "known keys: daemon, sockets, admission, router, audit, metrics, backend" in refuse("xyzzy = 1\n")


@pytest.mark.parametrize("value", ['"10"', '"ten seconds"', '"-5s"', "-0.5", "inf", "nan", '"1 h"', '"366d"', "false"])
def test_a_bad_duration_is_refused_with_the_key(refuse: Any, value: str) -> None:
    assert "daemon.drain_deadline: " in refuse(f"[daemon]\ndrain_deadline = {value}\n")


@pytest.mark.parametrize(("text", "bits"), [("0660", 0o660), ("660", 0o660), ("0600", 0o600), ("0777", 0o777)])
def test_a_mode_is_octal_text(parse: Any, text: str, bits: int) -> None:
    assert int(parse(f'[sockets]\nmode = "{text}"\n').sockets.mode) == bits


@pytest.mark.parametrize(
    "value", ["660", "0o660", '"0o660"', '"0880"', '"rw-rw----"', '""', '"1660"', '"66"', '"06600"']
)
def test_a_mode_that_is_not_octal_text_is_refused_with_the_form(refuse: Any, value: str) -> None:
    message = refuse(f"[sockets]\nmode = {value}\n")
    assert "sockets.mode: " in message
    assert '"0660"' in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("queue_depth", 0), ("per_caller", 0), ("requests_per_connection", 1_000_001), ("queue_depth", 1.5)],
)
def test_a_count_out_of_range_is_refused(refuse: Any, key: str, value: float) -> None:
    assert f"admission.{key}: " in refuse(f"[admission]\n{key} = {value}\n")


@pytest.mark.parametrize("value", [65_535, MAX_FRAME_LIMIT + 1])
def test_a_frame_limit_is_at_least_the_handshakes_and_at_most_the_wires(refuse: Any, value: int) -> None:
    assert "sockets.max_frame: " in refuse(f"[sockets]\nmax_frame = {value}\n")


# --- backends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["name", "adapter"])
@pytest.mark.parametrize("value", ["", '{} = ""\n', "{} = 5\n"])
def test_a_backend_without_name_or_adapter_says_which(refuse: Any, missing: str, value: str) -> None:
    keys = {"name": 'name = "a"\n', "adapter": 'adapter = "echo"\n', missing: value.format(missing)}
    message = refuse('[[backend]]\nname = "ok"\nadapter = "echo"\n[[backend]]\n' + "".join(keys.values()))
    assert f"backend[1].{missing} {'must be a text' if value else 'is missing'}" in message


def test_a_key_that_resembles_the_missing_one_is_named_with_its_line(refuse: Any) -> None:
    message = refuse('[[backend]]\nname = "a"\nadaptor = "echo"\n')
    assert ":3: backend[0].adapter is missing (there is adaptor: did you mean adapter?)" in message


@pytest.mark.parametrize("name", ["a b", "-a", ".a", "a/b", "ä", "x" * 65])
def test_a_backends_name_is_plain(refuse: Any, name: str) -> None:
    assert "use letters, digits" in refuse(f'[[backend]]\nname = "{name}"\nadapter = "echo"\n')


def test_two_backends_of_one_name_are_refused(refuse: Any) -> None:
    assert "two backends are named 'a'" in refuse('[[backend]]\nname = "a"\nadapter = "echo"\n' * 2)


def test_an_alias_that_is_another_backends_name_is_refused_with_its_line(refuse: Any) -> None:
    said = refuse(
        '[[backend]]\nname = "a"\nadapter = "x"\n[[backend]]\nname = "b"\nadapter = "x"\naliases = ["fast", "a", "b"]\n'
    )
    assert "vestald.toml:7: backend b.aliases: 'a' is the name of another backend" in said


def test_an_alias_may_be_shared_and_means_a_choice(parse: Any) -> None:
    shared = '[[backend]]\nname = "{}"\nadapter = "x"\naliases = ["fast"]\n'
    assert len(parse(shared.format("a") + shared.format("b")).backends) == 2


def test_a_single_table_is_refused_with_the_double_brackets_it_needs(refuse: Any) -> None:
    assert "[[backend]]" in refuse('[backend]\nname = "a"\nadapter = "echo"\n')


def test_an_adapters_keys_are_kept_as_they_stand(parse: Any) -> None:
    (table,) = parse('[[backend]]\nname = "a"\nadapter = "x"\ndeep = {er = [1, "2"]}\n').backends
    assert table.options == {"deep": {"er": [1, "2"]}}


# --- which file -----------------------------------------------------------------------------------------------


def write(path: Path, depth: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[admission]\nqueue_depth = {depth}\n")
    return path


def test_the_flag_goes_before_the_variable_and_that_before_the_users_file(tmp_path: Path) -> None:
    flag, variable = write(tmp_path / "flag.toml", 1), write(tmp_path / "variable.toml", 2)
    user = write(tmp_path / "config" / "vestal" / "vestald.toml", 3)
    environ = {"VESTAL_CONFIG": str(variable), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert load(flag, environ).admission.queue_depth == 1
    assert load(None, environ).admission.queue_depth == 2
    assert load(None, {**environ, "VESTAL_CONFIG": ""}).admission.queue_depth == 3
    user.unlink()
    assert load(None, {"XDG_CONFIG_HOME": str(tmp_path / "config")}) == Config()


def test_without_xdg_the_users_file_is_below_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(None, {}) == Config()
    path = write(tmp_path / ".config" / "vestal" / "vestald.toml", 9)
    assert load(None, {}).source == path


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    for path, environ in ((tmp_path / "no.toml", {}), (None, {"VESTAL_CONFIG": str(tmp_path / "no.toml")})):
        with pytest.raises(BadConfiguration, match=r"cannot read .*no\.toml: No such file") as refused:
            load(path, environ)
        assert "--config" in str(refused.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot read"):
        load(tmp_path, {})


@pytest.mark.parametrize("content", [b"[daemon", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(BadConfiguration, match=r"bad\.toml is not TOML"):
        load(path, {})


def test_the_runtime_directory_is_the_configured_one_or_the_clients_default(
    parse: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VESTAL_RUNTIME_DIR", "/run/from-the-environment")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("").runtime_dir() == Path("/run/from-the-environment")
    assert parse('[daemon]\nruntime_dir = "/run/own"\n').runtime_dir() == Path("/run/own")
    assert parse('[daemon]\nruntime_dir = "~/v"\n').runtime_dir() == tmp_path / "v"
    assert parse('[daemon]\nruntime_dir = "v"\n').runtime_dir() == Path.cwd() / "v"
    with pytest.raises(BadConfiguration, match=r"daemon\.runtime_dir: ~no-such-user/v"):
        parse('[daemon]\nruntime_dir = "~no-such-user/v"\n').runtime_dir()
