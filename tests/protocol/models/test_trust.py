"""Who may vouch for a model, and what becomes of a model that nobody, or the wrong one, vouches for."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vestal.errors import ModelError
from vestal.models import Store
from vestal.models.keys import KeyDirectory, PublicKey, parse_public_key, verifies
from vestal.models.signatures import Statement
from vestal.models.trust import Trust

MakeGGUF = Callable[..., bytes]
Put = Callable[..., None]


def nobody() -> bytes:
    raise AssertionError("no passphrase is needed")


@pytest.fixture
def put(store: Store, tmp_path: Path, make_gguf: MakeGGUF) -> Put:
    """Store other content under a name."""

    def replace(salt: bytes, name: str = "tiny") -> None:
        path = tmp_path / "incoming.gguf"
        path.write_bytes(make_gguf(salt=salt))
        store.add_file(path, name, source="test", replace=True)

    return replace


@pytest.fixture
def trust(store: Store, put: Put) -> Trust:
    """A store with the model `tiny`, and a key called `me` that is trusted."""
    put(b"one")
    trust = Trust(store)
    trust.new_key("me")
    return trust


@pytest.fixture
def stranger(tmp_path: Path) -> PublicKey:
    return KeyDirectory(tmp_path / "elsewhere").create("stranger", None).public


def refused(trust: Trust, store: Store, name: str = "tiny") -> ModelError:
    with pytest.raises(ModelError) as caught:
        trust.check(store.resolve(name))
    assert caught.value.hint
    return caught.value


def rewrite(store: Store, **changes: Any) -> None:
    """What somebody would do who can write the signature's file and has no key."""
    file = store.root / "signatures" / "tiny.json"
    content = msgspec.json.decode(file.read_bytes())
    content["statement"] |= changes
    file.write_bytes(msgspec.json.encode(content))


def test_a_signed_model_is_vouched_for(trust: Trust, store: Store) -> None:
    said = trust.sign("tiny", "me", nobody)
    model = store.resolve("tiny")
    assert trust.check(model) == said == trust.check(store.locate("tiny")) == trust.statement("tiny")
    assert (said.name, said.digest, said.size, said.version) == ("tiny", model.digest, model.size, 1)


def test_an_unsigned_model_is_refused(trust: Trust, store: Store) -> None:
    error = refused(trust, store)
    assert error.message == "model 'tiny' is not signed"
    assert "vestal models sign tiny --key" in (error.hint or "")


def test_a_file_outside_the_store_cannot_be_vouched_for(trust: Trust, store: Store, gguf_file: Path) -> None:
    assert "not in the store" in refused(trust, store, str(gguf_file)).message


def test_the_signature_of_a_key_that_nobody_trusts_is_refused_until_it_is_trusted(
    trust: Trust, store: Store, tmp_path: Path
) -> None:
    other = Trust(Store(tmp_path / "other"))
    key = other.new_key("publisher")
    (store.root / "keys" / "private" / "publisher.pem").write_bytes(
        (tmp_path / "other/keys/private/publisher.pem").read_bytes()
    )
    (store.root / "keys" / "private" / "publisher.pem").chmod(0o600)
    trust.sign("tiny", "publisher", nobody)
    error = refused(trust, store)
    assert key.id in error.message
    assert "not trusted" in error.message
    trust.trust(parse_public_key(key.line))
    assert trust.check(store.resolve("tiny")).key == key.id


def test_a_revoked_keys_signature_counts_no_more_and_trust_does_not_come_back_unasked(
    trust: Trust, store: Store
) -> None:
    trust.sign("tiny", "me", nobody)
    (key, _), *_ = trust.known_keys()
    assert trust.revoke("me") == key.id
    assert "was revoked" in refused(trust, store).message
    with pytest.raises(ModelError, match="was revoked"):
        trust.sign("tiny", "me", nobody)
    with pytest.raises(ModelError, match="was revoked here"):
        trust.trust(key)
    assert trust.known_keys() == [(key, "revoked")]
    trust.trust(key, despite_revocation=True)
    assert trust.check(store.resolve("tiny")).version == 1


