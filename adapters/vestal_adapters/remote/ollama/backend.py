"""The `ollama` adapter: chats and embeddings of an Ollama, by its own API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, ClassVar, cast

from vestal.backend import BackendOptions, EmbedRequest, EmbedResult, GenerateRequest, GenerateRequestV2
from vestal.values import Capabilities
from vestal_adapters.remote.backend import RemoteBackend
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.ollama.answers import LineAnswer
from vestal_adapters.remote.ollama.asking import chat_body, load_body, notices_of
from vestal_adapters.remote.ollama.listing import (
    Manner,
    Shown,
    Tags,
    Version,
    capabilities_of,
    check_version,
    embeds,
    manner_of,
    tagged,
)
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.ollama.vectors import EmbeddingPage, embed_body, vectors_of
from vestal_adapters.remote.presence import PROBE_TIMEOUT
from vestal_adapters.remote.requests import prompt_size
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import StreamedAnswer

__all__ = ["OllamaBackend"]


class OllamaBackend(RemoteBackend):
    """One model of one server."""

    Options: ClassVar[type[BackendOptions]] = OllamaOptions

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self._manner = Manner()

    @property
    def _chosen(self) -> OllamaOptions:
        return cast("OllamaOptions", self.remote)

    # --- is it there ------------------------------------------------------------------------------------------

    async def probe(self, upstream: Upstream) -> Capabilities:
        """It has the model, says what it can do, and, when the backend loads, has it in memory."""
        options = self._chosen
        version = await upstream.get("api/version", Version, timeout=PROBE_TIMEOUT)
        cuts = check_version(version, options.allow_truncation, self.name)
        model = tagged(await upstream.get("api/tags", Tags, timeout=PROBE_TIMEOUT), options.model, self.name)
        shown = await upstream.post("api/show", {"model": model}, Shown, timeout=PROBE_TIMEOUT)
        manner, dimensions = manner_of(options, shown, cuts, self.name), self.capabilities.embedding_dimensions
        if not self.ready:  # later on it is asked as its capabilities say
            self._manner = manner
        if self.loading:
            dimensions = await self._loaded(upstream, model, embeds(shown))
        return capabilities_of(options, model, shown, manner, dimensions)

    async def _loaded(self, upstream: Upstream, model: str, embeds: bool) -> int | None:
        """The dimensions of a model that embeds. Takes as long as loading takes, with no deadline but a request's."""
        if embeds:
            return (await self._embed(upstream, EmbedRequest(input=["probe"]), model, None)).dimensions
        await upstream.post("api/chat", load_body(self._manner, model, self._chosen.kept), dict[str, Any])
        return None

    # --- requests ---------------------------------------------------------------------------------------------

    def asked(
        self, upstream: Upstream, request: GenerateRequest | GenerateRequestV2
    ) -> tuple[AsyncGenerator[Event], StreamedAnswer]:
        body = chat_body(request, self._manner, self.capabilities.model, self._chosen.kept)
        answer = LineAnswer(
            self.name,
            v2=isinstance(request, GenerateRequestV2),
            prompt_size=prompt_size(request),
            notices=notices_of(request, self._manner),
            key=upstream.key,
        )
        return upstream.lines("api/chat", body), answer

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        if not self.capabilities.embed:
            return await super().embed(request)
        async with self.asking() as upstream:
            capabilities = self.capabilities
            return await self._embed(upstream, request, capabilities.model, capabilities.embedding_dimensions)

    async def _embed(
        self, upstream: Upstream, request: EmbedRequest, model: str, dimensions: int | None
    ) -> EmbedResult:
        body = embed_body(request, self._manner, model, self._chosen.kept)
        return vectors_of(await upstream.post("api/embed", body, EmbeddingPage), request, dimensions, self.name)
