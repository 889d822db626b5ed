"""The configuration: one declaration per option, and everything else derived from it.

`schema` declares, `table` derives names, `sources` reads flags, environment and file (in that order of precedence)
and refuses with place, line and the nearest right word; `explain`, `json_schema` and `reference` show the same table
to an operator, an editor and the documentation. An adapter's own options are declared in the same way, by its
`Options`, and checked by `backends`.
"""

from __future__ import annotations

from vestald.config.faults import BadSettings, Fault
from vestald.config.reader import Reading
from vestald.config.schema import (
    AccessConfig,
    AdmissionConfig,
    AuditConfig,
    BackendKeys,
    BackendTable,
    Config,
    DaemonConfig,
    MetricsConfig,
    Origin,
    RouterConfig,
    SocketsConfig,
)
from vestald.config.sources import Sources, load
from vestald.config.values import Duration, Mode

__all__ = [
    "AccessConfig",
    "AdmissionConfig",
    "AuditConfig",
    "BackendKeys",
    "BackendTable",
    "BadSettings",
    "Config",
    "DaemonConfig",
    "Duration",
    "Fault",
    "MetricsConfig",
    "Mode",
    "Origin",
    "Reading",
    "RouterConfig",
    "SocketsConfig",
    "Sources",
    "load",
]
