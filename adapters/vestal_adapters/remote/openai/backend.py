"""The `openai` adapter: chat completions and embeddings of a server with that API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, ClassVar, cast
from urllib.parse import quote

from vestal.backend import (
    BackendOptions,
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    GenerateRequestV2,
)
from vestal.values import Capabilities
from vestal_adapters.remote.backend import RemoteBackend, if_there
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.openai.answers import ChatAnswer
from vestal_adapters.remote.openai.asking import chat_body, notices_of
from vestal_adapters.remote.openai.listing import Listing, capabilities_of, chosen
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.openai.vectors import EmbeddingPage, embeddings_body, vectors_of
from vestal_adapters.remote.presence import PROBE_TIMEOUT
from vestal_adapters.remote.requests import prompt_size
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import StreamedAnswer

__all__ = ["OpenAIBackend"]


class OpenAIBackend(RemoteBackend):
    """One model of one server."""

    Options: ClassVar[type[BackendOptions]] = OpenAIOptions

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self._has_details = False

    @property
    def _chosen(self) -> OpenAIOptions:
        return cast("OpenAIOptions", self.remote)

    # --- is it there ------------------------------------------------------------------------------------------

    async def probe(self, upstream: Upstream) -> Capabilities:
        """It is healthy, takes the key, lists the model, and, when an embedding model loads, embeds."""
        options, preset = self._chosen, self._chosen.dialect
        if preset.health is not None:
            await if_there(upstream.alive(preset.health, timeout=PROBE_TIMEOUT), None)
        if preset.account is not None:
            await if_there(upstream.alive(preset.account, timeout=PROBE_TIMEOUT), None)
        entry = chosen(await upstream.get("models", Listing, timeout=PROBE_TIMEOUT), options.model, self.name)
        details: dict[str, Any] = {}
        if preset.details is not None:
            path = preset.details.format(model=quote(entry["id"], safe=""))
            details = await if_there(upstream.get(path, dict[str, Any], timeout=PROBE_TIMEOUT), details)
        if not self.ready:  # later on it is asked as its capabilities say
            self._has_details = bool(details)
        dimensions = self.capabilities.embedding_dimensions
        if options.kind == "embeddings" and self.loading:
            dimensions = await self._dimensions(upstream, entry["id"])
        return capabilities_of(options, entry, details, dimensions)

    async def _dimensions(self, upstream: Upstream, model: str) -> int:
        request = EmbedRequest(input=["probe"])
        page = await upstream.post("embeddings", embeddings_body(request, self._chosen.dialect, model), EmbeddingPage)
        return vectors_of(page, request, None, self.name).dimensions

    # --- requests ---------------------------------------------------------------------------------------------

    def asked(
        self, upstream: Upstream, request: GenerateRequest | GenerateRequestV2
    ) -> tuple[AsyncGenerator[Event], StreamedAnswer]:
        can = self.capabilities
        body = chat_body(request, self._chosen.dialect, can.model, thinks=can.thinking, has_details=self._has_details)
        answer = ChatAnswer(
            self.name,
            v2=isinstance(request, GenerateRequestV2),
            prompt_size=prompt_size(request),
            notices=notices_of(request),
            key=upstream.key,
        )
        return upstream.events("chat/completions", body), answer

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        if self._chosen.kind != "embeddings":
            return await super().embed(request)
        async with self.asking() as upstream:
            own = self.capabilities.embedding_dimensions
            body = embeddings_body(request, self._chosen.dialect, self.capabilities.model, own)
            page = await upstream.post("embeddings", body, EmbeddingPage)
            return vectors_of(page, request, own, self.name)
