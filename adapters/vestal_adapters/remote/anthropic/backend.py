"""The `anthropic` adapter: messages of a server with that API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, ClassVar, cast
from urllib.parse import quote

from msgspec import Struct

from vestal.backend import BackendOptions, CountRequest, GenerateRequest, GenerateRequestV2
from vestal.values import Capabilities, Message
from vestal_adapters.remote.anthropic.answers import MessageAnswer
from vestal_adapters.remote.anthropic.asking import count_body, limit_of, messages_body, notices_of
from vestal_adapters.remote.anthropic.listing import Listing, Manner, capabilities_of, listed, manner_of
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.anthropic.signatures import Signatures
from vestal_adapters.remote.backend import RemoteBackend, if_there
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.listing import nameable
from vestal_adapters.remote.presence import PROBE_TIMEOUT
from vestal_adapters.remote.requests import prompt_size
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import Count, StreamedAnswer

__all__ = ["AnthropicBackend"]

_VERSION = "2023-06-01"  # of the API, which every request names
_PROBE = CountRequest(messages=[Message("user", "probe")])


class _Counted(Struct):
    input_tokens: Count


class AnthropicBackend(RemoteBackend):
    """One model of one server."""

    Options: ClassVar[type[BackendOptions]] = AnthropicOptions

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        self._manner = Manner()
        self._signatures = Signatures()

    @property
    def _chosen(self) -> AnthropicOptions:
        return cast("AnthropicOptions", self.remote)

    def headers(self, key: Key | None) -> dict[str, str]:
        return {"anthropic-version": _VERSION} | ({} if key is None else {"x-api-key": key.value})

    # --- is it there ------------------------------------------------------------------------------------------

    async def probe(self, upstream: Upstream) -> Capabilities:
        """It knows the model, by its name or an alias, and, when the backend loads, counts a word's tokens."""
        model = self._chosen.model
        asking = upstream.get(f"models/{quote(model, safe='')}", dict[str, Any], timeout=PROBE_TIMEOUT)
        entry = await if_there(asking, {})
        if not nameable(entry.get("id")):  # a server without a page for each model, or without this one
            entry = listed(await upstream.get("models?limit=1000", Listing, timeout=PROBE_TIMEOUT), model, self.name)
        manner, count = manner_of(self._chosen, entry), self.capabilities.count
        if not self.ready:  # later on it is asked as its capabilities say
            self._manner = manner
        if self.loading:
            count = await self._counts(upstream, entry["id"])
        return capabilities_of(self._chosen, entry, manner, count=count)

    async def _counts(self, upstream: Upstream, model: str) -> bool:
        """Whether it counts tokens, as not every server with this API does; asking costs nothing."""
        asking = upstream.post("messages/count_tokens", count_body(_PROBE, model), _Counted, timeout=PROBE_TIMEOUT)
        return await if_there(asking, None) is not None

    # --- requests ---------------------------------------------------------------------------------------------

    def asked(
        self, upstream: Upstream, request: GenerateRequest | GenerateRequestV2
    ) -> tuple[AsyncGenerator[Event], StreamedAnswer]:
        signature_of = partial(self._signatures.of, request.cache_scope)
        body = messages_body(request, self._manner, self.capabilities.model, signature_of)
        answer = MessageAnswer(
            self.name,
            v2=isinstance(request, GenerateRequestV2),
            prompt_size=prompt_size(request),
            notices=notices_of(request, signature_of),
            key=upstream.key,
            chosen_limit=0 if request.options.max_tokens else limit_of(request.options, self._manner),
            signed=partial(self._signatures.keep, request.cache_scope),
        )
        return upstream.events("messages", body), answer

    async def count(self, request: CountRequest) -> int:
        if not self.capabilities.count:
            return await super().count(request)
        async with self.asking(in_turn=False) as upstream:  # a count takes no slot
            body = count_body(request, self.capabilities.model)
            return (await upstream.post("messages/count_tokens", body, _Counted)).input_tokens
