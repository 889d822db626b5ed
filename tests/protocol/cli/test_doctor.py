"""`vestal doctor`: with a daemon and without, with everything that it is there to find, and that what it says mends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from grp import getgrall
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e.harness import Daemon, echo, toml
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import Vestal
from tests.protocol.models.conftest import Value, build_gguf
from vestal import messages as m
from vestal.errors import VestalError
from vestal.findings import fail, failed, ok, warn

Look: TypeAlias = Callable[..., "Findings"]

NOBODYS = next((group.gr_name for group in getgrall() if group.gr_gid == 65534), "")


class Findings:
    """What was found, by what it is about."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.all: list[dict[str, str]] = json.loads(text)

    def about(self, about: str) -> dict[str, str]:
        (found,) = [finding for finding in self.all if finding["about"] == about]
        return found

    def bad(self, level: str = "fail") -> set[str]:
        return {finding["about"] for finding in self.all if finding["level"] == level}


@pytest.fixture
def look(vestal: Vestal) -> Look:
    """`look(config, words…)`: the findings as JSON, for a daemon with that configuration."""

    def doctor(config: str | None = None, *words: str, **environ: str) -> Findings:
        if config is not None:
            file = vestal.home / "vestald.toml"
            file.write_text(config)
            words = (*words, "--config", str(file))
        done = vestal("doctor", "--json", *words, env=environ)
        assert "Traceback" not in done.err
        return Findings(done.code, done.out)

    return doctor


ECHO = '[[backend]]\nname = "echo"\nadapter = "echo"\n'


def llamacpp(**options: object) -> str:
    return toml({"name": "chat", "adapter": "llamacpp", "sandbox": "off", **options})


def pull(vestal: Vestal) -> Path:
    """A model `tiny` in the store; its blob."""
    heads: dict[str, Value] = {"llama.block_count": 2, "llama.attention.head_count": 4}
    sizes: dict[str, Value] = {"llama.context_length": 2**24, "llama.embedding_length": 64}
    facts = {"general.architecture": "llama", **heads, **sizes}
    (vestal.home / "tiny.gguf").write_bytes(build_gguf(facts))
    assert vestal("pull", str(vestal.home / "tiny.gguf")).code == 0
    (blob,) = (vestal.home / "store" / "blobs").iterdir()
    return blob


def test_a_daemon_that_serves_is_found_well(begin: Begin, look: Look) -> None:
    daemon = begin()
    found = look(ECHO)
    assert found.bad() == set()
    assert found.code == 0
    assert found.about("lock")["says"] == f"a daemon owns the directory: process {daemon.process.pid}"
    assert f"runs as process {daemon.process.pid}, and is ready" in found.about("daemon")["says"]
    assert found.about("infer.sock") == {
        "about": "infer.sock", "level": "ok", "says": "takes this user's connections", "mend": ""
    }  # fmt: skip
    assert found.about("backend echo")["level"] == "ok"
    assert found.about("echo: options")["level"] == "ok"


def test_a_daemon_in_the_hands_of_its_operator_is_a_warning_that_the_command_ends(
    vestal: Vestal, begin: Begin, look: Look
) -> None:
    begin()
    assert vestal("drain").code == 0
    found = look(ECHO).about("daemon")
    assert (found["level"], found["mend"]) == ("warn", "vestal undrain")
    assert vestal(*found["mend"].split()[1:]).code == 0
    assert look(ECHO).about("daemon")["level"] == "ok"


def test_a_backend_that_was_given_up_is_a_fault_that_the_command_mends(
    vestal: Vestal, begin: Begin, look: Look
) -> None:
    daemon = begin(echo(isolation="process", fault="crash:1"))
    with daemon.infer() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        id = 0
        while "given up" not in daemon.backend().detail:
            id += 1
            peer.ask(id, "a b c")
            peer.error(id)
        admin.event("backend_given_up")
    found = look(ECHO)
    assert found.code == 1
    lost = found.about("backend echo")
    assert (lost["level"], "given up after" in lost["says"]) == ("fail", True)
    assert lost["mend"] == "vestal backend restart echo"
    assert vestal(*lost["mend"].split()[1:]).code == 0
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        if admin.take(m.Snapshot).status.backends[0].state != "ready":
            admin.event("backend_state", state="ready")
    assert look(ECHO).about("backend echo")["level"] == "ok"


