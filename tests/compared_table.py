"""A table in which two detectors scored the same images, generated without scoring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from conftest import write_image
from hand_made_table import SIDE

from diffad_ray import storage
from diffad_ray.inference.regions import find_regions
from diffad_ray.table.layout import REGIONS, image_id, parquet_bytes, shard_file, to_table
from diffad_ray.table.schema import extend_schema, scores_schema
from diffad_ray.table.verdicts import Verdict, add_verdicts

OLD, NEW = "a" * 16, "b" * 16
IMAGES, PARTS_EACH = 600, 3
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_compared(table: str, archive: str = "/archive", pictures: bool = False) -> None:
    """Write 600 images of 200 serial numbers on two lines, of which the detectors `part` and `part-2` both scored all
    but a few, with thresholds 2 and -4; and verdicts on some of them.

    `part-2` gives other scores, by another scale, that agree with those of `part` in rank more or less.
    """
    rng = np.random.default_rng(0)
    truth = rng.normal(size=IMAGES)
    scores = {OLD: 1.1 * truth + 0.4 * rng.normal(size=IMAGES), NEW: 3 * truth - 9 + rng.normal(size=IMAGES)}
    scores[NEW][:30] = scores[NEW][30]  # several images share a score
    extend_schema(table, pa.schema([(name, pa.string()) for name in ("line", "camera", "serial")]))
    for number, (fingerprint, threshold, name) in enumerate(((OLD, 2.0, "part"), (NEW, -4.0, "part-2"))):
        tails = (scores[fingerprint] >= scores[fingerprint][:, None]).mean(axis=1)
        rows = []
        for k in range(IMAGES):
            row = described(archive, k) | {
                "detector": name,
                "detector_fingerprint": fingerprint,
                "threshold": threshold,
            }
            row |= {"run_id": f"run{number}", "scored_at": START + timedelta(days=number), "status": "ok"}
            if (k, fingerprint) in ((5, NEW), (6, OLD)):
                row |= {"status": "unreadable", "error": "cut off"}
            elif (k, fingerprint) in ((7, NEW), (8, NEW), (9, OLD)):
                continue
            else:
                score = float(np.float32(scores[fingerprint][k]))
                row |= {"score": score, "tail_probability": tails[k], "is_anomalous": score >= threshold}
                row |= {
                    "width": SIDE,
                    "height": SIDE // 2,
                    "mode": "8-bit RGB",
                    "region_count": int(score >= threshold),
                }
            rows.append(row)
        place = (f"2026-01-0{number + 1}", f"run{number}", 0)
        regions = [region for row in rows if row.get("is_anomalous") for region in regions_of(row, number)]
        storage.create(shard_file(table, "regions", *place), parquet_bytes(to_table(regions, REGIONS)))
        storage.create(shard_file(table, "scores", *place), parquet_bytes(to_table(rows, scores_schema(table))))
    if pictures:
        for k in range(IMAGES):
            write_image(Path(uri(archive, k)), np.full((SIDE // 2, SIDE, 3), 60 + k % 120, np.uint8))
    words = {k: "defect" if truth[k] > 1.9 else "good" if truth[k] < 0 else "unsure" for k in range(0, IMAGES, 2)}
    said = [verdict(archive, k, word) for k, word in words.items()]
    add_verdicts(table, said)


def uri(archive: str, k: int) -> str:
    return f"{archive}/line{k % 2}/{k // PARTS_EACH:05d}/{['top', 'side', 'back'][k % PARTS_EACH]}.png"


def described(archive: str, k: int) -> dict[str, Any]:
    line, serial, camera = uri(archive, k).removesuffix(".png").rsplit("/", 3)[1:]
    # Images of a part come from both lines, so that a part has several values of `line`.
    serial = None if k == 10 else serial
    return {
        "image_id": image_id(uri(archive, k), "v"),
        "image_uri": uri(archive, k),
        "image_version": "v",
        "image_bytes": 100,
        "line": line,
        "camera": camera,
        "serial": serial,
    }


def regions_of(row: dict[str, Any], number: int) -> list[dict[str, Any]]:
    mask = np.zeros((SIDE // 2, SIDE), dtype=bool)
    mask[4 : 10 + 4 * number, 5 : 15 + 10 * number] = True
    found = find_regions(np.where(mask, row["score"], -9.0).astype(np.float32), mask)
    names = ("image_id", "detector_fingerprint", "run_id")
    return [{**{name: row[name] for name in names}, "region": k, **region} for k, region in enumerate(found)]


def verdict(archive: str, k: int, word: str | None, day: int = 5) -> Verdict:
    place = uri(archive, k)
    moment = START + timedelta(days=day, seconds=k)
    return Verdict(image_id(place, "v"), place, OLD, word, "ada", moment)  # type: ignore[arg-type]
