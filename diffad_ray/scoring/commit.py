"""Stage 3, on actors with a share of a CPU: writes the masks, the regions and the scores of a shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.inference.regions import anomaly_mask, find_regions, mask_png
from diffad_ray.read_ahead import read_ahead
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
    """What the driver learns of a shard that is done; `seconds` are of processor time in all stages."""

    shard: int
    images: int
    failed: int
    anomalous: int
    network_mode: str | None
    seconds: float


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
        started = time.process_time()
        cv2.setNumThreads(1)
        plan, shard = self.plan, block["shard"][0].as_py()
        judge = self.judges.get(block["detector_fingerprint"][0].as_py(), NOBODY)
        scores = np.array([np.nan if s is None else s for s in block["score"].to_pylist()], np.float64)
        has_score = ~np.isnan(scores)
        is_anomalous = scores >= judge.threshold
        maps = [row for row, data in enumerate(block["anomaly_map"]) if data.is_valid]
        judged = [self._marked(block, row, bool(is_anomalous[row]), judge.threshold) for row in maps]
        pngs = (mark for mark in judged if mark.png)
        for _ in read_ahead(lambda mark: storage.write(mark.mask_uri, mark.png), pngs, MASK_WRITERS):
            pass
        regions = [region for mark in judged for region in mark.regions]

        tails = np.full(len(scores), np.nan)
        if judge.calibration is not None:
            tails[has_score] = judge.calibration.tail_probability(scores[has_score])
        rows = len(scores)
        filled: dict[str, Any] = {
            "tail_probability": _where(tails, has_score),
            "threshold": _where(np.full(rows, judge.threshold), has_score),
            "is_anomalous": _where(is_anomalous, has_score),
            "anomalous_fraction": _where(_at(maps, [m.fraction for m in judged], rows), has_score),
            "region_count": _where(_at(maps, [len(m.regions) for m in judged], rows), has_score),
            "mask_uri": _texts(maps, [m.mask_uri if m.png else None for m in judged], rows),
            "detector": pa.array([judge.name] * rows),
            "run_id": pa.array([plan.run_id] * rows),
            "scored_at": pa.array([datetime.now(UTC)] * rows),
        }
        place = (plan.run_date, plan.run_id, shard)
        columns = dict(zip(block.column_names, block.columns, strict=True)) | filled
        fields = [*SCORES, *(block.schema.field(name) for name in plan.columns)]
        table = pa.table({field.name: columns[field.name].cast(field.type) for field in fields}, pa.schema(fields))
        self._publish(place, parquet_bytes(to_table(regions, REGIONS)), parquet_bytes(table))
        summary = ShardSummary(
            shard=shard,
            images=rows,
            failed=rows - int(has_score.sum()),
            anomalous=int(is_anomalous.sum()),
            network_mode=next((mode for mode in block["network_mode"].to_pylist() if mode), None),
            seconds=block["seconds"][0].as_py() + time.process_time() - started,
        )
        return pa.Table.from_pylist([summary._asdict()])

    def _publish(self, place: tuple[str, str, int], regions: bytes, scores: bytes) -> None:
        """Write the files of a shard, unless it is done. A worker that outlived its run must not write any more: once
        a compaction has merged the run's files, their names are free again."""
        regions_file, scores_file = (shard_file(self.plan.table, kind, *place) for kind in ("regions", "scores"))
        if storage.exists(scores_file) or storage.exists(self.plan.record_file):
            return
        # An earlier attempt may have written regions and died; it may have found other images readable than this one.
        storage.write(regions_file, regions)
        storage.create(scores_file, scores)

    def _marked(self, block: pa.Table, row: int, is_anomalous: bool, threshold: float) -> _Marks:
        """Mask and regions of an image, in pixels of the original."""
        image, fingerprint = block["image_id"][row].as_py(), block["detector_fingerprint"][row].as_py()
        width, height = block["width"][row].as_py(), block["height"][row].as_py()
        small = np.frombuffer(block["anomaly_map"][row].as_py(), np.float16)
        if is_anomalous:
            small = small.reshape(-1, block["map_width"][row].as_py())
            full_map, mask = anomaly_mask(small, width, height, threshold)
            found = find_regions(full_map, mask)
        else:
            mask, found = np.zeros((height, width), dtype=bool), []
        origin = {"image_id": image, "detector_fingerprint": fingerprint, "run_id": self.plan.run_id}
        return _Marks(
            regions=[origin | {"region": k} | region for k, region in enumerate(found)],
            fraction=float(mask.mean()),
            mask_uri=mask_file(self.plan.table, fingerprint, image),
            png=mask_png(mask) if self.settings.masks != "none" else b"",
        )


class _Marks(NamedTuple):
    regions: list[dict[str, Any]]
    fraction: float
    mask_uri: str
    png: bytes


def _where(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~valid)


def _at(rows: Sequence[int], values: Sequence[float], count: int) -> np.ndarray:
    """Values at their rows, 0 elsewhere."""
    filled = np.zeros(count)
    filled[list(rows)] = values
    return filled


def _texts(rows: Sequence[int], values: Sequence[str | None], count: int) -> pa.Array:
    """Texts at their rows, null elsewhere."""
    at = dict(zip(rows, values, strict=True))
    return pa.array([at.get(row) for row in range(count)], pa.string())
