"""The servers that are known, in one table: how each is called, what it is told, and what it must not be told.

The flags that are refused are those by which a server would be somewhere else, serve something else, answer others,
drop what it was sent in silence, or keep what people write to it; each with the reason. A newer server may have more
of the kind, so what the adapter says itself comes last on the command line, where it counts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from vestal_adapters.worker.causes import Cause, cause

__all__ = ["PROFILES", "Profile", "ProfileName", "plain"]

ProfileName = Literal["llama-server", "llama_cpp.server", "custom"]


class Profile(Struct, frozen=True, kw_only=True):
    """`leading` comes before the operator's arguments and `closing` after them, with these filled in: {model}, {alias},
    {slots}, {socket}, {port}. The other tuples are further closing arguments, for what they are named after.
    """

    binary: str | None = None
    leading: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    """{context} is that of one slot, {contexts} of all of them."""
    threads: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    owned: Mapping[str, str] = MappingProxyType({})
    """Flags without their dashes, and why they are refused."""
    owned_endings: tuple[str, ...] = ()
    """Ends of flags that fetch models."""
    owned_variables: tuple[str, ...] = ()
    """Beginnings of variables that mean the same as flags."""
    abbreviates: bool = False
    """Whether the beginning of a flag is taken for it."""
    whole: tuple[str, ...] = ()
    """Flags that are the beginning of a refused one, and flags all the same."""
    key: str | None = None
    """The variable by which it is told its key."""
    most_slots: int | None = None
    answers_while_busy: bool = False
    causes: tuple[Cause, ...] = ()


def plain(flag: str) -> str:
    """A flag as it is compared: servers take `_` for `-` and one word of two."""
    return flag.lstrip("-").partition("=")[0].replace("_", "-").lower()


def _owned(**reasons: str) -> Mapping[str, str]:
    return MappingProxyType(
        {plain(flag): _REASONS[reason] for reason, flags in reasons.items() for flag in flags.split()}
    )


_REASONS = {
    "place": "where it listens, and for whom, is the daemon's business",
    "model": "set `model`: the file that was verified is the one that is served",
    "option": "there is an option for it: `slots`, `context_length`, `threads` or `kind`",
    "remote": "it would give what it is sent to other machines, or to programs",
    "prompts": "it would write down what people say, or more than that it is well: nothing of it may be on disk",
    "silent": "it would leave out a part of a conversation in silence",
    "ends": "it would not serve",
}

_CAUSES = (
    cause(r"address already in use|couldn't bind|bind .*failed", "its port was taken by somebody else"),
    cause(r"invalid argument|unrecognized argument|unknown argument|error: .*argument", "it does not know an argument"),
    cause(r"(failed|unable) to allocate|bad_alloc|out of memory|MemoryError", "it got no more memory"),
    cause(r"invalid magic|not a GGUF|bad magic|unknown model architecture", "its model file is none that it can load"),
    cause(r"failed to load model|error loading model", "it could not load its model"),
    cause(r"GGML_ASSERT", "a check in llama.cpp failed"),
    cause(r"No module named|ModuleNotFoundError", "a Python module that it needs is not installed"),
    cause(r"cannot open shared object file|undefined symbol", "a library that it needs is not there, or not readable"),
    cause(r"Permission denied|PermissionError", "it may not do something: `readable` opens paths to it"),
)

PROFILES: Mapping[ProfileName, Profile] = {
    "llama-server": Profile(
        binary="llama-server",
        closing=("--model", "{model}", "--alias", "{alias}", "--parallel", "{slots}", "--host", "{socket}", "--no-ui"),
        context=("--ctx-size", "{contexts}"),
        threads=("--threads", "{threads}"),
        embeddings=("--embeddings",),
        owned=_owned(
            place="host port reuse-port path api-prefix api-key api-key-file ssl-key-file ssl-cert-file ui webui props",
            model="m model a alias mu model-url dr docker-repo hf hfr hf-repo hff hf-file hft hf-token models-dir"
            " models-preset models-max models-autoload hfd hfrd hf-repo-draft spec-draft-hf mmu mmproj-url",
            option="np parallel c ctx-size t threads embedding embeddings",
            remote="rpc tools tools-runtime ag agent mcp-servers-config mcp-servers-json ui-mcp-proxy webui-mcp-proxy"
            " media-path",
            prompts="log-file log-prompts-dir slot-save-path v verbose log-verbose lv verbosity log-verbosity lcd"
            " lookup-cache-dynamic",
            silent="context-shift",
            ends="h help usage version completion-bash list-devices cl cache-list",
        ),
        owned_endings=("-default", "-spec"),
        # Versions of 2025 read the flags of logs without ARG; AIP_HTTP_PORT goes before --port.
        owned_variables=("LLAMA_ARG_", "LLAMA_LOG_", "LLAMA_SERVER_", "LLAMA_API_KEY", "AIP_", "HF_"),
        key="LLAMA_API_KEY",
        answers_while_busy=True,
        causes=_CAUSES,
    ),
    "llama_cpp.server": Profile(
        binary=sys.executable,
        leading=("-P", "-m", "llama_cpp.server"),
        closing=(
            *("--model", "{model}", "--model_alias", "{alias}", "--host", "127.0.0.1", "--port", "{port}"),
            *("--verbose", "False"),
        ),
        context=("--n_ctx", "{context}"),
        threads=("--n_threads", "{threads}"),
        embeddings=("--embedding", "True"),
        owned=_owned(
            place="host port root_path ssl_keyfile ssl_certfile api_key config_file",
            model="model model_alias hf_model_repo_id hf_pretrained_model_name_or_path hf_tokenizer_config_path",
            option="n_ctx n_threads embedding",
            remote="rpc_servers",
            prompts="verbose cache_type",
            ends="h help",
        ),
        abbreviates=True,
        whole=("cache",),
        key="API_KEY",
        most_slots=1,  # a second request interrupts the first
        causes=_CAUSES,
    ),
    "custom": Profile(causes=_CAUSES),
}
