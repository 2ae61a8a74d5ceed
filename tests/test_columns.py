"""Types of a manifest's columns from night to night: what a table takes, and that every engine reads it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffad_ray import UserError
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.plan import make_plan
from diffad_ray.scoring.selection import Routed, select_images
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES


class Nights:
    """A table that takes the manifests of several nights; what a run would write is taken from the plan."""

    def __init__(self, bundle: Bundle, folder: Path):
        self.bundle, self.folder, self.table = bundle, folder, folder / "table"
        self.count = 0

    def add(self, values: Any, suffix: str = "parquet") -> list[str]:
        """A night whose manifest has a column `x`; the notes of its plan."""
        self.count += 1
        uris = [f"s3://plant/{self.count}-{k}.png" for k in range(len(values))]
        manifest = self.folder / f"night{self.count}.{suffix}"
        table = pa.table({"uri": uris, "x": values})
        if suffix == "csv":
            table.to_pandas().to_csv(manifest, index=False)
        else:
            pq.write_table(table, manifest)
        scratch = self.folder / f"scratch{self.count}"
        scratch.mkdir()
        routed, settings = [Routed("detector", self.bundle, ())], ScoringSettings()
        selection = select_images(str(manifest), str(self.table), routed, settings, scratch)
        plan = make_plan(str(manifest), str(self.table), selection, routed, settings, "work", force=False)
        for shard in range(plan.shards):
            rows = pq.read_table(plan.manifest_file(shard))
            schema = pa.schema([*SCORES, *(rows.schema.field(name) for name in plan.columns)])
            path = self.table / "scores" / "run_date=2026-01-01" / f"night{self.count}-{shard:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows.to_pylist(), schema), path)
        return plan.notes

    def read(self) -> tuple[str, list[Any]]:
        """The type of `x` and its values, in the order of the nights, once pandas has read them too."""
        pd.read_parquet(self.table / "scores")
        files = f"{self.table}/scores/*/*.parquet"
        sql = f"SELECT x FROM read_parquet('{files}', union_by_name = true) ORDER BY image_uri"
        found = duckdb.connect().sql(sql).to_arrow_table()
        return str(found.schema.field("x").type), found["x"].to_pylist()


MOMENT = datetime(2026, 11, 20, 22)


@pytest.mark.parametrize(
    ("first", "second", "kind", "values"),
    [
        (pa.nulls(1), pa.array(["Ann"]), "string", [None, "Ann"]),
        (pa.array(["Ann"]), pa.nulls(1), "string", ["Ann", None]),
        (pa.nulls(1), pa.array([7]), "int64", [None, 7]),
        (pa.array([True]), pa.nulls(1), "bool", [True, None]),
        (pa.array([float("nan")]), pa.array(["Ann"]), "string", [None, "Ann"]),
        (pa.array([1, 2]), pa.array([1.0, None]), "int64", [1, 2, 1, None]),
        (pa.array([1.0, None]), pa.array([1, 2]), "double", [1, None, 1, 2]),
        (pa.array([1], pa.int32()), pa.array([2]), "int64", [1, 2]),
        (pa.array([1], pa.uint8()), pa.array([2], pa.int16()), "int64", [1, 2]),
        (pa.array([0.5], pa.float32()), pa.array([0.1]), "double", [0.5, 0.1]),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), "string", ["a", "b"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), "string", ["a", "b"]),
        (pa.array([MOMENT], pa.timestamp("ns")), pa.array([MOMENT], pa.timestamp("ms")), "timestamp[us]", [MOMENT] * 2),
        (pa.array([MOMENT]), pa.array([date(2026, 1, 1)]), "timestamp[us]", [MOMENT, datetime(2026, 1, 1)]),
        (
            pa.array([date(2026, 1, 1)]),
            pa.array([datetime(2026, 1, 2)]),
            "date32[day]",
            [date(2026, 1, d) for d in (1, 2)],
        ),
    ],
)
def test_later_nights_have_the_type_of_the_first(
    first: pa.Array, second: pa.Array, kind: str, values: list[Any], bundle: Bundle, tmp_path: Path
) -> None:
    nights = Nights(bundle, tmp_path)
    notes = nights.add(first)
    has_values = any(value is not None and value == value for value in first.to_pylist())
    assert notes == ([] if has_values else ["the column x has no values and is left out"])
    notes = nights.add(second)
    assert [note.partition(",")[0] for note in notes] == ([] if has_values else ["the column x is new"])
    assert nights.read() == (kind, values)


def test_moments_with_and_without_a_zone(bundle: Bundle, tmp_path: Path) -> None:
    nights = Nights(bundle, tmp_path)
    nights.add(pa.array([MOMENT.replace(tzinfo=UTC)]))
    nights.add(pa.array([MOMENT]))
    assert nights.read() == ("timestamp[us, tz=Etc/UTC]", [MOMENT.replace(tzinfo=UTC)] * 2)


def test_text_of_a_csv_takes_the_type_of_the_table(bundle: Bundle, tmp_path: Path) -> None:
    nights = Nights(bundle, tmp_path)
    nights.add(pa.array([1]))
    nights.add(pa.array(["7", None]), "csv")
    assert nights.read() == ("int64", [1, 7, None])
    with pytest.raises(UserError, match=r"'x' is int64 in the table .* and would be string now \(007\)"):
        nights.add(pa.array(["007"]), "csv")


@pytest.mark.parametrize(
    ("first", "second", "because"),
    [
        (pa.array([1]), pa.array(["Ann"]), "is int64 in the table .* would be string now: call it otherwise"),
        (pa.array(["Ann"]), pa.array([1]), "is string in the table .* would be int64 now: call it otherwise"),
        (pa.array([1]), pa.array([1.5]), r"is int64 in the table .* would be double now \(1.5\): call it otherwise"),
        (pa.array([date(2026, 1, 1)]), pa.array([MOMENT]), r"would be timestamp\[us\] now \(2026-11-20 22:00:00\)"),
        (pa.array([True]), pa.array([1]), "is bool in the table .* would be int64 now"),
    ],
)
def test_what_can_not_be_reconciled(
    first: pa.Array, second: pa.Array, because: str, bundle: Bundle, tmp_path: Path
) -> None:
    nights = Nights(bundle, tmp_path)
    nights.add(first)
    with pytest.raises(UserError, match=because):
        nights.add(second)
