"""The figures that scoring exports: a run on a throttling store exports all, and the dashboard asks for no others."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from faulty_proxy import FaultyProxy

from diffad_ray import score, storage
from diffad_ray.storage import StorageSettings

DASHBOARD = Path(__file__).parents[1] / "cluster" / "grafana.json"
SERIES = re.compile(r"^(ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
PATIENCE = 60.0
"Seconds for figures to reach the agent of the node, which workers send every ten."


def exported() -> list[tuple[str, dict[str, str], float]]:
    """All series of this node, each with its labels and value."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return [(name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in SERIES.findall(text)]


def figure(name: str, **labels: str) -> float:
    """The sum of a metric over the series with these labels."""
    return sum(value for found, has, value in exported() if found == name and labels.items() <= has.items())


def reached(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(1)
    return False


def chosen(archive: Path) -> list[Path]:
    """Ten images that can be read, and two that can't."""
    return [*sorted(archive.glob("camera0/*.png"))[:10], archive / "empty.png", archive / "page.jpg"]


@pytest.fixture(scope="module")
def scored(archive: Path, detector: Path, s3: str, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Score an archive on S3 that throttles; how many images there are, in this process's other runs none."""
    images = chosen(archive)
    for path in images:
        storage.write(f"{s3}/measured/{path.name}", path.read_bytes())
    table = tmp_path_factory.mktemp("measured") / "table"
    before = figure("ray_diffad_ray_images_total")
    try:
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0.3, seed=1, kinds=["slow_down"]) as proxy:
            through = [f"storage.s3.endpoint_url={proxy.url}", "storage.attempts=10"]
            score(f"{s3}/measured", detector=detector, table=table, actors=1, overrides=through)
            assert proxy.faults["slow_down"]
    finally:
        storage.configure(StorageSettings())
    assert reached(lambda: figure("ray_diffad_ray_images_total") == before + len(images))
    return len(images)


def test_a_run_exports_what_it_did(scored: int, archive: Path) -> None:
    for stage in ("fetch", "decode", "detect", "commit"):
        assert figure("ray_diffad_ray_stage_seconds_total", stage=stage) > 0
    assert figure("ray_diffad_ray_images_total", status="ok") >= scored - 2
    assert figure("ray_diffad_ray_images_total", status="unreadable") > 0
    assert figure("ray_diffad_ray_read_bytes_total") >= sum(path.stat().st_size for path in chosen(archive))
    assert reached(lambda: figure("ray_diffad_ray_retries_total") > 0)
    assert 0 < figure("ray_diffad_ray_slow_downs_total") <= figure("ray_diffad_ray_retries_total")
    assert reached(lambda: figure("ray_diffad_ray_pending_shards") == 0)


def test_the_dashboard_asks_for_what_is_exported(scored: int) -> None:
    assert scored
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [entry["definition"] for entry in dashboard["templating"]["list"] if "definition" in entry]
    assert reached(lambda: any(name == "ray_node_mem_used" for name, _, _ in exported()))
    labels: dict[str, set[str]] = {}
    for name, has, _ in exported():
        labels.setdefault(name, set()).update(has)
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked <= labels.keys()
    assert {name for name in labels if name.startswith("ray_diffad_ray_")} <= asked
    for query in queries:
        for name, chosen in re.findall(r"(ray_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)(?:=~|!=|=)", chosen)) <= labels[name], query
        grouped = set(re.findall(r"by \((\w+)\)", query)) | set(re.findall(r"^label_values\(\w+, (\w+)\)", query))
        assert grouped <= set().union(*(labels[name] for name in re.findall(r"\bray_\w+", query))), query


def test_panels_do_not_overlap_and_have_a_description() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        assert panel["description"]
        taken |= cells
