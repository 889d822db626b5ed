"""`vestald config`: what it prints, what it ends with, and that `vestal config` is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vestald.config import Config, Sources
from vestald.config import explain as explaining
from vestald.config.json_schema import schema
from vestald.config.reference import reference
from vestald.config.table import options_of

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]

FILE = """\
[admission]
queue_depth = 7
[[backend]]
name = "chat"
adapter = "echo"
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("explain", …)`: the command, where `v.toml` lies."""
    (tmp_path / "v.toml").write_text(FILE)

    def execute(*words: str, program: str = "vestald", **environ: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VESTAL", "XDG"))}
        command = [sys.executable, "-m", {"vestal": "vestal.cli"}.get(program, program), "config", *words]
        places = {"HOME": str(tmp_path), "VESTAL_CONFIG": str(tmp_path / "v.toml")}
        return subprocess.run(
            command, cwd=tmp_path, env={**kept, **places, **environ}, capture_output=True, text=True, timeout=30
        )

    return execute


@pytest.mark.parametrize("words", [("explain",), ("explain", "daemon"), ("check",), ("schema",), ("--help",)])
def test_output_that_cannot_be_written_is_said_in_a_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "vestald", "config", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (
        74,
        "vestald: the output could not be written: No space left on device\n",
    )


# --- explain --------------------------------------------------------------------------------------------------


def rows(text: str) -> dict[str, tuple[str, str]]:
    found = [line.split(maxsplit=1) for line in text.splitlines()]
    return {key: (rest.rsplit(maxsplit=1)[0].strip(), rest.rsplit(maxsplit=1)[1]) for key, rest in found}


@pytest.mark.parametrize("program", ["vestald", "vestal"])
def test_each_option_is_explained_with_its_source(run: Run, tmp_path: Path, program: str) -> None:
    done = run(
        "explain",
        "--admission-per-caller=9",
        program=program,
        VESTAL_DAEMON_DRAIN_DEADLINE="3s",
        VESTAL_BACKEND_CHAT_SLOTS="2",
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = rows(done.stdout)
    assert told["admission.queue_depth"] == ("7", f"{tmp_path}/v.toml:2")
    assert told["admission.per_caller"] == ("9", "--admission-per-caller")
    assert told["daemon.drain_deadline"] == ('"3s"', "VESTAL_DAEMON_DRAIN_DEADLINE")
    assert told["backend.chat.slots"] == ("2", "VESTAL_BACKEND_CHAT_SLOTS")
    assert told["audit.files"] == ("3", "default")
    assert {option.key for option in options_of(Config)} <= told.keys()


def test_the_runtime_directory_before_the_command_is_that_of_the_daemon(run: Run) -> None:
    words = ("--runtime-dir", "/run/x", "config", "explain", "daemon.runtime_dir")
    done = subprocess.run([sys.executable, "-m", "vestal.cli", *words], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith('daemon.runtime_dir = "/run/x"\n  from      --runtime-dir\n')


def test_one_option_is_explained_whole(run: Run, tmp_path: Path) -> None:
    done = run("explain", "admission.queue_depth")
    assert done.stdout.splitlines() == [
        "admission.queue_depth = 7",
        f"  from      {tmp_path}/v.toml:2",
        "  what      requests waiting in all",
        "  legal     1 to 1,000,000",
        "  default   64",
        "  example   queue_depth = 128",
        "  flag      --admission-queue-depth",
        "  variable  VESTAL_ADMISSION_QUEUE_DEPTH",
        "  change    `vestal reload` applies it",
    ]
    assert "takes a restart" in run("explain", "backend.chat.slots").stdout
    assert run("explain", "sockets.infer").stdout.count("  flag ") == 4


def test_programs_get_json(run: Run) -> None:
    told = json.loads(run("explain", "--json").stdout)
    assert told["sockets.mode"] == {"value": 432, "source": "default", "kind": "default", "secret": False}
    assert told["daemon.drain_deadline"]["value"] == 10.0
    assert told["admission.queue_depth"]["kind"] == "file"


def test_a_secret_is_masked_wherever_it_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib.metadata import EntryPoint

    from vestald import adapters

    points = [EntryPoint("keyed", "tests.daemon.test_config_sources:Keyed", adapters.ADAPTER_GROUP)]
    monkeypatch.setattr(adapters, "entry_points", lambda *, group: points)
    file = tmp_path / "s.toml"
    file.write_text('[[backend]]\nname = "a"\nadapter = "keyed"\nkey = 31337\n')
    found = explaining.settings(Sources(file, environ={}).read())
    (setting,) = [one for one in found if one.option.key == "backend.a.key"]
    texts = [*explaining.overview(found, 200), *explaining.details(setting), json.dumps(explaining.as_json(found))]
    assert not [text for text in texts if "31337" in text]
    assert setting.text == explaining.MASK
    assert explaining.as_json([setting])["backend.a.key"]["secret"]


def test_a_terminals_width_is_kept(run: Run) -> None:
    found = explaining.settings(Sources(environ={}).read())
    assert max(map(len, explaining.overview(found, 60))) <= 60


# --- check ----------------------------------------------------------------------------------------------------


def test_a_sound_file_is_sound(run: Run, tmp_path: Path) -> None:
    done = run("check", str(tmp_path / "v.toml"), VESTAL_ADMISSION_NONSENSE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/v.toml: no fault\n", "")


def test_every_fault_has_a_line_and_the_code_is_78(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        '[daemon]\nlog_level = "loud"\n[sockets]\ngroup = "no-such-group"\n'
        '[admission]\nqueue_dept = 1\n[admission.quotas]\n"no-such-user" = 1\n'
        '[[backend]]\nname = "x"\nadapter = "echo"\nslots = 0\n'
    )
    done = run("check", str(file))
    assert done.returncode == 78
    assert [line.partition(": ")[0].rpartition("/")[2] for line in done.stdout.splitlines()] == [
        "bad.toml:2", "bad.toml:6", "bad.toml:12", "bad.toml:4", "bad.toml:7", "bad.toml",
    ]  # fmt: skip
    assert "there is no user 'no-such-user'" in done.stdout
    assert done.stdout.endswith("bad.toml: 5 faults\n")


def test_without_a_file_it_checks_what_the_daemon_would_run_with(run: Run) -> None:
    done = run("check", VESTAL_ADMISSION_NONSENSE="1")
    assert done.returncode == 78
    assert "VESTAL_ADMISSION_NONSENSE: no option has this variable" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("check", "/nowhere.toml"), 78, "cannot read /nowhere.toml"),
        (("check", "a", "b"), 2, "one FILE at most"),
        (("explane",), 2, "did you mean explain?"),
        (("explain", "admission.queue_dept"), 2, "did you mean admission.queue_depth?"),
        (("explain", "--admision-per-caller", "1"), 2, "did you mean --admission-per-caller?"),
        (("schema", "x"), 2, "no place for 'x'"),
        ((), 2, ""),
    ],
)
def test_what_cannot_be_meant_is_said(run: Run, words: tuple[str, ...], code: int, says: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# --- schema, reference ----------------------------------------------------------------------------------------


def toml_blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in text.split("```toml\n")[1:]]


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


