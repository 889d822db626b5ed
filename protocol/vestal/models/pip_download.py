"""One wheel, fetched by the user's own pip.

pip is run rather than an HTTP client because it knows what this package cannot: the user's index, mirror,
proxy, certificates, credentials and cache. So no flag here says where to look. `-P` keeps the working
directory off the import path (a stray `pip.py` would run), and pip's temporary files go to the caller's
directory, which is removed whatever happens.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from vestal.errors import ModelError

__all__ = ["download_wheel"]

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_CAUSE = re.compile(r"connection broken by [\"'](.+)[\"']: /")
_RAW_SINCE = (24, 1)  # --progress-bar raw
_TAIL = 40
_MAX_WORDS = 300
_ARGUMENTS = ("--no-deps", "--only-binary=:all:", "--no-input", "--no-color", "--disable-pip-version-check")


def download_wheel(requirement: str, into: Path, progress: Callable[[int, int | None], None]) -> Path:
    """Fetch the one wheel that `requirement` names; `progress` gets bytes done and in all (`None`: unknown).

    pip before 24.1 has no progress for programs; with it, `progress` is called once, at the start.
    """
    import subprocess

    if not sys.executable:
        raise ModelError("this Python cannot tell its own path, so pip cannot be run", hint=_by_hand(requirement))
    command = [sys.executable, "-P", "-m", "pip", "download", *_ARGUMENTS, *_progress_option()]
    progress(0, None)
    try:
        process = subprocess.Popen(
            [*command, "--dest", str(into), requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "TMPDIR": str(into)},
        )
    except OSError as error:
        raise ModelError(f"{sys.executable} cannot be run: {error.strerror}", hint=_by_hand(requirement)) from error
    with process:
        try:
            tail = _follow(process.stdout or (), progress)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()  # its files are removed next
            raise
    if code != 0:
        raise _failure(requirement, code, tail)
    return _only_wheel(requirement, into)


def _progress_option() -> tuple[str, ...]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        parts = re.findall(r"\d+", version("pip"))[:2]
    except PackageNotFoundError:
        return ()
    return ("--progress-bar", "raw") if tuple(map(int, parts)) >= _RAW_SINCE else ("--progress-bar", "off")


def _follow(lines: Iterable[str], progress: Callable[[int, int | None], None]) -> list[str]:
    """Report what is progress and return the last of what is not."""
    tail: deque[str] = deque(maxlen=_TAIL)
    for line in lines:
        text = line.strip()
        if match := _PROGRESS.fullmatch(text):
            done, total = int(match[1]), int(match[2])
            progress(done, total or None)
        elif text:
            tail.append(text)
    return list(tail)


def _failure(requirement: str, code: int, tail: list[str]) -> ModelError:
    if any(line.endswith("No module named pip") for line in tail):
        hint = f"`{sys.executable} -m ensurepip` installs it; in an environment made by uv, `uv pip install pip`"
        return ModelError(f"pip is not installed for {sys.executable}, and fetching needs it", hint=hint)
    message = f"pip could not fetch {requirement} (exit status {code}): {_last_words(tail)}"
    return ModelError(message, hint=f"check the network and `pip config list`; {_by_hand(requirement)}")


def _last_words(tail: list[str]) -> str:
    """The line that says most: pip's last error, and the broken connection behind it if there was one."""
    errors = [line.removeprefix("ERROR:").strip() for line in tail if line.startswith("ERROR:")]
    causes = [match[1] for line in tail if (match := _CAUSE.search(line))]
    said = errors[-1] if errors else (tail[-1] if tail else "it said nothing")
    words = f"{said}: {causes[-1]}" if causes else said
    printable = "".join(c if c.isprintable() else " " for c in words)
    return printable if len(printable) <= _MAX_WORDS else f"{printable[: _MAX_WORDS - 1]}…"


def _by_hand(requirement: str) -> str:
    return f"without a network: put the wheel of {requirement} in a directory and set PIP_FIND_LINKS to it"


def _only_wheel(requirement: str, into: Path) -> Path:
    wheels = [*into.glob("*.whl")]
    if len(wheels) == 1:
        return wheels[0]
    raise ModelError(f"pip fetched {len(wheels)} wheels for {requirement} instead of 1", hint=_by_hand(requirement))
