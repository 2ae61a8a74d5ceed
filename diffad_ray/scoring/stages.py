"""The stages of scoring a shard. Each takes one block, a whole shard, and gives one block: load, detect, commit.

A shard never splits on its way, so the last stage can publish it by one atomic write.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffad_ray import storage
from diffad_ray.detectors.bundle import load_bundle
from diffad_ray.detectors.calibration import Calibration
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.images import DEFAULT_MAX_PIXELS, same_depth
from diffad_ray.scoring.load import LoadedImage, load_image
from diffad_ray.scoring.masks import anomaly_mask, find_regions, mask_png
from diffad_ray.scoring.plan import Plan
from diffad_ray.scoring.table import REGIONS, SCORES, mask_file, parquet_bytes, shard_file, to_table

log = logging.getLogger(__name__)
FOUND = [SCORES.field(name) for name in ("status", "error", "width", "height", "mode")]
"Columns that loading an image fills in."


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How an archive is scored.

    Attributes:
        masks: of which images PNG masks are written. Run lengths are in the regions table whatever this says.
        threshold: score from which an image is anomalous; None takes the detector's.
        max_pixels: images with more pixels are not decoded and get the status `too_large`.
        readers: images of a shard that are fetched and decoded at the same time.
    """

    masks: Literal["all", "anomalous", "none"] = "anomalous"
    threshold: float | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    readers: int = 32

    def __post_init__(self) -> None:
        if self.masks not in ("all", "anomalous", "none"):
            raise ValueError(f"masks must be all, anomalous or none, not {self.masks!r}")
        if self.readers < 1 or self.max_pixels < 1:
            raise ValueError("readers and max_pixels must be 1 or more")


class LoadShard:
    """Stage 1, on CPUs: a shard's number to its images as the networks see them.

    Gives the columns of the manifest, `status`, `error`, `width`, `height`, `mode`, and `pixels`, the bytes of [S,S,3]
    uint8 or uint16, null where an image could not be read.
    """

    def __init__(self, plan: Plan, settings: ScoringSettings, image_size: int):
        self.plan, self.settings, self.image_size = plan, settings, image_size

    def run(self, block: pa.Table) -> pa.Table:
        # Threads of our own decode many images at once; OpenCV's would only get in their way.
        cv2.setNumThreads(1)
        (shard,) = block["shard"].to_pylist()
        manifest = pq.read_table(pa.BufferReader(storage.read(self.plan.manifest_file(shard))))
        uris, sizes = manifest["image_uri"].to_pylist(), manifest["image_bytes"].to_pylist()

        def load(uri: str, size: int) -> LoadedImage:
            return load_image(uri, size, self.image_size, self.settings.max_pixels)

        with ThreadPoolExecutor(self.settings.readers) as pool:
            images = list(pool.map(load, uris, sizes))
        loaded = manifest.append_column("shard", pa.array([shard] * len(images), pa.int32()))
        for field in FOUND:
            loaded = loaded.append_column(field, pa.array([getattr(image, field.name) for image in images], field.type))
        pixels = [None if image.pixels is None else image.pixels.tobytes() for image in images]
        return loaded.append_column("pixels", pa.array(pixels, pa.large_binary()))


class DetectShard:
    """Stage 2, on actors that hold the detector, on a GPU where there is one: pixels to scores and maps.

    Adds `score`, `anomaly_map` as float16 bytes of [S,S] where a mask will be made of it, and `network_mode`, how the
    networks ran; drops `pixels`.
    """

    def __init__(self, plan: Plan, settings: ScoringSettings, threads: int):
        bundle = load_bundle(plan.detector)
        if bundle.fingerprint != plan.fingerprint:
            raise RuntimeError(f"the detector at {plan.detector} was replaced while the run went on")
        device = default_device()
        if device.type == "cpu":
            torch.set_num_threads(threads)
        self.masks = settings.masks
        self.threshold = threshold_of(settings, bundle.calibration.threshold)
        self.engine = Engine(bundle.detector, device)

    def __call__(self, block: pa.Table) -> pa.Table:
        side = self.engine.detector.settings.image_size
        pixels = [buffer.as_py() for buffer in block["pixels"]]
        readable = [row for row, data in enumerate(pixels) if data is not None]
        scores: list[float | None] = [None] * len(pixels)
        maps: list[bytes | None] = [None] * len(pixels)
        if readable:
            images = same_depth([image_from_bytes(pixels[row], side) for row in readable])
            found = self.engine.detect(images)
            detections = ((s, m) for batch in found for s, m in zip(batch.score, batch.anomaly_map, strict=True))
            for row, (score, anomaly_map) in zip(readable, detections, strict=True):
                # As the number that the commit will judge: a float32 beside the threshold would round it.
                scores[row] = exact = float(score)
                if self.masks == "all" or exact >= self.threshold:
                    maps[row] = anomaly_map.astype(np.float16).tobytes()
        detected = block.drop_columns(["pixels"]).append_column("score", pa.array(scores, pa.float32()))
        detected = detected.append_column("anomaly_map", pa.array(maps, pa.large_binary()))
        return detected.append_column("network_mode", pa.array([str(self.engine.detector.mode)] * len(pixels)))


