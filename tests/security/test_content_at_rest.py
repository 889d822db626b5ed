"""No prompt and no completion is left anywhere: a canary goes through the daemon by every door, and is looked for.

It is looked for in every file below the daemon's directories (log at level debug, audit log, store, runtime
directory), in what operators are told, and in what the kernel tells of the daemon's and the workers' processes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
import uvloop  # noqa: F401  # the fork below cannot import it any more

from tests.e2e.harness import Daemon, Table, children_of, echo, toml
from tests.e2e.peers import Peer, framed, text_of
from vestal import messages as m
from vestal.audit_files import verify
from vestal_adapters.echo import EchoBackend  # noqa: F401  # nor this
from vestald import __main__ as daemon_program

OTHER = 12345
PR_SET_DUMPABLE = 4  # prctl(2)
prctl = ctypes.CDLL(None).prctl
CANARY = "canary6b1f03c2d7"
SECRET = "canary5ec4e7a9f0"  # of a completion that no prompt holds
Begin: TypeAlias = Callable[..., Daemon]
PROMPT = f"My password is {CANARY}, keep it."


@pytest.fixture
def begin(short_dir: Path) -> Iterator[Begin]:
    """Start a daemon at log level debug; killed at the end."""
    made: list[Daemon] = []

    def start(*backends: Table, environ: dict[str, str] | None = None, **sections: Table) -> Daemon:
        made.append(Daemon(short_dir, toml(*backends, **sections), "--log-level", "debug", environ=environ))
        return made[-1].ready()

    yield start
    for daemon in made:
        daemon.kill()


def traces(needle: str, directory: Path) -> list[str]:
    """Where in a directory's files, and their names, a text is, in the encodings it could be in."""
    found = []
    forms = {needle.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")}
    forms |= {needle.encode().hex().encode(), needle[::-1].encode()}
    for path in directory.rglob("*"):
        data = path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b""
        if needle in path.name or any(form in data for form in forms):
            found.append(str(path))
    return found


def told_to_operators(daemon: Daemon) -> str:
    """Everything that the admin socket says."""
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=9))
        said: list[object] = [admin.take(m.Snapshot)]
        said += [admin.command(command, kind) for command, kind in (
            (m.Status(id=1), m.StatusReport),
            (m.Backends(id=2), m.BackendsReport),
            (m.Queue(id=3), m.QueueReport),
            (m.Metrics(id=4), m.MetricsReport),
        )]  # fmt: skip
    return repr([msgspec.to_builtins(one) for one in said])


