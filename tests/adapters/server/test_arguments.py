"""What an operator may add to a command line and an environment, and how a command is shown."""

from __future__ import annotations

from typing import Any

import pytest

from vestal_adapters.server.arguments import shown_command
from vestal_adapters.server.options import ServerOptions


def llama(*arguments: str, **options: Any) -> ServerOptions:
    return ServerOptions(profile="llama-server", model="m", arguments=list(arguments), **options)


def python(*arguments: str, **options: Any) -> ServerOptions:
    return ServerOptions(profile="llama_cpp.server", model="m", arguments=list(arguments), **options)


@pytest.mark.parametrize(
    "argument",
    [
        "--host", "--port", "--port=1", "--api-key", "--api_key", "--API-KEY", "-m", "--model", "--model-url", "-hf",
        "--log-file", "--log-prompts-dir", "--slot-save-path", "-v", "-lv", "--rpc", "--tools", "--mcp-servers-json",
        "--context-shift", "--parallel", "--ctx-size", "--gpt-oss-20b-default", "--fim-qwen-7b-spec", "--props",
        "--some-token", "--models-dir",
    ],
)  # fmt: skip
def test_flags_that_the_adapter_owns_are_refused_by_name(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"^arguments: {argument.partition('=')[0]} (is refused|holds)"):
        llama("--flash-attn", "on", argument, "x")


@pytest.mark.parametrize(
    "argument",
    ["--cache_type", "--cache-t", "--hos", "--por=1", "--mod", "--model_a", "--config_fil", "--verb", "--api"],
)
def test_the_beginning_of_a_flag_counts_where_the_server_takes_it_for_the_flag(argument: str) -> None:
    with pytest.raises(ValueError, match="is refused"):
        python(argument, "x")


def test_what_is_not_owned_is_taken() -> None:
    llama("--flash-attn", "on", "--temp", "-1", "-ub", "256", "--no-warmup", "--chat-template-file", "/x/y.jinja")
    llama("--image-max-tokens", "256")  # a number of tokens is no secret
    python("--n_batch", "64", "--n_threads_batch", "2", "--cache", "true", "--seed", "-1", "--interrupt_requests", "0")


def test_a_text_that_cannot_be_an_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        llama("a\0b")
    with pytest.raises(ValueError, match="8193 characters, and 8192"):
        llama("x" * 8193)
    with pytest.raises(ValueError, match="257 of them, and 256"):
        llama(*["x"] * 257)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("LLAMA_ARG_HOST", "takes it for a flag"),
        ("LLAMA_API_KEY", "takes it for a flag"),
        ("LLAMA_LOG_FILE", "takes it for a flag"),
        ("AIP_HTTP_PORT", "takes it for a flag"),
        ("LD_PRELOAD", "load code"),
        ("1X", "is no variable"),
        ("A=B", "is no variable"),
        ("", "is no variable"),
        ("MY_TOKEN", r'inherit = \["MY_TOKEN"\]'),
    ],
)
def test_variables_that_mean_flags_hold_secrets_or_are_none_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^environment: .*{why}"):
        llama(environment={name: "x"})


def test_variables_of_a_server_that_reads_its_flags_from_them() -> None:
    for name in ("HOST", "PORT", "MODEL", "CONFIG_FILE", "API_KEY", "CACHE_TYPE"):
        with pytest.raises(ValueError, match=f"^inherit: {name} is refused"):
            python(inherit=[name])
    python(environment={"OMP_NUM_THREADS": "2", "LD_LIBRARY_PATH": "/opt/lib"}, inherit=["CUDA_VISIBLE_DEVICES"])


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"profile": "llama-server"}, "^model: say which"),
        ({"profile": "llama-server", "model": "m", "preset": "vllm"}, "^preset: "),
        ({"profile": "llama_cpp.server", "model": "m", "slots": 2}, "^slots: .* runs 1"),
        ({"profile": "llama-server", "model": "m", "ready_timeout": "0s"}, "^ready_timeout: "),
        ({"profile": "custom"}, "^binary: "),
        ({"profile": "custom", "binary": "b"}, "^preset: "),
        ({"profile": "custom", "binary": "b", "preset": "vllm"}, "^arguments: say with {socket} or {port}"),
        ({"profile": "custom", "binary": "b", "preset": "vllm", "arguments": ["{port}", "{socket}"]}, "^arguments: "),
        ({"profile": "custom", "binary": "b", "preset": "vllm", "arguments": ["{port}"], "model": "m"}, "{model}"),
        ({"profile": "custom", "binary": "b", "preset": "vllm", "arguments": ["{port}"], "threads": 2}, "^threads: "),
    ],
)
def test_what_does_not_go_together_is_said_with_the_key(table: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ServerOptions(**table)


def test_a_number_of_tokens_is_shown() -> None:
    assert shown_command(["vllm", "--max-num-batched-tokens", "8192"]) == "vllm --max-num-batched-tokens 8192"


def test_a_command_is_shown_without_directories_secrets_and_control_characters() -> None:
    shown = shown_command(["llama-server", "--model", "/home/ann/secret/m.gguf", "--api-key", "hunter2", "a\x1b[2Jb"])
    assert shown == "llama-server --model …/m.gguf --api-key [masked] a?[2Jb"