def test_a_backend_that_takes_no_requests_is_a_warning_that_the_command_ends(
    vestal: Vestal, begin: Begin, look: Look
) -> None:
    begin(echo())
    assert vestal("backend", "drain", "echo").code == 0
    drained = look(ECHO).about("backend echo")
    assert (drained["level"], drained["mend"]) == ("warn", "vestal backend undrain echo")
    assert drained["says"].startswith("ready, draining, 0 of")
    assert vestal(*drained["mend"].split()[1:]).code == 0
    assert look(ECHO).about("backend echo")["level"] == "ok"


def test_a_worker_without_its_sandbox_is_not_overlooked(begin: Begin, look: Look) -> None:
    begin(echo(isolation="process", sandbox="off"))
    found = look(ECHO).about("backend echo")
    assert (found["level"], "not in its sandbox: everything" in found["says"]) == ("warn", True)


def test_nothing_at_all_is_looked_at_and_told_with_the_first_commands(vestal: Vestal, look: Look) -> None:
    found = look()
    assert found.code == 1
    assert found.bad() == {"backends"}
    assert "vestal pull smollm2-135m" in found.about("backends")["mend"]
    assert found.about("daemon")["mend"] == "start it: vestald"
    assert not vestal.runtime_dir.exists()  # it looks, and makes nothing
    assert found.about("runtime directory")["says"].endswith("is not there yet; the daemon makes it")


def test_a_broken_configuration_is_told_by_line_and_the_rest_is_looked_at(look: Look) -> None:
    found = look(f"[admission]\nqueue_depht = 3\nper_caller = 0\n{ECHO}")
    faults = [finding for finding in found.all if finding["about"] == "configuration"]
    assert [fault["level"] for fault in faults] == ["fail", "fail"]
    assert "vestald.toml:2: unknown key admission.queue_depht; did you mean queue_depth?" in faults[0]["says"]
    assert faults[0]["mend"].startswith("vestald config check ")
    assert {"versions", "runtime directory", "echo: options"} <= {finding["about"] for finding in found.all}
    assert found.code == 1


@pytest.mark.parametrize("text", ["this is no TOML", "[daemon]\nruntime_dir = '~nobody-there/x'\n"])
def test_a_file_that_cannot_be_understood_is_a_finding(look: Look, text: str) -> None:
    found = look(text, VESTAL_RUNTIME_DIR="")
    assert found.bad() & {"configuration", "runtime directory"}
    assert found.about("versions")["level"] == "ok"


def test_what_a_daemon_runs_with_is_looked_at_unless_another_is_named(vestal: Vestal, begin: Begin, look: Look) -> None:
    daemon = begin(echo("its-own"))
    file = daemon.status().config
    said, sound = _configuration(look(VESTAL_CONFIG="/not/there"))
    assert said["says"] == f"process {daemon.process.pid} runs with {file}; --config FILE looks at another"
    assert sound["says"] == f"{file} is sound"
    assert look().about("its-own: options")["level"] == "ok"
    named = look(ECHO)
    assert [finding["says"] for finding in _configuration(named)] == [f"{vestal.home / 'vestald.toml'} is sound"]
    assert "its-own: options" not in {finding["about"] for finding in named.all}


def test_the_file_of_a_daemon_is_found_from_where_it_was_started(short_dir: Path, look: Look) -> None:
    (short_dir / "mine.toml").write_text(ECHO)
    daemon = Daemon(short_dir, "", "--config", os.path.relpath(short_dir / "mine.toml")).ready()
    try:
        assert Path(daemon.status().config).samefile(short_dir / "mine.toml")
        assert [finding["level"] for finding in _configuration(look())] == ["ok", "ok"]
    finally:
        daemon.kill()


def test_a_fault_that_the_next_reload_would_find_is_told(begin: Begin, look: Look) -> None:
    daemon = begin()
    daemon.rewrite_as("[admission]\nqueue_depht = 3\n")
    _, fault = _configuration(look())
    assert (fault["level"], "queue_depht" in fault["says"]) == ("fail", True)


def test_a_file_that_only_the_daemon_could_read_is_told_and_no_other_looked_at(begin: Begin, look: Look) -> None:
    file = Path(begin().status().config)
    file.unlink()
    said, fault = _configuration(look())
    assert str(file) in said["says"]
    assert (fault["level"], fault["says"]) == ("fail", f"cannot read {file}: No such file or directory")
    assert "name another: --config" in fault["mend"]


