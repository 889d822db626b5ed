"""What docs/admission.md shows and says is what the policy does: the picture, its numbers, its keys, its example."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, quantiles

import msgspec
import pytest

from benchmarks.admission_plot import PICTURE, classes, eta_errors, picture, shares
from tests.docs.pages import ROOT, blocks_of
from vestald.config import AdmissionConfig, load

PAGE = ROOT / "docs" / "admission.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_picture_is_what_the_simulation_gives() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run `make plots`"


def test_the_picture_shows_equal_tokens_for_two_callers_who_are_both_busy() -> None:
    served = {1: 0.0, 2: 0.0}
    for outcome in shares():
        if 30.0 < outcome.ended <= 210.0:
            served[outcome.asked.uid] += outcome.asked.read + outcome.asked.made
    assert served[1] == pytest.approx(served[2], rel=0.05)


def test_the_picture_shows_that_no_class_starves() -> None:
    starts = sorted(o.started for o in classes() if o.asked.priority == "batch" and o.started < 90.0)
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert 9.0 < max(gaps) < 13.0


@pytest.mark.parametrize(("row", "spread"), [("alike", 0.2), ("that differ", 0.7)])
def test_the_error_of_what_is_foretold_is_as_the_table_says(row: str, spread: float) -> None:
    waits, errors = eta_errors(spread=spread)
    sizes = [abs(error) for error in errors]
    said = re.search(rf"^\| {row}.*$", TEXT, re.M)
    assert said is not None
    numbers = [float(number) for number in re.findall(r"([0-9.]+) s", said[0])]
    assert numbers == pytest.approx([median(waits), median(sizes), quantiles(sizes, n=10)[-1], mean(errors)], abs=0.051)


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = (block.text for block in blocks_of(PAGE, "toml"))
    path = tmp_path / "vestald.toml"
    path.write_text(example)
    assert set(tomllib.loads(example)["admission"]) <= set(msgspec.structs.asdict(load(path).admission))


def test_every_key_that_bounds_is_in_the_table() -> None:
    elsewhere = {"write_timeout", "weights"}  # the slow reader's, and no bound
    for field in msgspec.structs.fields(AdmissionConfig):
        assert field.name in elsewhere or f"`{field.name}`" in TEXT, field.name