def test_a_key_can_be_revoked_before_anybody_has_seen_it(trust: Trust, stranger: PublicKey) -> None:
    trust.revoke(stranger.id)
    assert trust.revoked() == (stranger.id,)
    with pytest.raises(ModelError, match="was revoked here"):
        trust.trust(stranger)


@pytest.mark.parametrize("text", ["nobody", "abc", "0" * 31, "", "../me"])
def test_what_means_no_key_is_not_revoked(trust: Trust, text: str) -> None:
    with pytest.raises(ModelError, match="no key that is known"):
        trust.revoke(text)


@pytest.mark.parametrize(
    "changes", [{"version": 9}, {"signed_at": "2030-01-01T00:00:00Z"}, {"size": 1}, {"digest": "sha256-" + "0" * 64}]
)
def test_a_statement_that_was_altered_is_refused(trust: Trust, store: Store, changes: dict[str, Any]) -> None:
    trust.sign("tiny", "me", nobody)
    rewrite(store, **changes)
    assert "was not made by the key 'me'" in refused(trust, store).message


def test_a_signature_for_another_name_or_content_is_refused(trust: Trust, store: Store, put: Put) -> None:
    put(b"other", "other")
    trust.sign("other", "me", nobody)
    trust.sign("tiny", "me", nobody)
    signatures = store.root / "signatures"
    (signatures / "tiny.json").write_bytes((signatures / "other.json").read_bytes())
    assert "is for 'other'" in refused(trust, store).message
    trust.sign("tiny", "me", nobody)
    put(b"two")
    error = refused(trust, store)
    assert str(store.resolve("tiny").digest) in error.message


def test_a_signature_for_another_name_of_the_same_content_is_refused(trust: Trust, store: Store, put: Put) -> None:
    for name in ("tiny", "other"):
        put(b"same", name)
    trust.sign("other", "me", nobody)
    signatures = store.root / "signatures"
    (signatures / "tiny.json").write_bytes((signatures / "other.json").read_bytes())
    assert "is for 'other'" in refused(trust, store).message


def test_versions_grow_with_the_content_and_cannot_be_rolled_back(trust: Trust, store: Store, put: Put) -> None:
    signature = store.root / "signatures" / "tiny.json"
    trust.sign("tiny", "me", nobody)
    old = signature.read_bytes()
    assert trust.sign("tiny", "me", nobody).version == 1
    put(b"two")
    assert trust.sign("tiny", "me", nobody).version == 2
    put(b"one")
    signature.write_bytes(old)
    assert "is version 1, and 2 was seen here" in refused(trust, store).message
    with pytest.raises(ModelError, match="is version 1, and 2 was seen"):
        trust.sign("tiny", "me", nobody, version=1)


def test_the_memory_of_versions_outlives_the_model(trust: Trust, store: Store, put: Put) -> None:
    trust.sign("tiny", "me", nobody, version=7)
    store.remove("tiny")
    assert trust.statement("tiny") is None
    put(b"two")
    with pytest.raises(ModelError, match="is version 6, and 7 was seen"):
        trust.sign("tiny", "me", nobody, version=6)
    assert trust.sign("tiny", "me", nobody).version == 8


def test_one_version_is_one_content(trust: Trust, store: Store, put: Put) -> None:
    trust.sign("tiny", "me", nobody)
    put(b"two")
    with pytest.raises(ModelError, match="another content than the version 1"):
        trust.sign("tiny", "me", nobody, version=1)