class ShardSummary(NamedTuple):
    """What the driver learns of a shard that is done."""

    shard: int
    images: int
    failed: int
    anomalous: int
    network_mode: str


class CommitShard:
    """Stage 3, on actors with a share of a CPU: writes masks, then regions, then scores.

    Whatever dies in between is done again by the next attempt, into the same files.
    """

    def __init__(self, plan: Plan, settings: ScoringSettings, image_size: int, name: str, calibration: Calibration):
        self.plan, self.settings, self.image_size = plan, settings, image_size
        self.name, self.calibration = name, calibration
        self.threshold = threshold_of(settings, calibration.threshold)

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, network_mode = block["shard"][0].as_py(), block["network_mode"][0].as_py()
        scored_at = datetime.now(UTC)
        rows, regions = [], []
        for row in block.drop_columns(["shard", "network_mode"]).to_pylist():
            anomaly_map = row.pop("anomaly_map")
            row |= {
                "detector": self.name,
                "detector_fingerprint": self.plan.fingerprint,
                "run_id": self.plan.run_id,
                "scored_at": scored_at,
            }
            if row["status"] == "ok":
                regions += self._judge(row, anomaly_map)
            rows.append(row)
        plan = self.plan
        place = (plan.run_date, plan.run_id, shard)
        storage.create(shard_file(plan.table, "regions", *place), parquet_bytes(to_table(regions, REGIONS)))
        storage.create(shard_file(plan.table, "scores", *place), parquet_bytes(to_table(rows, SCORES)))
        failed = sum(row["status"] != "ok" for row in rows)
        anomalous = sum(bool(row.get("is_anomalous")) for row in rows)
        return pa.Table.from_pylist([ShardSummary(shard, len(rows), failed, anomalous, network_mode)._asdict()])

    def _judge(self, row: dict[str, Any], anomaly_map: bytes | None) -> list[dict[str, Any]]:
        """Fill in what the score means, write the mask, and return the rows of the regions."""
        score = float(row["score"])
        row |= {
            "tail_probability": float(self.calibration.tail_probability(np.array([score]))[0]),
            "threshold": self.threshold,
            "is_anomalous": score >= self.threshold,
            "anomalous_fraction": 0.0,
            "region_count": 0,
        }
        if anomaly_map is None:
            return []
        small = np.frombuffer(anomaly_map, np.float16).reshape(self.image_size, self.image_size)
        if row["is_anomalous"]:
            full_map, mask = anomaly_mask(small, row["width"], row["height"], self.threshold)
            found = find_regions(full_map, mask)
        else:
            mask, found = np.zeros((row["height"], row["width"]), dtype=bool), []
        row |= {"anomalous_fraction": float(mask.mean()), "region_count": len(found)}
        if self.settings.masks != "none":
            row["mask_uri"] = mask_file(self.plan.table, self.plan.fingerprint, row["image_id"])
            storage.write(row["mask_uri"], mask_png(mask))
        names = ("image_id", "detector_fingerprint", "run_id")
        return [{**{name: row[name] for name in names}, "region": k, **region} for k, region in enumerate(found)]


def threshold_of(settings: ScoringSettings, calibrated: float) -> float:
    return calibrated if settings.threshold is None else settings.threshold


def image_from_bytes(data: bytes, side: int) -> np.ndarray:
    """[S,S,3] from its bytes, whose number tells uint8 from uint16."""
    deep = len(data) == 2 * side * side * 3
    return np.frombuffer(data, np.uint16 if deep else np.uint8).reshape(side, side, 3)
