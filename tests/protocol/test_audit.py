"""The audit log's chain: an untouched one is whole, and whatever is done to a line is found, where it was done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.audit import BEFORE, MAX_TEXT, Head, Record, Verifier, parse_head, read_line, seal

FILE = "audit-000000000000.ndjson"


def chain(*facts: Mapping[str, object], head: Head = BEFORE) -> list[bytes]:
    """A file: the line that begins it, and one line for each of `facts`."""
    lines = []
    header = {"previous": head.hash, "kept": head.seq + 1}
    for record in (Record(0.0, "file", header), *(Record(1.5, "test", fact) for fact in facts)):
        line, head = seal(head, record)
        lines.append(line)
    return lines


def read(*files: list[bytes], pinned: Head | None = None) -> Verifier:
    verifier = Verifier(pinned)
    for number, lines in enumerate(files):
        verifier.begin_file(f"file{number}")
        for line in lines:
            verifier.add(line)
    verifier.finish()
    return verifier


def head_of(line: bytes) -> Head:
    found = read_line(line)
    assert found is not None
    return found[1]


TEN = chain(*({"n": n} for n in range(9)))


def test_an_untouched_chain_is_whole_and_tells_its_head() -> None:
    log = read(TEN)
    assert (log.findings, log.lines, log.first, log.head) == ([], 10, 0, head_of(TEN[-1]))


def test_a_line_is_ascii_json_and_can_be_checked_by_hand() -> None:
    first, second = chain({"client": "ü\x1b[2J\u2028\udc80\n"})
    assert second.isascii()
    assert second.count(b"\n") == 1
    assert b"\x1b" not in second
    fields = json.loads(second)
    assert fields["time"] == "1970-01-01T00:00:01.500000Z"
    assert fields["client"] == "ü\x1b[2J\u2028\udc80\n"
    body = second[: second.rindex(b',"hash"')] + b"}"
    assert hashlib.sha256(json.loads(first)["hash"].encode() + body).hexdigest() == fields["hash"]


def test_a_text_is_bounded_and_says_what_is_left_out() -> None:
    _, line = chain({"client": "x" * (MAX_TEXT + 7)})
    assert json.loads(line)["client"] == "x" * MAX_TEXT + "...[7 more]"


def _without(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (lambda ls: _without(ls, 4), 5, "line 5 follows 3: 1 missing"),
        (lambda ls: ls[:4] + ls[7:], 5, "line 7 follows 3: 3 missing"),
        (lambda ls: [*ls[:4], ls[4].replace(b'"n":3', b'"n":4'), *ls[5:]], 5, "line 4 does not match its hash"),
        (lambda ls: [*ls[:4], ls[4].replace(b'"test"', b'"tset"'), *ls[5:]], 5, "line 4 does not match its hash"),
        (lambda ls: [*ls[:4], ls[5], ls[4], *ls[6:]], 6, "line 4 follows 5: repeated or out of order"),
        (lambda ls: [*ls[:5], ls[4], *ls[5:]], 6, "line 4 follows 4: repeated or out of order"),
        (lambda ls: [*ls[:4], b"hello\n", *ls[5:]], 5, "is no line of an audit log"),
        (lambda ls: [*ls[:4], b"\n", *ls[4:]], 5, "is no line of an audit log"),
        (lambda ls: ls[1:], 1, "line 1 begins the file: those before it are missing"),
    ],
)
def test_what_was_done_to_a_line_is_found_where_it_was_done(
    change: Callable[[list[bytes]], list[bytes]], line: int, says: str
) -> None:
    log = read(change(TEN))
    assert any(finding.line == line and says in finding.what for finding in log.findings), log.findings


def test_one_altered_line_is_one_finding() -> None:
    log = read([*TEN[:4], TEN[4].replace(b'"n":3', b'"n":4'), *TEN[5:]])
    assert [str(finding) for finding in log.findings] == [
        "file0:5: line 4 does not match its hash: it, or the one before it, was altered"
    ]


def test_a_line_that_was_altered_and_sealed_anew_is_found_at_the_next() -> None:
    forged, _ = seal(head_of(TEN[3]), Record(1.5, "test", {"n": 99}))
    log = read([*TEN[:4], forged, *TEN[5:]])
    assert [(finding.line, "line 5 does not match" in finding.what) for finding in log.findings] == [(6, True)]


@given(st.data())
def test_any_changed_byte_before_the_last_line_end_is_found(data: st.DataObject) -> None:
    whole = b"".join(TEN)
    at = data.draw(st.integers(0, len(whole) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    changed = whole[:at] + bytes([byte]) + whole[at + 1 :]
    assert read(changed.splitlines(keepends=True)).findings


def test_the_chain_goes_on_over_files() -> None:
    more = chain({"n": 1}, {"n": 2}, head=head_of(TEN[-1]))
    log = read(TEN, more)
    assert (log.findings, log.lines, log.head.seq) == ([], 13, 12)


def test_a_file_that_is_missing_between_two_is_found() -> None:
    second = chain({"n": 1}, head=head_of(TEN[-1]))
    third = chain({"n": 2}, head=head_of(second[-1]))
    (finding,) = read(TEN, third).findings
    assert (finding.file, finding.line) == ("file1", 1)
    assert "line 12 follows 9: 2 missing" in finding.what


def test_what_was_rotated_away_is_no_finding_and_what_was_taken_away_is() -> None:
    header = Record(0.0, "file", {"previous": head_of(TEN[-1]).hash, "kept": 10})
    line, _ = seal(head_of(TEN[-1]), header)
    assert read([line]).findings == []
    kept = Record(0.0, "file", {"previous": head_of(TEN[-1]).hash, "kept": 0})
    line, _ = seal(head_of(TEN[-1]), kept)
    assert "the log begins with line 0, and the oldest there is 10" in read([line]).findings[0].what


def test_an_unfinished_last_line_is_told_and_no_finding_unless_more_follows() -> None:
    log = read([*TEN[:5], TEN[5][:40]])
    assert (log.findings, log.unfinished, log.head.seq) == ([], True, 4)
    assert "ends inside a line" in read([*TEN[:5], TEN[5][:40]], chain(head=head_of(TEN[4]))).findings[0].what


def test_the_lines_that_the_writer_had_to_drop_are_counted() -> None:
    line, head = seal(head_of(TEN[-1]), Record(0.0, "dropped", {"count": 5}))
    again, _ = seal(head, Record(0.0, "dropped", {"count": 2}))
    assert read([*TEN, line, again]).dropped == 7


def test_a_noted_head_tells_a_cut_end_and_a_log_made_anew() -> None:
    noted = head_of(TEN[7])
    assert read(TEN, pinned=noted).findings == []
    cut = read(TEN[:6], pinned=noted)
    assert "the noted head is line 7, and the log ends with 5: its end was cut" in cut.findings[0].what
    anew = read(chain(*({"n": 100 + n} for n in range(9))), pinned=noted)
    assert (anew.findings[0].line, "the log was made anew" in anew.findings[0].what) == (8, True)


def test_a_head_can_be_noted_as_text() -> None:
    head = head_of(TEN[3])
    assert parse_head(f" {str(head).upper()}\n") == head
    for text in ("", "3", "3:abc", f"x:{'0' * 64}", f"3:{'0' * 63}", f"-1:{'0' * 64}"):
        with pytest.raises(ValueError, match="SEQ:HASH"):
            parse_head(text)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text() | st.integers() | st.lists(st.text())), max_size=5))
def test_whatever_the_facts_are_the_chain_is_whole(facts: list[dict[str, object]]) -> None:
    assert read(chain(*facts)).findings == []


@given(st.binary(max_size=300))
def test_whatever_stands_in_a_file_is_read_without_a_fault(data: bytes) -> None:
    read(data.splitlines(keepends=True), TEN)
