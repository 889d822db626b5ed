"""The configuration file: typed, whole, and refused with the place and the nearest right word.

The structs below are the one declaration of each key: type, range, default, meaning. An adapter's own keys stay
raw here (`BackendTable.options`); the registry checks them against the adapter's `Options`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from vestal.audit_files import default_audit_dir
from vestal.durations import parse_duration
from vestal.errors import ModelError
from vestal.framing import MAX_FRAME_LIMIT
from vestal.paths import default_runtime_dir
from vestald.failures import BadConfiguration

__all__ = [
    "AccessConfig",
    "AdmissionConfig",
    "AuditConfig",
    "BackendTable",
    "Config",
    "DaemonConfig",
    "SocketsConfig",
    "describe_fault",
    "load",
]


class Duration(float):
    """Seconds; written as a number or as text with a unit: "250ms", "10s", "5m"."""


class Mode(int):
    """Permission bits, written as octal text: "0660"."""


Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Tokens = Annotated[int, Meta(ge=0)]
Weight = Annotated[float, Meta(ge=0.001, le=1000)]


class DaemonConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[daemon]`."""

    runtime_dir: Annotated[str, Meta(description="directory of the sockets")] | None = None
    drain_deadline: Annotated[Duration, Meta(description="how long a stop lets admitted work run")] = Duration(10)
    ready_timeout: Annotated[Duration, Meta(description="how long all backends together may load")] = Duration(300)
    idle_exit: (
        Annotated[Duration, Meta(description="leave after so long without a connection; default: never")] | None
    ) = None


Who = list[str | int]
"""Names or numbers; a text of digits is a name."""


class AccessConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sockets.infer]` and `[sockets.embed]`: who may use that socket, of those whom its mode lets in."""

    allow_users: Annotated[Who, Meta(description="with this or allow_groups, only who is on one of them")] = []
    deny_users: Annotated[Who, Meta(description="users that are kept out, whatever else allows them")] = []
    allow_groups: Annotated[Who, Meta(description="groups whose members may come in")] = []
    deny_groups: Annotated[Who, Meta(description="groups whose members are kept out")] = []


class SocketsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sockets]`. The admin socket is always 0600."""

    mode: Annotated[Mode, Meta(description="permission bits of infer.sock and embed.sock")] = Mode(0o660)
    group: Annotated[str, Meta(description="group of infer.sock and embed.sock")] | None = None
    max_frame: Annotated[int, Meta(ge=65_536, le=MAX_FRAME_LIMIT, description="bytes of one frame's payload")] = (
        MAX_FRAME_LIMIT
    )
    handshake_timeout: Annotated[Duration, Meta(description="how long a connection may say nothing")] = Duration(5)
    connections_per_uid: Annotated[Count, Meta(description="connections of one uid, infer and embed together")] = 256
    infer: AccessConfig = AccessConfig()
    embed: AccessConfig = AccessConfig()


class AdmissionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[admission]`."""

    queue_depth: Annotated[Count, Meta(description="requests waiting in all")] = 64
    per_caller: Annotated[Count, Meta(description="requests waiting per uid")] = 16
    requests_per_connection: Annotated[Count, Meta(description="requests in flight per connection")] = 64
    write_timeout: Annotated[Duration, Meta(description="how long a client may leave its answer unread")] = Duration(30)
    queue_timeout: (
        Annotated[Duration, Meta(description="how long one may wait that asks for no queue_timeout_ms")] | None
    ) = None
    max_queue_timeout: Annotated[Duration, Meta(description="the longest queue_timeout_ms that is taken")] | None = None
    timeout: Annotated[Duration, Meta(description="how long one may take that asks for no timeout_ms")] | None = None
    max_timeout: Annotated[Duration, Meta(description="the longest timeout_ms that is taken")] | None = None
    unavailable_timeout: (
        Annotated[Duration, Meta(description="how long requests wait for a backend that is away")] | None
    ) = None
    tokens_per_minute: Annotated[int, Meta(ge=0, description="tokens a uid may use in a minute; 0: any number")] = 0
    quotas: Annotated[dict[str, Tokens], Meta(description="tokens_per_minute of single users and groups")] = {}
    weights: Annotated[dict[str, Weight], Meta(description="shares of users and groups beside those of others, 1")] = {}


class AuditConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[audit]`."""

    enabled: Annotated[bool, Meta(description="whether there is an audit log")] = True
    directory: Annotated[str, Meta(description="where it is")] | None = None
    max_bytes: Annotated[int, Meta(ge=65_536, le=2**31 - 1, description="bytes of one file of it")] = 16 * 1024 * 1024
    files: Annotated[int, Meta(ge=1, le=1000, description="files that are kept")] = 3


class BackendTable(Struct, frozen=True):
    """One `[[backend]]`: its name, its adapter, and the adapter's own keys as they stand in the file."""

    name: str
    adapter: str
    options: dict[str, Any]


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration. `source` is the file it came from, or None for the built-in defaults."""

    daemon: DaemonConfig = DaemonConfig()
    sockets: SocketsConfig = SocketsConfig()
    admission: AdmissionConfig = AdmissionConfig()
    audit: AuditConfig = AuditConfig()
    backends: tuple[BackendTable, ...] = ()
    source: Path | None = None

    def runtime_dir(self) -> Path:
        """The configured directory, else the one every client looks in; absolute, as clients are told of it.

        Raises `BadConfiguration` for the home directory of nobody.
        """
        if not self.daemon.runtime_dir:
            return default_runtime_dir().absolute()
        try:
            return Path(self.daemon.runtime_dir).expanduser().absolute()
        except RuntimeError as exc:  # ~ of somebody who is not there
            raise BadConfiguration(f"daemon.runtime_dir: {self.daemon.runtime_dir}: {exc}") from None

    def audit_dir(self) -> Path:
        """The configured directory of the audit log, else the runtime directory's own under the data home."""
        try:
            configured = self.audit.directory
            return Path(configured).expanduser().absolute() if configured else default_audit_dir(self.runtime_dir())
        except (RuntimeError, ModelError) as exc:  # ~ of somebody who is not there
            raise BadConfiguration(f"audit.directory: {exc}") from None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    daemon: DaemonConfig = DaemonConfig()
    sockets: SocketsConfig = SocketsConfig()
    admission: AdmissionConfig = AdmissionConfig()
    audit: AuditConfig = AuditConfig()
    backend: list[dict[str, Any]] = []


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path`, else `$VESTAL_CONFIG`, else the user's `vestald.toml` if there is one, else the defaults.

    Raises `BadConfiguration` naming file, key and legal form.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ["VESTAL_CONFIG"]) if environ.get("VESTAL_CONFIG") else None)
    found = named or _user_file(environ)
    if found is None:
        return Config()
    return _parse(found, _read(found))


def _user_file(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    path = Path(home) / "vestal" / "vestald.toml"
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadConfiguration(
            f"cannot read {path}: {exc.strerror}", hint="name a file with --config or VESTAL_CONFIG"
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadConfiguration(f"{path} is not TOML: {exc}") from exc


def _parse(path: Path, table: dict[str, Any]) -> Config:
    if isinstance(table.get("backend"), dict):
        raise BadConfiguration(f"{path}: backend is a single table", hint="write [[backend]], with two brackets")
    try:
        parsed = msgspec.convert(table, _File, dec_hook=_decode)
    except msgspec.ValidationError as exc:
        raise BadConfiguration(f"{path}: {describe_fault(exc, _File)}") from exc
    backends = tuple(_backend(path, number, entry) for number, entry in enumerate(parsed.backend))
    _check_names(path, backends)
    _check_ceilings(path, parsed.admission)
    return Config(
        daemon=parsed.daemon,
        sockets=parsed.sockets,
        admission=parsed.admission,
        audit=parsed.audit,
        backends=backends,
        source=path,
    )


def _backend(path: Path, number: int, entry: dict[str, Any]) -> BackendTable:
    for key in ("name", "adapter"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise BadConfiguration(
                f"{path}: backend[{number}].{key} {'must be a text' if key in entry else 'is missing'}",
                hint=f'every [[backend]] has a line like {key} = "echo"',
            )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", entry["name"]):
        raise BadConfiguration(f"{path}: backend[{number}].name {entry['name']!r}: use letters, digits, '.', '_', '-'")
    options = {key: value for key, value in entry.items() if key not in ("name", "adapter")}
    return BackendTable(name=entry["name"], adapter=entry["adapter"], options=options)


def _check_names(path: Path, backends: Iterable[BackendTable]) -> None:
    seen: set[str] = set()
    for backend in backends:
        if backend.name in seen:
            raise BadConfiguration(f"{path}: two backends are named {backend.name!r}", hint="give each its own name")
        seen.add(backend.name)


def _check_ceilings(path: Path, admission: AdmissionConfig) -> None:
    for key in ("queue_timeout", "timeout"):
        default, ceiling = getattr(admission, key), getattr(admission, f"max_{key}")
        if default is not None and ceiling is not None and default > ceiling:
            raise BadConfiguration(
                f"{path}: admission.{key} is {default:g} s, and admission.max_{key} only {ceiling:g} s",
                hint="a default is at most its ceiling",
            )


def _decode(kind: type, value: object) -> object:
    if kind is Duration and isinstance(value, str | int | float) and not isinstance(value, bool):
        return Duration(parse_duration(value))
    if kind is Mode:
        if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
            return Mode(int(value, 8))
        raise ValueError(f'expected permission bits as octal text like "0660", got {value!r}')
    raise ValueError(f"got {value!r}")


_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<path>[^`]*)`)?")


def describe_fault(exc: msgspec.ValidationError, struct: type[Struct], prefix: str = "") -> str:
    """msgspec's words for a fault, with the key's full path and, for an unknown key, the nearest known one."""
    text = str(exc)
    if match := _UNKNOWN.search(text):
        where = ".".join(part for part in (prefix, match["path"] or "", match["key"]) if part)
        known = _keys_at(struct, match["path"] or "")
        near = difflib.get_close_matches(match["key"], known, n=1)
        return f"unknown key {where}" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")
    what, _, path = text.partition(" - at `$")
    where = ".".join(part for part in (prefix, path.strip("`").lstrip(".")) if part)
    return f"{where}: {what[:1].lower()}{what[1:]}" if where else what


def _keys_at(struct: type[Struct], path: str) -> list[str]:
    hints: Any = struct
    for part in filter(None, path.split(".")):
        field = next(f for f in msgspec.structs.fields(hints) if f.encode_name == part)
        hints = field.type
    return [field.encode_name for field in msgspec.structs.fields(hints)]