def _configuration(found: Findings) -> list[dict[str, str]]:
    return [finding for finding in found.all if finding["about"] == "configuration"]


def test_what_a_dead_daemon_left_is_told(begin: Begin, look: Look) -> None:
    begin().kill()
    found = look(ECHO)
    assert found.about("lock") == {
        "about": "lock",
        "level": "warn",
        "says": "nobody owns the directory, and admin.sock, infer.sock are left over",
        "mend": "vestald replaces what a daemon that died has left",
    }
    assert found.about("daemon")["level"] == "fail"


def test_the_command_for_a_directory_that_others_may_write_to_mends_it(vestal: Vestal, look: Look) -> None:
    vestal.runtime_dir.mkdir()
    vestal.runtime_dir.chmod(0o777)
    found = look(ECHO).about("runtime directory")
    assert (found["level"], "has the mode 0777" in found["says"]) == ("warn", True)
    subprocess.run(shlex.split(found["mend"]), check=True)
    assert look(ECHO).about("runtime directory")["level"] == "ok"


def test_a_directory_of_somebody_else_or_none_is_told(vestal: Vestal, look: Look) -> None:
    vestal.runtime_dir.symlink_to(vestal.home)
    found = look(ECHO).about("runtime directory")
    assert found["says"].endswith("is a symbolic link")
    subprocess.run(shlex.split(found["mend"]), check=True)
    vestal.runtime_dir.write_text("")
    assert look(ECHO).about("runtime directory")["says"].endswith("is no directory")
    vestal.runtime_dir.unlink()
    vestal.runtime_dir.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(vestal.runtime_dir, 65534, -1)
    assert "belongs to user nobody (65534)" in look(ECHO).about("runtime directory")["says"]


def test_clients_that_would_look_elsewhere_are_told_of(vestal: Vestal, look: Look) -> None:
    found = look(f'[daemon]\nruntime_dir = "{vestal.home}/elsewhere"\n{ECHO}', VESTAL_RUNTIME_DIR="")
    (said,) = [finding for finding in found.all if "clients look in" in finding["says"]]
    assert said["mend"] == f"export VESTAL_RUNTIME_DIR={vestal.home}/elsewhere"


def test_a_damaged_model_is_found_and_the_command_mends_it(vestal: Vestal, look: Look) -> None:
    blob = pull(vestal)
    assert look(llamacpp(model="tiny")).about("chat: model")["level"] == "ok"
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    assert look(llamacpp(model="tiny"), "--quick").about("chat: model")["level"] == "ok"  # which is what it is for
    found = look(llamacpp(model="tiny")).about("chat: model")
    assert (found["level"], "is damaged" in found["says"]) == ("fail", True)
    assert "`vestal rm tiny` removes it" in found["mend"]
    assert vestal("rm", "tiny").code == 0
    pull(vestal)
    assert look(llamacpp(model="tiny")).about("chat: model")["level"] == "ok"


def test_a_model_that_is_not_there_names_the_pull(look: Look) -> None:
    found = look(llamacpp(model="smollm2-135m")).about("chat: model")
    assert (found["level"], found["mend"]) == ("fail", "`vestal pull smollm2-135m` fetches it (93 MB)")


def test_a_model_that_does_not_fit_is_told_with_what_would(vestal: Vestal, look: Look) -> None:
    pull(vestal)
    found = look(llamacpp(model="tiny", slots=256, context_length=2**24)).about("chat: memory")
    assert (found["level"], "does not fit into memory" in found["says"]) == ("fail", True)
    assert "would fit" in found["mend"]
    lenient = look(llamacpp(model="tiny", slots=256, context_length=2**24, memory_check=False))
    assert lenient.about("chat: memory")["level"] == "warn"
    assert look(llamacpp(model="tiny", slots=1, context_length=256)).about("chat: memory")["level"] == "ok"


def test_a_signature_that_is_asked_for_must_be_there(vestal: Vestal, look: Look) -> None:
    pull(vestal)
    found = look(llamacpp(model="tiny", signature="trusted")).about("chat: signature")
    assert (found["level"], found["says"]) == ("fail", "model 'tiny' is not signed")
    vestal("keys", "new", "me")
    vestal("models", "sign", "tiny", "--key", "me")
    assert look(llamacpp(model="tiny", signature="trusted")).about("chat: signature")["level"] == "ok"
    vestal("keys", "revoke", "me")
    unasked = look(llamacpp(model="tiny"))
    assert unasked.about("chat: signature")["level"] == "warn"  # it is not asked for, and yet it was there
    assert "models" in unasked.bad()


