"""docs/metrics.md and the Grafana dashboard speak of the metrics that there are."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docs.pages import blocks_of
from vestald.config import BackendTable, Config, load
from vestald.house import House

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "contrib" / "grafana" / "vestal.json").read_text())
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \|(?P<labels>[^|]*)\|", re.MULTILINE)
NAME = re.compile(r"\bvestald?_\w+")
LABELS = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)|\{([^}]*)\}")


@pytest.fixture(scope="module")
def exposition() -> str:
    async def scrape() -> str:
        table = BackendTable(name="echo", adapter="echo", options={"embed": True})
        house = House(Config(backends=(table,)), lambda _deadline, _why: None)
        for dispatcher in (house.generating, house.embedding):
            dispatcher.open_lane("echo", 1)
        return house.metrics_text()

    return asyncio.run(scrape())


def documented() -> dict[str, tuple[str, set[str]]]:
    return {row["name"]: (row["kind"], set(re.findall(r"`(\w+)`", row["labels"]))) for row in ROW.finditer(PAGE)}


def test_the_page_has_every_metric_and_no_other(exposition: str) -> None:
    declared = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    there = {name: kind for name, kind in declared.items() if not name.endswith("_created")}
    audit = {"vestal_audit_line": "gauge", "vestal_audit_dropped_total": "counter"}  # only while there is a log
    assert {name: kind for name, (kind, _) in documented().items()} == there | audit


def test_the_labels_of_the_page_are_those_of_the_metrics(exposition: str) -> None:
    pages, seen = documented(), 0
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name in pages:
                assert set(sample.labels) == pages[sample.name][1], sample.name
                seen += 1
    assert seen > 20


def expressions() -> list[str]:
    alerts = re.findall(r"^\s+expr: (.*)$", PAGE, re.MULTILINE)
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    variables = [item["definition"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    return alerts + panels + variables


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_there_is(expression: str) -> None:
    pages = documented()
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(expression)}
    assert names
    assert names <= pages.keys()
    allowed = {"le", "instance"}.union(*(pages[name][1] for name in names))
    for grouped, matched in LABELS.findall(expression):
        used = {one.strip() for one in grouped.split(",")} if grouped else set(re.findall(r"(\w+)\s*=", matched))
        assert used <= allowed, expression


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    panels = DASHBOARD["panels"]
    assert {"title", "uid", "schemaVersion", "templating", "time", "panels"} <= DASHBOARD.keys()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] in ("row", "stat", "timeseries")
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["expr"].count("(") == target["expr"].count(")")
    variables = {item["name"] for item in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"} <= variables


def test_the_configuration_is_one_that_the_daemon_takes(tmp_path: Path) -> None:
    (text,) = (block.text for block in blocks_of(ROOT / "docs" / "metrics.md", "toml"))
    file = tmp_path / "vestald.toml"
    file.write_text(text)
    assert load(file).metrics.socket
