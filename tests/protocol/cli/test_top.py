"""`vestal top`, `watch`, `ps` and `logs`: on real terminals of 60 and of 100 columns, and in pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon, echo, toml
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import PATIENCE, Terminal, Vestal
from vestal import messages as m
from vestal.cli.board import Mishap, Picture, drawn
from vestal.cli.rates import Look, Rates

NUMBERS = " ".join(map(str, range(1, 2000)))
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HOME = "\x1b[H"
LEFT = "\x1b[?1049l"  # the terminal's own screen is back


def frames(terminal: Terminal) -> list[list[str]]:
    """What each picture on the terminal's second screen says, colours left out."""
    return [CODES.sub("", frame).replace("\r", "").splitlines() for frame in terminal.raw.split(HOME)[1:]]


def drawn_at(width: int, picture: Picture) -> list[str]:
    from rich.console import Console

    console = Console(width=width, force_terminal=False, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(drawn(picture, width, "utf-8"))
    return captured.get().splitlines()


def backend(name: str = "chat", **more: object) -> m.BackendStatus:
    facts = {"adapter": "llamacpp", "model": "smollm2-135m", "state": "ready", "slots": 4, "running": 3, "waiting": 2}
    return m.BackendStatus(name=name, **{**facts, **more})  # type: ignore[arg-type]  # facts of several types


def status(*backends: m.BackendStatus) -> m.StatusReport:
    return m.StatusReport(
        id=1, state="ready", pid=42, server="vestald/0.1.0", uptime_ms=61_000, runtime_dir="/r", sockets={},
        connections=3, backends=list(backends), waiting=2, running=3, queue_depth=64, memory_bytes=36_000_000,
    )  # fmt: skip


def entry(number: int, uid: int, position: int | None = None, client: str = "editor/1.4") -> m.QueueEntry:
    return m.QueueEntry(
        request=number, state="running" if position is None else "waiting", backend="chat", uid=uid, pid=7,
        client=client, age_ms=1500, priority="normal", position=position, output_tokens=12,
    )  # fmt: skip


# --- the picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 100])
def test_the_picture_has_backends_speed_queue_by_caller_and_errors_and_fits(width: int) -> None:
    rates = Rates()
    rates.add(Look(0.0, {"chat": 0.0}, {}, {}))
    rates.add(Look(2.0, {"chat": 246.0}, {"chat": (0.4, 2.0)}, {"chat": (1.6, 200.0)}))
    queue = [entry(18, 99_999, 2), entry(17, 99_999), entry(20, 88_888, 1), entry(19, 99_999, 3)]
    picture = Picture(
        status(backend(memory_bytes=560_000_000), backend("vectors", state="loading", percent=37.5)),
        queue, rates, [Mishap("13:00:00", "queue_full request=7")],
    )  # fmt: skip
    lines = drawn_at(width, picture)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "123.0 tok/s, first token after 200 ms, then one every 8 ms" in text
    assert re.search(r"chat +ready +██████░░ 3/4 +2 +560 MB +123\.0", text)
    assert re.search(r"vectors +loading 38 % +███░░░░░", text)
    assert ("smollm2-135m" in text) is (width == 100)
    assert re.search(r"13:00:00 +queue_full request=7", text)
    rows = [line for line in lines if "editor" in line]
    numbers = [int(match[0]) for row in rows if (match := re.search(r"\b(17|18|19|20)\b", row))]
    assert numbers == [17, 18, 19, 20]
    assert rows[0].startswith("99999")
    assert rows[1].startswith("1 run, 2 wait")
    assert rows[3].startswith("88888")
    assert "place 3" in rows[2]


@pytest.mark.parametrize("width", [60, 100])
def test_the_picture_says_in_a_few_characters_which_backends_take_no_requests(width: int) -> None:
    cold = m.BreakerStatus(state="open", failures=3, cold_ms=21_300, last="internal")
    lines = drawn_at(width, Picture(status(backend(draining=True), backend("vectors", breaker=cold)), (), Rates()))
    assert max(map(len, lines)) <= width
    assert re.search(r"chat +ready, draining +██████░░ 3/4", "\n".join(lines))
    assert re.search(r"vectors +ready, cold 22 s +██████░░ 3/4", "\n".join(lines))


def test_names_of_strangers_cannot_draw(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J[red]x[/red]\n"
    picture = Picture(status(backend(hostile)), [entry(1, 0, client=hostile)], None, [Mishap("1", hostile)], hostile)
    text = "\n".join(drawn_at(100, picture))
    assert "\x1b" not in text
    assert "\\x1b[2J[red]x[/red]\\n" in text


# --- top ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 100])
def test_top_follows_the_daemon_and_gives_the_screen_back(vestal: Vestal, begin: Begin, columns: int) -> None:
    begin(echo(token_delay="20ms"))
    with vestal.start("run", NUMBERS) as running, vestal.terminal("top", "--interval", "200ms", columns=columns) as top:
        top.expect_again("\x1b[?1049h")
        top.expect_match(r"echo.*ready.*1/1")
        top.expect_match(rf"running.*{HOME.replace('[', chr(92) + '[')}.*[1-9][0-9.]* tok/s")
        running.kill()
        assert vestal("run", "one two three").code == 0
        top.expect_match(r"first token after \d+ ms, then one every \d+ ms")
        top.press("q")
        assert top.finish() == 0
        assert LEFT in top.raw
        assert max(len(line) for frame in frames(top) for line in frame) <= columns


def test_top_obeys_a_new_width_and_shows_an_error_as_it_happens(vestal: Vestal, begin: Begin) -> None:
    begin(echo(fault="before"))
    with vestal.terminal("top", "--interval", "100ms", columns=60) as top:
        top.expect_match("BACKEND")
        top.resize(100)
        top.expect_match("MODEL")
        assert vestal("run", "hello").code == 1
        top.expect_match(r"RECENT ERRORS.*(internal|backend_\w+).*request=1")
        top.press("\x03")
        assert top.finish() == 0


def test_top_outlives_its_daemon_and_finds_the_next(vestal: Vestal, begin: Begin) -> None:
    first = begin()
    with vestal.terminal("top", "--interval", "100ms", columns=100) as top:
        top.expect_match(f"pid {first.process.pid}")
        first.kill()
        top.expect_match(r"\(trying on\)")
        second = begin()
        top.expect_match(f"pid {second.process.pid}")
        top.press("q")
        assert top.finish() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_however_top_is_ended_the_terminal_is_as_before(vestal: Vestal, begin: Begin, number: signal.Signals) -> None:
    begin()
    with vestal.terminal("top", "--interval", "100ms") as top:
        before = termios.tcgetattr(top._master)[3] | termios.ECHO | termios.ICANON
        top.expect_match("BACKEND")
        assert not termios.tcgetattr(top._master)[3] & termios.ICANON
        top.process.send_signal(number)
        assert top.finish() == (0 if number is signal.SIGINT else 128 + number)
        assert top.raw.rstrip().endswith("\x1b[?25h") or LEFT in top.raw
        assert termios.tcgetattr(top._master)[3] == before


def test_top_in_a_pipe_is_one_plain_picture(served: Vestal) -> None:
    done = served("top", "--interval", "100ms")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "BACKEND" in done.out
    assert done.out.count("vestald/") == 1
    assert [line for line in done.out.splitlines() if line != line.rstrip()] == []
    narrow = served("top", "--interval", "100ms", env={"COLUMNS": "60"})
    assert max(map(len, narrow.out.splitlines())) <= 60


def test_top_without_colour_or_with_a_dumb_terminal(served: Vestal) -> None:
    with served.terminal("top", "--once", "--interval", "100ms", env={"NO_COLOR": "1"}) as top:
        assert top.finish() == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", top.raw)
    with served.terminal("top", "--interval", "100ms", env={"TERM": "dumb"}) as top:
        assert top.finish() == 0
        assert "\x1b" not in top.raw


def test_nonsense_is_refused_and_a_missing_daemon_is_told(vestal: Vestal) -> None:
    for words in (("top", "--interval", "soon"), ("top", "now"), ("top", "--intervall=1")):
        done = vestal(*words)
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1
    for name in ("top", "watch", "ps", "logs"):
        assert vestal(name).code == 69


def test_without_the_extra_its_name_is_told(vestal: Vestal, begin: Begin, tmp_path: Path) -> None:
    begin()
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import importlib.util as u\nf = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n in ('rich', 'prompt_toolkit') else f(n, p)\n"
    )
    done = vestal("top", env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.out) == (69, "")
    assert done.err == "vestal: `vestal top` needs rich, which is not installed: pip install 'vestal[cli]'\n"


# --- watch ----------------------------------------------------------------------------------------------------------


def test_watch_tells_what_happens_until_the_daemon_stops(vestal: Vestal, begin: Begin) -> None:
    begin()
    with vestal.start("watch") as watch:
        assert watch.stdout is not None
        assert b"vestald/0.1.0 with 1 backend state=ready" in watch.stdout.readline()
        assert vestal("drain").code == 0
        assert b"daemon_state before=ready state=draining" in watch.stdout.readline()
        assert vestal("stop").code == 0
        out, err = watch.communicate(timeout=PATIENCE)
        assert watch.returncode == 0, err
        assert b"stop_requested" in out
        assert b"\x1b" not in out


def test_watch_as_json_is_one_object_a_line(vestal: Vestal, begin: Begin) -> None:
    daemon = begin()
    with vestal.start("watch", "--json") as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline())["status"]["state"] == "ready"
        assert vestal("backend", "restart", "--no-wait", "echo").code == 0
        event = json.loads(watch.stdout.readline())
        assert (event["kind"], event["data"]["backend"]) == ("backend_state", "echo")
        daemon.kill()
        _, err = watch.communicate(timeout=PATIENCE)
        assert watch.returncode == 69
        assert err.startswith(b"vestal: vestald is gone: ")


