"""From flags, environment and file to a `Config`: a flag counts before a variable, that before the file.

Everything that was given is looked at, also what something else overrides, and every fault is found before the first
is told. `VESTAL_HOME`, `VESTAL_CONFIG` and `VESTAL_DEBUG` are no options; an empty variable is none.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from vestald.config.faults import BadSettings
from vestald.config.reader import Reader, Reading
from vestald.config.schema import Config
from vestald.failures import BadConfiguration

__all__ = ["Sources", "load"]


class Sources(Struct, frozen=True):
    """What a configuration is read from, as often as one likes. `flags` are texts by flag, `--admission-queue-depth`.

    Without `path` it is `$VESTAL_CONFIG`, else the user's `vestald.toml` if there is one.
    """

    path: Path | None = None
    flags: Mapping[str, str] = {}
    environ: Mapping[str, str] | None = None
    root: type[Config] = Config
    """Whose sections are the options that there are."""

    @property
    def variables(self) -> Mapping[str, str]:
        return os.environ if self.environ is None else self.environ

    def file(self) -> Path | None:
        """The file that is read, if there is one. Raises `BadConfiguration` where nobody lets it look."""
        named = self.variables.get("VESTAL_CONFIG")
        return self.path or (Path(named) if named else _user_file(self.variables))

    def read(self) -> Config:
        """Raises `BadConfiguration`: for a file that cannot be read, or with every fault there is."""
        reading = self.examine()
        if reading.faults:
            raise BadSettings(reading.faults)
        return reading.config

    def examine(self) -> Reading:
        """Read, and collect the faults. Raises `BadConfiguration` for a file that is no TOML."""
        reader = Reader(self.root)
        if path := self.file():
            reader.read_file(path, *_text_of(path))
        reader.read_variables(self.variables)
        reader.read_flags(self.flags)
        return reader.reading()


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration without flags. Raises `BadConfiguration` naming place, key and legal form."""
    return Sources(path, environ=environ).read()


def _user_file(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    path = Path(home) / "vestal" / "vestald.toml"
    try:
        return path if stat.S_ISREG(path.stat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise BadConfiguration(
            f"cannot look for {path}: {exc.strerror}",
            hint="let HOME or XDG_CONFIG_HOME be a directory of this user's, or name a file: --config or VESTAL_CONFIG",
        ) from exc


def _text_of(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as exc:
        raise BadConfiguration(
            f"cannot read {path}: {exc.strerror}",
            hint="let it be there and be readable by this user; a start can name another: --config or VESTAL_CONFIG",
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadConfiguration(f"{path} is not TOML: {exc}") from exc
