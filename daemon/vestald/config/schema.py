"""The options of the daemon: each declared once, with all that is known of it.

A field's type and bounds say what is legal, `about` describes it, a `Trait` says what else is special: `LIVE` is
applied by a reload, everything else by a restart. An adapter's options stay raw here (`BackendTable.options`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vestal.audit_files import default_audit_dir
from vestal.errors import ModelError
from vestal.framing import MAX_FRAME_LIMIT
from vestal.options import LIVE, Trait, about
from vestal.paths import default_runtime_dir
from vestal.values import RoutePolicy
from vestald.config.values import Duration, Mode
from vestald.failures import BadConfiguration

__all__ = [
    "AccessConfig",
    "AdmissionConfig",
    "AuditConfig",
    "BackendKeys",
    "BackendTable",
    "Config",
    "DaemonConfig",
    "MetricsConfig",
    "Origin",
    "RouterConfig",
    "SocketsConfig",
]

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Tokens = Annotated[int, Meta(ge=0)]
Alias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
Weight = Annotated[float, Meta(ge=0.001, le=1000)]
LogLevel = Literal["debug", "info", "warning", "error"]


class DaemonConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[daemon]`: its life."""

    runtime_dir: Annotated[
        str | None,
        about("directory of the sockets; by default $XDG_RUNTIME_DIR/vestal, else /tmp/vestal-<uid>", "/run/vestal"),
        Trait(name="runtime-dir"),
    ] = None
    drain_deadline: Annotated[Duration, about("how long a stop lets admitted work run", "30s"), LIVE] = Duration(10)
    ready_timeout: Annotated[
        Duration, about("how long all backends that are required may load, and each start of another", "10m"), LIVE
    ] = Duration(300)
    idle_exit: Annotated[
        Duration | None, about("leave after so long without a connection; by default never", "10m")
    ] = None
    probe_interval: Annotated[
        Duration, about("how often each backend is asked whether it is well; 0: never", "1m"), LIVE
    ] = Duration(30)
    log_level: Annotated[LogLevel, about("the least level that is logged", "debug"), LIVE, Trait(name="log-level")] = (
        "info"
    )


Who = list[str | int]
"""Names or numbers; a text of digits is a name."""


class AccessConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sockets.infer]` and `[sockets.embed]`: who may use that socket, of those whom its mode lets in."""

    allow_users: Annotated[
        Who, about("with this or allow_groups, only who is on one of them", ["alice", 1000]), LIVE
    ] = []
    deny_users: Annotated[Who, about("users that are kept out, whatever else allows them", ["mallory"]), LIVE] = []
    allow_groups: Annotated[Who, about("groups whose members may come in", ["staff"]), LIVE] = []
    deny_groups: Annotated[Who, about("groups whose members are kept out", ["guests"]), LIVE] = []


class SocketsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sockets]`: who may connect, and how much. The admin socket is always 0600."""

    mode: Annotated[Mode, about("permission bits of infer.sock and embed.sock", "0600")] = Mode(0o660)
    group: Annotated[str | None, about("group of infer.sock and embed.sock; the directory is then 0750", "vestal")] = (
        None
    )
    max_frame: Annotated[
        int,
        Meta(ge=65_536, le=MAX_FRAME_LIMIT),
        about("bytes of one frame's payload", 16_777_216),
        Trait(live=True, unit="bytes"),
    ] = MAX_FRAME_LIMIT
    handshake_timeout: Annotated[Duration, about("how long a connection may say nothing", "2s"), LIVE] = Duration(5)
    connections_per_uid: Annotated[Count, about("connections of one uid, infer and embed together", 64), LIVE] = 256
    infer: AccessConfig = AccessConfig()
    embed: AccessConfig = AccessConfig()


class AdmissionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[admission]`: who waits, for how long, and whose turn it is."""

    queue_depth: Annotated[Count, about("requests waiting in all", 128), LIVE] = 64
    per_caller: Annotated[Count, about("requests waiting per uid", 32), LIVE] = 16
    requests_per_connection: Annotated[Count, about("requests in flight per connection", 16), LIVE] = 64
    write_timeout: Annotated[Duration, about("how long a client may leave its answer unread", "1m"), LIVE] = Duration(
        30
    )
    queue_timeout: Annotated[
        Duration | None, about("how long one may wait that asks for no queue_timeout_ms; by default any", "30s"), LIVE
    ] = None
    max_queue_timeout: Annotated[
        Duration | None, about("the longest queue_timeout_ms that is taken; by default any", "5m"), LIVE
    ] = None
    timeout: Annotated[
        Duration | None, about("how long one may take that asks for no timeout_ms; by default any", "2m"), LIVE
    ] = None
    max_timeout: Annotated[
        Duration | None, about("the longest timeout_ms that is taken; by default any", "10m"), LIVE
    ] = None
    unavailable_timeout: Annotated[
        Duration | None,
        about("how long requests wait for a backend that is away; by default until it is back", "1m"),
        LIVE,
    ] = None
    tokens_per_minute: Annotated[
        Tokens, about("tokens a uid may use in a minute; 0: any number", 60_000), Trait(live=True, unit="tokens")
    ] = 0
    quotas: Annotated[
        dict[str, Tokens], about("tokens_per_minute of single users and groups", {"backup": 10_000}), LIVE
    ] = {}
    weights: Annotated[
        dict[str, Weight],
        about("shares of users and groups beside those of others, 1", {"1000": 2.0, "@students": 0.5}),
        LIVE,
    ] = {}
    interactive: Annotated[
        list[str | int] | None,
        about('users and groups who may ask for the class "interactive"; by default anybody', ["alice", "@desk"]),
        LIVE,
    ] = None


class RouterConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[router]`: which of several backends takes a request, and which is not trusted with one for a while."""

    policy: Annotated[
        RoutePolicy,
        about(
            "which backend of those that can: the first in the file, the least busy one, or the first on this machine",
            "least_busy",
        ),
        LIVE,
    ] = "priority"
    retry_before_first_token: Annotated[
        int,
        Meta(ge=0, le=1),
        about("how often a request that fails before its first token is given to another backend", 1),
        LIVE,
    ] = 0
    breaker_failures: Annotated[
        int, Meta(ge=1, le=1000), about("failures within breaker_window that open a backend's breaker", 5), LIVE
    ] = 3
    breaker_window: Annotated[Duration, about("how long a failure counts", "5m"), LIVE] = Duration(60)
    breaker_cold: Annotated[
        Duration, about("how long an open breaker keeps requests away, until one may try", "10s"), LIVE
    ] = Duration(30)
    unnamed: Annotated[
        Literal["any", "local"],
        about("which backends a request that names no model may reach: any, or only those on this machine", "local"),
        LIVE,
    ] = "any"


class AuditConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[audit]`: who did what, on disk."""

    enabled: Annotated[bool, about("whether there is an audit log", False)] = True
    directory: Annotated[str | None, about("where it is; by default below $VESTAL_HOME/audit", "/var/log/vestal")] = (
        None
    )
    max_bytes: Annotated[
        int, Meta(ge=65_536, le=2**31 - 1), about("bytes of one file of it", 1_048_576), Trait(unit="bytes")
    ] = 16 * 1024 * 1024
    files: Annotated[int, Meta(ge=1, le=1000), about("files that are kept", 10)] = 3


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: how they are had beside `vestal metrics`."""

    textfile: Annotated[
        str | None,
        about("a file for node_exporter to collect; it ends in .prom", "/var/lib/node_exporter/vestal.prom"),
    ] = None
    interval: Annotated[Duration, about("how often that file is written", "1m")] = Duration(15)
    socket: Annotated[bool, about("whether metrics.sock answers GET /metrics in HTTP", True)] = False


class BackendKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """What every `[[backend]]` may hold, whatever its adapter."""

    required: Annotated[
        bool, about("whether the daemon waits for it; one that is not required joins when it comes", False)
    ] = True
    aliases: Annotated[
        list[Alias], Meta(max_length=64), about("other names for its model; several backends may share one", ["fast"])
    ] = []


class BackendTable(Struct, frozen=True):
    """One `[[backend]]`: its name, its adapter, and its other keys as they stand in the file."""

    name: str
    adapter: str
    options: dict[str, Any]


class Origin(Struct, frozen=True):
    """Where a value came from: `place` is a flag, a variable, or a file with its line."""

    kind: Literal["flag", "variable", "file"]
    place: str


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration. `source` is the file it came from, or None without one.

    `origins` has the keys that were given (`admission.queue_depth`, `backend.chat.slots`); the others are defaults.
    """

    daemon: DaemonConfig = DaemonConfig()
    sockets: SocketsConfig = SocketsConfig()
    admission: AdmissionConfig = AdmissionConfig()
    router: RouterConfig = RouterConfig()
    audit: AuditConfig = AuditConfig()
    metrics: MetricsConfig = MetricsConfig()
    backends: tuple[BackendTable, ...] = ()
    source: Path | None = None
    origins: dict[str, Origin] = {}
    warnings: tuple[str, ...] = ()

    def place(self, key: str) -> str:
        """Where `key` was given, else the file, for messages."""
        if key in self.origins:
            return self.origins[key].place
        return str(self.source) if self.source else "built-in defaults"

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

    def metrics_file(self) -> Path | None:
        """Where the metrics are written to, if anywhere; absolute. Raises as `runtime_dir`."""
        try:
            return Path(self.metrics.textfile).expanduser().absolute() if self.metrics.textfile else None
        except RuntimeError as exc:  # ~ of somebody who is not there
            raise BadConfiguration(f"metrics.textfile: {exc}") from None

    def audit_dir(self) -> Path:
        """The configured directory of the audit log, else the runtime directory's own under the data home."""
        try:
            configured = self.audit.directory
            return Path(configured).expanduser().absolute() if configured else default_audit_dir(self.runtime_dir())
        except (RuntimeError, ModelError) as exc:  # ~ of somebody who is not there
            raise BadConfiguration(f"audit.directory: {exc}") from None
