"""`make screenshots`: pictures of what the commands show, in docs/screenshots.

A private daemon with echo backends and a few clients plays a busy minute; what `vestal top`, `vestal status` and
`vestal doctor` draw of it is kept as SVG, 100 columns wide. The drawing is the commands' own and so is what it shows.
Only what says nothing and differs from run to run, or tells of the machine that draws, has been given the same value
everywhere: process ids, users, directories, the kernel's version, times of day, how long it has been up. Ages and
memory are rounded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import sleep
from unittest.mock import patch

import msgspec
from msgspec import structs
from rich import terminal_theme
from rich.console import Console, RenderableType
from rich.text import Text

import vestal
from examples.demo import Daemon, is_ready
from vestal import messages as m
from vestal.cli.board import Mishap, Picture, drawn
from vestal.cli.doctor import finding_lines
from vestal.cli.status import status_lines
from vestal.cli.terminal import Style
from vestal.cli.top import Watch
from vestal.findings import Finding

__all__ = ["PICTURES", "WATCHED", "WIDTH", "main", "svg"]

PICTURES = Path(__file__).parents[1] / "docs" / "screenshots"
WIDTH = 100
"""Columns."""
WATCHED = 3.0
"""Seconds between the two looks that rates are taken from."""

_BACKENDS = """
[[backend]]
name = "chat"
adapter = "echo"
isolation = "process"
slots = 2
token_delay = "40ms"

[[backend]]
name = "code"
adapter = "echo"
isolation = "process"
slots = 4
token_delay = "15ms"