# --- ps and logs ----------------------------------------------------------------------------------------------------


def test_ps_lists_the_daemon_and_its_workers_with_their_memory(vestal: Vestal, begin: Begin) -> None:
    daemon = begin(echo(isolation="process"), echo("inside"))
    done = vestal("ps")
    head, first, worker, inside = done.out.splitlines()
    assert head.split() == ["PID", "NAME", "STATE", "MEMORY", "BUSY", "RESTARTS", "MODEL"]
    assert first.split()[:4] == [str(daemon.process.pid), "vestald", "ready", first.split()[3]]
    assert re.search(r" \d+ MB ", first)
    assert re.search(r"^ *\d+ +echo +ready +[\d.]+ MB +0/1 +0 +echo$", worker)
    assert inside.split()[:2] == ["-", "inside"]
    told = [json.loads(line) for line in vestal("ps", "--json").out.splitlines()]
    assert [row["name"] for row in told] == ["vestald", "echo", "inside"]
    pid, memory = told[1]["pid"], told[1]["memory"]
    assert abs(resident(pid) - memory) < 32 << 20


def test_ps_shows_what_keeps_requests_from_a_backend_and_programs_get_its_state(vestal: Vestal, begin: Begin) -> None:
    begin(echo(), echo("second"))
    assert vestal("backend", "drain", "second").code == 0
    _, _, first, second = vestal("ps").out.splitlines()
    assert re.search(r" echo +ready +", first)
    assert re.search(r" second +ready, draining +", second)
    told = [json.loads(line) for line in vestal("ps", "--json").out.splitlines()]
    assert [row["state"] for row in told] == ["ready", "ready", "ready"]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_logs_shows_the_file_that_the_daemon_writes_to(vestal: Vestal, begin: Begin) -> None:
    daemon = begin()
    where = vestal("logs", "--where")
    assert where == (0, f"file:{daemon._stderr}\n", "")
    last = vestal("logs", "-n", "1").out
    assert last == daemon.stderr.splitlines(keepends=True)[-1]
    assert vestal("logs", "-n", "0").out == ""
    assert vestal("logs", "-n", "9999").out == daemon.stderr
    with vestal.terminal("logs", columns=100) as terminal:
        assert terminal.finish() == 0
        assert re.search(r"\d\d:\d\d:\d\d daemon_state before=loading state=ready", CODES.sub("", terminal.raw))


