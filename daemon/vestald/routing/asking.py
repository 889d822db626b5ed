"""From an operator's question to what the router is asked. Pure."""

from __future__ import annotations

from functools import partial

from vestal.backend import honours
from vestal.errors import InvalidRequest, Unsupported
from vestal.messages import ExplainRoute
from vestal.values import FLAGS, Capabilities, GenerateOptions
from vestald.routing.route import Ask

__all__ = ["ask_of"]


def ask_of(message: ExplainRoute) -> Ask:
    """Raises `InvalidRequest` for a need that is no capability and no option."""
    for index, need in enumerate(message.needs):
        if need not in FLAGS and need not in GenerateOptions.__struct_fields__:
            raise InvalidRequest(
                f"needs[{index}]: {need[:64]!r} is no capability and no option of a request",
                hint=f"capabilities: {', '.join(FLAGS)}; options: {', '.join(GenerateOptions.__struct_fields__)}",
                details={"field": f"needs[{index}]"},
            )
    return Ask(
        embed=message.socket == "embed",
        version=message.version,
        model=message.model,
        check=partial(_check, message.needs),
    )


def _check(needs: list[str], capabilities: Capabilities) -> None:
    for need in needs:
        if not (getattr(capabilities, need) if need in FLAGS else honours(capabilities, need)):
            raise Unsupported(
                f"model {capabilities.model!r} cannot honour {need}",
                hint="leave it out, or name a model that can",
                details={"option": need, "model": capabilities.model},
            )
