"""`vestal keys`, `models sign`, `models verify`, `models plan`: no daemon is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.protocol.cli.harness import Vestal
from tests.protocol.models.conftest import build_gguf
from vestal.cli.main import BRANCHES


@pytest.fixture
def gguf(vestal: Vestal) -> Path:
    """The file of a model that is stored as `tiny`."""
    path = vestal.home / "tiny.gguf"
    path.write_bytes(build_gguf())
    assert vestal("pull", str(path)).code == 0
    return path


@pytest.fixture
def key(vestal: Vestal) -> str:
    """The id of a key called `me`."""
    made = vestal("keys", "new", "me")
    assert (made.code, made.err) == (0, "")
    return made.out.partition("(")[2].partition(")")[0]


@pytest.mark.parametrize("name", [f"{one} {two}" for one, branches in BRANCHES.items() for two in branches])
def test_each_command_of_two_words_has_help_that_fits_sixty_columns(vestal: Vestal, name: str) -> None:
    done = vestal(*name.split(), "--help", env={"COLUMNS": "60"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: vestal {name}")
    assert max(map(len, done.out.partition("options:")[2].splitlines())) <= 80


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("models sgin tiny", "there is no command 'models sgin': did you mean sign?"),
        ("keys mew", "there is no command 'keys mew': did you mean new?"),
        ("keys new", "NAME is missing"),
        ("keys revoke", "KEY is missing"),
        ("models sign", "NAME is missing"),
        ("models sign tiny", "--key KEY is missing"),
        ("models sign tiny --key me --version 0", "--version: expected a whole number from 1 on, got '0'"),
        ("models plan", "NAME|PATH is missing"),
        ("models plan tiny --slots 0", "--slots: expected a whole number from 1 to 256, got '0'"),
        ("models plan tiny --context many", "--context: expected a whole number"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(vestal: Vestal, line: str, said: str) -> None:
    done = vestal(*line.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


def test_without_keys_the_way_to_one_is_told(vestal: Vestal) -> None:
    done = vestal("keys")
    assert (done.code, done.out) == (0, "")
    assert "vestal keys new NAME" in done.err


def test_a_model_is_signed_and_verified(vestal: Vestal, gguf: Path, key: str) -> None:
    assert vestal("models", "verify") == (0, "tiny: sound, not signed\n", "")
    unsigned = vestal("models", "verify", "--signed")
    assert (unsigned.code, unsigned.out) == (1, "")
    assert "model 'tiny' is not signed" in unsigned.err
    signed = vestal("models", "sign", "tiny", "--key", "me")
    assert signed.out.startswith("tiny: signed as version 1 by me (sha256 ")
    done = vestal("models", "verify", "tiny", "--signed")
    assert done.out.startswith("tiny: sound, version 1 signed by me on 20")
    assert (done.code, done.err) == (0, "")


def test_the_private_half_is_never_shown(vestal: Vestal) -> None:
    outcomes = [vestal("keys", "new", "me"), vestal("keys"), vestal("keys", "list", "--json")]
    secret = (vestal.home / "store" / "keys" / "private" / "me.pem").read_text().splitlines()[1]
    assert all(secret not in done.out + done.err for done in outcomes)


def test_a_key_of_somebody_elses_is_trusted_by_its_file_or_its_line_and_revoked(vestal: Vestal) -> None:
    theirs = {"VESTAL_HOME": str(vestal.home / "theirs")}
    line = vestal("keys", "new", "them", env=theirs).out.splitlines()[0]
    id = json.loads(vestal("keys", "--json", env=theirs).out)[0]["id"]
    for word in (str(vestal.home / "theirs" / "keys" / "them.pub"), line):
        assert vestal("keys", "trust", word).out == f"key them ({id}) is trusted here\n"
    assert json.loads(vestal("keys", "list", "--json").out) == [{"id": id, "state": "trusted", "name": "them"}]
    assert vestal("keys", "revoke", id[:8]).out.startswith(f"key {id} is revoked here")
    again = vestal("keys", "trust", line)
    assert again.code == 1
    assert "--despite-revocation" in again.err
    assert vestal("keys").out.splitlines()[1].split() == [id, "revoked", "-"]
    assert vestal("keys", "trust", line, "--despite-revocation").code == 0


def test_a_revoked_keys_models_are_told_by_verify(vestal: Vestal, gguf: Path, key: str) -> None:
    vestal("models", "sign", "tiny", "--key", "me")
    vestal("keys", "revoke", "me")
    done = vestal("models", "verify")
    assert (done.code, done.out) == (1, "")
    assert f"the key {key} was revoked here" in done.err


def test_a_damaged_model_does_not_hide_the_others(vestal: Vestal, gguf: Path) -> None:
    other = vestal.home / "zebra.gguf"
    other.write_bytes(build_gguf(salt=b"other"))
    vestal("pull", str(other))
    blob = Path(json.loads(vestal("models", "--json").out)[0]["path"])
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"Tiny", b"Tony"))
    done = vestal("models", "verify")
    assert (done.code, done.out) == (1, "zebra: sound, not signed\n")
    assert "model 'tiny' is damaged" in done.err


def test_a_passphrase_comes_from_a_file_or_a_terminal(vestal: Vestal, gguf: Path) -> None:
    (vestal.home / "pass").write_text("open sesame\n")
    words = ("--passphrase-file", str(vestal.home / "pass"))
    assert vestal("keys", "new", "locked", *words).code == 0
    assert vestal("models", "sign", "tiny", "--key", "locked", *words).code == 0
    piped = vestal("models", "sign", "tiny", "--key", "locked")
    assert piped.code == 2
    assert "--passphrase-file" in piped.err
    with vestal.terminal("models", "sign", "tiny", "--key", "locked") as terminal:
        terminal.expect("passphrase of the key locked: ")
        terminal.press("open sesame\n")
        assert terminal.finish() == 0
        assert "sesame" not in terminal.raw
    (vestal.home / "pass").write_text("wrong\n")
    wrong = vestal("models", "sign", "tiny", "--key", "locked", *words)
    assert wrong.code == 1
    assert "is the passphrase right?" in wrong.err


def test_a_plan_is_a_sum_with_a_verdict(vestal: Vestal, gguf: Path) -> None:
    done = vestal("models", "plan", "tiny")
    *summands, needed, available, verdict = done.out.splitlines()
    assert (done.code, done.err, verdict) == (0, "", "tiny: fits")
    assert [line.split("  ")[0] for line in summands] == ["weights", "kv cache", "compute", "process", "margin"]
    assert (needed.split()[0], available.split()[0]) == ("needed", "available")
    assert vestal("models", "plan", str(gguf)).out.splitlines()[:-2] == done.out.splitlines()[:-2]


def test_a_plan_for_a_program_adds_up(vestal: Vestal, gguf: Path) -> None:
    plan = json.loads(vestal("models", "plan", "tiny", "--slots", "2", "--context", "64", "--json").out)
    assert (plan["settings"]["slots"], plan["settings"]["context_length"]) == (2, 64)
    assert sum(line["size"] for line in plan["lines"]) == plan["needed"]
    assert plan["fits"] is True


def test_what_does_not_fit_is_told_with_what_would(vestal: Vestal) -> None:
    path = vestal.home / "wide.gguf"
    shape = {"llama.block_count": 4096, "llama.attention.head_count": 4096, "llama.attention.key_length": 4096}
    sizes = {"llama.context_length": 2**24, "llama.embedding_length": 16}
    path.write_bytes(build_gguf({"general.architecture": "llama", **shape, **sizes}))
    done = vestal("models", "plan", str(path), "--slots", "256", "--context", str(2**24))
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("wide: does not fit; no setting fits: ")


def test_a_context_beyond_the_models_own_is_a_mistake(vestal: Vestal, gguf: Path) -> None:
    done = vestal("models", "plan", "tiny", "--context", "129")
    assert done.code == 2
    assert "made for 128 tokens" in done.err
