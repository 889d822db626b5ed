"""From an operator's question, or an `embed`, to what the router is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from vestal.backend import EmbedRequest, check_embed, honours, unsaid_of_embed
from vestal.errors import InvalidRequest, Unsupported, WireError
from vestal.messages import Embed, ExplainRoute
from vestal.values import FLAGS, Capabilities, GenerateOptions
from vestald.routing.route import Ask

__all__ = ["ask_of", "ask_of_embed"]

_OF_EMBED = ("dimensions", "task", "normalize")


def ask_of(message: ExplainRoute) -> Ask:
    """Raises `InvalidRequest` for a need that is no capability and no option, or that this socket does not have."""
    for index, need in enumerate(message.needs):
        if need not in FLAGS and need not in GenerateOptions.__struct_fields__:
            raise InvalidRequest(
                f"needs[{index}]: {need[:64]!r} is no capability and no option of a request",
                hint=f"capabilities: {', '.join(FLAGS)}; options: {', '.join(GenerateOptions.__struct_fields__)}",
                details={"field": f"needs[{index}]"},
            )
    wish = EmbedRequest(input=[], **{name: getattr(message, name) for name in _OF_EMBED})
    if message.socket == "infer":
        _check_no_embed(wish)
    return Ask(
        embed=message.socket == "embed",
        version=message.version,
        model=message.model,
        check=partial(_check, message.needs, wish),
        unsaid=partial(unsaid_of_embed, wish),
    )


def ask_of_embed(message: Embed, refused: Mapping[str, WireError] | None = None) -> Ask:
    """`refused` are the backends that have already said no to it."""
    wish = EmbedRequest(input=[], **{name: getattr(message, name) for name in _OF_EMBED})
    return Ask(
        embed=True,
        model=message.model,
        check=partial(check_embed, wish),
        unsaid=partial(unsaid_of_embed, wish),
        refused={} if refused is None else refused,  # one that is empty may be filled
    )


def _check_no_embed(wish: EmbedRequest) -> None:
    for name in _OF_EMBED:
        if getattr(wish, name) != getattr(EmbedRequest(input=[]), name):
            raise InvalidRequest(
                f"{name}: only an embed has it, and this asks for socket 'infer'",
                hint=f"ask for socket 'embed', or leave {name} out",
                details={"field": name},
            )


def _check(needs: list[str], wish: EmbedRequest, capabilities: Capabilities) -> None:
    for need in needs:
        if not (getattr(capabilities, need) if need in FLAGS else honours(capabilities, need)):
            raise Unsupported(
                f"model {capabilities.model!r} cannot honour {need}",
                hint="leave it out, or name a model that can",
                details={"option": need, "model": capabilities.model},
            )
    check_embed(wish, capabilities)
