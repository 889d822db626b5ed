"""What docs/sandbox.md says is what the code does: its layers, its options, its figures, its picture of status."""

from __future__ import annotations

import re
import tomllib

import msgspec

from tests.docs.pages import ROOT, blocks_of
from vestal import messages as m
from vestal.cli.status import backend_lines
from vestal.cli.terminal import Style
from vestal_adapters.llamacpp.options import LlamaCppOptions
from vestal_adapters.llamacpp.prompting import rendering
from vestal_adapters.worker import host
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.restarts import RestartPolicy
from vestal_adapters.worker.sandbox import LAYERS, gpu
from vestal_adapters.worker.sandbox.limits import OPEN_FILES
from vestal_adapters.worker.sandbox.syscalls import MACHINES, rules

PAGE = ROOT / "docs" / "sandbox.md"
TEXT = PAGE.read_text(encoding="utf-8")


def block(language: str) -> str:
    return blocks_of(PAGE, language)[0].text


def test_the_table_names_every_layer_in_order() -> None:
    named = re.findall(r"^\| `(\w+)(?:/N)?` \|", TEXT, re.MULTILINE)
    assert named == list(LAYERS)


def test_what_a_gpu_opens_is_named() -> None:
    (section,) = re.findall(r"\n## GPUs\n(.*?)\n## ", TEXT, re.DOTALL)
    trees = "/sys/devices/system"
    paths = [str(path).removeprefix(f"{trees}/") for path in gpu.places() if "nvidia" not in path.name]
    for name in (*paths, trees, *map(str, gpu._CONTROL), *gpu.CALLS, *gpu.NOT_THERE, *map(hex, gpu.IOCTL_EQUAL)):
        assert f"`{name}`" in section, name


def test_the_status_shown_is_what_status_prints() -> None:
    shown = block("text")
    layers = re.search(r"sandbox: (.*)", shown)
    assert layers is not None
    status = m.BackendStatus(
        name="chat", adapter="llamacpp", model="smollm2-135m", state="ready", slots=4, pid=4243,
        detail="its worker answered in 0.2 ms", sandbox=layers[1].split(", "),
    )  # fmt: skip
    assert shown.splitlines() == backend_lines(status, None, Style(coloured=False, drawn=False), "utf-8")
    assert [layer.partition("/")[0] for layer in status.sandbox] == list(LAYERS)


def test_the_options_shown_are_options() -> None:
    (table,) = tomllib.loads(block("toml"))["backend"]
    options = msgspec.convert({k: v for k, v in table.items() if k not in ("name", "adapter")}, LlamaCppOptions)
    assert options.memory_limit == 4 * 2**30
    default = WorkerOptions()
    assert (default.sandbox, default.memory_limit, default.heartbeat) == ("required", None, options.heartbeat)


def test_the_figures_are_those_of_the_code() -> None:
    assert f"first word: {host.HANDSHAKE_PATIENCE:g} s" in TEXT
    assert f"more than {OPEN_FILES} open descriptors" in TEXT
    assert f"template: {rendering.RENDER_SECONDS:g} s of computing" in TEXT
    policy = RestartPolicy()
    assert [policy.died(0.0) for _ in range(2)] == [0.1, 0.2]
    assert (policy.LONGEST_PAUSE, policy.LIMIT + 1, policy.WINDOW) == (10, 6, 60)
    assert all(70 <= len(rules(machine)) <= 90 for machine in MACHINES)  # "about eighty"