def test_a_backend_without_its_adapter_or_with_a_wrong_key_is_told_beside_the_others(look: Look) -> None:
    found = look(
        f'[[backend]]\nname = "a"\nadapter = "ehco"\n{ECHO}[[backend]]\nname = "b"\nadapter = "echo"\nslot = 3\n'
    )
    assert found.about("a: options")["level"] == "fail"
    assert "slots" in found.about("b: options")["says"]
    assert found.about("echo: options")["level"] == "ok"


@pytest.mark.parametrize(("sandbox", "level"), [("required", "ok"), ("best_effort", "ok"), ("off", "warn")])
def test_the_sandbox_is_tried_out_on_this_very_kernel(vestal: Vestal, look: Look, sandbox: str, level: str) -> None:
    pull(vestal)
    found = look(llamacpp(model="tiny", sandbox=sandbox)).about("chat: sandbox")
    if "missing" in found["says"]:
        pytest.skip(f"this kernel has not all of it: {found['says']}")
    assert found["level"] == level
    assert ("seccomp" in found["says"]) is (level == "ok")


def test_a_daemon_package_that_crashes_is_a_finding_too(vestal: Vestal, look: Look) -> None:
    broken = vestal.home / "broken" / "vestald"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import os, sys; sys.stderr.write('a bad day'); sys.stderr.flush(); os.abort()")
    found = look(ECHO, PYTHONPATH=str(broken.parent))
    assert found.about("vestald")["level"] == "fail"
    assert found.about("vestald")["says"] == "`vestald doctor` ended with -6: a bad day"
    assert found.about("daemon")["level"] == "warn"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not NOBODYS, reason="there is no group of number 65534 here")
@pytest.mark.parametrize(("mode", "served"), [(0o660, True), (0o600, False)])
def test_anothers_daemon_is_well_if_it_serves_this_user(vestal: Vestal, begin: Begin, mode: int, served: bool) -> None:
    begin(sockets={"group": NOBODYS})
    vestal.home.chmod(0o711)
    (vestal.runtime_dir / "infer.sock").chmod(mode)
    # As root first: the interpreter may lie where only root can read it, and this imports what is needed.
    probe = (
        "import grp, json, os, pwd; from argparse import Namespace; from vestal.cli.checks import examine_daemon; "
        "look = lambda: [(one.about, one.level, one.says) for one in examine_daemon(Namespace(runtime_dir=None))]; "
        "os.environ['VESTAL_RUNTIME_DIR'], there = '/nonexistent', os.environ['VESTAL_RUNTIME_DIR']; look(); "
        "os.environ['VESTAL_RUNTIME_DIR'] = there; look(); "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); print(json.dumps(look()))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, env=vestal.environment(), check=True)
    (about, level, says), *rest = json.loads(done.stdout)
    assert (about, level, "admin.sock has mode 0600" in says) == ("daemon", "ok" if served else "fail", True)
    assert [one[:2] for one in rest] == ([["infer.sock", "ok"]] if served else [])


def test_people_get_lines_that_fit_and_the_exit_code_of_strict(vestal: Vestal, begin: Begin) -> None:
    begin()
    (vestal.home / "vestald.toml").write_text(ECHO)
    words = ("doctor", "--config", str(vestal.home / "vestald.toml"))
    done = vestal(*words, env={"COLUMNS": "60"})
    lines = done.out.splitlines()
    assert "\x1b" not in done.out
    assert all(len(line) <= 60 for line in lines if line.startswith("ok"))
    assert lines[-1].endswith(" fine")
    assert (done.code, vestal(*words, "--strict").code) == (0, 1)  # a warning: the store is empty
    with vestal.terminal(*words, columns=60) as terminal:
        assert terminal.finish() == 0
        assert "\x1b[1;32mok  \x1b[0m" in terminal.raw


def test_the_words_for_a_finding() -> None:
    assert (ok("a", "b").level, warn("a", "b", "c").mend, fail("a", "b").level) == ("ok", "c", "fail")
    assert failed("a", VestalError("it broke", hint="mend it")) == fail("a", "it broke", "mend it")
