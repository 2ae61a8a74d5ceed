"""Writes runs of a table by hand, as scoring would, without scoring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.inference.regions import find_regions, mask_png
from diffad_ray.table.layout import (
    MANIFEST,
    REGIONS,
    SCORES,
    image_id,
    mask_file,
    parquet_bytes,
    shard_file,
    to_table,
)
from diffad_ray.table.reading import connect
from diffad_ray.table.runs import Plan, PlannedDetector, RunRecord, write_plan, write_record
from diffad_ray.table.schema import extend_schema, scores_schema
from diffad_ray.table.superseded import settle_superseded, write_superseded

FINGERPRINT = "f" * 16
START = datetime(2026, 1, 1, 3, tzinfo=UTC)
SIDE = 40
"Pixels of an image's width; it is half as high."


def write_run(
    table: str,
    day: int,
    images: list[str],
    *,
    archive: str = "/archive",
    suffix: str = "abc",
    shard_rows: int = 5,
    done: int | None = None,
    state: str | None = "finished",
    columns: dict[str, str] | None = None,
    failing: str = "",
) -> Plan:
    """A run over images, of which those whose names end in 0, 3, 6 or 9 are anomalous, with two regions.

    Args:
        day: of January; gives the run its partition, and with the suffix its name.
        done: shards that it got to write; all of them by default.
        state: of its record; without one it was interrupted.
        columns: more of them, with a value for all rows.
        failing: an image with the status `timeout`.
    """
    started = START + timedelta(days=day - 1)
    date, extra = f"{started:%Y-%m-%d}", columns or {}
    shards = [images[k : k + shard_rows] for k in range(0, len(images), shard_rows)]
    plan = Plan(
        run_id=f"{started:%Y%m%dT%H%M%S}-{suffix}{day:03d}",
        run_date=date,
        table=table,
        archive=archive,
        detectors=[PlannedDetector("/detectors/weave", "weave", FINGERPRINT, len(images))],
        images=len(images),
        skipped=0,
        other_files=0,
        shards=len(shards),
        checks_versions=True,
        columns=list(extra),
        notes=[],
        work=f"work{day}",
        settings={},
    )
    columns = pa.schema([(name, pa.string()) for name in extra])
    _begin(plan, [described(f"{archive}/{name}") for name in images], columns)
    schema = scores_schema(table)
    users = [field for field in schema if field.name not in SCORES.names]
    written: list[dict[str, Any]] = []
    for shard, names in enumerate(shards):
        base = [{**extra, **described(f"{archive}/{name}"), "detector_fingerprint": FINGERPRINT} for name in names]
        manifest = pa.schema([*MANIFEST, *users])
        storage.write(plan.manifest_file(shard), parquet_bytes(to_table(base, manifest)))
        if done is not None and shard >= done:
            continue
        rows, regions = [], []
        for row in base:
            row |= {"detector": "weave", "run_id": plan.run_id, "scored_at": started}
            if row["image_uri"] == f"{archive}/{failing}":
                row |= {"status": "timeout", "error": "no answer in 30 s"}
            else:
                regions += judge(row, table)
            rows.append(row)
        place = (date, plan.run_id, shard)
        storage.create(shard_file(table, "regions", *place), parquet_bytes(to_table(regions, REGIONS)))
        storage.create(shard_file(table, "scores", *place), parquet_bytes(to_table(rows, schema)))
        written += rows
    write_plan(plan)
    if state == "abandoned":
        settle_superseded(plan)
    if state:
        write_record(plan, record_of(plan, written, state))
    return plan


def _begin(plan: Plan, images: list[dict[str, Any]], columns: pa.Schema) -> None:
    """What scoring writes before the plan, besides manifests."""
    if storage.exists(plan.plan_file):
        return  # the run goes on
    planned = pa.Table.from_pylist([{**image, "detector_fingerprint": FINGERPRINT} for image in images], MANIFEST)
    with connect(plan.table) as connection:
        connection.register("planned", planned)
        write_superseded(connection, "planned", plan.table, plan.run_id)
    extend_schema(plan.table, columns)


def described(uri: str) -> dict[str, Any]:
    return {"image_id": image_id(uri, "v"), "image_uri": uri, "image_version": "v", "image_bytes": 100}


def judge(row: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """Fill in an image's verdict and give its regions."""
    bad = row["image_uri"][-5] in "0369"
    row |= {"status": "ok", "width": SIDE, "height": SIDE // 2, "mode": "8-bit RGB", "threshold": 0.5}
    row |= {"score": 0.9 if bad else 0.1, "tail_probability": 0.01 if bad else 0.6, "is_anomalous": bad}
    row["region_count"] = 2 * bad
    if not bad:
        return []
    mask = np.zeros((SIDE // 2, SIDE), dtype=bool)
    mask[3:9, 4:12] = mask[12:16, 25:38] = True
    mask[3, 4] = False
    row["mask_uri"] = mask_file(table, FINGERPRINT, row["image_id"])
    storage.write(row["mask_uri"], mask_png(mask))
    found = find_regions(np.where(mask, 0.9, 0.1).astype(np.float32), mask)
    names = ("image_id", "detector_fingerprint", "run_id")
    return [{**{name: row[name] for name in names}, "region": k, **region} for k, region in enumerate(found)]


def record_of(plan: Plan, rows: list[dict[str, Any]], state: str) -> RunRecord:
    statuses = [row["status"] for row in rows]
    return RunRecord(
        run_id=plan.run_id,
        state=state,  # type: ignore[arg-type]
        images=len(rows),
        skipped=0,
        other_files=0,
        by_status={status: statuses.count(status) for status in sorted(set(statuses))},
        anomalous=sum(bool(row.get("is_anomalous")) for row in rows),
        modes=["float32"],
        seconds=12.5,
        resumed=False,
        finished_at="2026-01-01T04:00:00+00:00",
    )
