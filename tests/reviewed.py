"""Tables for reviews: small images that are there, and scores that differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hand_made_table import SIDE, write_run

from diffad_ray.table.layout import parquet_bytes


def archive_with_table(folder: Path, count: int, **options: object) -> str:
    """Write `count` images of two cameras and the table that has scored them; return the table's location.

    Four of ten images are alerts, see `write_run`.
    """
    rng = np.random.default_rng(0)
    archive, table = folder / "archive", folder / "table"
    names = []
    for k in range(count):
        name = f"camera{k % 2}/{k:04d}.png"
        pixels = rng.normal(128 + 40 * (k % 2), 6, (SIDE // 2, SIDE, 3)).clip(0, 255).astype(np.uint8)
        if str(k)[-1] in "0369":
            pixels[3:9, 4:12] = 30
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(archive / name), pixels)
        names.append(name)
    write_run(str(table), 1, names, archive=str(archive), shard_rows=count, **options)  # type: ignore[arg-type]
    return str(table)


def change_scores(table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the files of `scores` again with other rows."""
    for file in Path(table).glob("scores/*/*.parquet"):
        file.write_bytes(parquet_bytes(change(pq.read_table(pa.BufferReader(file.read_bytes())))))


def with_scores(rows: pa.Table, scores: np.ndarray, threshold: float) -> pa.Table:
    """Rows with these scores, judged by a threshold; the tail probability falls with the score."""
    values = {
        "score": pa.array(scores, pa.float32()),
        "threshold": pa.array(np.full(len(scores), threshold), pa.float32()),
        "tail_probability": pa.array(np.exp(-np.maximum(scores, 0)), pa.float64()),
        "is_anomalous": pc.greater_equal(pa.array(scores, pa.float32()), pa.scalar(threshold, pa.float32())),
    }
    for name, column in values.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows
