"""What every adapter for a remote server lets its operator choose: where it is, the key's name, the deadlines."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from vestal.backend import BackendOptions
from vestal.durations import parse_duration
from vestal.options import DurationText, about

__all__ = ["EmbeddingBatch", "ModelOptions", "RemoteOptions"]

EmbeddingBatch = (
    Annotated[
        int,
        Meta(ge=1, le=65_536),
        about("texts that it computes at once: the weight of its share of a job that several backends divide", 32),
    ]
    | None
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIMEOUTS = ("connect_timeout", "first_byte_timeout", "between_tokens_timeout", "total_timeout")


class RemoteOptions(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the options of an adapter that speaks HTTP."""

    base_url: Annotated[str, about("where the API is; by default the preset's", "http://127.0.0.1:8000/v1")] | None = (
        None
    )
    unix_socket: (
        Annotated[str, about("a Unix socket to connect to instead of base_url's host", "/run/api.sock")] | None
    ) = None
    api_key_env: (
        Annotated[str, about("the name of the variable that holds the key, never the key itself", "CLUSTER_KEY")] | None
    ) = None
    api_key_file: (
        Annotated[str, about("a file with the key, readable by the daemon's user alone", "/etc/vestal/key")] | None
    ) = None
    plain_http: Annotated[bool, about("send the key over http:// to another machine, in clear", True)] = False
    ca_file: (
        Annotated[str, about("a PEM file of certificates to trust instead of the system's", "/etc/our-ca.pem")] | None
    ) = None
    local: (
        Annotated[
            bool,
            about("whether it runs on this machine; by default if a Unix socket or the loopback leads to it", False),
        ]
        | None
    ) = None
    slots: Annotated[int, Meta(ge=1, le=4096), about("requests that run at once at that server", 16)] = 4
    connect_timeout: Annotated[DurationText, about("how long connecting may take, TLS included", "2s")] = "5s"
    first_byte_timeout: Annotated[DurationText, about("how long it may take to begin an answer", "90s")] = "5m"
    between_tokens_timeout: Annotated[DurationText, about("how long it may pause within an answer", "30s")] = "60s"
    total_timeout: Annotated[DurationText, about("how long one answer may take in all", "10m")] = "30m"

    def __post_init__(self) -> None:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_file: give it or api_key_env, not both")
        if self.api_key_env is not None and _VARIABLE.fullmatch(self.api_key_env) is None:
            # Not repeated: who mistakes the option writes the key itself there.
            raise ValueError("api_key_env: expected the name of a variable: letters, digits and _, no digit first")
        for name in _TIMEOUTS:
            try:
                seconds = parse_duration(getattr(self, name))
            except ValueError as exc:
                raise ValueError(f"{name}: {exc}") from None
            if seconds <= 0:
                raise ValueError(f"{name}: nothing takes 0 seconds")
        self._check_url(self.url)
        if self.ca_file is not None and (self.unix_socket is not None or urlsplit(self.url).scheme != "https"):
            raise ValueError("ca_file: nothing shows a certificate over http:// or a Unix socket")

    @property
    def url(self) -> str:
        """Where the API is, without a slash at the end."""
        if self.base_url is None:
            raise ValueError("base_url: say where the server is, such as http://127.0.0.1:8000/v1")
        return self.base_url.rstrip("/")

    @property
    def near(self) -> bool:
        """Whether what is sent goes to this machine first: to a Unix socket, or by the loopback."""
        return self.unix_socket is not None or _is_loopback(urlsplit(self.url).hostname or "")

    @property
    def runs_here(self) -> bool:
        """Whether the model does, as far as is known: a proxy on this machine looks the same from here."""
        return self.near if self.local is None else self.local

    @property
    def names_a_key(self) -> bool:
        return self.api_key_env is not None or self.api_key_file is not None

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:  # brackets that do not close, a port that is no number or too large
            raise ValueError("base_url: its host or its port is none") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url: expected http://HOST/PATH or https://HOST/PATH")  # not repeated: see below
        if parts.username is not None or parts.password is not None:
            raise ValueError("base_url: no user or password in it: name the key with api_key_env or api_key_file")
        if parts.query or parts.fragment:
            raise ValueError("base_url: expected no query and no fragment")
        if self.names_a_key and parts.scheme == "http" and not self.near and not self.plain_http:
            raise ValueError(
                f"base_url: the key would go to {parts.hostname} in clear: use https, or set plain_http = true"
            )


class ModelOptions(RemoteOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may say of the model; it goes before what the server says."""

    context_length: (
        Annotated[int, Meta(ge=8), about("tokens of prompt and answer together; by default what the server says", 8192)]
        | None
    ) = None
    max_output_tokens: Annotated[int, Meta(ge=1), about("most tokens of one answer, where limited", 1024)] | None = None
    tools: Annotated[bool, about("whether the model calls tools", True)] | None = None
    vision: Annotated[bool, about("whether the model sees images", True)] | None = None
    thinking: Annotated[bool, about("whether the model's thinking can be turned up and down", True)] | None = None
    json_schema: Annotated[bool, about("whether the server enforces a JSON schema", True)] | None = None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