def test_a_version_is_seen_when_it_is_checked_not_only_when_it_is_signed(
    trust: Trust, store: Store, put: Put, tmp_path: Path
) -> None:
    """Signatures come with models from elsewhere; who only checks must remember too."""
    trust.sign("tiny", "me", nobody)
    signature, versions = store.root / "signatures" / "tiny.json", store.root / "versions.json"
    old = signature.read_bytes()
    put(b"two")
    trust.sign("tiny", "me", nobody)
    versions.unlink()
    trust.check(store.resolve("tiny"))
    put(b"one")
    signature.write_bytes(old)
    assert "is version 1, and 2 was seen here" in refused(trust, store).message


def test_a_store_that_cannot_be_written_to_serves_what_was_seen(trust: Trust, store: Store) -> None:
    said = trust.sign("tiny", "me", nobody)
    locks = store.root / "locks"
    (locks / "trust").unlink()
    (locks / "trust").mkdir()  # the lock cannot be taken, not even by root
    assert trust.check(store.resolve("tiny")) == said
    (store.root / "versions.json").unlink()
    assert "cannot lock" in refused(trust, store).message


def test_a_damaged_model_is_not_signed(trust: Trust, store: Store) -> None:
    blob = store.resolve("tiny").path
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"Tiny", b"Tony"))
    with pytest.raises(ModelError, match="is damaged"):
        trust.sign("tiny", "me", nobody)
    assert trust.statement("tiny") is None


@pytest.mark.parametrize("file", ["keys/trusted.json", "versions.json", "signatures/tiny.json"])
def test_what_decides_is_never_taken_for_empty_when_it_is_damaged(trust: Trust, store: Store, file: str) -> None:
    trust.sign("tiny", "me", nobody)
    (store.root / file).write_bytes(b'{"half')
    assert file in refused(trust, store).message


@pytest.mark.parametrize("file", ["keys/trusted.json", "versions.json"])
def test_what_decides_must_not_be_for_others_to_write(trust: Trust, store: Store, file: str) -> None:
    trust.sign("tiny", "me", nobody)
    (store.root / file).chmod(0o666)
    assert "others may write to it" in refused(trust, store).message


def test_no_link_is_followed_to_a_ring(trust: Trust, store: Store, tmp_path: Path) -> None:
    trust.sign("tiny", "me", nobody)
    ring = store.root / "keys" / "trusted.json"
    ring.rename(tmp_path / "ring.json")
    ring.symlink_to(tmp_path / "ring.json")
    assert "symbolic link" in refused(trust, store).message


# --- names that would lead elsewhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../tiny", "/etc/passwd", "a/b", "..", "", "x" * 65, "UPPER", "a\nb", "a\0b"])
def test_no_name_leads_out_of_the_store(trust: Trust, store: Store, name: str) -> None:
    for attempt in (
        lambda: trust.sign(name, "me", nobody),
        lambda: trust.sign("tiny", name, nobody),
        lambda: trust.new_key(name),
        lambda: trust.statement(name),
    ):
        with pytest.raises(ModelError):
            attempt()
    assert {path.name for path in store.root.parent.iterdir()} <= {"home", "incoming.gguf"}


@pytest.mark.parametrize("digest", ["../../outside", "/etc/passwd", "sha256-" + "0" * 64 + "/..", "sha256-x"])
def test_no_manifest_leads_out_of_the_store(trust: Trust, store: Store, digest: str) -> None:
    file = store.root / "manifests" / "tiny.json"
    content = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(content | {"digest": digest}))
    with pytest.raises(ModelError, match="cannot be used"):
        store.locate("tiny")


def test_a_blob_that_is_a_link_is_damaged(trust: Trust, store: Store, tmp_path: Path) -> None:
    blob = store.resolve("tiny").path
    blob.rename(tmp_path / "blob")
    blob.symlink_to(tmp_path / "blob")
    with pytest.raises(ModelError, match="not a regular file"):
        store.locate("tiny")


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_private_key_is_for_its_owner_alone(trust: Trust, store: Store) -> None:
    secret = store.root / "keys" / "private" / "me.pem"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    assert b"PRIVATE KEY" in secret.read_bytes()
    secret.chmod(0o644)
    with pytest.raises(ModelError, match="may be read by others") as caught:
        trust.sign("tiny", "me", nobody)
    assert "chmod 600" in (caught.value.hint or "")


