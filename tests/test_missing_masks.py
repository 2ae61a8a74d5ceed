"""Which images `score --missing-masks` chooses: alerts whose last row was judged below the threshold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from selecting import selected

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.errors import UserError
from diffad_ray.scoring.missing import only_missing
from diffad_ray.table.layout import SCORES, parquet_bytes, shard_file


def write_rows(table: str, hour: int, rows: list[dict[str, Any]]) -> None:
    more = {"status": "ok", "run_id": f"r{hour}", "scored_at": datetime(2026, 1, 1, hour, tzinfo=UTC)}
    data = parquet_bytes(pa.Table.from_pylist([{**row, **more} for row in rows], SCORES))
    storage.write(shard_file(table, "scores", "2026-01-01", f"r{hour}", 0), data)


def test_alerts_that_were_judged_below_the_threshold_are_chosen(
    two_lines: Path, bundle: Bundle, tmp_path: Path
) -> None:
    selection, images = selected(two_lines, bundle, tmp_path)
    table = str(tmp_path / "table")
    with pytest.raises(UserError, match="it has no scores"):
        only_missing(selection, table, {bundle.fingerprint: 1.0})

    def row(number: int, score: float | None, is_anomalous: bool | None, **more: Any) -> dict[str, Any]:
        keys = ("image_id", "image_uri", "detector_fingerprint")
        return {**{key: images[number][key] for key in keys}, "score": score, "is_anomalous": is_anomalous, **more}

    first = [row(k, 3.0, False) for k in range(6)]
    first += [row(6, 5.0, True), row(7, 2.0, False), row(8, None, None), row(9, 3.0, False, detector_fingerprint="old")]
    first += [{**row(10, 3.0, False), "image_id": 7, "image_uri": "/elsewhere.png"}]
    write_rows(table, 1, first)
    # Later rows: with masks now, with another score, without a score, and judged below once more.
    write_rows(table, 2, [row(1, 3.0, True), row(2, 2.0, False), row(3, None, None), row(4, 3.0, False)])
    write_rows(table, 3, [row(6, 5.0, False)])
    found = only_missing(selection, table, {bundle.fingerprint: 2.5})
    chosen = found.connection.execute(f"SELECT image_uri FROM {found.rows} ORDER BY 1").fetchall()
    assert chosen == [(images[k]["image_uri"],) for k in (0, 4, 5, 6)]
    assert found.notes == ["1 more alerts lack masks, and this call chose no image of them"]
    assert found.images == selection.images
    none = only_missing(selection, table, {bundle.fingerprint: 6.0})
    assert none.connection.execute(f"SELECT count(*) FROM {none.rows}").fetchall() == [(0,)]
    assert none.notes == []
