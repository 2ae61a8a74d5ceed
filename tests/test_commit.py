"""The last stage alone: what it makes of scores and maps, what it writes in which order, and when it writes nothing."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import FINGERPRINT, record_of, write_run

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.images.quality import Quality
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.scoring import measures
from diffad_ray.scoring.commit import CommitShard, Judge
from diffad_ray.scoring.profile import spans_of
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.storage import StorageSettings
from diffad_ray.table.layout import MANIFEST, REGIONS, SCORES, image_id, mask_file, shard_file
from diffad_ray.table.runs import Plan, write_record

WIDTH, HEIGHT, SIDE = 40, 20, 8
THRESHOLD = 0.3
CALIBRATION = Calibration.from_scores(np.linspace(0, 0.3, 50))
SPOT = 0.9


def image(name: str, score: float | None, **values: Any) -> dict[str, Any]:
    """A row of a block, with a map that has a spot in a corner; without a score, one that could not be read."""
    row = {
        "image_id": image_id(name, "v"),
        "image_uri": name,
        "image_version": "v",
        "image_bytes": 10,
        "detector_fingerprint": FINGERPRINT,
        "line": "press",
        "seconds": 1.5,
    }
    if score is None:
        return row | {"status": "unreadable", "error": "no image"} | values
    anomaly_map = np.zeros((SIDE, SIDE), np.float16)
    anomaly_map[:2, :3] = SPOT
    row |= {"status": "ok", "width": WIDTH, "height": HEIGHT, "mode": "8-bit RGB", "network_mode": "float32"}
    return row | {"score": score, "anomaly_map": anomaly_map.tobytes(), "map_width": SIDE} | values


class Shard:
    """Shard 3 of a run, and what its commit leaves behind."""

    number = 3

    def __init__(self, folder: Path):
        plan = write_run(str(folder / "table"), 1, ["x.png"], state=None, done=0)
        self.plan = replace(plan, columns=["line"])
        self.place = (plan.run_date, plan.run_id, self.number)

    def file(self, kind: str, plan: Plan | None = None) -> Path:
        return Path(shard_file((plan or self.plan).table, kind, *self.place))

    def commit(
        self, rows: list[dict[str, Any]], threshold: float = THRESHOLD, fingerprint: str = FINGERPRINT, **settings: Any
    ) -> dict[str, Any]:
        """Commit the rows; the summary for the driver."""
        kinds = {"shard": pa.int32(), "seconds": pa.float64(), "network_mode": pa.string(), "map_width": pa.int32()}
        kinds |= {"anomaly_map": pa.large_binary(), "line": pa.string()}
        found = [
            SCORES.field(name) for name in ("status", "error", "width", "height", "mode", *Quality._fields, "score")
        ]
        found += [SCORES.field(name) for name in ("scored_by", "score_of_gate")]
        schema = pa.schema([*MANIFEST, *found, *kinds.items()])
        block = pa.Table.from_pylist([{"shard": self.number, **row} for row in rows], schema)
        judges = {fingerprint: Judge("weave", CALIBRATION, threshold)}
        committing = CommitShard(self.plan, ScoringSettings(**settings), StorageSettings(), judges)
        (summary,) = committing(block).to_pylist()
        return summary

    def rows(self, kind: str = "scores") -> list[dict[str, Any]]:
        return pq.read_table(pa.BufferReader(self.file(kind).read_bytes())).to_pylist()


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path)


@pytest.mark.parametrize("threshold", [0.25, 0.3, 0.7254])
def test_an_image_is_anomalous_from_the_threshold_on(shard: Shard, threshold: float) -> None:
    """To the last bit of the score, which is a float32 beside a threshold of double precision."""
    at = np.float32(threshold)
    below, above = np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(1))
    near = [float(at) - 5e-4, float(below), float(at), float(above), float(at) + 5e-4]
    summary = shard.commit([image(f"{k}.png", score) for k, score in enumerate(near)], threshold)
    expected = [float(np.float32(score)) >= threshold for score in near]
    assert expected[:2] + expected[3:] == [False, False, True, True]
    assert [row["is_anomalous"] for row in shard.rows()] == expected
    assert summary["anomalous"] == sum(expected)
    assert {row["threshold"] for row in shard.rows()} == {float(at)}


def test_rows_of_scored_and_of_failed_images(shard: Shard) -> None:
    summary = shard.commit([image("bad.png", 0.5), image("gone.png", None), image("good.png", 0.1)])
    bad, gone, good = shard.rows()
    assert pq.read_schema(shard.file("scores")).names == [*SCORES.names, "line"]
    for row in (bad, gone, good):
        assert (row["run_id"], row["detector"], row["line"]) == (shard.plan.run_id, "weave", "press")
        assert row["scored_at"] is not None
        assert row["detector_fingerprint"] == FINGERPRINT
    judged = ("score", "tail_probability", "threshold", "is_anomalous", "anomalous_fraction", "region_count")
    assert {gone[name] for name in judged} == {None}
    assert (gone["status"], gone["error"], gone["mask_uri"]) == ("unreadable", "no image", None)
    tails = CALIBRATION.tail_probability(np.array([bad["score"], good["score"]], np.float64))
    assert [bad["tail_probability"], good["tail_probability"]] == pytest.approx(tails.tolist(), rel=1e-9)
    assert (bad["is_anomalous"], bad["region_count"]) == (True, 1)
    assert (good["is_anomalous"], good["region_count"], good["anomalous_fraction"]) == (False, 0, 0)
    assert summary == {
        "shard": 3,
        "images": 3,
        "failed": 1,
        "anomalous": 1,
        "network_mode": "float32",
        "seconds": pytest.approx(1.5, abs=2),
        "spans": summary["spans"],
    }
    (span,) = spans_of(summary["spans"])
    assert (span.stage, span.process, span.shard, span.images) == ("commit", os.getpid(), 3, 3)
    assert 0 < span.seconds < time.time() - span.began + 1
    assert summary["seconds"] > 1.5


def test_masks_and_regions_of_an_anomalous_image(shard: Shard) -> None:
    shard.commit([image("good.png", 0.1), image("bad.png", 0.5)], masks="anomalous")
    _, bad = shard.rows()
    uri = mask_file(shard.plan.table, FINGERPRINT, bad["image_id"])
    assert bad["mask_uri"] == uri
    mask = cv2.imread(uri, cv2.IMREAD_UNCHANGED) > 0
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.mean() == pytest.approx(bad["anomalous_fraction"], abs=1e-6)
    # The spot has 3 of 8 columns and 2 of 8 rows of the map, and fades over one place of it.
    assert mask[:5, :15].all()
    assert not mask[8:].any()
    assert not mask[:, 20:].any()
    (region,) = shard.rows("regions")
    assert pq.read_schema(shard.file("regions")).names == REGIONS.names
    assert (region["image_id"], region["region"], region["run_id"]) == (bad["image_id"], 0, shard.plan.run_id)
    assert region["detector_fingerprint"] == FINGERPRINT
    assert region["peak"] == pytest.approx(SPOT, abs=1e-3)
    assert (region["x"], region["y"], region["area"]) == (0, 0, mask.sum())
    width, height = region["width"], region["height"]
    assert (mask_from_runs(region["mask_runs"], width, height) == mask[:height, :width]).all()


def test_regions_are_numbered_within_their_image(shard: Shard) -> None:
    two = np.zeros((SIDE, SIDE), np.float16)
    two[0, 0], two[7, 7] = 0.8, SPOT
    rows = [image(name, 0.5, anomaly_map=two.tobytes()) for name in ("a.png", "b.png")]
    shard.commit(rows)
    found = [(region["image_id"], region["region"]) for region in shard.rows("regions")]
    assert found == [(row["image_id"], number) for row in rows for number in (0, 1)]
    assert [row["region_count"] for row in shard.rows()] == [2, 2]


@pytest.mark.parametrize(("masks", "written"), [("all", 2), ("none", 0)])
def test_masks_of_all_images_and_of_none(shard: Shard, masks: str, written: int) -> None:
    shard.commit([image("good.png", 0.1), image("bad.png", 0.5)], masks=masks)
    assert sum(row["mask_uri"] is not None for row in shard.rows()) == written
    files = list(Path(shard.plan.table).glob("masks/**/*.png"))
    assert len(files) == written
    assert [row["region_count"] for row in shard.rows()] == [0, 1], "regions do not depend on masks"
    if written:
        empty = cv2.imread(shard.rows()[0]["mask_uri"], cv2.IMREAD_UNCHANGED)
        assert empty.shape == (HEIGHT, WIDTH)
        assert not empty.any()


def test_images_that_no_route_leads_to_a_detector(shard: Shard) -> None:
    rows = [image("x.png", None, status="unrouted", detector_fingerprint="", network_mode=None)]
    summary = shard.commit(rows)
    (row,) = shard.rows()
    assert (row["status"], row["detector"], row["detector_fingerprint"]) == ("unrouted", "", "")
    assert (row["score"], row["threshold"], row["is_anomalous"]) == (None, None, None)
    assert (summary["failed"], summary["anomalous"], summary["network_mode"]) == (1, 0, None)


def test_a_worker_that_outlived_its_run_writes_nothing(shard: Shard) -> None:
    """Once a compaction has merged the files of a finished run, the name of a shard's file is free again."""
    write_record(shard.plan, record_of(shard.plan, [], "finished"))
    summary = shard.commit([image("bad.png", 0.5)])
    assert summary["images"] == 1
    assert not shard.file("scores").exists()
    assert not shard.file("regions").exists()


