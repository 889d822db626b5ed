"""Ed25519 keys on this machine: made, kept and read; nothing here decides whom to trust.

    <root>/keys/<name>.pub          one line to hand out: `vestal-ed25519 BASE64 NAME`
    <root>/keys/private/<name>.pem  PKCS #8, mode 0600, encrypted if it was given a passphrase; never printed

A key is known by its id, the first 128 bits of the SHA-256 of its 32 public bytes: a name is only what somebody
calls it. `cryptography` is imported when it is needed, for the base install does without.
"""

from __future__ import annotations

import base64
import binascii
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from vestal.errors import ModelError
from vestal.models.names import is_name
from vestal.models.remedies import translated
from vestal.models.small_file import read_small, write_small

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["KeyDirectory", "PublicKey", "SigningKey", "parse_public_key", "read_passphrase", "verifies"]

_KIND = "vestal-ed25519"
_LENGTH = 32
_MAX_KEY_FILE = 4_096


class PublicKey(Struct, frozen=True):
    """A key to check signatures with: its 32 bytes, and what its owner calls it."""

    raw: bytes
    name: str

    @property
    def id(self) -> str:
        """32 hex digits."""
        import hashlib

        return hashlib.sha256(self.raw).hexdigest()[:32]

    @property
    def line(self) -> str:
        """How it is handed to others."""
        return f"{_KIND} {base64.b64encode(self.raw).decode()} {self.name}"


class SigningKey:
    """A private key, as long as it is needed. Its `repr` shows the public part only."""

    def __init__(self, key: Ed25519PrivateKey, name: str) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw(), name)

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.name!r} {self.public.id}>"

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature of `data`."""
        return self._key.sign(data)


def parse_public_key(line: str) -> PublicKey:
    """The key that `PublicKey.line` shows; `ModelError` for anything else."""
    kind, _, rest = line.strip().partition(" ")
    coded, _, name = rest.strip().partition(" ")
    try:
        raw = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if kind != _KIND or len(raw) != _LENGTH:
        hint = f"a public key is one line, `{_KIND} BASE64 NAME`, in the file that `vestal keys new` made"
        raise ModelError(f"{line.strip()[:60]!r} is not a public key", hint=hint)
    return PublicKey(raw, _check_key_name(name.strip() or "unnamed"))


def _check_key_name(name: str) -> str:
    """`name`, if a key may be called that: what goes for models goes for keys."""
    if is_name(name):
        return name
    raise ModelError(
        f"{name[:80]!r} is not a key name",
        hint="a name has 1 to 64 of a-z 0-9 . _ -, starts with a letter or digit and does not end in .gguf",
    )


def verifies(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` was made of `data` by the private half of `key`."""
    with _library():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, data)
    except (InvalidSignature, ValueError):  # ValueError: bytes that are no point of the curve
        return False
    return True


@contextmanager
def _library() -> Iterator[None]:
    """Says which extra brings what is imported within, where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(
            f"signatures need the Python module {error.name!r}, which is not installed",
            hint="pip install 'vestal[daemon]' brings it",
        ) from error


class KeyDirectory:
    """The keys of this machine's user. Callers serialise `create` with a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<KeyDirectory {str(self.path)!r}>"

    def create(self, name: str, passphrase: bytes | None) -> SigningKey:
        """A new key called `name`, on the disk; a name that is taken is refused."""
        with _library():
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        secret, public = self._files(_check_key_name(name))
        if secret.exists() or public.exists():
            raise ModelError(f"there is a key called {name!r} already: {secret}", hint="choose another name")
        made = Ed25519PrivateKey.generate()
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            locked = serialization.BestAvailableEncryption(passphrase)
        coding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key = SigningKey(made, name)
        with translated(f"cannot keep the key {name!r}"):
            secret.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_small(secret, made.private_bytes(coding, layout, locked), mode=0o600)
            write_small(public, f"{key.public.line}\n".encode())
        return key

    def load(self, name: str, ask: Callable[[], bytes]) -> SigningKey:
        """The private key called `name`; `ask` is called for the passphrase of one that has one."""
        with _library():
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        secret, _ = self._files(_check_key_name(name))
        data = self._read_secret(secret, name)
        try:
            try:
                key = load_pem_private_key(data, None)
            except TypeError:  # it is encrypted
                key = load_pem_private_key(data, ask())
        except ValueError as error:
            raise ModelError(f"the key {name!r} cannot be read: {secret}", hint="is the passphrase right?") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ModelError(f"{secret} holds a key of another kind", hint="`vestal keys new NAME` makes one")
        return SigningKey(key, name)

    def public(self) -> list[PublicKey]:
        """Those that were made here, by name."""
        with translated(f"cannot list {self.path}"):
            files = sorted(self.path.glob("*.pub")) if self.path.is_dir() else []
            return [self.read_public(file) for file in files]

    @staticmethod
    def read_public(file: Path) -> PublicKey:
        """The key in a `.pub` file, wherever it lies."""
        try:
            data = read_small(file, limit=_MAX_KEY_FILE)
        except (ValueError, OSError) as error:
            raise ModelError(f"{file} cannot be used as a key: {error}", hint="name a .pub file") from error
        if data is None:
            raise ModelError(f"there is no file {file}", hint="name a .pub file, or give the key's line itself")
        return parse_public_key(data.decode("utf-8", "replace"))

    def _read_secret(self, secret: Path, name: str) -> bytes:
        try:
            data = read_small(secret, limit=_MAX_KEY_FILE, owned=True)
            mode = 0 if data is None else stat.S_IMODE(secret.lstat().st_mode)
        except (ValueError, OSError) as error:
            raise ModelError(f"the key {name!r} cannot be used: {secret}: {error}", hint="look into it") from error
        if data is None:
            known = ", ".join(file.stem for file in sorted(secret.parent.glob("*.pem"))) or "none"
            raise ModelError(
                f"there is no private key called {name!r} here (there: {known})", hint=f"`vestal keys new {name}`"
            )
        if mode & 0o077:
            message = f"the key {name!r} may be read by others: {secret} has mode {mode:04o}"
            raise ModelError(message, hint=f"chmod 600 {secret}, and think about who has read it")
        return data

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.path / "private" / f"{name}.pem", self.path / f"{name}.pub"


def read_passphrase(file: Path) -> bytes:
    """The first line of a file."""
    with translated(f"cannot read the passphrase in {file}"):
        lines = file.read_bytes().splitlines()
    if not lines or not lines[0]:
        raise ModelError(f"the passphrase in {file} is empty", hint="put it on the first line")
    return lines[0]
