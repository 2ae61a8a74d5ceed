"""Serving decides by the thresholds in force of a table, in the words of the table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hand_made_table import write_run
from hostile import PNG
from served import Served, served

from diffad_ray import query
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.serving.appending import append_requests
from diffad_ray.table.decisions import decision_on, judged_columns
from diffad_ray.table.runs import read_runs
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold
from diffad_ray.table.verify import verify

SOON = {"refresh_seconds": 0.05, "threshold_seconds": 0.05}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def applied(bundle: Bundle, reject: float, review: float | None) -> AppliedThreshold:
    now = datetime.now(UTC).isoformat()
    return AppliedThreshold(bundle.fingerprint, reject, review, "a test", "ada", "a test", now)


def images(archive: Path) -> list[Path]:
    return [path for path in sorted(archive.rglob("*.png")) if path.stat().st_size][:12]


def answers(server: Served, archive: Path, **params: str) -> dict[str, dict[str, Any]]:
    path = "/detectors/weave/score"
    found = {str(uri): server.client.post(path, json={"uri": str(uri)}, params=params) for uri in images(archive)}
    assert {answer.status_code for answer in found.values()} == {200}
    return {uri: answer.json() for uri, answer in found.items()}


@pytest.mark.parametrize("score", [-1.0, 0.0, 0.5, 0.75, 1.0, 2.0])
@pytest.mark.parametrize("review", [None, 0.5])
def test_one_decision_is_that_of_the_sql(score: float, review: float | None) -> None:
    import duckdb

    one = AppliedThreshold("f", 1.0, review, "a test", "ada", "a test", "2026-01-02T03:04:05+00:00")
    sql = judged_columns({"f": one})["decision"]
    row = f"SELECT {score}::FLOAT AS score, 'f' AS detector_fingerprint, false AS is_anomalous"
    (found,) = duckdb.sql(f"SELECT {sql} FROM ({row})").fetchall()
    assert found == (decision_on(score, one.reject, one.review),)


def test_answers_are_the_decisions_of_the_table(detector: Path, bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    """The record's table gives the thresholds, before and after it exists, and when they change."""
    table = tmp_path / "table"
    options = {"prefixes": (str(archive),), "record_table": str(table), "record_seconds": 3600.0, **SOON}
    with served({"weave": detector}, **options) as server:

        def listed() -> tuple[float, float | None]:
            (one,) = server.client.get("/detectors").json()["detectors"]
            return one["threshold"], one["review"]

        own = answers(server, archive)
        assert {answer["threshold"] for answer in own.values()} == {bundle.calibration.threshold}
        assert listed() == (bundle.calibration.threshold, None)
        scores = sorted(answer["score"] for answer in own.values())
        band = applied(bundle, reject=scores[8], review=scores[4])
        apply_threshold(str(table), band)
        until(lambda: listed() == (scores[8], scores[4]))
        first = answers(server, archive, record="1")
        assert sorted(answer["decision"] for answer in first.values()) == ["good"] * 4 + ["reject"] * 4 + ["review"] * 4
        apply_threshold(str(table), applied(bundle, reject=scores[10], review=None))
        until(lambda: listed() == (scores[10], None))
        assert append_requests(str(table)) == 12
        second = answers(server, archive)
        assert sum(answer["decision"] == "reject" for answer in second.values()) == 2
        text = server.client.get("/metrics").text
        assert 'diffad_ray_serve_images_total{decision="review",detector="weave",replica="0"} 4.0' in text
        assert "diffad_ray_serve_thresholds_age_seconds" in text
    rows = {row["image_uri"]: row for row in query(table, "SELECT * FROM scores").to_pylist()}
    assert {uri: row["decision"] for uri, row in rows.items()} == {
        uri: answer["decision"] for uri, answer in second.items()
    }
    # The files keep what the answers said, with the regions of what was an alert then.
    files = sorted((table / "scores").rglob("*.parquet"))
    kept = {row["image_uri"]: row for file in files for row in pq.read_table(file).to_pylist()}
    for uri, answer in first.items():
        assert (kept[uri]["threshold"], kept[uri]["is_anomalous"]) == (scores[8], answer["is_anomalous"])
        assert kept[uri]["region_count"] == len(answer["regions"])
    assert verify(table).problems == []


def test_rows_that_were_judged_differently_are_kept_so(
    detector: Path, bundle: Bundle, archive: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    options = {"prefixes": (str(archive),), "record_table": str(table), "record_seconds": 3600.0, **SOON}
    with served({"weave": detector}, **options) as server:
        first, second = images(archive)[:2]

        def recorded(uri: Path) -> float:
            path = "/detectors/weave/score"
            answer = server.client.post(path, json={"uri": str(uri)}, params={"record": "1"})
            threshold: float = answer.json()["threshold"]
            return threshold

        recorded(first)
        apply_threshold(str(table), applied(bundle, reject=-50.0, review=None))
        until(lambda: server.service.thresholds.of(bundle).reject == -50.0)
        assert recorded(second) == -50.0
    # A row of a server that did not write the threshold counts by the own one.
    (old,) = [file for file in (table / "requests").rglob("*.parquet") if _uri(file) == str(first)]
    pq.write_table(pq.read_table(old).drop_columns(["threshold"]), old)
    append_requests(str(table))
    files = sorted((table / "scores").rglob("*.parquet"))
    kept = {row["image_uri"]: row["threshold"] for file in files for row in pq.read_table(file).to_pylist()}
    assert kept == {str(first): pytest.approx(bundle.calibration.threshold), str(second): -50.0}
    assert [one.images for run in read_runs(str(table)) for one in run.plan.detectors] == [2]
    assert verify(table).problems == []


def _uri(file: Path) -> str:
    uri: str = pq.read_table(file)["image_uri"][0].as_py()
    return uri


def test_a_server_without_its_thresholds_is_not_ready(detector: Path, bundle: Bundle, tmp_path: Path) -> None:
    """A wrong name of the table must not change decisions silently; later, those that were read stay in force."""
    table = tmp_path / "later"
    with served({"weave": detector}, thresholds=str(table), **SOON) as server:
        ready = server.client.get("/v2/health/ready")
        assert (ready.status_code, "no table at" in ready.json()["error"]) == (503, True)
        refused = server.score(PNG)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert server.client.get("/detectors").status_code == 503
        write_run(str(table), 1, ["a.png"])
        apply_threshold(str(table), applied(bundle, reject=-50.0, review=None))
        until(lambda: server.client.get("/v2/health/ready").status_code == 200)
        # The table may have been read before the threshold was applied.
        until(lambda: server.client.get("/detectors").json()["detectors"][0]["threshold"] == -50.0)
        (file,) = (table / "thresholds").iterdir()
        file.write_text("half")
        until(lambda: "damaged" in server.service.thresholds.problem)
        assert server.client.get("/v2/health/ready").status_code == 200
        assert server.client.get("/detectors").json()["detectors"][0]["threshold"] == -50.0
        assert server.service.thresholds.age > 0
        shutil.rmtree(table / "thresholds")
        apply_threshold(str(table), applied(bundle, reject=7.0, review=5.0))
        until(lambda: server.service.thresholds.of(bundle) == (7.0, 5.0))
