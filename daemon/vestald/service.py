"""`vestald install-service`: a unit for systemd, filled in, checked, enabled; and away again with `--undo`.

All or nothing: what systemd refuses is not left behind. A file of that name which this did not write is never
touched. The units are package data in `units/`; each directive that a reader would question has its reason there.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from msgspec import Struct

from vestald.config import load
from vestald.failures import BadConfiguration, ServiceRefused

__all__ = ["Service", "install_service", "unit_text"]

_UNIT = "vestald.service"
_MARK = "# Written by `vestald install-service"
_USER = "vestal"  # whom the system's unit runs as
_PATIENCE = 60.0  # seconds for one command of systemd's

_EPILOG = """\
Without --system the unit is this user's own, and starts when they log in. With it, one daemon serves everybody in
the group vestal; it wants a configuration that says so:

  [sockets]
  group = "vestal\""""


def install_service(arguments: Sequence[str]) -> int:
    """The command; its exit code. Raises `Failure`."""
    args = _parser().parse_args(arguments)
    service = Service(system=args.system or args.root is not None, root=args.root)
    lines = service.remove() if args.undo else service.install(args.config)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vestald install-service",
        description="Let systemd start vestald, watch it, and stop it gently.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--system", action="store_true", help="for the whole machine, as the user vestal")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration that it is to have")
    parser.add_argument("--root", type=Path, metavar="DIR", help="into the system image under DIR; implies --system")
    parser.add_argument("--undo", action="store_true", help="disable and remove it again")
    return parser


class Service(Struct, frozen=True):
    """One unit: the whole machine's or this user's, of this system or of the image under `root`."""

    system: bool
    root: Path | None = None

    @property
    def path(self) -> Path:
        if self.system:
            return (self.root or Path("/")) / "etc/systemd/system" / _UNIT
        home = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
        return Path(home) / "systemd/user" / _UNIT

    def install(self, config: Path | None) -> list[str]:
        """What was done, in lines. Raises `Failure`, and then nothing was."""
        text = unit_text(self.system, self._command(config))
        before = self._ours()
        try:
            _write(self.path, text)
            if self.root is None:
                _run("systemd-analyze", *self._manager, "verify", str(self.path))
            self._control("enable", _UNIT)
            self._reload()
        except ServiceRefused:
            self._put_back(before)
            raise
        how = " ".join(["systemctl", *self._manager, "start vestald"])
        when = "the machine starts" if self.system else "you log in; `loginctl enable-linger`: when the machine starts"
        return [f"{self.path} is written and enabled: it starts when {when}", f"now: {how}"]

    def remove(self) -> list[str]:
        """Stop, disable and remove it. Raises `Failure`."""
        if self._ours() is None:
            return [f"{self.path} is not there: nothing to undo"]
        self._control("disable", *([] if self._offline else ["--now"]), _UNIT)
        self.path.unlink()
        self._reload()
        return [f"{self.path} is disabled and removed"]

    @property
    def _manager(self) -> list[str]:
        root = [f"--root={self.root}"] if self.root is not None else []
        return root if self.system else ["--user"]

    @property
    def _offline(self) -> bool:
        """Whether no running manager is spoken to."""
        return self.root is not None or os.environ.get("SYSTEMD_OFFLINE") == "1"

    def _control(self, *words: str) -> None:
        _run("systemctl", *self._manager, *words)

    def _reload(self) -> None:
        if not self._offline:
            self._control("daemon-reload")

    def _command(self, config: Path | None) -> list[str]:
        command = [sys.executable, "-P", "-m", "vestald"]  # -P: never from the directory it happens to start in
        if config is None and self.system:
            raise BadConfiguration(
                "a service for the machine needs --config FILE", hint="vestald install-service --help"
            )
        if self.system and self.root is None:
            _require_user()
        if config is None:
            return command
        load(config)
        return [*command, "--config", str(config.absolute())]

    def _ours(self) -> bytes | None:
        """What is there, if this wrote it; None if nothing is. Raises `ServiceRefused` for what somebody else made."""
        if not self.path.exists() and not self.path.is_symlink():
            return None
        before = b"" if self.path.is_symlink() else self.path.read_bytes()
        if not before.startswith(_MARK.encode()):
            raise ServiceRefused(f"{self.path} is there, and not written by vestald", hint="move it away first")
        return before

    def _put_back(self, before: bytes | None) -> None:
        if before is not None:
            self.path.write_bytes(before)
            return
        wants = self.path.parent / f"{'multi-user' if self.system else 'default'}.target.wants" / _UNIT
        for made in (self.path, wants):
            made.unlink(missing_ok=True)


def unit_text(system: bool, command: Sequence[str]) -> str:
    """The unit with its command filled in."""
    name = f"vestald-{'system' if system else 'user'}.service"
    program, *arguments = map(_quoted, command)
    line = " ".join([program, *(argument.replace("$", "$$") for argument in arguments)])  # a program may hold a $
    return (resources.files("vestald") / "units" / name).read_text().replace("@COMMAND@", line)


def _quoted(word: str) -> str:
    """One word as systemd reads it (systemd.service(5), "Command lines"): quotes and `%` mean themselves."""
    if not word.isprintable():
        raise BadConfiguration(f"a path with a control character cannot be written into a unit: {word!r}")
    for special, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        word = word.replace(special, escaped)
    return f'"{word}"'


def _require_user() -> None:
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        how = f"useradd --system --user-group --no-create-home {_USER}; usermod -aG {_USER} YOU"
        raise ServiceRefused(f"there is no user {_USER} for it to run as", hint=how) from None


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a half-written unit could be loaded."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text)
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as exc:
        raise ServiceRefused(f"cannot write {path}: {exc.strerror}", hint="--system needs root") from exc


def _run(program: str, *words: str) -> None:
    """Raises `ServiceRefused` with what it said."""
    if shutil.which(program) is None:
        raise ServiceRefused(
            f"there is no {program}", hint="this machine is not run by systemd: start `vestald` yourself"
        )
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServiceRefused(f"{program} {words[0]}: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServiceRefused(f"{program} {' '.join(words)}: {said[-1] if said else f'exit {done.returncode}'}")
