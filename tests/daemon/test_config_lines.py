"""Every key of a TOML text is found on its line, however it is written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestald.config.lines import Place, key_lines

TEXT = """\
# a comment with [brackets] and "quotes
top = 1
[daemon]   # the first
"quoted key" = "[not.a.header]"
a.b = 2

[sockets.infer]
allow_users = [   # spans
  "root", # = "x"
  ["]"],
]
text = \"\"\"
[sockets.embed]
deny = 1
\"\"\"
inline = { x = 1, y = { z = [ { w = 2 } ] } }
[[backend]]
name = 'first'
[backend.deep]
er = 1
[[backend]]
[[backend.list]]
one = 1
[[backend.list]]
two = 2
"""


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n"), TEXT.rstrip("\n")])
def test_the_lines_of_a_text_with_everything_in_it(text: str) -> None:
    lines = key_lines(text)
    assert lines[("top",)] == 2
    assert lines[("daemon",)] == 3
    assert lines[("daemon", "quoted key")] == 4
    assert lines[("daemon", "a", "b")] == 5
    assert lines[("sockets", "infer", "allow_users", 1, 0)] == 8
    assert lines[("sockets", "infer", "text")] == 12
    assert ("sockets", "embed") not in lines
    assert lines[("sockets", "infer", "inline", "y", "z", 0, "w")] == 16
    assert lines[("backend", 0)] == 17
    assert lines[("backend", 0, "name")] == 18
    assert lines[("backend", 0, "deep", "er")] == 20
    assert lines[("backend", 1)] == 21
    assert lines[("backend", 1, "list", 0, "one")] == 23
    assert lines[("backend", 1, "list", 1, "two")] == 25


def places(value: Any, base: Place = ()) -> Iterator[Place]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        if not (isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(inner[0], dict))):
            yield (*base, key)
        yield from places(inner, (*base, key))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "a = 1", "a = [\n\n1,\n\n]\nb = '''\n'''", TEXT])
def test_no_key_that_tomllib_reads_is_without_a_line(text: str) -> None:
    lines = key_lines(text)
    assert set(places(tomllib.loads(text))) <= set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="'\n\r", exclude_categories=["Cc", "Cs"]), min_size=1)
VALUES = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(['"""\n[x]\n y = 1\n"""', "'''\n'''", '"# no comment"', "[\n 1, # one\n [2],\n]", "{ q = [1] }"]),
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), max_size=4), st.booleans())
def test_the_line_of_a_key_is_where_it_was_written(tables: dict[str, dict[str, str]], array: bool) -> None:
    text, expected = "", {}
    for table, entries in tables.items():
        text += f"# {table}\n\n[['{table}']]\n" if array else f"['{table}'] # table\n"
        for key, value in entries.items():
            expected[(table, 0, key) if array else (table, key)] = text.count("\n") + 1
            text += f"'{key}' = {value} # end\n"
    lines = key_lines(text)
    assert {place: lines[place] for place in expected} == expected
