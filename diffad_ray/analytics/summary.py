"""The summary of a table: what an analyst asks first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from diffad_ray.table.views import ask_views

WORST = 10
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class DetectorSummary:
    """The rows of one detector.

    Attributes:
        detector, fingerprint: which.
        images: rows; `by_status`: rows by status.
        anomalous: images at or over the threshold; `defect_rate`: their share of those with a score, or None.
        quantiles: of the scores, by level.
        first, last: when the first and the last image was scored.
        worst: the images with the highest scores, highest first, as rows.
        failures: number of images by status and reason, most frequent first.
    """

    detector: str
    fingerprint: str
    images: int
    by_status: dict[str, int]
    anomalous: int
    defect_rate: float | None
    quantiles: dict[float, float]
    first: datetime
    last: datetime
    worst: list[dict[str, Any]]
    failures: list[tuple[str, str, int]]


def summarise(table: str | Path, worst: int = WORST) -> list[DetectorSummary]:
    """Summaries of the detectors that wrote the table, last used first.

    Raises:
        UserError: there is no table.
    """
    return ask_views(str(table), lambda connection: _summaries(connection, worst))


def _summaries(connection: duckdb.DuckDBPyConnection, worst: int) -> list[DetectorSummary]:
    def rows(sql: str, *values: object) -> list[tuple[Any, ...]]:
        # By way of Arrow: DuckDB's own rows need a package more for moments with a time zone.
        return [tuple(row.values()) for row in connection.sql(sql, params=list(values)).to_arrow_table().to_pylist()]

    summaries = []
    overview = (
        "SELECT detector, detector_fingerprint, count(*), count(*) FILTER (is_anomalous), count(score), "
        "min(scored_at), max(scored_at) FROM scores GROUP BY ALL ORDER BY max(scored_at) DESC"
    )
    for detector, fingerprint, images, anomalous, scored, first, last in rows(overview):
        mine = "FROM scores WHERE detector_fingerprint = ?"
        levels = rows(f"SELECT quantile_cont(score, {list(QUANTILES)}) {mine}", fingerprint)[0][0]
        columns = "image_uri, score, tail_probability, is_anomalous, region_count, mask_uri"
        top = rows(f"SELECT {columns} {mine} AND score IS NOT NULL ORDER BY score DESC LIMIT {worst}", fingerprint)
        reasons = (
            f"SELECT status, regexp_replace(error, '[0-9]+', 'N', 'g') AS reason, count(*) {mine} "
            "AND status <> 'ok' GROUP BY ALL ORDER BY 3 DESC, 1, 2 LIMIT 10"
        )
        summaries.append(
            DetectorSummary(
                detector=detector,
                fingerprint=fingerprint,
                images=images,
                by_status=dict(rows(f"SELECT status, count(*) {mine} GROUP BY 1 ORDER BY 2 DESC", fingerprint)),
                anomalous=anomalous,
                defect_rate=anomalous / scored if scored else None,
                quantiles=dict(zip(QUANTILES, levels, strict=True)) if levels and scored else {},
                first=first,
                last=last,
                worst=[dict(zip(columns.split(", "), row, strict=True)) for row in top],
                failures=[(status, reason or "", count) for status, reason, count in rows(reasons, fingerprint)],
            )
        )
    return summaries