def test_a_key_with_a_passphrase_signs_only_with_it(trust: Trust, store: Store) -> None:
    trust.new_key("locked", b"open sesame")
    assert b"ENCRYPTED" in (store.root / "keys/private/locked.pem").read_bytes()
    with pytest.raises(ModelError, match="cannot be read"):
        trust.sign("tiny", "locked", lambda: b"open, wheat")
    trust.sign("tiny", "locked", lambda: b"open sesame")
    assert trust.check(store.resolve("tiny")).version == 1


def test_a_key_is_never_written_over(trust: Trust, store: Store) -> None:
    secret = store.root / "keys" / "private" / "me.pem"
    before = secret.read_bytes()
    with pytest.raises(ModelError, match="a key called 'me' already"):
        trust.new_key("me")
    assert secret.read_bytes() == before


def test_a_key_that_is_not_there_is_told_with_those_that_are(trust: Trust) -> None:
    with pytest.raises(ModelError, match=r"no private key called 'mine' here \(there: me\)"):
        trust.sign("tiny", "mine", nobody)


def test_the_line_of_a_key_is_the_key(trust: Trust) -> None:
    ((key, state),) = trust.known_keys()
    assert (parse_public_key(f"  {key.line}\n"), state) == (key, "trusted")
    assert len(key.id) == 32


@pytest.mark.parametrize(
    "line", ["", "ssh-ed25519 AAAA me", "vestal-ed25519 !!!! me", "vestal-ed25519 AAAA me", "vestal-ed25519"]
)
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ModelError, match="is not a public key"):
        parse_public_key(line)


def test_no_signature_is_right_by_being_odd(stranger: PublicKey) -> None:
    for signature in (b"", b"\0" * 64, b"\xff" * 64, b"x" * 63):
        assert not verifies(stranger, signature, b"data")
    assert not verifies(PublicKey(b"\xff" * 32, "odd"), b"\0" * 64, b"data")


def test_without_the_library_the_extra_is_named(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError("No module named 'cryptography'", name="cryptography")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match="'cryptography', which is not installed") as caught:
        trust.new_key("other")
    assert "vestal[daemon]" in (caught.value.hint or "")


# --- statements -------------------------------------------------------------------------------------------------


def statement(**changes: Any) -> Statement:
    facts: dict[str, Any] = {
        "name": "tiny",
        "digest": "sha256-" + "0" * 64,
        "size": 5,
        "version": 3,
        "key": "f" * 32,
        "signed_at": "2026-11-20T12:00:00Z",
    }
    return msgspec.convert(facts | changes, Statement)


def test_the_canonical_form_is_what_the_documentation_says() -> None:
    assert statement().canonical == (
        b"vestal-model-statement/1\nname: tiny\ndigest: sha256-" + b"0" * 64 + b"\nsize: 5\nversion: 3\n"
        b"key: " + b"f" * 32 + b"\nsigned_at: 2026-11-20T12:00:00Z\n"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "tiny\nversion: 9"},
        {"name": "../tiny"},
        {"digest": "sha256-" + "0" * 64 + "\n"},
        {"signed_at": "2026-11-20T12:00:00Z\n"},
        {"key": "F" * 32},
        {"version": 0},
        {"version": True},
        {"size": -1},
        {"more": 1},
    ],
)
def test_no_field_can_hold_the_beginning_of_another(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        statement(**changes)


def test_signing_leaves_nothing_half_written(trust: Trust, store: Store) -> None:
    trust.sign("tiny", "me", nobody)
    assert list(store.root.rglob(".incoming*")) == []
    assert [path.name for path in (store.root / "signatures").iterdir()] == ["tiny.json"]
