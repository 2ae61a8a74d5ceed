"""Writes tables of many nights whose causes are known: quiet ones, and ones in which something changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray.table.layout import REGIONS, shard_file
from diffad_ray.table.runs import Plan, PlannedDetector, RunRecord, write_plan, write_record
from diffad_ray.table.schema import extend_schema, scores_schema

FINGERPRINT = "f" * 16
FIRST = date(2026, 11, 1)
SIDE = 1000
THRESHOLD = float(np.log(99))
"Scores of good parts are logistic, so their tail probability is 1 / (1 + exp(score)): 1 % of them reach this."
DEFECTS = 0.002
"Share of defective parts."
AS_DEFECTIVE = 8.0
"How much a defect adds to the score."


@dataclass
class Part:
    """The images of one camera in one night, which a change of a test may alter.

    Attributes:
        day: number of the night, from 0.
        score: [N] of all images; brightness, contrast, sharpness: [N] as well.
        uris, ids: [N] of the images.
        x, y: [N] where the region of an anomalous image lies, in [0, 1].
        lot: of all these images.
    """

    day: int
    camera: str
    rng: np.random.Generator
    score: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    x: np.ndarray
    y: np.ndarray
    lot: str
    failed: np.ndarray
    uris: list[str]
    ids: np.ndarray
    mode: str = "8-bit RGB"

    def make_defective(self, share: float) -> np.ndarray:
        """Give a random share of the images a defect; which ones [N]."""
        chosen = self.rng.random(len(self.score)) < share
        self.score[chosen] += AS_DEFECTIVE
        return chosen


Change = Callable[[Part], None]


def write_nights(
    table: Path,
    *,
    change: Change | None = None,
    nights: int = 30,
    images: int = 400,
    cameras: Sequence[str] = ("top", "side", "left", "right"),
    seed: int = 0,
) -> None:
    """Write a table with the rows of some nights, `images` of each camera a night.

    Light and focus vary by about half a percent from night to night, and scores by a tenth of their spread.
    """
    rng = np.random.default_rng(seed)
    extend_schema(str(table), pa.schema([("camera", pa.string()), ("lot", pa.string())]))
    for day in range(nights):
        parts = []
        for number, camera in enumerate(cameras):
            part = _part(rng, day, camera, number, images)
            part.make_defective(DEFECTS)
            if change:
                change(part)
            parts.append(part)
        _write(table, day, parts)


def _part(rng: np.random.Generator, day: int, camera: str, number: int, images: int) -> Part:
    def level(value: float, spread: float) -> np.ndarray:
        return (value * (1 + 0.005 * rng.normal()) * (1 + spread * rng.normal(size=images))).astype(np.float32)

    u = rng.random(images)
    return Part(
        day=day,
        camera=camera,
        rng=rng,
        score=np.log(u / (1 - u)) + 0.1 * rng.normal(),
        brightness=level(0.4 + 0.05 * number, 0.03),
        contrast=level(0.12, 0.05),
        sharpness=level(0.03, 0.08),
        x=rng.random(images),
        y=rng.random(images),
        lot=f"lot{day // 5}",
        failed=rng.random(images) < 0.001,
        uris=[f"/archive/{camera}/{day}/{k}.png" for k in range(images)],
        ids=rng.integers(-(2**62), 2**62, images),
    )


def _write(table: Path, day: int, parts: list[Part]) -> None:
    night = FIRST + timedelta(days=day)
    run = f"{night:%Y%m%d}T030000-{day:06x}"
    blocks = [_rows(part, night, run) for part in parts]
    schema = scores_schema(str(table))
    scores = pa.concat_tables([pa.table({name: rows[name] for name in schema.names}, schema) for rows, _ in blocks])
    regions = pa.concat_tables([found for _, found in blocks])
    for kind, rows in (("scores", scores), ("regions", regions)):
        file = Path(shard_file(str(table), kind, str(night), run, 0))
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, file, compression="zstd")
    count = len(scores)
    detectors = [PlannedDetector("/detectors/part", "part", FINGERPRINT, count)]
    plan = Plan(
        run, str(night), str(table), "/archive", detectors, count, 0, 0, 1, True, ["camera", "lot"], [], run, {}
    )
    write_plan(plan)
    write_record(plan, RunRecord(run, "finished", count, 0, 0, {}, 0, [], 60.0, False, f"{night}T04:00:00+00:00"))


def _rows(part: Part, night: date, run: str) -> tuple[dict[str, pa.Array], pa.Table]:
    """The columns of the scores, and the regions of the anomalous images."""
    n = len(part.score)
    ok = ~part.failed
    score = part.score.astype(np.float32)
    bad = ok & (score >= np.float32(THRESHOLD))

    def seen(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=part.failed)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n)

    moment = pa.scalar(np.datetime64(night, "us"), pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    rows = {
        "image_id": pa.array(part.ids),
        "image_uri": pa.array(part.uris),
        "image_version": same("v", pa.string()),
        "image_bytes": same(1000, pa.int64()),
        "image_modified": pa.repeat(moment, n),
        "width": seen(np.full(n, SIDE), pa.int32()),
        "height": seen(np.full(n, SIDE), pa.int32()),
        "mode": seen(np.full(n, part.mode), pa.string()),
        "brightness": seen(part.brightness, pa.float32()),
        "contrast": seen(part.contrast, pa.float32()),
        "sharpness": seen(part.sharpness, pa.float32()),
        "status": pa.array(np.where(ok, "ok", "unreadable")),
        "error": pa.array(np.full(n, "the file ends early"), pa.string(), mask=ok),
        "score": seen(score, pa.float32()),
        "scored_by": seen(np.full(n, "detector"), pa.string()),
        "score_of_gate": same(None, pa.float32()),
        "tail_probability": seen(1 / (1 + np.exp(part.score)), pa.float64()),
        "threshold": seen(np.full(n, THRESHOLD), pa.float32()),
        "is_anomalous": seen(bad, pa.bool_()),
        "anomalous_fraction": seen(np.where(bad, 0.001, 0.0), pa.float32()),
        "region_count": seen(bad.astype(int), pa.int32()),
        "mask_uri": same(None, pa.string()),
        "detector": same("part", pa.string()),
        "detector_fingerprint": same(FINGERPRINT, pa.string()),
        "run_id": same(run, pa.string()),
        "scored_at": pa.repeat(moment, n),
        "camera": same(part.camera, pa.string()),
        "lot": same(part.lot, pa.string()),
    }
    x, y = (part.x[bad] * (SIDE - 20)).astype(int), (part.y[bad] * (SIDE - 20)).astype(int)
    k = int(bad.sum())
    regions = {
        "image_id": part.ids[bad],
        "region": np.zeros(k, np.int32),
        "x": x,
        "y": y,
        "width": np.full(k, 20),
        "height": np.full(k, 20),
        "area": np.full(k, 400),
        "peak": np.full(k, 6.0),
        "mean": np.full(k, 5.0),
        "centroid_x": x + 9.5,
        "centroid_y": y + 9.5,
        "mask_runs": [[0, 400]] * k,
        "detector_fingerprint": [FINGERPRINT] * k,
        "run_id": [run] * k,
    }
    return rows, pa.table({name: pa.array(regions[name], REGIONS.field(name).type) for name in REGIONS.names})
