"""`vestal pull`, `models`, `rm`: the model store from the command line. No daemon is needed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from tests.e2e.harness import echo
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import PATIENCE, Vestal
from tests.protocol.models.conftest import build_gguf
from tests.protocol.models.web import Handler, site
from vestal.cli.pull import PullProgress
from vestal.cli.terminal import Screen
from vestal.models.store import Store


@pytest.fixture
def gguf(vestal: Vestal) -> Path:
    path = vestal.home / "Tiny-Chat.gguf"
    path.write_bytes(build_gguf())
    return path


def test_an_empty_store_says_how_to_fetch(vestal: Vestal) -> None:
    done = vestal("models")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"vestal: no models in {vestal.home}/store: `vestal pull smollm2-135m` fetches one\n"
    assert vestal("models", "--json").out == "[]\n"


def test_a_file_is_pulled_listed_and_removed(vestal: Vestal, gguf: Path) -> None:
    pulled = vestal("pull", str(gguf))
    assert pulled.code == 0
    assert pulled.out.startswith("tiny-chat: there now (chat, ")
    assert pulled.err == f"{gguf}: verifying\n{gguf}: storing, {gguf.stat().st_size} B\n"
    assert vestal("pull", str(gguf)).out.startswith("tiny-chat: already there (chat, ")

    head, row = vestal("models", env={"COLUMNS": "100"}).out.splitlines()
    assert head.split() == [
        "NAME", "KIND", "SIZE", "FAMILY", "CONTEXT", "QUANT", "DIGEST", "SIGNED", "USED", "BY",
    ]  # fmt: skip
    (entry,) = json.loads(vestal("models", "--json").out)
    digest = entry["digest"].removeprefix("sha256-")
    size = str(gguf.stat().st_size)
    assert row.split() == ["tiny-chat", "chat", size, "B", "llama", "128", "F16", digest[:12], "no", "-"]
    assert Path(entry["path"]).read_bytes() == gguf.read_bytes()

    assert vestal("rm", "tiny-chat") == (0, f"tiny-chat: removed, {gguf.stat().st_size} B freed\n", "")
    gone = vestal("rm", "tiny-chat")
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)


def test_a_file_may_be_named(vestal: Vestal, gguf: Path) -> None:
    assert vestal("pull", str(gguf), "--name", "mine").out.startswith("mine: there now")
    assert vestal("pull", str(gguf), "--name", "other").code == 0
    assert vestal("rm", "mine").out == "mine: removed, its file stays: another name has it\n"


def test_without_an_argument_the_catalog_is_listed(vestal: Vestal) -> None:
    done = vestal("pull", env={"COLUMNS": "60"})
    assert (done.code, done.err) == (0, "")
    rows = [line.split()[:4] for line in done.out.splitlines()]
    assert rows == [
        ["NAME", "KIND", "FETCH", "HERE"],
        ["smollm2-135m", "chat", "93", "MB"],
        ["minilm-l6-v2", "embed", "84", "MB"],
    ]
    assert max(map(len, done.out.splitlines())) <= 60


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("smolm2-135m", "did you mean `vestal pull smollm2-135m`?"),
        ("./nothing.gguf", "nothing.gguf"),
        ("/dev/null", "/dev/null"),
        ("\x1b[31m", "\\x1b[31m"),
    ],
)
def test_what_cannot_be_pulled_is_said_in_one_line(vestal: Vestal, word: str, said: str) -> None:
    done = vestal("pull", word)
    assert (done.code, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("vestal: ")
    assert said in last
    assert "\x1b" not in done.err


def test_a_damaged_model_is_told_beside_the_sound_ones(vestal: Vestal, gguf: Path) -> None:
    vestal("pull", str(gguf))
    (vestal.home / "store" / "manifests" / "broken.json").write_text("{")
    done = vestal("models")
    assert done.code == 1
    assert done.out.splitlines()[1].startswith("tiny-chat")
    assert done.err.startswith("vestal: the manifest ")
    assert "vestal rm broken" in done.err
    assert vestal("rm", "broken").code == 0
    assert vestal("models").code == 0


def test_what_a_file_says_of_itself_cannot_move_the_cursor(vestal: Vestal) -> None:
    path = vestal.home / "evil.gguf"
    path.write_bytes(build_gguf({"general.architecture": "lla\x1b[2Jma", "lla\x1b[2Jma.context_length": 64}))
    outcomes = [vestal("pull", str(path)), vestal("models"), vestal("models", "--json")]
    assert all("\x1b" not in done.out + done.err for done in outcomes)


def test_a_pull_on_a_terminal_draws_a_bar_for_each_stage(vestal: Vestal, gguf: Path) -> None:
    with vestal.terminal("pull", str(gguf), columns=60) as terminal:
        assert terminal.finish() == 0
        *stages, outcome = terminal.lines
        assert any("storing" in line and "████ 100 %" in line for line in stages)
        assert outcome.startswith("tiny-chat: there now")
        assert max(map(len, stages)) < 60


def test_ctrl_c_ends_a_download_and_leaves_nothing_behind(vestal: Vestal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:  # takes pip's connection and never answers
        index.settimeout(PATIENCE)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        settings = {"PIP_INDEX_URL": address, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "")
        with vestal.terminal("pull", "smollm2-135m", env={**settings, **proxies}) as terminal:
            terminal.expect("downloading")
            peer, _ = index.accept()
            with peer:
                terminal.press("\x03")
                assert terminal.finish() == 130
            assert "Traceback" not in terminal.raw
    store = vestal.home / "store"
    assert [path for path in store.rglob("*") if path.is_file() and path.parts[-2] != "locks"] == []


def test_interrupting_a_pull_in_a_pipe_is_quiet(vestal: Vestal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(PATIENCE)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        settings = {"PIP_INDEX_URL": address, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "http_proxy": ""}
        command = [sys.executable, "-c", _HEEDING, "pull", "smollm2-135m"]
        run = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=vestal.environment(**settings)
        )
        with run, index.accept()[0]:
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out, err) == (130, b"", b"smollm2-135m: downloading, 93 MB\n")


_HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from vestal.cli.main import main; sys.exit(main())"
)


def test_progress_in_a_pipe_is_one_line_a_stage() -> None:
    written = io.StringIO()
    progress = PullProgress(Screen(written), "some-model")
    for stage, done, total in (
        ("wait", 0, None), ("download", 0, 90_000_000), ("download", 45_000_000, 90_000_000), ("verify", 0, None),
        ("verify", 5, 10), ("convert", 0, 101), ("convert", 101, 101), ("store", 0, 98_000_000),
    ):  # fmt: skip
        progress(stage, done, total)  # type: ignore[arg-type]  # a literal that went through a tuple
    progress.close()
    assert written.getvalue().splitlines() == [
        "some-model: waiting for another pull of it",
        "some-model: downloading, 90 MB",
        "some-model: verifying",
        "some-model: converting",
        "some-model: storing, 98 MB",
    ]


def test_show_tells_all_of_one_model_and_the_list_who_signed_it(vestal: Vestal, gguf: Path) -> None:
    vestal("pull", str(gguf))
    vestal("keys", "new", "me")
    vestal("models", "sign", "tiny-chat", "--key", "me")
    facts = dict(line.split(None, 1) for line in vestal("show", "tiny-chat").out.splitlines())
    assert (facts["name"], facts["context"], facts["signature"]) == ("tiny-chat", "128 tokens", "by me")
    assert facts["digest"] == f"sha256-{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    assert facts["source"] == f"file:{gguf}"
    assert "by me" in vestal("models", env={"COLUMNS": "100"}).out
    vestal("keys", "revoke", "me")
    assert "INVALID" in vestal("models", env={"COLUMNS": "100"}).out
    assert "does not count: model 'tiny-chat': the key" in vestal("show", "tiny-chat").out
    assert json.loads(vestal("show", str(gguf), "--json").out)["signature"] == "not in the store"


def test_a_model_that_is_served_is_removed_only_by_force(vestal: Vestal, begin: Begin, gguf: Path) -> None:
    vestal("pull", str(gguf), "--name", "echo")  # as the model of the echo adapter calls itself
    begin(echo("first"), echo("second"))
    assert "first, second" in vestal("models", env={"COLUMNS": "100"}).out
    assert json.loads(vestal("show", "echo", "--json").out)["used_by"] == ["first", "second"]
    kept = vestal("rm", "echo")
    assert (kept.code, kept.out) == (1, "")
    assert "model 'echo' is in use by backend first, second of the running daemon" in kept.err
    assert vestal("rm", "echo", "--force").code == 0


def test_gc_removes_what_is_of_no_use_and_nothing_else(vestal: Vestal, gguf: Path) -> None:
    assert vestal("gc") == (0, "0 B freed\n", "")
    vestal("pull", str(gguf))
    store = vestal.home / "store"
    left = store / "partial" / f"sha256-{'0' * 64}" / "file"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(5000))
    (store / "tmp" / "killed").mkdir(parents=True)
    (store / "tmp" / "killed" / "a.whl").write_bytes(bytes(3000))
    (store / "blobs" / f"sha256-{'1' * 64}").write_bytes(bytes(2000))
    (store / "blobs" / ".incoming-dead").write_bytes(bytes(1000))
    said = "unfinished downloads: 5.0 kB\nleft by pulls that were killed: 3.0 kB\nfiles without a name: 3.0 kB\n"
    assert vestal("gc", "--dry-run") == (0, f"{said}11 kB can be freed\n", "")
    assert left.exists()
    with Store(store).receiving(f"sha256-{'0' * 64}"):
        assert vestal("gc").out.endswith("\n6.0 kB freed\n")  # what somebody is at work on stays
        assert left.exists()
    left.parent.mkdir()
    left.write_bytes(bytes(5000))
    assert vestal("gc").out.endswith("\n5.0 kB freed\n")
    assert {path.name for path in store.rglob("*") if path.is_file() and path.parts[-2] != "locks"} == {
        "tiny-chat.json",
        f"sha256-{hashlib.sha256(gguf.read_bytes()).hexdigest()}",
    }


def test_pulling_from_an_address_shows_no_more_of_it_than_the_files_name(vestal: Vestal, gguf: Path) -> None:
    data = gguf.read_bytes()
    with site(lambda request: request.ranged(data)) as served:
        address = f"{served.url}/Far.gguf?token=secret"
        refused = vestal("pull", address)
        done = vestal("pull", address, "--sha256", hashlib.sha256(data).hexdigest())
    assert refused.code == 1
    assert "needs its SHA-256" in refused.err
    assert (done.code, done.out.partition(":")[0]) == (0, "far")
    assert done.err == f"Far.gguf: downloading, {len(data)} B\nFar.gguf: storing, {len(data)} B\n"
    assert "secret" not in refused.err + vestal("models", "--json").out


def test_ctrl_c_keeps_what_was_downloaded_and_the_same_command_goes_on(vestal: Vestal, gguf: Path) -> None:
    data = build_gguf(tensors=60_000)
    half, sent, go_on = 3_000_000, Event(), Event()

    def stalls(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:half])
        request.wfile.flush()
        sent.set()
        go_on.wait(PATIENCE)

    digest = hashlib.sha256(data).hexdigest()
    partial = vestal.home / "store" / "partial" / f"sha256-{digest}" / "file"
    with site(stalls) as served:
        words = ("pull", f"{served.url}/far.gguf", "--sha256", digest)
        with vestal.terminal(*words, columns=70) as terminal:
            terminal.expect("downloading")
            assert sent.wait(PATIENCE)
            ends = monotonic() + PATIENCE
            while not (partial.stat().st_size > half - 100_000 and _waits(terminal.process.pid)):
                assert monotonic() < ends
            terminal.press("\x03")
            assert terminal.finish() == 130
            assert "Traceback" not in terminal.raw
        go_on.set()
        kept = partial.stat().st_size
        served.answer = lambda request: request.ranged(data)
        with vestal.terminal(*words, columns=70) as terminal:
            assert terminal.finish() == 0
            assert any("100 %" in line for line in terminal.lines)
        assert served.asked[-1] == ("/far.gguf", f"bytes={kept}-")
    assert kept == half  # to the last byte that came
    assert vestal("gc", "--dry-run").out == "0 B can be freed\n"


def _waits(pid: int) -> bool:
    """Whether a process sleeps: one that reads has then taken all that came."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_a_digest_is_for_one_file(vestal: Vestal) -> None:
    done = vestal("pull", "a.gguf", "b.gguf", "--sha256", "0" * 64)
    assert (done.code, done.err) == (2, "vestal: --sha256 is for one file: vestal pull ADDRESS --sha256 HEX\n")
    done = vestal("pull", "smollm2-135m", "--sha256", "0" * 64)
    assert (done.code, "whose digests are known" in done.err) == (1, True)
