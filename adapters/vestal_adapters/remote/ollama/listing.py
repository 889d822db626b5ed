"""What Ollama says of a model, made into capabilities and a manner of asking. Pure: pages in, facts out.

The context is the operator's, else the Modelfile's `num_ctx`, else 4,096 tokens, and never longer than the model's
own, which the server would cut it to in silence. It goes out with every request, so that it is the one that counts.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from msgspec import Struct, structs

from vestal.errors import VestalError
from vestal.values import Capabilities, Thinking
from vestal_adapters.remote.listing import count_at, first, picked
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.refusals import one_line

__all__ = ["Manner", "Shown", "Tags", "Version", "capabilities_of", "check_version", "embeds", "manner_of", "tagged"]

_DEFAULT_CONTEXT = 4096  # tokens: what Ollama itself takes where memory is short
_REFUSES = (0, 12, 6)  # the first version that can be told not to cut a prompt
_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")
_ON_OR_OFF: tuple[Any, ...] = (False, True)
_LEVELS = get_args(Thinking)
_GPT_OSS: tuple[Any, ...] = ("low", "medium", "high")


class Version(Struct, frozen=True):
    """The page `api/version`."""

    version: str = ""


class Tags(Struct, frozen=True):
    """The page `api/tags`."""

    models: list[dict[str, Any]]


class Shown(Struct, frozen=True):
    """The page `api/show`. `parameters` are lines of a Modelfile; `system` and `template` go before a conversation.

    `remote_host` is where a model runs that this Ollama only passes on.
    """

    parameters: str = ""
    system: str = ""
    template: str = ""
    model_info: dict[str, Any] = {}
    capabilities: list[str] | None = None
    details: dict[str, Any] = {}
    thinking: dict[str, Any] | None = None
    remote_host: str = ""


class Manner(Struct, frozen=True):
    """How the model is asked. `thinking` are the values of `think` that it takes.

    `cuts` says that the server may cut prompts, `preamble` how many bytes it may add to one.
    """

    context: int = _DEFAULT_CONTEXT
    thinking: tuple[Any, ...] = ()
    cuts: bool = False
    preamble: int = 0


def tagged(tags: Tags, model: str | None, backend: str) -> str:
    """The name of the configured model, as it is listed. Raises `ModelNotFound` listing what is there."""
    names: list[str] = [entry["name"] for entry in tags.models if isinstance(entry.get("name"), str)]
    return picked({name: name for name in names}, model, backend)


def check_version(told: Version, allowed: bool, backend: str) -> bool:
    """Whether prompts may be cut there. Raises `VestalError` where that is not allowed."""
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", told.version)
    if numbers is not None and tuple(map(int, numbers.groups())) >= _REFUSES:
        return False
    if allowed:
        return True
    raise VestalError(
        f"the Ollama of backend {backend!r} is version {one_line(told.version, 32)!r}, "
        "which cuts long prompts in silence",
        hint="install 0.12.6 or later, or set allow_truncation = true",
    )


def manner_of(options: OllamaOptions, shown: Shown, cuts: bool, backend: str) -> Manner:
    """Raises `VestalError` for what the model does not have: a context of that length, or vectors."""
    longest = _trained_context(shown)
    context = options.context_length or _modelfile_context(shown) or min(longest or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)
    if longest is not None and context > longest:
        raise VestalError(
            f"the model of backend {backend!r} has a context of {longest} tokens, and {context} are configured",
            hint=f"set context_length to {longest} or less",
        )
    if options.embedding_batch is not None and not embeds(shown):
        raise VestalError(
            f"the model of backend {backend!r} makes text, and embedding_batch is set",
            hint="leave it out, or choose a model that embeds",
        )
    thinks = first(options.thinking, _can(shown, "thinking"), False)
    return Manner(
        context,
        _thinking_values(shown) if thinks else (),
        cuts,
        len(shown.system.encode()) + len(shown.template.encode()),
    )


def capabilities_of(
    options: OllamaOptions, name: str, shown: Shown, manner: Manner, dimensions: int | None
) -> Capabilities:
    """`dimensions` are those of an embedding, `None` of a model that chats."""
    family = shown.details.get("family")
    common = Capabilities(
        slots=options.slots,
        context_length=manner.context,
        local=first(options.local, False if shown.remote_host else None, options.near),
        model=name,
        family=one_line(family, 64) if isinstance(family, str) else "",
        options=(),
    )
    if dimensions is not None:
        return structs.replace(
            common,
            generate=False,
            embed=True,
            embedding_dimensions=dimensions,
            embedding_batch=options.embedding_batch,
            embedding_tasks=(),
            embedding_longest=dimensions,  # the shortest is not known: old versions cut none
            embedding_raw=False,
        )
    return structs.replace(
        common,
        v2=True,
        tools=first(options.tools, _can(shown, "tools"), False),
        vision=first(options.vision, _can(shown, "vision"), False),
        thinking=any(value is not False for value in manner.thinking),
        json_schema=first(options.json_schema, True),
        max_output_tokens=options.max_output_tokens,
        options=_OPTIONS,
    )


def embeds(shown: Shown) -> bool:
    """Whether it is a model that makes vectors instead of text."""
    return first(_can(shown, "embedding"), False) and not first(_can(shown, "completion"), False)


def _can(shown: Shown, what: str) -> bool | None:
    return None if shown.capabilities is None else what in shown.capabilities


def _trained_context(shown: Shown) -> int | None:
    family = shown.model_info.get("general.architecture")
    return count_at(shown.model_info, (f"{family}.context_length",))


def _modelfile_context(shown: Shown) -> int | None:
    told = re.search(r"^[ \t]*num_ctx[ \t]+(\d{1,9})[ \t\r]*$", shown.parameters, re.MULTILINE)
    return int(told[1]) or None if told else None


def _thinking_values(shown: Shown) -> tuple[Any, ...]:
    """As newer versions list them; gpt-oss has words of its own, and cannot be kept from thinking."""
    told = shown.thinking.get("values") if shown.thinking else None
    if isinstance(told, list):
        return tuple(value for value in told if isinstance(value, bool) or value in _LEVELS)
    return _GPT_OSS if shown.details.get("family") == "gptoss" else _ON_OR_OFF