EXAMPLES = [
    (name, block)
    for name in ("README.md", "docs/admission.md", "docs/models.md", "docs/sandbox.md")
    for block in toml_blocks(name)
]

DESIGN = """\
[daemon]
runtime_dir = "/run/user/1000/vestal"
drain_deadline = "10s"
ready_timeout  = "5m"
[sockets]
mode  = "0660"
group = "vestal"
[admission]
queue_depth = 64
per_caller  = 16
write_timeout = "30s"
[[backend]]
name = "chat"
adapter = "llamacpp"
model = "smollm2-135m"
slots = 4
context_length = 2048
[[backend]]
name = "vectors"
adapter = "llamacpp"
model = "minilm-l6-v2"
[[backend]]
name = "echo"
adapter = "echo"
slots = 1
ready_delay = "0s"
token_delay = "0s"
v2 = true
embed = false
fault = ""
"""


@pytest.mark.parametrize(("name", "text"), [*EXAMPLES, ("the design", DESIGN)])
def test_every_example_satisfies_the_schema(validator: Any, name: str, text: str) -> None:
    assert not [error.message for error in validator.iter_errors(tomllib.loads(text))], name


@pytest.mark.parametrize(
    "text",
    [
        "[admission]\nqueue_depth = 0\n",
        "[admission]\nqueue_dept = 1\n",
        "[daemon]\ndrain_deadline = '10'\n",
        "[sockets]\nmode = 432\n",
        "[nonsense]\n",
        "[[backend]]\nname = 'a'\nadapter = 'echo'\nmodel = 'x'\n",
        "[[backend]]\nname = 'a'\nadapter = 'llamacpp'\n",
        "[[backend]]\nname = 'a'\nadapter = 'echo'\ntoken_delay = '10'\n",
        "[[backend]]\nname = 'a b'\nadapter = 'echo'\n",
        "[[backend]]\nname = 'a'\nadapter = 'ecko'\n",
    ],
)
def test_the_schema_refuses_what_the_daemon_refuses(validator: Any, tmp_path: Path, text: str) -> None:
    assert list(validator.iter_errors(tomllib.loads(text)))
    (tmp_path / "x.toml").write_text(text)
    command = [sys.executable, "-m", "vestald", "config", "check", str(tmp_path / "x.toml")]
    assert subprocess.run(command, capture_output=True, timeout=30).returncode == 78


def test_the_command_prints_the_schema(run: Run) -> None:
    assert json.loads(run("schema").stdout) == schema()


def test_the_reference_is_what_the_declarations_give() -> None:
    assert (ROOT / "docs/reference/options.md").read_text(encoding="utf-8") == reference(), "run `make reference`"
    assert all(f"`{option.flag}`, `{option.variable}`" in reference() for option in options_of(Config))
