"""Signing models and checking signatures: keys, ring, statements and versions, put together over one store.

A model is vouched for when a trusted key that is not revoked has signed its name, digest, size and version, and no
later version was seen. That says which bytes are meant; that the bytes loaded are those is for
`vestal.models.integrity` to see to, with the digest that `Trust.check` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from vestal.errors import ModelError
from vestal.models.blobs import Progress
from vestal.models.keys import KeyDirectory, PublicKey, SigningKey, verifies
from vestal.models.locks import held
from vestal.models.manifest import StoredModel
from vestal.models.remedies import fetch_again, translated
from vestal.models.ring import KeyRing, KeyState, whole_id
from vestal.models.signatures import MAX_VERSION, SignatureDirectory, SignedStatement, Statement
from vestal.models.store import Located, Store
from vestal.models.versions import VersionMemory

__all__ = ["Trust"]


class Trust:
    """What the user of a store believes. Making one touches nothing on the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = KeyDirectory(store.root / "keys")
        self._ring = KeyRing(store.root / "keys" / "trusted.json")
        self._signatures = SignatureDirectory(store.root / "signatures")
        self._versions = VersionMemory(store.root / "versions.json")

    def __repr__(self) -> str:
        return f"<Trust of {self._store!r}>"

    # --- keys -------------------------------------------------------------------------------------------------

    def new_key(self, name: str, passphrase: bytes | None = None) -> PublicKey:
        """Make a key, and trust it: whoever makes a key here means to use it here."""
        with self._locked():
            key = self._keys.create(name, passphrase).public
            self._ring.trust(key)
        return key

    def trust(self, key: PublicKey, *, despite_revocation: bool = False) -> None:
        """Let signatures of `key` count."""
        with self._locked():
            self._ring.trust(key, despite_revocation=despite_revocation)

    def revoke(self, text: str) -> str:
        """Let signatures of a key count no more, ever; returns the id that `text` meant."""
        with self._locked():
            id = whole_id(text, [key for key, _ in self.known_keys()])
            self._ring.revoke(id)
        return id

    def known_keys(self) -> list[tuple[PublicKey, KeyState]]:
        """Every key that is trusted, or was made here, by name."""
        ring = self._ring.read()
        known = {key.id: key for key in self._keys.public()} | ring.keys
        return [(key, ring.state(key.id)) for key in sorted(known.values(), key=lambda key: (key.name, key.id))]

    def revoked(self) -> tuple[str, ...]:
        """The ids of all revoked keys, of which nothing else may be known."""
        return self._ring.read().revoked

    # --- models -----------------------------------------------------------------------------------------------

    def sign(
        self,
        name: str,
        key: str,
        ask: Callable[[], bytes],
        *,
        version: int | None = None,
        progress: Progress | None = None,
    ) -> Statement:
        """Vouch for the model `name` with the private key called `key`, after reading all of the model's file.

        `version` is one more than the highest seen, unless that was this very content. Signing records it.
        """
        signer = self._keys.load(key, ask)
        if self._ring.read().state(signer.public.id) == "revoked":
            raise _revoked(signer.public.id, name)
        model = self._store.verify(name, progress)
        with self._locked():
            statement = _statement(model, signer, version or self._next_version(model))
            self._versions.check(statement)
            self._signatures.write(SignedStatement(statement, signer.sign(statement.canonical)))
            self._versions.record(statement)
        return statement

    def statement(self, name: str) -> Statement | None:
        """What somebody signed for `name`, checked or not; `None` where nothing is signed."""
        signed = self._signatures.read(name)
        return None if signed is None else signed.statement

    def check(self, model: StoredModel | Located) -> Statement:
        """What a trusted key says of this very model; `ModelError` with the reason if none does.

        The version is recorded: from now on nothing older is accepted.
        """
        if model.digest is None:
            hint = f"`vestal pull {model.path}` adds it to the store, where `vestal models sign` can sign it"
            raise ModelError(f"{model.path} is not in the store, and only what is can be signed", hint=hint)
        signed = self._signatures.read(model.name)
        if signed is None:
            hint = f'`vestal models sign {model.name} --key KEY`, or signature = "any" in the backend\'s table'
            raise ModelError(f"model {model.name!r} is not signed", hint=hint)
        self._check_signer(model.name, signed)
        statement = signed.statement
        if (statement.name, statement.digest, statement.size) != (model.name, model.digest, model.size):
            raise ModelError(
                f"the signature of model {model.name!r} is for {statement.name!r}, {statement.digest},"
                f" {statement.size:,} bytes; the store has {model.digest}, {model.size:,} bytes",
                hint=f"`vestal models sign {model.name} --key KEY` if the new content is meant; else "
                + fetch_again(model.name),
            )
        if not self._versions.knows(statement):  # a daemon may serve from a store that it cannot write to
            with self._locked():
                self._versions.check(statement)
                self._versions.record(statement)
        return statement

    def _check_signer(self, name: str, signed: SignedStatement) -> None:
        """That the key may sign, and did."""
        id, ring = signed.statement.key, self._ring.read()
        if ring.state(id) == "revoked":
            raise _revoked(id, name)
        key = ring.keys.get(id)
        if key is None:
            message = f"model {name!r} is signed by the key {id}, which is not trusted here"
            raise ModelError(message, hint="`vestal keys trust FILE.pub` trusts it, if you know whose it is")
        if not verifies(key, signed.signature, signed.statement.canonical):
            message = f"the signature of model {name!r} was not made by the key {key.name!r} ({id}) over what it says"
            raise ModelError(message, hint=f"it was tampered with: sign it anew, or {fetch_again(name)}")

    def _next_version(self, model: StoredModel) -> int:
        seen = self._versions.read().get(model.name)
        if seen is None:
            return 1
        return seen.version if seen.digest == model.digest else min(seen.version + 1, MAX_VERSION)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        locks = self._store.root / "locks"
        with ExitStack() as stack:
            with translated(f"cannot lock {self._store.root}"):
                locks.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(locks / "trust"))
            yield


def _statement(model: StoredModel, signer: SigningKey, version: int) -> Statement:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert model.digest is not None  # it comes from the store
    return Statement(
        name=model.name,
        digest=model.digest,
        size=model.size,
        version=version,
        key=signer.public.id,
        signed_at=now,
    )


def _revoked(id: str, name: str) -> ModelError:
    hint = f"sign it with another key: `vestal models sign {name} --key KEY`"
    return ModelError(f"model {name!r}: the key {id} was revoked here", hint=hint)
