"""Under the hardening of the units the daemon and its sandboxed workers work as without: no layer costs another."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon, echo, toml
from vestal import messages as m

RULES = Path(__file__).with_name("unit_rules.py")
UNITS = Path(__file__).parents[2] / "daemon" / "vestald" / "units"
LAYERS = ["no_new_privs", "undumpable", "limits", "capabilities", "seccomp"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("systemd-analyze") and ctypes.util.find_library("seccomp")),
    reason="the rules of a unit are put on with what systemd itself uses",
)


def hardened(unit: Path, home: Path, *backends: dict[str, object], **environ: str) -> Daemon:
    """A daemon under what the kernel enforces for a unit."""
    under = (sys.executable, str(RULES), str(unit))
    if subprocess.run([*under, "/bin/true"], check=False).returncode == 77:
        pytest.skip("this kernel, or this libseccomp, cannot put the rules on")
    return Daemon(home, toml(*backends), under=under, environ=environ)


@pytest.mark.model
@pytest.mark.parametrize("name", ["vestald-user.service", "vestald-system.service"])
def test_a_real_model_serves_in_all_of_its_sandbox(short_dir: Path, model_home: Path, name: str) -> None:
    chat: dict[str, object] = {"name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "context_length": 256}
    vectors: dict[str, object] = {"name": "vectors", "adapter": "llamacpp", "model": "minilm-l6-v2"}
    daemon = hardened(UNITS / name, short_dir, chat, vectors, VESTAL_HOME=str(model_home))
    try:
        daemon.ready()
        with daemon.infer() as peer, daemon.embed() as embedding:
            assert 0 < peer.generate(1, "Say hi.", max_tokens=8)[1].usage.output_tokens <= 8  # it may be brief
            schema = {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}
            assert peer.generate(2, "Yes?", response_format=schema)[0] in ('"yes"', '"no"')
            embedding.send(m.Embed(id=1, input=["a cat"]))
            embedding.end(1)
        for backend in ("chat", "vectors"):
            status = daemon.backend(backend)
            assert not status.unsandboxed
            assert set(LAYERS) < set(status.sandbox)
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_a_unit_that_forgets_the_workers_calls_starts_nothing(short_dir: Path) -> None:
    """So what is looked at above is what decides."""
    text = (UNITS / "vestald-user.service").read_text()
    forgetful = short_dir / "vestald.service"
    forgetful.write_text(text.replace("landlock_create_ruleset ", ""))
    assert forgetful.read_text() != text
    daemon = hardened(forgetful, short_dir, dict(echo(isolation="process")))
    try:
        assert daemon.wait() == 69
        assert "landlock" in daemon.stderr
    finally:
        daemon.kill()
