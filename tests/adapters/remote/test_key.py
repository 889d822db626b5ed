"""Keys are known by name, read when needed, and shown nowhere."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal_adapters.remote.key import MASK, Key, read_key
from vestal_adapters.remote.openai.options import OpenAIOptions

SECRET = "sk-secret-1234"


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_key_comes_from_the_variable_or_the_file_that_is_named(tmp_path: Path) -> None:
    key = read_key("CLUSTER_KEY", None, {"CLUSTER_KEY": SECRET})
    assert key is not None
    assert key.value == SECRET
    key = read_key(None, key_file(tmp_path, f"{SECRET}\n"))
    assert key is not None
    assert key.value == SECRET
    assert read_key(None, None) is None


def test_a_key_is_not_shown_and_not_copied() -> None:
    key = Key(SECRET, "variable CLUSTER_KEY")
    assert SECRET not in f"{key} {key!r} {[key]}"
    assert "CLUSTER_KEY" in repr(key)
    assert key.masked(f"Bearer {SECRET}!") == f"Bearer {MASK}!"
    for copying in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(key)


@pytest.mark.parametrize("value", ["", "  \n", "two words", "line\nline", "\u2603", "x" * 9000])
def test_what_is_no_key_is_refused_without_being_repeated(value: str) -> None:
    with pytest.raises(VestalError, match="variable CLUSTER_KEY") as refused:
        read_key("CLUSTER_KEY", None, {"CLUSTER_KEY": value})
    assert not value.strip() or value not in str(refused.value)


def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = key_file(tmp_path, SECRET, 0o640)
    with pytest.raises(VestalError, match=r"may be read by others \(mode 0640\)") as refused:
        read_key(None, path)
    assert refused.value.hint == f"chmod 600 {path}"


def test_a_file_that_is_not_there_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VestalError, match="No such file"):
        read_key(None, str(tmp_path / "absent"))
    with pytest.raises(VestalError, match="directory"):
        read_key(None, str(tmp_path))
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(VestalError, match="not a regular file"):  # at once: nobody writes into it
        read_key(None, str(tmp_path / "pipe"))


def test_options_hold_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_KEY", SECRET)
    assert SECRET not in repr(OpenAIOptions(preset="openai", api_key_env="CLUSTER_KEY"))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"api_key_env": "A", "api_key_file": "b"}, "not both"),
        ({"base_url": f"http://user:{SECRET}@host/v1"}, "no user or password"),
        ({"base_url": f"https://host/v1?key={SECRET}"}, "no query"),
        ({"base_url": "ftp://host"}, "expected http://"),
        ({"base_url": "host:80"}, "expected http://"),
        ({"base_url": "http://[::1/v1"}, "its host or its port is none"),
        ({"base_url": "http://host:65536/v1"}, "its host or its port is none"),
        ({"base_url": f"http://user:{SECRET}"}, "its host or its port is none"),
        ({"api_key_env": SECRET}, "expected the name of a variable"),
        ({"base_url": "http://host/v1", "ca_file": "ca.pem"}, "nothing shows a certificate"),
        ({"base_url": "https://host/v1", "unix_socket": "s", "ca_file": "ca.pem"}, "nothing shows a certificate"),
        ({"base_url": "http://far.example/v1", "api_key_env": "A"}, "in clear"),
        ({"total_timeout": "0s"}, "total_timeout"),
        ({"connect_timeout": "soon"}, "connect_timeout"),
    ],
)
def test_tables_that_cannot_be_meant(table: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        OpenAIOptions(preset="vllm", **table)  # type: ignore[arg-type]  # all of them text
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://[::1]/v1", "http://localhost/v1", "https://far.example/v1"]
)
def test_a_key_may_go_where_nobody_listens_in(url: str) -> None:
    assert OpenAIOptions(preset="vllm", base_url=url, api_key_env="A").url == url