def test_a_shard_that_is_done_stays_as_it_is(shard: Shard) -> None:
    shard.commit([image("bad.png", 0.5)])
    before = {kind: shard.file(kind).read_bytes() for kind in ("scores", "regions")}
    shard.commit([image("good.png", 0.1), image("other.png", 0.1)])
    assert {kind: shard.file(kind).read_bytes() for kind in before} == before


def test_only_a_shard_that_this_call_wrote_counts(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[list[str]] = []
    stages: list[str] = []
    monkeypatch.setattr(measures, "add_images", counted.append)
    monkeypatch.setattr(measures, "add_seconds", lambda stage, _: stages.append(stage))
    shard.commit([image("bad.png", 0.5), image("broken.png", None)])
    shard.commit([image("bad.png", 0.5)])
    assert counted == [["ok", "unreadable"]]
    assert stages == ["commit", "commit"]


def test_the_scores_are_written_last_and_regions_of_a_dead_attempt_are_replaced(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    rows = [image("bad.png", 0.5), image("worse.png", 0.6)]
    with monkeypatch.context() as patch:
        patch.setattr(storage, "create", die)
        with pytest.raises(KeyboardInterrupt):
            shard.commit(rows)
    assert not shard.file("scores").exists()
    assert len(shard.rows("regions")) == len(list(Path(shard.plan.table).glob("masks/**/*.png"))) == 2
    # The next attempt finds one of them unreadable.
    shard.commit([rows[0], image("worse.png", None)])
    assert [region["image_id"] for region in shard.rows("regions")] == [rows[0]["image_id"]]


def test_masks_are_there_before_regions(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    write = storage.write

    def dying(uri: str, data: bytes) -> None:
        if "/regions/" in uri:
            raise KeyboardInterrupt
        write(uri, data)

    monkeypatch.setattr(storage, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        shard.commit([image("bad.png", 0.5)])
    assert len(list(Path(shard.plan.table).glob("masks/**/*.png"))) == 1
    assert not shard.file("scores").exists()


def test_it_uses_the_settings_of_the_store_and_one_thread(shard: Shard, default_storage: None) -> None:
    cv2.setNumThreads(2)
    patient = StorageSettings(attempts=9)
    CommitShard(shard.plan, ScoringSettings(), patient, {})
    assert storage.settings() == patient
    shard.commit([image("bad.png", 0.5)])
    assert cv2.getNumThreads() == 1, "there are as many processes as cores"
