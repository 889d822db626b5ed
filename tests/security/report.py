"""`make security`: run the proofs that THREAT_MODEL.md names, and print its findings with what came of each.

    python -m tests.security.report [NUMBER…]

With numbers, only those findings. Exit code 0 if every proof that could be run here passed, 1 if one failed or is
not there. What was skipped, for want of root or of a kernel, is counted and never called a pass.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence

import pytest
from msgspec import Struct

from tests.security.threats import ROOT, Finding, exists, findings

__all__ = ["Outcomes", "Verdict", "main", "table", "verdict"]

_WIDTH = 80
_ORDER = ("failed", "missing", "skipped", "passed")


class Outcomes:
    """What pytest says of each test, by its node id: "passed", "skipped" or "failed". A plugin of pytest's."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worst = min(report.outcome, self.of.get(report.nodeid, "passed"), key=_ORDER.index)
        self.of[report.nodeid] = worst
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.of[report.nodeid] = "failed"

    def under(self, proof: str) -> list[str]:
        """The tests of a file, or the cases of one test."""
        return [id for id in self.of if id == proof or id.startswith((f"{proof}::", f"{proof}["))]


class Verdict(Struct, frozen=True):
    """What came of one finding's proofs."""

    finding: Finding
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def word(self) -> str:
        """In four letters; `skip` where nothing could be run, `part` where something could not."""
        if not self.finding.held:
            return "open"
        if self.failed:
            return "FAIL"
        return ("part" if self.passed else "skip") if self.skipped else "pass"


def verdict(finding: Finding, outcomes: Outcomes) -> Verdict:
    """A proof that matches no test that was run is a failure: nothing proves what it says."""
    ran = {id: outcomes.of[id] for proof in finding.proofs for id in outcomes.under(proof)}
    failed = [id for id, outcome in ran.items() if outcome == "failed"]
    failed += [f"{proof} (there is no such test)" for proof in finding.proofs if not outcomes.under(proof)]
    counts = list(ran.values())
    return Verdict(finding, counts.count("passed"), tuple(failed), counts.count("skipped"))


def table(verdicts: Iterable[Verdict]) -> Iterable[str]:
    """Lines of at most 80 columns: number, verdict, tests, title; below it, what failed."""
    yield f"{'#':>3}  {'':4}  tests  finding"
    for one in verdicts:
        tests = f"{one.passed + len(one.failed) + one.skipped:5}" if one.finding.held else "    -"
        lines = textwrap.wrap(one.finding.title.replace("`", ""), _WIDTH - 18)
        yield f"{one.finding.number:3}  {one.word}  {tests}  {lines[0]}"
        yield from (f"{'':18}{line}" for line in lines[1:])
        for id in one.failed:
            yield from textwrap.wrap(
                id, _WIDTH, initial_indent=" " * 5 + "failed: ", subsequent_indent=" " * 13, break_on_hyphens=False
            )
    yield ""


def summary(verdicts: Sequence[Verdict], outcomes: Outcomes) -> Iterable[str]:
    """The counts, and why something was skipped."""
    words = [one.word for one in verdicts]
    meanings = (("pass", "held"), ("part", "held as far as could be run here"), ("skip", "not run"), ("FAIL", "FAILED"))
    said = [f"{words.count(word)} {meaning}" for word, meaning in (*meanings, ("open", "open")) if word in words]
    yield f"{len(words)} findings: {', '.join(said)}"
    for reason in sorted(set(outcomes.reasons.values())):
        count = list(outcomes.reasons.values()).count(reason)
        yield from textwrap.wrap(f"skipped {count}: {reason}", _WIDTH, subsequent_indent="  ")


def main(arguments: Sequence[str], known: Sequence[Finding] | None = None) -> int:
    """Run and print; the exit code. `known` are the findings, by default those of THREAT_MODEL.md."""
    wanted = {int(word) for word in arguments}
    chosen = [one for one in (findings() if known is None else known) if not wanted or one.number in wanted]
    if missing := wanted - {one.number for one in chosen}:
        sys.stderr.write(f"THREAT_MODEL.md has no finding {', '.join(map(str, sorted(missing)))}\n")
        return 2
    proofs = sorted({proof for one in chosen for proof in one.proofs})
    there = [proof for proof in proofs if exists(proof)]  # pytest would run none for one that is missing
    outcomes = Outcomes()
    code = pytest.main(["--rootdir", str(ROOT), "--tb=short", *there], plugins=[outcomes]) if there else 0
    verdicts = [verdict(one, outcomes) for one in chosen]
    print("", *table(verdicts), *summary(verdicts, outcomes), sep="\n")
    broken = code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    return 1 if broken or any(one.failed for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
