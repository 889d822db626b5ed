"""The public surface is what it says, and costs no more than it must."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vestal

ROOT = Path(vestal.__file__).parent


def modules_after(code: str) -> set[str]:
    """What is in `sys.modules` of a fresh interpreter after `code`."""
    script = (
        f"import sys, json; sys.path.insert(0, {str(ROOT.parent)!r}); {code}; print(json.dumps(sorted(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(told.stdout))


HEAVY = {"asyncio", "socketserver", "ssl", "http", "email", "logging", "difflib", "dataclasses", "numpy", "uvloop"}


def test_import_vestal_loads_nothing_of_it() -> None:
    loaded = modules_after("import vestal")
    assert not loaded & (HEAVY | {"socket", "threading", "msgspec"})
    assert not [name for name in loaded if name.startswith("vestal.")]


def test_the_blocking_client_never_loads_asyncio() -> None:
    loaded = modules_after("import vestal; vestal.Client, vestal.EmbedClient, vestal.AdminClient, vestal.VestalError")
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("vestal.aio")]


def test_the_base_install_needs_msgspec_only() -> None:
    installed = {"uvloop", "cryptography", "prometheus_client", "llama_cpp", "jinja2", "gguf", "numpy", "requests"}
    assert not modules_after("import vestal; [getattr(vestal, name) for name in vestal.__all__]") & installed


def test_every_name_is_there_and_of_its_home() -> None:
    assert list(vestal.__all__) == sorted(vestal.__all__)
    for name in vestal.__all__:
        assert getattr(vestal, name) is not None
    for home, names in vestal._HOMES.items():
        for name in names.split():
            assert getattr(vestal, name) is getattr(import_module(home), name)


def test_the_table_the_list_and_the_type_checkers_imports_agree() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == vestal._HOME_OF
    assert {*imported, "__version__"} == set(vestal.__all__)


def test_a_star_import_gives_exactly_the_list() -> None:
    namespace: dict[str, object] = {}
    exec("from vestal import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(vestal.__all__)


def test_every_error_of_the_tree_is_public() -> None:
    errors = import_module("vestal.errors")
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert public <= set(vestal.__all__)


def test_what_is_not_there_is_an_attribute_error_and_dir_shows_what_is() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        vestal.Cleint  # type: ignore[attr-defined]  # noqa: B018  # that is the point
    assert set(vestal.__all__) <= set(dir(vestal))


@pytest.mark.parametrize("name", ["aio", "client", "requests", "results", "streams", "aio_streams", "testing"])
def test_all_of_a_public_module_is_literal(name: str) -> None:
    module = import_module(f"vestal.{name}")
    tree = ast.parse(Path(str(module.__file__)).read_text())
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(lists) == 1
    assert ast.literal_eval(lists[0]) == list(module.__all__)
    assert all(hasattr(module, exported) for exported in module.__all__)
