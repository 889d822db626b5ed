"""SPEC.md and the code say the same: every table is compared, and every example is run.

Conventions of the text. `<!-- fields: Name -->` stands above the field table of struct `Name`; with `+ Base`, the
fields it has from `Base` are in that one's table. `<!-- table: name -->` stands above any other table. `<!-- frame:
socket version sender -->` stands above a ```json block that is followed by a ```hex block of the same frame; the
version is `-` during the handshake, and `#` begins a remark in hex.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from vectors.generate import HERE
from vectors.tables import field_rows, tables
from vestal import counting, explain, framing, paths, values
from vestal import messages as m
from vestal.codec import Codec, encode
from vestal.errors import ERROR_CLASSES
from vestal.framing import PREFIX, frame
from vestal.negotiation import FEATURES
from vestal.state import CONNECTION, OPENING, REQUEST
from vestal.values import FLAGS

TEXT = (Path(HERE).parent / "SPEC.md").read_text()
FIELDS, TABLES = tables(TEXT, "fields"), tables(TEXT, "table")


def ticked(cell: str) -> list[str]:
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]*)`", cell)


# --- field tables -------------------------------------------------------------------------------


def sorted_choices(cell: str) -> str:
    """A list of choices in a fixed order: its order in the text is for the reader."""
    return re.sub(r"(?<=one of )`[^`]*`(?:, `[^`]*`)*", lambda found: ", ".join(sorted(found[0].split(", "))), cell)


def tag_of(cls: Any) -> str:
    return str(cls.__struct_config__.tag)


def struct_named(name: str) -> type[msgspec.Struct]:
    cls = getattr(m, name, None) or getattr(values, name)
    assert issubclass(cls, msgspec.Struct)
    found: type[msgspec.Struct] = cls
    return found


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_table_is_the_struct(key: str) -> None:
    name, _, base = key.partition(" + ")
    expected = field_rows(struct_named(name), struct_named(base) if base else None)
    written = [[row[0], row[1], row[2], sorted_choices(row[3])] for row in FIELDS[key]]
    assert sorted(written) == sorted(expected)
    assert all(len(row) == 5 and row[4] for row in FIELDS[key]), "a field without a meaning"


def reachable() -> set[type[msgspec.Struct]]:
    """Every struct that is part of a message."""
    found: set[type[msgspec.Struct]] = set()

    def visit(type: inspect.Type) -> None:
        if isinstance(type, inspect.StructType) and type.cls not in found:
            found.add(type.cls)
            for field in type.fields:
                visit(field.type)
        for inner in ("types", "item_type", "key_type", "value_type"):
            below = getattr(type, inner, ())
            for one in below if isinstance(below, tuple) else (below,):
                visit(one)

    visit(inspect.type_info(m.AdminReply))
    for cls in m.AnyMessage.__args__:
        visit(inspect.type_info(cls))
    return found


def test_every_struct_on_the_wire_has_a_field_table() -> None:
    written = {struct_named(key.partition(" + ")[0]) for key in FIELDS}
    assert written - {values.GenerateOptions} == reachable()


# --- the other tables -----------------------------------------------------------------------------------------


def test_the_error_table_is_the_error_classes() -> None:
    rows = {ticked(row[0])[0]: row for row in TABLES["errors"]}
    assert list(rows) == list(ERROR_CLASSES)
    for code, cls in ERROR_CLASSES.items():
        _, meaning, whose, retryable, closes, details, cause = rows[code]
        assert retryable == ("yes" if cls.retryable else "no"), code
        assert closes.split()[0] == ("yes" if cls.closes else "no"), code
        assert whose in {"client", "daemon", "backend", "load", "operator"}
        assert meaning
        assert details
        assert cause


def test_the_connection_table_is_the_connections_states() -> None:
    written = {(state, what): then for state, whats, then in TABLES["connection"] for what in ticked(whats)}
    assert {(f"`{here.value}`", what): f"`{then.value}`" for (here, what), then in CONNECTION.items()} == written


def test_the_request_table_is_the_requests_states() -> None:
    rows = [(state, what, then) for state, whats, then in TABLES["request"] for what in ticked(whats)]
    assert len(set(rows)) == len(rows)
    assert {(f"`{a.value}`", what, f"`{b.value}`") for (a, what), b in REQUEST.items()} == set(rows)


def test_the_opening_table_is_what_opens_a_request() -> None:
    written = {what: state for whats, state in TABLES["opening"] for what in ticked(whats)}
    assert {what: f"`{state.value}`" for what, state in OPENING.items()} == written


def tags(union: Any) -> set[str]:
    return {tag_of(cls) for cls in union.__args__}


def test_the_table_of_sockets_is_the_unions() -> None:
    written = {(row[0].strip("`"), row[1]): (set(ticked(row[2])), set(ticked(row[3]))) for row in TABLES["sockets"]}
    assert written == {
        ("infer", "1"): (tags(m.InferRequestV1), tags(m.InferReply) - {"text", "thinking", "tool_use"}),
        ("infer", "2"): (tags(m.InferRequestV2), tags(m.InferReply) - {"token"}),
        ("embed", "1, 2"): (tags(m.EmbedRequest), tags(m.EmbedReply)),
        ("admin", "1, 2"): (tags(m.AdminRequest), tags(m.AdminReply)),
    }


def test_the_table_of_limits_is_the_constants() -> None:
    written = {row[0]: ticked(row[1])[0] for row in TABLES["limits"]}
    assert written == {
        "frame payload before `welcome`": str(framing.HANDSHAKE_FRAME_LIMIT),
        "frame payload after `welcome`, at most": str(framing.MAX_FRAME_LIMIT),
        "attachments of one request": str(values.MAX_ATTACHMENTS),
        "`grammar`": str(values.MAX_GRAMMAR_BYTES),
        "`stop` strings": str(values.MAX_STOP_STRINGS),
        "levels of a JSON value": str(values.MAX_JSON_DEPTH),
        "values of a message to the daemon": str(counting.MAX_VALUES),
        "values of a JSON value": str(values.MAX_JSON_VALUES),
        "client text repeated in an error message": str(explain.MAX_ECHO),
        "path of a socket": str(paths.MAX_SOCKET_PATH),
    }


def test_the_table_of_roles_is_what_a_message_checks() -> None:
    written = {ticked(row[0])[0]: set(ticked(row[1])) for row in TABLES["roles"]}
    assert written == {role: {tag_of(block) for block in blocks} for role, blocks in values._BLOCKS_OF_ROLE.items()}


def test_the_admin_table_has_every_command_with_an_answer_the_states_allow() -> None:
    answers = {ticked(row[0])[0]: ticked(row[2]) for row in TABLES["admin"]}
    assert set(answers) == tags(m.AdminRequest) - {"ping"}
    for command, (first, *_) in answers.items():
        assert (OPENING[command], first) in REQUEST


def test_the_admin_table_says_when_a_command_is_legal() -> None:
    lifecycle = pytest.importorskip("vestald.lifecycle", reason="only vestal is on the path")
    for command, _, _, legal in TABLES["admin"]:
        expected = lifecycle.ADMIN_COMMANDS[ticked(command)[0]]
        assert set(ticked(legal)) == expected or (legal == "any state" and expected == set(lifecycle.DAEMON)), command


def test_the_table_of_stop_reasons_is_the_type() -> None:
    assert [ticked(row[0])[0] for row in TABLES["stop reasons"]] == list(get_args(values.StopReason))


def test_the_table_of_verdicts_is_the_type() -> None:
    assert [ticked(row[0])[0] for row in TABLES["verdicts"]] == list(get_args(values.RouteVerdict))


def test_features_and_capabilities_are_listed() -> None:
    assert [ticked(row[0])[0] for row in TABLES["features"]] == list(FEATURES)
    assert [ticked(row[0])[0] for row in TABLES["capabilities"]] == list(FLAGS)


def test_every_vector_file_is_described() -> None:
    assert {ticked(row[0])[0] for row in TABLES["vectors"]} == {path.name for path in HERE.glob("*.json")}


# --- the examples ---------------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, Any, bytes]]:
    """(socket version sender, JSON, bytes) of every frame that is shown."""
    pattern = r"<!-- frame: (\w+ \S+ \w+) -->\n+```json\n(.*?)```\n+```hex\n(.*?)```"
    for match in re.finditer(pattern, TEXT, re.DOTALL):
        digits = "".join(line.split("#")[0] for line in match[3].splitlines())
        yield match[1], json.loads(match[2]), bytes.fromhex(digits)


EXAMPLES = list(examples())
UNIONS: dict[str, Any] = {
    "infer - client": m.Hello,
    "infer - daemon": m.Welcome | m.Error,
    "infer 1 client": m.InferRequestV1,
    "infer 1 daemon": m.InferReply,
    "infer 2 client": m.InferRequestV2,
    "infer 2 daemon": m.InferReply,
    "embed 1 client": m.EmbedRequest,
    "embed 1 daemon": m.EmbedReply,
}


def binary(value: Any) -> Any:
    """JSON with `{"$bin": hex}` as bytes."""
    if isinstance(value, dict):
        return bytes.fromhex(value["$bin"]) if set(value) == {"$bin"} else {k: binary(v) for k, v in value.items()}
    return [binary(item) for item in value] if isinstance(value, list) else value


def test_no_block_of_bytes_goes_unchecked() -> None:
    assert len(EXAMPLES) == TEXT.count("```hex\n") == TEXT.count("<!-- frame: ")
    assert len(EXAMPLES) >= 9


@pytest.mark.parametrize(("where", "message", "data"), EXAMPLES, ids=[str(index) for index in range(len(EXAMPLES))])
def test_a_shown_frame_is_the_message_beside_it(where: str, message: Any, data: bytes) -> None:
    (size,) = PREFIX.unpack_from(data)
    assert size == len(data) - PREFIX.size
    assert msgspec.msgpack.decode(data[PREFIX.size :]) == binary(message)
    union = UNIONS[where]
    assert frame(encode(Codec[m.AnyMessage](union).decode(data[PREFIX.size :]))) == data


def json_blocks() -> list[str]:
    return re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", json_blocks(), ids=lambda block: block[:30].strip())
def test_every_json_example_is_a_message_that_some_socket_takes(block: str) -> None:
    message = binary(json.loads(block))
    takers: list[Any] = [m.Hello, m.Welcome | m.Error, m.InferRequestV1, m.InferRequestV2, m.InferReply]
    takers += [m.EmbedRequest, m.EmbedReply, m.AdminRequest, m.AdminReply]
    for taker in takers:
        try:
            Codec[m.AnyMessage](taker).decode(msgspec.msgpack.encode(message))
        except Exception:  # another socket's message; one that no socket takes fails below
            continue
        return
    pytest.fail("no socket takes it")


def test_every_section_that_is_referred_to_exists() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
