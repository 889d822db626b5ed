"""docs/reference/messages.md is what the structs, the error classes and the commands say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from vectors import reference
from vestal import messages as m
from vestal.errors import ERROR_CLASSES
from vestald import failures

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "messages.md"


def test_the_page_is_what_the_structs_say() -> None:
    assert PAGE.read_text() == reference.reference(), "run `make reference`"


def test_every_message_of_the_wire_has_a_section_with_all_its_fields_explained() -> None:
    page = PAGE.read_text()
    sections = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    for cls in m.AnyMessage.__args__:
        rows = re.findall(r"^\| `(\w+)` \|.*\| (\S.*) \|$", sections[reference._title(cls)], re.MULTILINE)
        assert {name for name, _ in rows} == {"type", *cls.__struct_encode_fields__}, cls


def test_every_error_code_is_there() -> None:
    assert re.findall(r"^\| `(\w+)` \|.*`vestal\.\w+` \|$", PAGE.read_text(), re.MULTILINE) == list(ERROR_CLASSES)


def test_the_exit_codes_are_those_that_the_daemon_tells_and_has() -> None:
    help = subprocess.run([sys.executable, "-m", "vestald", "--help"], capture_output=True, text=True, check=True)
    told = set(re.findall(r"(?:codes:|;)\s+(\d+) ", help.stdout))
    table = PAGE.read_text().partition("`vestald`:")[2].partition("`vestal`:")[0]
    classes = (vars(failures)[name] for name in failures.__all__ if name != "EX_INTERNAL")
    assert set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE)) == told
    assert told == {"0"} | {str(cls.exit_code) for cls in classes}
