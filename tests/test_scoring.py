"""Scoring on a real Ray cluster: each image one row, whatever it is and whatever is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_image
from test_cli import run
from tiny_detector import tiny_training

from diffad_ray import query, score, storage, train
from diffad_ray.bundles.bundle import Bundle, load_bundle, save_bundle
from diffad_ray.errors import UserError
from diffad_ray.images import decode_image, network_input
from diffad_ray.images.quality import Quality, quality_of
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold
from diffad_ray.table.verify import verify

pytestmark = pytest.mark.usefixtures("cluster")
ALWAYS = -1e3
"A threshold that makes every image anomalous, so that masks and regions are made of all."


@pytest.fixture(scope="module")
def table(archive: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("table")
    score(archive, detector=detector, table=table, threshold=ALWAYS, actors=2)
    return table


def rows(table: Path | str, sql: str) -> list[dict]:
    return query(table, sql).to_pylist()


def test_every_image_is_one_row(archive: Path, table: Path) -> None:
    found = rows(table, "SELECT * FROM scores")
    assert sorted(row["image_uri"] for row in found) == sorted(
        str(path) for path in archive.rglob("*") if path.suffix in (".png", ".jpg")
    )
    broken = {Path(row["image_uri"]).name: (row["status"], row["error"]) for row in found if row["status"] != "ok"}
    assert broken.keys() == {"empty.png", "page.jpg"}
    assert {status for status, _ in broken.values()} == {"unreadable"}
    assert "0 bytes" in broken["empty.png"][1]
    assert "<html>" in broken["page.jpg"][1]
    for row in found:
        assert (row["score"] is None) == (row["status"] != "ok")
        assert row["detector"] == "weave"
        measured = {name: row[name] for name in Quality._fields}
        if row["status"] == "ok":
            quality = quality_of(decode_image(Path(row["image_uri"]).read_bytes()).pixels)
            assert measured == pytest.approx(quality._asdict(), rel=1e-6)
        else:
            assert set(measured.values()) == {None}


def test_scores_are_the_detectors_own(bundle: Bundle, table: Path) -> None:
    found = rows(table, "SELECT * FROM scores WHERE status = 'ok' ORDER BY image_uri")
    pixels = np.stack([network_input(decode_image(Path(r["image_uri"]).read_bytes()).pixels, 32) for r in found])
    expected = np.concatenate([batch.score for batch in Engine(bundle.detector).detect(pixels[::-1])])[::-1]
    np.testing.assert_allclose([row["score"] for row in found], expected, atol=1e-6)
    tails = bundle.calibration.tail_probability(np.array([row["score"] for row in found], np.float64))
    np.testing.assert_allclose([row["tail_probability"] for row in found], tails, rtol=1e-3)


def test_masks_and_regions_agree(table: Path) -> None:
    for row in rows(table, "SELECT * FROM scores WHERE status = 'ok' LIMIT 5"):
        mask = cv2.imread(row["mask_uri"], cv2.IMREAD_UNCHANGED) > 0
        assert mask.shape == (row["height"], row["width"]) == (64, 64)
        assert mask.mean() == pytest.approx(row["anomalous_fraction"], abs=1e-6)
        regions = rows(table, f"SELECT * FROM regions WHERE image_id = {row['image_id']}")
        assert len(regions) == row["region_count"] > 0
        drawn = np.zeros_like(mask)
        for region in regions:
            x, y, width, height = (region[name] for name in ("x", "y", "width", "height"))
            drawn[y : y + height, x : x + width] |= mask_from_runs(region["mask_runs"], width, height)
        assert (drawn == mask).all()


def test_a_finished_run_started_again_does_nothing(archive: Path, detector: Path, table: Path) -> None:
    before = sorted(path for path in table.rglob("*") if "leases" not in path.parts)
    plan = score(archive, detector=detector, table=table, threshold=ALWAYS).plan
    assert (plan.images, plan.skipped) == (0, 42)
    assert sorted(path for path in table.rglob("*") if "leases" not in path.parts) == before


def test_only_new_and_changed_images_are_scored(archive: Path, detector: Path, tmp_path: Path) -> None:
    shutil.copytree(archive / "camera0", tmp_path / "archive")
    score(tmp_path / "archive", detector=detector, table=tmp_path / "table", actors=1)
    some = sorted((tmp_path / "archive").iterdir())
    shutil.copy(some[0], tmp_path / "archive" / "new.png")
    some[1].write_bytes(some[2].read_bytes() + b"\0")
    plan = score(tmp_path / "archive", detector=detector, table=tmp_path / "table", actors=1).plan
    assert (plan.images, plan.skipped) == (2, len(some) - 1)


@pytest.mark.long
def test_alerts_of_a_lower_threshold_get_masks_and_nothing_else_is_scored_again(
    archive: Path, detector: Path, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(archive / "camera0", tmp_path / "archive")
    options = {"detector": detector, "table": tmp_path / "table", "actors": 1}
    score(tmp_path / "archive", threshold=1e6, **options)
    middle = rows(tmp_path / "table", "SELECT quantile_disc(score, 0.5) AS s FROM scores")[0]["s"]
    for reject, moment in ((-1e6, "2026-01-01T00:00:00Z"), (middle, "2026-01-02T00:00:00Z")):
        applied = AppliedThreshold(bundle.fingerprint, reject, None, "a test", "ada", "a test", moment)
        apply_threshold(str(tmp_path / "table"), applied)
    counts = "SELECT decision, count(*) AS n, count(mask_uri) AS masks, sum(region_count) > 0 AS found FROM scores"
    counts += " GROUP BY 1"
    before = {row.pop("decision"): row for row in rows(tmp_path / "table", counts)}
    assert before["reject"]["masks"] == 0
    shutil.copy(sorted((tmp_path / "archive").iterdir())[0], tmp_path / "archive" / "new.png")
    again = score(tmp_path / "archive", missing_masks=True, **options)
    assert again.plan.images == before["reject"]["n"] > 0
    after = {row.pop("decision"): row for row in rows(tmp_path / "table", counts)}
    n = before["reject"]["n"]
    assert after == {"reject": {"n": n, "masks": n, "found": True}, "good": before["good"]}
    assert score(tmp_path / "archive", missing_masks=True, **options).plan.images == 0
    # The new image is left to an ordinary run, which judges by the threshold in force.
    assert score(tmp_path / "archive", **options).plan.images == 1
    judged = rows(tmp_path / "table", "SELECT threshold FROM scores WHERE image_uri LIKE '%new.png'")
    assert judged == [{"threshold": middle}]
    assert verify(tmp_path / "table").problems == []


def test_routes_columns_and_a_manifest_in_one_run(archive: Path, detector: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiled"
    tiled = load_bundle(str(detector))
    tiled.detector.settings = dataclasses.replace(tiled.detector.settings, view="tiles")
    save_bundle(tiled, str(other))
    run = score(
        archive,
        table=tmp_path / "table",
        routes={"camera0/**": detector, "camera1/*": other},
        template="{camera}/{number}.png",
        include=["camera*/**"],
        limit=35,
        threshold=ALWAYS,
        actors=1,
    )
    assert run.record is not None
    assert run.plan.images == 35
    found = rows(tmp_path / "table", "SELECT * FROM scores ORDER BY image_uri")
    bundles = {"camera0": load_bundle(str(detector)), "camera1": load_bundle(str(other))}
    for row in found:
        path = Path(row["image_uri"])
        assert (row["camera"], row["number"]) == (path.parent.name, path.stem)
        if path.parent.name not in bundles:
            assert (row["status"], row["score"], row["detector_fingerprint"]) == ("unrouted", None, "")
            continue
        bundle = bundles[path.parent.name]
        assert (row["status"], row["detector_fingerprint"]) == ("ok", bundle.fingerprint)
        (detection,) = Engine(bundle.detector).detect_images([decode_image(path.read_bytes()).pixels])
        assert row["score"] == pytest.approx(detection.score, abs=1e-5)
        assert 0 < row["brightness"] < 1
        mask = cv2.imread(row["mask_uri"], cv2.IMREAD_UNCHANGED)
        assert mask.shape == (row["height"], row["width"]) == (64, 64)
    assert {row["detector"] for row in found} == {"weave", "tiled", ""}
    again = score(
        archive,
        table=tmp_path / "table",
        detector=detector,
        routes={"camera1/*": other},
        include=["camera*/**"],
        limit=35,
        threshold=ALWAYS,
        actors=1,
    )
    unrouted = sum(row["status"] == "unrouted" for row in found)
    assert (again.plan.images, again.plan.skipped) == (unrouted, 35 - unrouted)


def test_failures_are_tried_again_and_the_table_is_compacted(
    detector: Path,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next((archive / "camera0").glob("*.png"))
    (tmp_path / "list.csv").write_text(f"uri\n{image}\nlate.png\nbroken.png\n")
    (tmp_path / "broken.png").write_bytes(b"no image")
    options = {"detector": detector, "table": tmp_path / "table", "actors": 1}
    first = score(tmp_path / "list.csv", **options).record
    assert first is not None
    assert first.by_status == {"missing": 1, "ok": 1, "unreadable": 1}
    assert score(tmp_path / "list.csv", **options).plan.images == 0
    shutil.copy(image, tmp_path / "late.png")
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert run(monkeypatch, "score", tmp_path / "list.csv", *given, "--retry", "missing", "--compact", "--json") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["record"]["by_status"] == {"ok": 1}
    assert second["compaction"]["dropped"] == 1
    statuses = [{"status": "ok", "n": 2}, {"status": "unreadable", "n": 1}]
    counted = "SELECT status, count(*) AS n FROM {} GROUP BY 1 ORDER BY 1"
    assert rows(tmp_path / "table", counted.format("scores")) == statuses
    # The superseded row of late.png is gone from the files, too.
    assert rows(tmp_path / "table", counted.format(f"'{tmp_path}/table/scores/*/*.parquet'")) == statuses


def test_a_killed_run_is_finished_by_the_same_command(archive: Path, detector: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    command = [sys.executable, "-m", "diffad_ray.cli", "score", str(archive), "--detector", str(detector)]
    command += ["--table", str(table), "--actors", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(table.glob("scores/*/*.parquet")):
            assert run.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run wrote nothing"
            time.sleep(0.005)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
    assert not [path for path in table.glob("runs/*.json") if not path.name.endswith(".plan.json")]
    done = len(rows(table, "SELECT * FROM scores"))
    record = score(archive, detector=detector, table=table, actors=1).record
    assert record is not None
    assert record.resumed
    assert record.images == 42
    everything = rows(table, f"SELECT image_uri FROM read_parquet('{table}/scores/*/*.parquet')")
    assert len(everything) == len({row["image_uri"] for row in everything}) == 42
    assert done < 42, "the run was killed too late to prove anything"


def test_archive_detector_and_table_on_s3(s3: str, archive: Path, detector: Path, table: Path) -> None:
    for folder, name in ((archive, "archive"), (detector, "detectors/weave")):
        for path in folder.rglob("*"):
            if path.is_file() and "training" not in path.parts:
                storage.write(f"{s3}/{name}/{path.relative_to(folder)}", path.read_bytes())
    place = f"{s3}/scores"
    record = score(f"{s3}/archive", detector=f"{s3}/detectors/weave", table=place, threshold=ALWAYS, actors=1).record
    assert record is not None
    assert record.by_status == {"ok": 40, "unreadable": 2}
    assert score(f"{s3}/archive", detector=f"{s3}/detectors/weave", table=place, threshold=ALWAYS).plan.images == 0
    name = "parse_filename(image_uri)"
    sql = f"SELECT {name} AS name, score FROM scores WHERE status = 'ok' ORDER BY {name}"
    there, here = ({row["name"]: row["score"] for row in rows(where, sql)} for where in (place, table))
    # Not equal: each run's trial chooses the memory format, and that moves a score by its rounding.
    assert there == pytest.approx(here, rel=0, abs=1e-6), "the same images got other scores"
    (row,) = rows(place, "SELECT mask_uri FROM scores WHERE mask_uri IS NOT NULL LIMIT 1")
    assert decode_image(storage.read(row["mask_uri"])).pixels.shape == (64, 64, 3)


def test_a_detector_keeps_the_white_of_its_normal_images(tmp_path: Path) -> None:
    normals = tmp_path / "normals"
    rng = np.random.default_rng(0)
    for k in range(12):
        numbers = rng.integers(1000, 4000, (40, 40)).astype(np.uint16)
        write_image(normals / f"{k}.png", numbers[..., None])
    trained = train(
        normals,
        tmp_path / "detector",
        settings=tiny_training(steps=1),
        workers=0,
    )
    assert trained.detector.settings.white == 4095
    write_image(normals / "beyond.png", numbers[..., None] * 16)
    score(normals, table=tmp_path / "table", detector=tmp_path / "detector", actors=1)
    rows = query(
        tmp_path / "table", "SELECT status, count(*) n, min(error) e FROM scores GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    assert [(row["status"], row["n"]) for row in rows] == [("ok", 12), ("unreadable", 1)]
    assert "white is 4095" in rows[1]["e"]
    with pytest.raises(UserError, match=r"white. is 1023, and the detector .* was trained with 4095"):
        score(normals, table=tmp_path / "t2", detector=tmp_path / "detector", overrides=["images.white=1023"])
