"""THREAT_MODEL.md is sound: numbered without holes, one verdict each, and every proof and mitigation is there."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.security.report import Outcomes, main, summary, table, verdict
from tests.security.threats import ROOT, Finding, exists, findings, parsed

ALL = findings()
BY_NUMBER = pytest.mark.parametrize("finding", ALL, ids=[f"finding-{one.number}" for one in ALL])


def test_findings_are_numbered_from_1_without_a_hole() -> None:
    assert [one.number for one in ALL] == list(range(1, len(ALL) + 1))
    assert len(ALL) >= 30


@BY_NUMBER
def test_a_finding_is_held_by_tests_and_names_its_mitigation_or_is_open(finding: Finding) -> None:
    assert finding.words in (("Held",), ("Open",))
    assert bool(finding.proofs) == finding.held
    assert bool(finding.files) or not finding.held
    assert max(Counter(finding.proofs).values(), default=1) == 1


@BY_NUMBER
def test_what_a_finding_names_exists(finding: Finding) -> None:
    assert [proof for proof in finding.proofs if not exists(proof)] == []
    assert [file for file in finding.files if not (ROOT / file).is_file()] == []


def test_every_attack_in_tests_security_is_a_findings() -> None:
    named = {proof.partition("::")[0] for one in ALL for proof in one.proofs}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert there <= named


def test_no_line_of_the_document_looks_like_a_proof_and_is_none() -> None:
    text = (ROOT / "THREAT_MODEL.md").read_text()
    listed = [line for line in text.splitlines() if line.startswith("- ") and "tests/" in line]
    assert len(listed) == sum(len(one.proofs) for one in ALL)
    assert text.count("\n### ") == len(ALL)


# --- what is made of it ---------------------------------------------------------------------------------------

TEXT = """
## Findings
### 1. One that is proved
By `daemon/vestald/app.py`.

**Held** by
- `tests/a.py`
- `tests/b.py::test_b`

### 2. One that is not
**Open**: `daemon/vestald/app.py` does nothing about it.

## What follows
- `tests/c.py`
"""


def test_the_document_is_read() -> None:
    first, second = parsed(TEXT)
    assert (first.held, first.proofs, first.files) == (
        True, ("tests/a.py", "tests/b.py::test_b"), ("daemon/vestald/app.py",)
    )  # fmt: skip
    assert (second.held, second.proofs, second.words) == (False, (), ("Open",))


def outcomes(**of: str) -> Outcomes:
    made = Outcomes()
    made.of = {f"tests/{name.replace('__', '.py::', 1)}": outcome for name, outcome in of.items()}
    return made


@pytest.mark.parametrize(
    ("ran", "word"),
    [
        ({"a__test_x": "passed", "b__test_b": "passed"}, "pass"),
        ({"a__test_x": "passed", "b__test_b[1]": "passed", "b__test_b[2]": "failed"}, "FAIL"),
        ({"a__test_x": "passed", "b__test_b": "skipped"}, "part"),
        ({"a__test_x": "skipped", "b__test_b": "skipped"}, "skip"),
        ({"a__test_x": "passed"}, "FAIL"),
        ({"a__test_x": "passed", "b__test_bb": "passed"}, "FAIL"),
    ],
)
def test_a_finding_is_worth_what_came_of_its_proofs(ran: dict[str, str], word: str) -> None:
    first, second = parsed(TEXT)
    assert verdict(first, outcomes(**ran)).word == word
    assert verdict(second, outcomes(**ran)).word == "open"


def test_the_table_fits_80_columns_and_has_every_finding_in_order() -> None:
    ran = Outcomes()
    ran.of = {proof: "failed" for one in ALL for proof in one.proofs}
    verdicts = [verdict(one, ran) for one in ALL]
    lines = [*table(verdicts), *summary(verdicts, ran)]
    assert max(map(len, lines)) <= 80
    numbers = [int(line[:3]) for line in list(table(verdicts))[1:] if line[:3].strip().isdecimal()]
    assert numbers == [one.number for one in ALL]


def test_a_proof_that_is_not_there_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], parsed(TEXT)) == 1
    said = capsys.readouterr().out
    assert "  1  FAIL" in said
    assert "failed: tests/a.py (there is no such test)" in said
    assert "2 findings: 1 FAILED, 1 open" in said


def test_proofs_are_run_and_counted() -> None:
    """In a process of its own: pytest does not run within pytest."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.report", "34"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(" 34  ")]
    word, tests = line.split()[1:3]
    assert word in ("pass", "part")
    assert int(tests) >= len(ALL[33].proofs)


def test_a_finding_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1", "9999"]) == 2
    assert "has no finding 9999" in capsys.readouterr().err