def told_by_the_kernel(daemon: Daemon) -> str:
    """The command lines and environments of the daemon and of its workers, and that a crash would leave no core."""
    said = []
    for pid in (daemon.process.pid, *children_of(daemon.process.pid)):
        process = Path(f"/proc/{pid}")
        said += [(process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ", "comm")]
        limits = (process / "limits").read_text()
        assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"], limits
    return "\n".join(said)


def nowhere(daemon: Daemon, *needles: str) -> None:
    """Assert that the needles are in nothing of a running daemon, nor, once it has stopped, in what it leaves."""
    operators, kernel = told_to_operators(daemon), told_by_the_kernel(daemon)
    assert daemon.runtime_dir.name in operators  # so what is looked at is what was meant
    assert "vestald" in kernel
    for when in ("running", "stopped"):
        for needle in needles:
            assert needle not in operators
            assert needle not in kernel
            assert traces(needle, daemon.home) == [], when
            assert traces(needle, daemon.runtime_dir) == [], when
        if when == "running":
            assert daemon.stop() == 0
    assert "daemon_state" in daemon.stderr
    log = verify(daemon.home / f"audit-{daemon.runtime_dir.name}")
    assert log.findings == []
    assert log.lines > 10
    assert not list(daemon.home.glob("**/core*"))


def provoke(daemon: Daemon) -> None:
    """Bad requests of every kind, each with the canary where it is wrong."""
    with daemon.infer() as peer:
        wrong: tuple[dict[str, object], ...] = (
            {"model": CANARY},
            {"grammar": f'root ::= "{CANARY}'},
            {"response_format": {"type": "json_schema", "schema": {"type": CANARY, "properties": [CANARY]}}},
            {"tool_choice": {"name": CANARY}},
            {"stop": [CANARY]},
            {"timeout_ms": 1, "max_tokens": 1},
        )
        for id, options in enumerate(wrong):
            ask = {"type": "generate", "id": id, "messages": [{"role": "user", "content": [_block()]}], **options}
            peer.sock.sendall(framed(ask))
    bad: tuple[object, ...] = (
        {"type": CANARY},
        {"type": "generate", "id": 1, "messages": CANARY},
        {"type": "generate", "id": 2, "messages": [{"role": CANARY, "content": [_block()]}]},
        {"type": "generate", "id": CANARY, "messages": []},
        {
            "type": "generate",
            "id": 3,
            "messages": [{"role": "user", "content": [_block()]}],
            CANARY: 1,
            "top_p": CANARY,
        },
        {"type": "cancel", "id": CANARY},
        [CANARY],
    )
    with daemon.raw("infer", version=2) as raw:
        for message in bad:
            raw.write(framed(message))
            raw.error()
    with daemon.raw("infer") as raw:
        raw.write(framed({"type": "hello", "versions": [2], "require": [CANARY]}))
        raw.error()
    with daemon.raw("infer", version=2) as raw:
        raw.write(framed({"type": "generate", "messages": PROMPT})[:-5])
        raw.half_close()
        raw.error()


def _block() -> dict[str, str]:
    return {"type": "text", "text": PROMPT}


def test_what_is_looked_for_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"..." + CANARY.encode("utf-16-le"))
    (tmp_path / CANARY).touch()
    assert len(traces(CANARY, tmp_path)) == 2


def test_a_prompt_and_its_answer_are_left_nowhere_whatever_goes_wrong(begin: Begin) -> None:
    daemon = begin(
        echo("echo", slots=2, embed=True),
        echo("isolated", isolation="process"),
        echo("breaks", fault="after:1"),
        echo("crashes", isolation="process", fault="crash:1"),
        echo("hangs", isolation="process", fault="hang"),
        admission={"write_timeout": "300ms", "queue_depth": 2},
    )
    with daemon.infer(features=("queue_events",)) as peer:
        assert CANARY in peer.generate(1, PROMPT, model="echo")[0]
        assert CANARY in peer.generate(2, PROMPT, model="isolated")[0]
        for id, model in ((3, "breaks"), (4, "crashes")):
            peer.ask(id, PROMPT, model=model)
            assert peer.error(id).code in ("internal", "backend_crashed", "backend_refused")
        peer.send(*(peer.request(id, PROMPT, model="hangs") for id in range(10, 16)))
        peer.take(m.Started, id=10)
        assert "hangs" in told_to_operators(daemon)
        worker = daemon.backend("hangs").pid
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert peer.error(10).code == "backend_crashed"
        with daemon.admin() as admin:
            admin.send(m.RestartBackend(id=1, backend="echo"))
    with daemon.infer() as sleeper, daemon.infer() as other:
        sleeper.ask(1, f"{CANARY} " * 50_000, model="breaks")
        sleeper.error(1)
        sleeper.ask(2, f"{CANARY} " * 300_000, model="echo")
        other.ask(1, PROMPT, model="echo")
        other.end(1)
        while daemon.status().running:  # until the write timeout has ended the one that nobody reads
            other.ping()
    with daemon.embed() as peer:
        peer.send(m.Embed(id=1, input=[PROMPT]))
        peer.end(1)
    provoke(daemon)
    nowhere(daemon, CANARY)


@pytest.mark.model
def test_the_real_model_leaves_neither_prompt_nor_completion(begin: Begin, model_home: Path) -> None:
    chat = {"name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "slots": 1, "context_length": 256}
    daemon = begin(chat, environ={"VESTAL_HOME": str(model_home)})
    with daemon.infer() as peer:
        peer.ask(1, PROMPT, grammar=f'root ::= "{SECRET}"', temperature=0, max_tokens=40)
        *pieces, done = peer.answer(1)
        assert isinstance(done, m.Done), done
        assert text_of(pieces) == SECRET
        peer.ask(2, f"{CANARY} " * 500)
        assert peer.error(2).code == "context_overflow"
        worker = daemon.backend("chat").pid
        assert worker is not None
        peer.ask(3, f"Tell me a long story about a lighthouse. {PROMPT}", temperature=0, max_tokens=150)
        peer.take(m.Text, id=3)
        os.kill(worker, signal.SIGSEGV)
        assert peer.error(3).code == "backend_crashed"
    provoke(daemon)
    assert traces(CANARY, model_home / "manifests") == []
    nowhere(daemon, CANARY, SECRET)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run the daemon as another user")
def test_the_daemons_memory_is_nobody_elses_not_even_its_own_users(short_dir: Path) -> None:
    """In a fork of this process, as the interpreter may be out of another user's reach."""
    (short_dir / "vestald.toml").write_text(toml(echo(), audit={"enabled": False}))
    for path in (short_dir, short_dir / "vestald.toml"):
        os.chown(path, OTHER, OTHER)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as it is after exec; changing the user has cleared it
            daemon_program.main(["--config", str(short_dir / "vestald.toml"), "--runtime-dir", str(short_dir / "r")])
        finally:
            os._exit(1)
    try:
        with _admin(short_dir / "r" / "admin.sock", child) as peer:
            peer.ping()
        assert Path(f"/proc/{child}/status").stat().st_uid == 0  # not its user's: proc(5), /proc/pid
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _admin(path: Path, pid: int) -> Peer:
    """A connection, as soon as there is one."""
    while True:
        try:
            return Peer(path, "admin", (1,))
        except (FileNotFoundError, ConnectionRefusedError):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the daemon has ended"
            os.sched_yield()
