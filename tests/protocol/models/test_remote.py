"""Pulling from addresses: a real server on this machine, over TLS and without, and what servers do wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.protocol.models.conftest import build_gguf
from tests.protocol.models.web import Handler, Site, site
from tests.tls import certificate
from vestal.errors import ModelError
from vestal.models import Store, pull

DATA = build_gguf(tensors=60_000)  # several pieces long
SHA256 = hashlib.sha256(DATA).hexdigest()
DIGEST = f"sha256-{SHA256}"


def files_of(store: Store) -> set[str]:
    found = (path.relative_to(store.root) for path in store.root.rglob("*") if not path.is_dir())
    return {str(path) for path in found if path.parts[0] != "locks"}


@pytest.fixture
def web() -> Iterator[Site]:
    """Without TLS, which is legal here; ranges are known."""
    with site(lambda request: request.ranged(DATA)) as served:
        yield served


def test_a_file_is_fetched_over_tls_verified_and_stored(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = certificate(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    calls: list[tuple[str, int, int | None]] = []
    with site(lambda request: request.ranged(DATA), tls=both) as served:
        url = f"{served.url}/Some%20Model.gguf?token=secret#part"
        done = pull(url, store, lambda *call: calls.append(call), sha256=SHA256)
    assert (done.already, done.model.name, done.model.digest) == (False, "some-model", DIGEST)
    assert done.model.source == f"{served.url}/Some%20Model.gguf"  # and nothing that grants access
    assert done.model.path.read_bytes() == DATA
    assert served.asked == [("/Some%20Model.gguf?token=secret", None)]
    assert calls[0] == ("download", 0, len(DATA))
    assert ("download", len(DATA), len(DATA)) in calls
    assert calls[-1] == ("store", len(DATA), len(DATA))
    assert files_of(store) == {"manifests/some-model.json", f"blobs/{DIGEST}"}


def test_a_certificate_that_nobody_vouches_for_ends_it(store: Store, tmp_path: Path) -> None:
    with (
        site(lambda request: request.ranged(DATA), tls=certificate(tmp_path / "server.pem")) as served,
        pytest.raises(ModelError, match=r"cannot be fetched: .*self.signed certificate"),
    ):
        pull(f"{served.url}/x.gguf", store, sha256=SHA256)
    assert served.asked == []


def test_an_interrupted_download_goes_on_where_it_was(store: Store, web: Site) -> None:
    half = len(DATA) // 2
    web.answer = lambda request: request.ranged(DATA, most=half)
    with pytest.raises(ModelError, match=rf"was interrupted: .*; {half:,} of {len(DATA):,} bytes are here") as caught:
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    assert caught.value.hint == "the same command goes on from there"
    assert files_of(store) == {f"partial/{DIGEST}/file"}
    web.answer = lambda request: request.ranged(DATA)
    calls: list[tuple[str, int, int | None]] = []
    model = pull(f"{web.url}/x.gguf", store, lambda *call: calls.append(call), sha256=SHA256).model
    assert web.asked[-1] == ("/x.gguf", f"bytes={half}-")
    assert calls[0] == ("download", half, len(DATA))
    assert model.path.read_bytes() == DATA
    assert files_of(store) == {"manifests/x.json", f"blobs/{DIGEST}"}


def test_an_interrupt_of_the_user_keeps_what_came(store: Store, web: Site) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "download" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(f"{web.url}/x.gguf", store, interrupt, sha256=SHA256)
    kept = (store.root / "partial" / DIGEST / "file").stat().st_size
    assert 0 < kept < len(DATA)
    pull(f"{web.url}/elsewhere/y.gguf", store, sha256=SHA256)  # the content counts, not where it comes from
    assert web.asked[-1] == ("/elsewhere/y.gguf", f"bytes={kept}-")


def test_a_server_that_ignores_ranges_is_taken_from_the_start(store: Store, web: Site) -> None:
    web.answer = lambda request: request.ranged(DATA, most=1000)
    with pytest.raises(ModelError):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    web.answer = lambda request: request.whole(DATA)
    calls: list[tuple[str, int, int | None]] = []
    model = pull(f"{web.url}/x.gguf", store, lambda *call: calls.append(call), sha256=SHA256).model
    assert web.asked[-1][1] == "bytes=1000-"
    assert calls[0] == ("download", 0, len(DATA))
    assert model.path.read_bytes() == DATA


def test_a_download_that_was_whole_is_not_fetched_again(store: Store, web: Site) -> None:
    directory = store.root / "partial" / DIGEST
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(DATA)
    assert pull(f"{web.url}/x.gguf", store, sha256=SHA256).model.digest == DIGEST
    assert web.asked == []


def test_a_wrong_digest_is_refused_and_leaves_nothing(store: Store, web: Site) -> None:
    web.answer = lambda request: request.ranged(DATA[:-1] + b"!")
    other = hashlib.sha256(DATA[:-1] + b"!").hexdigest()
    with pytest.raises(ModelError, match=f"has the digest sha256-{other}, and {DIGEST} was asked for"):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    assert files_of(store) == set()


@pytest.mark.parametrize("kept", [b"of another file", DATA + b"and more"])
def test_what_was_kept_and_does_not_belong_to_it_is_removed_and_said(store: Store, web: Site, kept: bytes) -> None:
    directory = store.root / "partial" / DIGEST
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(kept)
    with pytest.raises(ModelError, match="has the digest") as caught:
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    assert f"the first {len(kept):,} bytes were of an earlier attempt" in str(caught.value.hint)
    assert files_of(store) == set()
    assert pull(f"{web.url}/x.gguf", store, sha256=SHA256).model.digest == DIGEST


def test_a_server_that_sends_another_part_than_asked_is_refused(store: Store, web: Site) -> None:
    def shifted(request: Handler) -> None:
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
        request.send_header("Content-Length", str(len(DATA)))
        request.end_headers()
        request.close_connection = True

    web.answer = lambda request: request.ranged(DATA, most=1000)
    with pytest.raises(ModelError):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    web.answer = shifted
    with pytest.raises(ModelError, match="was asked for what follows byte 1,000 and sends 'bytes 0-"):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)


@pytest.mark.parametrize(("code", "hint"), [(401, "credentials"), (403, "everybody"), (404, "address"), (503, "later")])
def test_a_refusal_says_its_number_and_what_to_do(store: Store, web: Site, code: int, hint: str) -> None:
    web.answer = lambda request: request.refuse(code)
    with pytest.raises(ModelError, match=f"answered {code} ") as caught:
        pull(f"{web.url}/x.gguf?token=secret", store, sha256=SHA256)
    assert hint in str(caught.value.hint)
    assert "secret" not in str(caught.value)


def test_nobody_there_is_said_in_the_systems_words(store: Store, web: Site) -> None:
    with site(lambda request: None) as gone:
        pass
    with pytest.raises(ModelError, match="cannot be fetched: Connection refused"):
        pull(f"{gone.url}/x.gguf", store, sha256=SHA256)


def test_redirects_are_followed_within_the_rules(store: Store, web: Site) -> None:
    web.answer = lambda request: request.ranged(DATA) if request.path == "/there" else request.moved("/there")
    model = pull(f"{web.url}/x.gguf", store, sha256=SHA256).model
    assert (model.name, model.source) == ("x", f"{web.url}/x.gguf")


@pytest.mark.parametrize("to", ["http://example.org/x", "ftp://127.0.0.1/x"])
def test_redirects_to_where_nothing_may_be_fetched_from_are_refused(store: Store, web: Site, to: str) -> None:
    web.answer = lambda request: request.moved(to)
    with pytest.raises(ModelError, match="redirects to where it may not"):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)


def test_a_redirect_from_https_to_http_is_refused(
    store: Store, web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = certificate(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    with (
        site(lambda request: request.moved(f"{web.url}/x.gguf"), tls=both) as served,
        pytest.raises(ModelError, match="from https to http"),
    ):
        pull(f"{served.url}/x.gguf", store, sha256=SHA256)
    assert web.asked == []


@pytest.mark.parametrize("to", ["/x.gguf", "file:///etc/passwd", "data:,x"])
def test_redirects_in_a_circle_or_off_the_web_end(store: Store, web: Site, to: str) -> None:
    web.answer = lambda request: request.moved(to)
    with pytest.raises(ModelError, match="answered 302"):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://example.org/x.gguf", "over http, where anybody can listen"),
        ("ftp://example.org/x.gguf", "models are not fetched from ftp://example.org"),
        ("file:///etc/passwd", "models are not fetched from file://"),
        ("https:///x.gguf", "models are not fetched from https://"),
        ("https://me:word@example.org/x.gguf", "the address of example.org holds a name or password"),
        ("https://example.org:port/x.gguf", "is not an address"),
        ("https://example.org/x y.gguf", "is not an address"),
        ("https://ex\u0430mple.org/x.gguf", "is not an address"),
    ],
)
def test_addresses_that_are_not_allowed_are_refused_before_anything_is_asked(
    store: Store, address: str, said: str
) -> None:
    with pytest.raises(ModelError) as caught:
        pull(address, store, sha256=SHA256)
    assert said in caught.value.message
    assert "word" not in caught.value.message.replace("password", "")
    assert not store.root.exists()


def test_an_address_needs_its_digest(store: Store, web: Site) -> None:
    with pytest.raises(ModelError, match="a file from the web needs its SHA-256"):
        pull(f"{web.url}/x.gguf", store)
    for sha256 in ("", "abc", "g" * 64, f"md5:{SHA256}"):
        with pytest.raises(ModelError, match="is no SHA-256"):
            pull(f"{web.url}/x.gguf", store, sha256=sha256)
    assert web.asked == []


@pytest.mark.parametrize("written", [SHA256.upper(), f"sha256:{SHA256}", f"sha256-{SHA256}", f" {SHA256}\n"])
def test_a_digest_may_be_written_as_people_write_it(store: Store, web: Site, written: str) -> None:
    assert pull(f"{web.url}/x.gguf", store, sha256=written).model.digest == DIGEST


def test_a_model_that_is_there_is_not_fetched_and_one_of_that_name_is_not_replaced(store: Store, web: Site) -> None:
    first = pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    again = pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    assert (first.already, again.already, len(web.asked)) == (False, True, 1)
    with pytest.raises(ModelError, match="the store has another 'x'"):
        pull(f"{web.url}/x.gguf", store, sha256="0" * 64)
    assert len(web.asked) == 1


def test_a_content_that_is_there_under_another_name_is_not_fetched(store: Store, web: Site) -> None:
    pull(f"{web.url}/x.gguf", store, sha256=SHA256)
    second = pull(f"{web.url}/x.gguf", store, name="y", sha256=SHA256)
    assert (second.already, second.model.name, len(web.asked)) == (True, "y", 1)
    assert files_of(store) == {"manifests/x.json", "manifests/y.json", f"blobs/{DIGEST}"}


def test_what_is_no_model_is_not_kept(store: Store, web: Site) -> None:
    page = b"<html>log in first</html>"
    web.answer = lambda request: request.ranged(page)
    with pytest.raises(ModelError, match="not a GGUF"):
        pull(f"{web.url}/x.gguf", store, sha256=hashlib.sha256(page).hexdigest())
    assert files_of(store) == set()


def test_an_address_cannot_hide_a_catalog_model(store: Store, web: Site) -> None:
    with pytest.raises(ModelError, match="name of a catalog model"):
        pull(f"{web.url}/smollm2-135m.gguf", store, sha256=SHA256)
    assert web.asked == []


def test_two_pulls_of_one_content_share_the_work(store: Store, web: Site) -> None:
    """The first one is held in the middle of its download; the second says that it waits, and fetches nothing."""
    begun, go_on = Event(), Event()

    def answer(request: Handler) -> None:
        begun.set()
        go_on.wait()
        request.ranged(DATA)

    web.answer = answer
    code = (
        "import sys, pathlib, vestal.models as m\n"
        "done = m.pull(sys.argv[2], m.Store(pathlib.Path(sys.argv[1])), lambda stage, *_: print(stage, flush=True),"
        " name=sys.argv[3], sha256=sys.argv[4])\n"
        "print('already', done.already)"
    )

    def start(name: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", code, str(store.root), f"{web.url}/x.gguf", name, SHA256]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    with start("one") as first:
        assert begun.wait(20)
        with start("two") as second:
            assert second.stdout is not None
            assert first.stdout is not None
            assert second.stdout.readline() == "wait\n"
            go_on.set()
            assert first.stdout.read().splitlines()[-1] == "already False"
            assert second.stdout.read().splitlines()[-1] == "already True"
    assert len(web.asked) == 1
    assert store.names() == ("one", "two")


def test_a_disk_without_room_is_said_before_anything_is_written(
    store: Store, web: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(2**60))
        request.end_headers()
        request.close_connection = True

    web.answer = endless
    with pytest.raises(ModelError, match=f"{2**61:,} bytes are needed on the disk"):
        pull(f"{web.url}/x.gguf", store, sha256=SHA256)


def test_a_local_file_is_held_against_a_digest_too(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(DATA)
    with pytest.raises(ModelError, match=f"has the digest {DIGEST}, and sha256-{'0' * 64} was asked for"):
        pull(str(path), store, sha256="0" * 64)
    assert files_of(store) == set()
    assert pull(str(path), store, sha256=SHA256).model.digest == DIGEST


def test_a_proxy_never_comes_between_this_machine_and_itself(
    store: Store, web: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # discard: nobody listens
    assert pull(f"{web.url}/x.gguf", store, sha256=SHA256).model.digest == DIGEST


def test_a_repository_without_its_prefix_is_told_how_it_is_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        pull("Owner/Model-GGUF", store)
    assert caught.value.hint == "the repository of a model hub is `vestal pull hub:Owner/Model-GGUF`"
    with pytest.raises(ModelError) as caught:
        pull("./x.gguf", store)
    assert caught.value.hint == "check the path"
