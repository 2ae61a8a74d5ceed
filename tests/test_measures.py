"""The figures that scoring exports: a run on a throttling store exports all, and the dashboard asks for no others."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from faulty_proxy import FaultyProxy

from diffad_ray import score, storage
from diffad_ray.scoring import measures
from diffad_ray.storage import StorageSettings

DASHBOARD = Path(__file__).parents[1] / "cluster" / "grafana.json"
SERIES = re.compile(r"^(ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
METRIC = re.compile(r"\bray_\w+")
IMAGES, PENDING, RETRIES = (
    "ray_diffad_ray_images_total",
    "ray_diffad_ray_pending_shards",
    "ray_diffad_ray_retries_total",
)
PATIENCE = 60.0
"Seconds for figures to reach the agent of the node, which workers send every ten."


@dataclass
class Exported:
    """What this node has exported: by metric and labels, the last value. Ray forgets a gauge soon after a run."""

    series: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def look(self) -> None:
        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        for name, labels, value in SERIES.findall(text):
            self.series[name, frozenset(LABEL.findall(labels))] = float(value)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series with these labels."""
        return sum(value for (found, has), value in self.series.items() if found == name and labels.items() <= has)

    def labels(self, name: str) -> set[str]:
        """The labels of a metric; none if it is not exported."""
        return {label for (found, has) in self.series for label, _ in has if found == name}


def chosen(archive: Path) -> list[Path]:
    """Ten images that can be read, and two that can't."""
    return [*sorted(archive.glob("camera0/*.png"))[:10], archive / "empty.png", archive / "page.jpg"]


@pytest.fixture(scope="module")
def exported(
    archive: Path, detector: Path, s3: str, cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """What is exported after twelve images of a store that throttles were scored."""
    for path in chosen(archive):
        storage.write(f"{s3}/measured/{path.name}", path.read_bytes())
    seen = Exported()
    seen.look()
    wanted = seen.total(IMAGES) + len(chosen(archive))
    try:
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0.3, seed=1, kinds=["slow_down"]) as proxy:
            through = [f"storage.s3.endpoint_url={proxy.url}", "storage.attempts=10"]
            table = tmp_path_factory.mktemp("measured") / "table"
            score(f"{s3}/measured", detector=detector, table=table, actors=1, overrides=through)
            assert proxy.faults["slow_down"]
    finally:
        storage.configure(StorageSettings())
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        seen.look()
        if seen.total(IMAGES) == wanted and all(map(seen.labels, (PENDING, RETRIES, "ray_node_mem_used"))):
            return seen
        time.sleep(1)
    raise AssertionError(f"not exported within {PATIENCE:.0f} s: {sorted(name for name, _ in seen.series)}")


@pytest.mark.long
def test_a_run_exports_what_it_did(exported: Exported, archive: Path) -> None:
    for stage in ("fetch", "decode", "detect", "commit"):
        assert exported.total("ray_diffad_ray_stage_seconds_total", stage=stage) > 0
    assert exported.total(IMAGES, status="ok") >= 10
    assert exported.total(IMAGES, status="unreadable") >= 2
    assert exported.total("ray_diffad_ray_read_bytes_total") >= sum(path.stat().st_size for path in chosen(archive))
    assert 0 < exported.total("ray_diffad_ray_slow_downs_total") <= exported.total(RETRIES)


@pytest.mark.long
def test_the_dashboard_asks_for_what_is_exported(exported: Exported) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [entry["definition"] for entry in dashboard["templating"]["list"] if "definition" in entry]
    asked = {name for query in queries for name in METRIC.findall(query)}
    assert [name for name in asked if not exported.labels(name)] == []
    assert {name for name, _ in exported.series if name.startswith("ray_diffad_ray_")} <= asked
    for query in queries:
        for name, selector in re.findall(r"(ray_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)(?:=~|!=|=)", selector)) <= exported.labels(name), query
        grouped = set(re.findall(r"by \((\w+)\)", query)) | set(re.findall(r"^label_values\(\w+, (\w+)\)", query))
        assert grouped <= {label for name in METRIC.findall(query) for label in exported.labels(name)}, query


def test_shards_that_are_left_are_stated_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stated: list[int] = []
    monkeypatch.setattr(measures, "_gauge", lambda: SimpleNamespace(set=stated.append))
    monkeypatch.setattr(measures, "SECONDS_BETWEEN_SETS", 0.01)
    with measures.Pending(2) as left:
        time.sleep(0.2)
        left.done()
    assert stated.count(2) > 1
    assert stated[-1] == 1


def test_panels_do_not_overlap_and_have_a_description() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        assert panel["description"]
        taken |= cells
