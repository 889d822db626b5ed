"""What a `[[backend]]` table with `adapter = "server"` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from vestal.durations import parse_duration
from vestal.options import DurationText, about
from vestal_adapters.remote.openai.presets import PresetName
from vestal_adapters.remote.options import EmbeddingBatch
from vestal_adapters.server.arguments import check_arguments, check_environment, check_inherited
from vestal_adapters.server.profiles import PROFILES, Profile, ProfileName
from vestal_adapters.worker.options import WorkerOptions

__all__ = ["ServerOptions"]


class ServerOptions(WorkerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model in a server that the daemon runs."""

    profile: Annotated[ProfileName, about("what kind of server it is", "llama-server")]
    model: (
        Annotated[
            str, Meta(min_length=1), about("a model of the store by its name, or the path of its file", "smollm2-135m")
        ]
        | None
    ) = None
    binary: (
        Annotated[
            str,
            Meta(min_length=1),
            about("the program: a path, or a name on PATH; by default the profile's", "/opt/llama.cpp/llama-server"),
        ]
        | None
    ) = None
    arguments: Annotated[
        list[str], about("further arguments, without those that the adapter gives itself", ["--flash-attn", "on"])
    ] = field(default_factory=list)
    environment: Annotated[
        dict[str, str], about("variables for it, beside the few that it inherits", {"OMP_NUM_THREADS": "4"})
    ] = field(default_factory=dict)
    inherit: Annotated[
        list[str], about("names of variables that it gets from the daemon's environment", ["CUDA_VISIBLE_DEVICES"])
    ] = field(default_factory=list)
    preset: Annotated[PresetName, about("which API a custom server has, as for the adapter openai", "vllm")] | None = (
        None
    )
    kind: Annotated[
        Literal["chat", "embeddings"], about("what the model is for: one backend does one of the two", "embeddings")
    ] = "chat"
    embedding_batch: EmbeddingBatch = None
    slots: (
        Annotated[
            int,
            Meta(ge=1, le=4096),
            about("requests that run at once; by default 4, and 1 for llama_cpp.server, which has one", 8),
        ]
        | None
    ) = None
    context_length: (
        Annotated[
            int,
            Meta(ge=8, le=2**24),
            about("tokens of prompt and answer together, per slot; by default the server's", 4096),
        ]
        | None
    ) = None
    threads: (
        Annotated[int, Meta(ge=1, le=1024), about("threads that compute; by default as the server likes", 4)] | None
    ) = None
    tools: Annotated[bool, about("whether the model calls tools", True)] | None = None
    vision: Annotated[bool, about("whether the model sees images", True)] | None = None
    thinking: Annotated[bool, about("whether the model's thinking can be turned up and down", True)] | None = None
    integrity: Annotated[
        Literal["sealed", "path"],
        about('how the file that is loaded stays the one that was verified: "sealed" copies it into memory', "path"),
    ] = "sealed"
    readable: Annotated[
        list[str], about("paths that it may read beside its program, its libraries and its model", ["/srv/adapters"])
    ] = field(default_factory=list)
    ready_timeout: Annotated[DurationText, about("how long each start may take, loading included", "10m")] = "5m"
    log_file: (
        Annotated[
            str,
            Meta(min_length=1),
            about(
                "a file for what it prints; by default only the last lines are kept, in memory",
                "/var/log/served.log",
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.known
        if self.embedding_batch is not None and self.kind != "embeddings":
            raise ValueError('embedding_batch: kind = "chat" embeds nothing; set kind = "embeddings"')
        check_arguments(self.arguments, known)
        check_environment(self.environment, known)
        check_inherited(self.inherit, known)
        if known.most_slots is not None and (self.slots or 1) > known.most_slots:
            raise ValueError(f"slots: {self.profile} runs {known.most_slots} request at once")
        try:
            seconds = self.ready_seconds
        except ValueError as exc:
            raise ValueError(f"ready_timeout: {exc}") from None
        if seconds <= 0:
            raise ValueError("ready_timeout: nothing takes 0 seconds")
        if self.profile == "custom":
            self._check_custom()
        elif self.model is None:
            raise ValueError(f"model: say which model {self.profile} is to serve")
        elif self.preset is not None:
            raise ValueError(f'preset: {self.profile} has one API; a preset is for profile = "custom"')

    def _check_custom(self) -> None:
        if self.binary is None:
            raise ValueError('binary: profile = "custom" has no program of its own')
        if self.preset is None:
            raise ValueError('preset: say which API the server has, such as "vllm"')
        if sum(any(place in word for word in self.arguments) for place in ("{socket}", "{port}")) != 1:
            raise ValueError("arguments: say with {socket} or {port}, and not both, where the server is to listen")
        if self.model is not None and not any("{model}" in word for word in self.arguments):
            raise ValueError("arguments: say with {model} where the path of the model goes, or leave out `model`")
        if self.threads is not None and not any("{threads}" in word for word in self.arguments):
            raise ValueError("threads: say with {threads} in `arguments` where the number goes")

    @property
    def known(self) -> Profile:
        return PROFILES[self.profile]

    @property
    def running(self) -> int:
        """How many requests run at once."""
        return self.slots or self.known.most_slots or 4

    @property
    def on_socket(self) -> bool:
        """Whether it listens on a Unix socket, and else on a port."""
        return any("{socket}" in word for word in (*self.known.closing, *self.arguments))

    @property
    def ready_seconds(self) -> float:
        return parse_duration(self.ready_timeout)
