"""A table of many days of a generated plant: two lines, two cameras, lots; with planted stories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.analytics.report.rows import MEASURES
from diffad_ray.table.layout import image_id, parquet_bytes, shard_file, to_table
from diffad_ray.table.parts import REGIONS, SCORES
from diffad_ray.table.runs import Plan, PlannedDetector, RunRecord, write_plan, write_record
from diffad_ray.table.schema import extend_schema, scores_schema

FINGERPRINT = "a" * 16
FIRST = date(2026, 3, 1)
WIDTH, HEIGHT = 200, 100
THRESHOLD = 3.0
RATE = 0.02
NO_SCORE = ("score", "tail_probability", "is_anomalous", "region_count", *MEASURES)
COLUMNS = pa.schema([(name, pa.string()) for name in ("line", "camera", "lot", "taken", "serial")])


@dataclass
class Part:
    """An image before it is written: its columns, whether it is an alert, where it has regions, how wide and high these
    are in pixels, and its light."""

    day: int
    columns: dict[str, str]
    is_alert: bool
    places: list[tuple[float, float]]
    light: float = 0.5
    box: tuple[int, int] = (8, 8)


Story = Callable[[Part, np.random.Generator], None]
"Changes a part as a cause in the plant would."


def quiet(part: Part, rng: np.random.Generator) -> None:
    """Nothing happens."""


def tool_mark(since: int) -> Story:
    """From a day on, six in ten images of the camera `top` have a mark at one place."""

    def change(part: Part, rng: np.random.Generator) -> None:
        if part.day >= since and part.columns["camera"] == "top" and rng.random() < 0.6:
            part.is_alert = True
            part.places.append((0.3 + rng.normal(0, 0.004), 0.7 + rng.normal(0, 0.004)))

    return change


def bad_lot(since: int) -> Story:
    """From a day on, line B works off the lot X, of which three in ten parts are alerts."""

    def change(part: Part, rng: np.random.Generator) -> None:
        if part.day >= since and part.columns["line"] == "B":
            part.columns["lot"] = "X"
            if rng.random() < 0.3:
                part.is_alert = True
                part.places.append((rng.uniform(), rng.uniform()))

    return change


def dim_camera(since: int) -> Story:
    """From a day on, the camera `side` has two thirds of its light."""

    def change(part: Part, rng: np.random.Generator) -> None:
        if part.day >= since and part.columns["camera"] == "side":
            part.light *= 0.67

    return change


def scratches(since: int) -> Story:
    """From a day on, one image in twenty has a scratch somewhere."""

    def change(part: Part, rng: np.random.Generator) -> None:
        if part.day >= since and not part.is_alert and rng.random() < 0.05:
            part.is_alert, part.box = True, (24, 2)
            part.places.append((rng.uniform(), rng.uniform()))

    return change


def write_plant(table: str, days: int, a_day: int, story: Story = quiet, archive: str = "/archive") -> None:
    """Write a run a day, from the first of March 2026 on."""
    rng = np.random.default_rng(7)
    for day in range(days):
        # The rate of a plant is not the same every day.
        rate = RATE * rng.uniform(0.8, 1.25)
        light = rng.normal(1, 0.01)
        parts = []
        for number in range(a_day):
            columns = {"line": "AB"[number % 2], "camera": ("top", "side")[number // 2 % 2], "lot": "M"}
            columns["taken"] = str(FIRST + timedelta(days=day))
            # Both cameras take an image of each part.
            columns["serial"] = f"{day:02d}-{number // 4 * 2 + number % 2:04d}"
            is_alert = bool(rng.random() < rate)
            part = Part(day, columns, is_alert, [(rng.uniform(), rng.uniform())] if is_alert else [])
            story(part, rng)
            part.light *= light
            parts.append(part)
        _write_day(table, day, parts, archive, rng)


def _write_day(table: str, day: int, parts: list[Part], archive: str, rng: np.random.Generator) -> None:
    start = datetime(FIRST.year, FIRST.month, FIRST.day, 3, tzinfo=UTC) + timedelta(days=day)
    run_date, run_id = f"{start:%Y-%m-%d}", f"{start:%Y%m%dT%H%M%S}-{day:06x}"
    rows, regions = [], []
    for number, part in enumerate(parts):
        row = _row(f"{archive}/{day:02d}-{number:05d}.png", part, rng)
        row |= {"run_id": run_id, "scored_at": start + timedelta(seconds=number)}
        if number % 101 == 100:
            row |= dict.fromkeys(
                ("score", "tail_probability", "is_anomalous", "region_count", "width", "height", "brightness")
            )
            row |= {"status": "timeout", "error": f"no answer in {number} s"}
        else:
            regions += [_region(row, k, *place, *part.box) for k, place in enumerate(part.places)]
        rows.append(row)
    extend_schema(table, COLUMNS)
    detectors = [PlannedDetector("/detectors/part", "part", FINGERPRINT, len(rows))]
    plan = Plan(
        run_id, run_date, table, archive, detectors, len(rows), 0, 0, 1, True, COLUMNS.names, [], f"work{day}", {}
    )
    for name, content, schema in (("regions", regions, REGIONS.columns), ("scores", rows, scores_schema(table))):
        storage.create(shard_file(table, name, run_date, run_id, 0), parquet_bytes(to_table(content, schema)))
    write_plan(plan)
    statuses = [row["status"] for row in rows]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    alerts = sum(bool(row["is_anomalous"]) for row in rows)
    write_record(
        plan,
        RunRecord(run_id, "finished", len(rows), 0, 0, counts, alerts, [], 20.0, False, f"{run_date}T04:00:00+00:00"),
    )


def _row(uri: str, part: Part, rng: np.random.Generator) -> dict[str, Any]:
    score = THRESHOLD + rng.exponential() if part.is_alert else THRESHOLD - 1 - rng.exponential()
    row: dict[str, Any] = dict.fromkeys(SCORES.columns.names)
    row |= {"image_id": image_id(uri, "v"), "image_uri": uri, "image_version": "v", "image_bytes": 100}
    row |= {"status": "ok", "width": WIDTH, "height": HEIGHT, "mode": "8-bit RGB", "threshold": THRESHOLD}
    row |= {"score": score, "tail_probability": float(np.exp(-max(0.0, score))), "is_anomalous": part.is_alert}
    row |= {"region_count": len(part.places), "detector": "part", "detector_fingerprint": FINGERPRINT}
    row |= {"brightness": part.light + rng.normal(0, 0.02), "contrast": 0.2, "sharpness": 0.05 + rng.normal(0, 0.002)}
    return {**row, **part.columns}


def _region(row: dict[str, Any], number: int, x: float, y: float, width: int, height: int) -> dict[str, Any]:
    left, top = min(int(x * WIDTH), WIDTH - width), min(int(y * HEIGHT), HEIGHT - height)
    region: dict[str, Any] = {
        "region": number,
        "x": left,
        "y": top,
        "width": width,
        "height": height,
        "area": width * height,
        "peak": 5.0,
        "mean": 4.0,
    }
    region |= {"centroid_x": x * WIDTH, "centroid_y": y * HEIGHT, "mask_runs": [0, width * height]}
    return {**{name: row[name] for name in ("image_id", "detector_fingerprint", "run_id")}, **region}