def test_logs_follows_until_it_is_interrupted(vestal: Vestal, begin: Begin) -> None:
    begin()
    with vestal.start("logs", "-f", "-n", "1") as logs:
        assert logs.stdout is not None
        assert b'"state":"ready"' in logs.stdout.readline()
        vestal("drain")
        assert b'"state":"draining"' in logs.stdout.readline()
        logs.send_signal(signal.SIGINT)
        logs.communicate(timeout=PATIENCE)
        assert logs.returncode == 130


def test_logs_that_nobody_can_read_are_told(vestal: Vestal, short_dir: Path) -> None:
    (short_dir / "c.toml").write_text(toml(echo(), audit={"enabled": False}))
    command = [sys.executable, "-m", "vestald", "--config", str(short_dir / "c.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=vestal.environment()) as process:
        try:
            assert process.stderr is not None
            while b'"state":"ready"' not in process.stderr.readline():
                pass
            done = vestal("logs")
            assert (done.code, done.out) == (1, "")
            assert done.err == "vestal: vestald writes its log to a pipe: whoever started it reads it\n"
        finally:
            process.kill()


def test_the_log_of_a_daemon_that_was_started_on_demand_outlives_it(vestal: Vestal, short_dir: Path) -> None:
    (short_dir / "c.toml").write_text(toml(echo(), audit={"enabled": False}))
    env = {"VESTAL_CONFIG": str(short_dir / "c.toml")}
    started = vestal("run", "--autostart", "hello", env=env)
    assert (started.code, started.out) == (0, "hello\n")
    log = vestal.runtime_dir / "vestald.log"
    assert started.err == (f"vestal: started vestald, which stays; its log is {log}, `vestal stop` ends it\n")
    assert vestal("stop").code == 0
    left = vestal("logs", "-n", "1")
    assert (left.code, left.err) == (
        0, f"vestal: no vestald runs; this is the log of the last that was started on demand: {log}\n"
    )  # fmt: skip
    assert '"state":"stopped"' in left.out


def test_who_stops_waiting_for_a_daemon_started_on_demand_is_told_that_it_stays(
    vestal: Vestal, short_dir: Path
) -> None:
    (short_dir / "c.toml").write_text(toml(echo(ready_delay="10m"), audit={"enabled": False}))
    with vestal.terminal(
        "run", "--autostart", "hello", columns=100, env={"VESTAL_CONFIG": str(short_dir / "c.toml")}
    ) as run:
        run.expect("ready_delay")
        run.press("\x03")
        assert run.finish() == 130
    assert f"vestal: started vestald, which stays; its log is {vestal.runtime_dir}/vestald.log" in run.raw
    assert vestal("stop").code == 0


def test_a_daemon_that_does_not_start_on_demand_is_quoted(vestal: Vestal, short_dir: Path) -> None:
    (short_dir / "c.toml").write_text(toml(echo(fault="start"), audit={"enabled": False}))
    done = vestal("run", "--autostart", "hello", env={"VESTAL_CONFIG": str(short_dir / "c.toml")})
    assert (done.code, done.out) == (69, "")
    assert "backend 'echo' did not start" in done.err
    assert f"its log is {vestal.runtime_dir / 'vestald.log'}" in done.err


# --- what it costs --------------------------------------------------------------------------------------------------


def test_top_costs_the_daemon_next_to_nothing(vestal: Vestal, begin: Begin) -> None:
    """CPU time, not wall time, so it does not depend on the machine's load: 50 looks in under 0.5 s of it."""
    daemon: Daemon = begin()
    with vestal.terminal("top", "--interval", "100ms", columns=100) as top:
        top.expect_match("BACKEND")
        before = cpu_seconds(daemon.process.pid)
        for _ in range(50):
            top.expect_again(HOME)
        spent = cpu_seconds(daemon.process.pid) - before
        top.press("q")
        assert top.finish() == 0
    assert spent < 0.5  # 1 % of a core at one look a second; several times what was measured


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
