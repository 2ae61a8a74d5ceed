"""Stage 3, on actors with a share of a CPU: writes the masks, the regions and the scores of a shard."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.inference.regions import mask_png
from diffad_ray.inference.verdict import MAP_TYPE, verdict
from diffad_ray.read_ahead import read_ahead
from diffad_ray.scoring import measures
from diffad_ray.scoring.profile import Clock, spans_in, spans_text
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import REGIONS, SCORES, mask_file, parquet_bytes, shard_file, to_table
from diffad_ray.table.runs import Plan

MASK_WRITERS = 16


class Judge(NamedTuple):
    """What the scores of a detector mean."""

    name: str
    calibration: Calibration | None
    threshold: float


NOBODY = Judge("", None, np.inf)
"Judges images that no route leads to a detector."


class ShardSummary(NamedTuple):
    """What the driver learns of a shard that is done.

    Attributes:
        seconds: processor time in all stages.
        spans: what each process did when, as `Profile.add` takes it.
    """

    shard: int
    images: int
    failed: int
    anomalous: int
    network_mode: str | None
    seconds: float
    spans: str


class CommitShard:
    """Judges the scores of a shard and writes: masks, then regions, then scores.

    Whatever dies in between is done again by the next attempt, into the same files.

    Args:
        judges: by fingerprint.
    """

    def __init__(
        self,
        plan: Plan,
        settings: ScoringSettings,
        storage_settings: storage.StorageSettings,
        judges: dict[str, Judge],
    ):
        storage.configure(storage_settings)
        self.plan, self.settings, self.judges = plan, settings, judges

    def __call__(self, block: pa.Table) -> pa.Table:
        started, clock = time.process_time(), Clock("commit")
        cv2.setNumThreads(1)
        plan, shard = self.plan, block["shard"][0].as_py()
        judge = self.judges.get(block["detector_fingerprint"][0].as_py(), NOBODY)
        judged = [self._judged(block, row, judge) for row in range(len(block))]
        pngs = (row for row in judged if row and row.png)
        for _ in read_ahead(lambda row: storage.write(row.mask_uri, row.png), pngs, MASK_WRITERS):
            pass
        regions = [region for row in judged if row for region in row.regions]
        rows = len(judged)
        filled: dict[str, Any] = {
            name: pa.array([getattr(row, name) if row else None for row in judged], SCORES.field(name).type)
            for name in ("tail_probability", "threshold", "is_anomalous", "anomalous_fraction", "region_count")
        }
        filled |= {
            "mask_uri": pa.array([row.mask_uri if row and row.png else None for row in judged], pa.string()),
            "detector": pa.array([judge.name] * rows),
            "run_id": pa.array([plan.run_id] * rows),
            "scored_at": pa.array([datetime.now(UTC)] * rows),
        }
        place = (plan.run_date, plan.run_id, shard)
        columns = dict(zip(block.column_names, block.columns, strict=True)) | filled
        fields = [*SCORES, *(block.schema.field(name) for name in plan.columns)]
        table = pa.table({field.name: columns[field.name].cast(field.type) for field in fields}, pa.schema(fields))
        if self._publish(place, parquet_bytes(to_table(regions, REGIONS)), parquet_bytes(table)):
            measures.add_images(table["status"].to_pylist())
        span = clock.span(shard, rows)
        measures.add_seconds("commit", span.seconds)
        measures.add_requests()
        summary = ShardSummary(
            shard=shard,
            images=rows,
            failed=judged.count(None),
            anomalous=sum(row.is_anomalous for row in judged if row),
            network_mode=next((mode for mode in block["network_mode"].to_pylist() if mode), None),
            seconds=block["seconds"][0].as_py() + time.process_time() - started,
            spans=spans_text([*spans_in(block), span]),
        )
        return pa.Table.from_pylist([summary._asdict()])

    def _publish(self, place: tuple[str, str, int], regions: bytes, scores: bytes) -> bool:
        """Write the files of a shard, unless it is done; return whether this call did. A worker that outlived its run
        must not write any more: once a compaction has merged the run's files, their names are free again."""
        regions_file, scores_file = (shard_file(self.plan.table, kind, *place) for kind in ("regions", "scores"))
        if storage.exists(scores_file) or storage.exists(self.plan.record_file):
            return False
        # An earlier attempt may have written regions and died; it may have found other images readable than this one.
        storage.write(regions_file, regions)
        return storage.create(scores_file, scores)

    def _judged(self, block: pa.Table, row: int, judge: Judge) -> _Judged | None:
        """The verdict on an image, ready to be written; None where it has no score."""
        score, image = block["score"][row].as_py(), block["image_id"][row].as_py()
        if score is None:
            return None
        anomaly_map = None
        if block["anomaly_map"][row].is_valid:
            anomaly_map = np.frombuffer(block["anomaly_map"][row].as_py(), MAP_TYPE)
            anomaly_map = anomaly_map.reshape(-1, block["map_width"][row].as_py())
        size = block["width"][row].as_py(), block["height"][row].as_py()
        found = verdict(score, anomaly_map, size, judge.calibration, judge.threshold)
        fingerprint = block["detector_fingerprint"][row].as_py()
        origin = {"image_id": image, "detector_fingerprint": fingerprint, "run_id": self.plan.run_id}
        return _Judged(
            tail_probability=found.tail_probability,
            threshold=found.threshold,
            is_anomalous=found.is_anomalous,
            anomalous_fraction=found.anomalous_fraction,
            region_count=len(found.regions),
            regions=[origin | {"region": k} | region for k, region in enumerate(found.regions)],
            mask_uri=mask_file(self.plan.table, fingerprint, image),
            # Encoded here: the masks of a shard of large images would not fit the memory.
            png=b"" if found.mask is None or self.settings.masks == "none" else mask_png(found.mask),
        )


class _Judged(NamedTuple):
    """A verdict as it is written: columns of the scores, rows of the regions, and the mask's file."""

    tail_probability: float | None
    threshold: float
    is_anomalous: bool
    anomalous_fraction: float
    region_count: int
    regions: list[dict[str, Any]]
    mask_uri: str
    png: bytes
