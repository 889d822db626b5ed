from __future__ import annotations

import subprocess
import sys

import vestal.models

HEAVY = ("hashlib", "subprocess", "zipfile", "tempfile", "shutil", "difflib", "importlib.metadata", "gguf", "numpy")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_every_public_name_is_there() -> None:
    assert sorted(vestal.models.__all__) == vestal.models.__all__
    assert [name for name in vestal.models.__all__ if not hasattr(vestal.models, name)] == []


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    code = (
        f"import sys; before = set(sys.modules); import vestal.models; print({{*{HEAVY}}} & {{*sys.modules}} - before)"
    )
    assert python(code) == "set()\n"


def test_importing_the_client_library_does_not_bring_in_the_store() -> None:
    assert python("import sys; import vestal; print('vestal.models' in sys.modules)") == "False\n"