[[backend]]
name = "vectors"
adapter = "echo"
embed = true
"""
_CLIENTS: tuple[tuple[str, vestal.Options], ...] = (
    ("editor/1.4", {"model": "code", "priority": "interactive"}),
    ("agent/0.3", {"model": "chat"}),
    ("agent/0.3", {"model": "chat"}),
    ("notes/3.1", {"model": "code"}),
    ("notes/3.1", {"model": "chat"}),
    ("agent/0.3", {"model": "chat", "priority": "batch"}),
)
_USERS = {"editor/1.4": 1000, "notes/3.1": 1000, "agent/0.3": 1001}
_NAMES = {1000: "alice", 1001: "ben"}
_LONG = " ".join(["word"] * 5000)
_DIRECTORY = "/run/user/1000/vestal"
_STEP = 10_000_000  # bytes that memory is rounded to
_STYLE = Style(coloured=True, drawn=True)
# Links to fonts elsewhere, which rich puts in: a picture must not ask anybody for anything.
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


# --- a busy minute ----------------------------------------------------------------------------------------------------


@contextmanager
def busy() -> Iterator[Daemon]:
    """A daemon whose clients have all asked; it and they end with the context."""
    daemon, clients = Daemon(_BACKENDS), []
    try:
        with daemon.admin() as admin:
            next(event for event in daemon.events(admin) if is_ready(event))
            for number, (name, options) in enumerate(_CLIENTS, 1):
                clients.append(Thread(target=_ask, args=(daemon.directory, name, options)))
                clients[-1].start()
                while len(admin.queue().entries) < number:  # one after another: places in the queue are their order
                    sleep(0.02)
        yield daemon
    finally:
        daemon.process.kill()
        for client in clients:
            client.join()
        daemon.end()


def _ask(directory: Path, name: str, options: vestal.Options) -> None:
    with vestal.Client(runtime_dir=directory, client=name) as client:
        try:
            for _ in client.stream(_LONG, **options):
                pass
        except vestal.ConnectionLost:
            return  # as everything does here


def _fail(directory: Path) -> None:
    """For the errors: a request that cannot be done in its time."""
    with vestal.Client(runtime_dir=directory, client="agent/0.3") as client:
        try:
            client.generate(_LONG, model="code", timeout_ms=500)
        except vestal.DeadlineExceeded:
            return


# --- what is shown of it ----------------------------------------------------------------------------------------------


def top(daemon: Daemon) -> RenderableType:
    """`vestal top`."""
    with vestal.AdminClient(runtime_dir=daemon.directory) as admin, Watch(admin) as watch:
        watch.look()
        _fail(daemon.directory)
        sleep(WATCHED)
        picture = watch.look()
    with patch("vestal.cli.board.user", _NAMES.__getitem__):  # the machine that draws need not have such users
        return drawn(_masked(picture), WIDTH, "utf-8")


def status(daemon: Daemon) -> RenderableType:
    """`vestal status`."""
    with vestal.AdminClient(runtime_dir=daemon.directory) as admin:
        report = _masked_status(admin.status())
    return _coloured(status_lines(report, WIDTH, _STYLE, "utf-8"))


def doctor(daemon: Daemon) -> RenderableType:
    """`vestal doctor`, with an empty store."""
    config = daemon.directory / "vestald.toml"
    command = [sys.executable, "-m", "vestal.cli", "doctor", "--json", "--quick", f"--config={config}"]
    environment = {**os.environ, "VESTAL_HOME": str(daemon.directory / "store")}
    done = subprocess.run(
        [*command, f"--runtime-dir={daemon.directory}"], env=environment, stdout=subprocess.PIPE, check=False
    )
    findings = msgspec.json.decode(_anonymous(daemon, done.stdout.decode()), type=list[Finding])
    return _coloured(finding_lines(findings, WIDTH, _STYLE))


def _coloured(lines: Iterable[str]) -> Text:
    return Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis")


# --- the same in every run --------------------------------------------------------------------------------------------


def _masked(picture: Picture) -> Picture:
    if picture.status is None:
        raise SystemExit("screenshots: the daemon is gone")
    entries = [
        structs.replace(entry, uid=_USERS[entry.client], age_ms=round(entry.age_ms, -3) or 500)
        for entry in picture.queue
    ]
    mishaps = [Mishap("12:00:00", re.sub(r"uid=\d+ pid=\d+", "uid=1001 pid=4711", one.what)) for one in picture.mishaps]
    return Picture(_masked_status(picture.status), entries, picture.rates, mishaps)


def _masked_status(report: m.StatusReport) -> m.StatusReport:
    backends = [
        structs.replace(
            backend, memory_bytes=_rounded(backend.memory_bytes), pid=None if backend.pid is None else 4243 + number,
            detail=re.sub(r"[0-9.]+ ms", "0.2 ms", backend.detail),
        )
        for number, backend in enumerate(report.backends)
    ]  # fmt: skip
    return structs.replace(
        report, pid=4242, uptime_ms=60_000, runtime_dir=_DIRECTORY, backends=backends,
        memory_bytes=_rounded(report.memory_bytes),
    )  # fmt: skip


def _rounded(size: int | None) -> int | None:
    return None if size is None else round(size / _STEP) * _STEP


def _anonymous(daemon: Daemon, text: str) -> str:
    text = text.replace(f"{daemon.directory}/store", "~/.local/share/vestal").replace(str(daemon.directory), _DIRECTORY)
    text = text.replace(sys.prefix, "/opt/vestal").replace(str(PICTURES.parents[1]), "/opt/vestal")
    text = re.sub(r"\bLinux [\w.+-]+", "Linux 6.12.0", text)
    return re.sub(r"\b(pid|process) \d+", r"\1 4242", text)


# --- on paper ---------------------------------------------------------------------------------------------------------


def svg(shown: RenderableType, title: str) -> str:
    """A terminal with `shown` in it."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=WIDTH, record=True, force_terminal=True, color_system="truecolor", file=nowhere)
        console.print(shown)
        made = console.export_svg(title=title, theme=terminal_theme.MONOKAI, unique_id=title.replace(" ", "-"))
    return "".join(f"{line.rstrip()}\n" for line in _FONTS.sub("", made).splitlines())


def main() -> int:
    """Draw all of them."""
    with busy() as daemon:
        made = {shown.__name__: svg(shown(daemon), f"vestal {shown.__name__}") for shown in (top, status, doctor)}
    for name, text in made.items():
        (PICTURES / f"{name}.svg").write_text(text, encoding="utf-8")
        print(f"docs/screenshots/{name}.svg: {len(text):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
