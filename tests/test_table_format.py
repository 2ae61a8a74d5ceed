"""The format of tables, as it lies on disks and in the jobs of those who read it.

Where a test fails here, tables that exist would be read or sorted otherwise: a new column needs a line here, and all
else a new version of the table schema.
"""

from __future__ import annotations

import pytest

from diffad_ray.table.parts import PARTS, part_of

RUN, MOMENT = "20260101T030000-abc001", "20260102T030405.000006Z-0123abcd"
COLUMNS = {
    "scores": """image_id int64, image_uri string, image_version string, image_bytes int64,
        image_modified timestamp[us, tz=UTC], width int32, height int32, mode string, brightness float, contrast float,
        sharpness float, status string, error string, score float, scored_by string, score_of_gate float,
        tail_probability double, threshold float, is_anomalous bool, anomalous_fraction float, region_count int32,
        mask_uri string, detector string, detector_fingerprint string, run_id string,
        scored_at timestamp[us, tz=UTC]""",
    "regions": """image_id int64, region int32, x int32, y int32, width int32, height int32, area int64, peak float,
        mean float, centroid_x float, centroid_y float, mask_runs list<item: int32>, detector_fingerprint string,
        run_id string""",
    "manifests": """image_id int64, image_uri string, image_version string, image_bytes int64,
        image_modified timestamp[us, tz=UTC], detector_fingerprint string""",
    "superseded": """image_id int64, detector_fingerprint string, run_id string, status string, is_anomalous bool,
        superseded_by string""",
    "dropped": """image_id int64, detector_fingerprint string, run_id string, status string, is_anomalous bool,
        superseded_by string""",
    "verdicts": """image_id int64, image_uri string, detector_fingerprint string, verdict string, kind string,
        note string, reviewer string, sample string, reviewed_at timestamp[us, tz=UTC]""",
    "samples": """image_id int64, image_uri string, detector_fingerprint string, stratum string,
        stratum_images int64, sampled int64, sampled_at timestamp[us, tz=UTC]""",
}
SORTED_BY = {
    "scores": ("image_uri",),
    "regions": ("image_id", "region"),
    "manifests": ("image_uri",),
    "verdicts": ("reviewed_at", "image_id", "reviewer"),
}
"What compaction sorts files by; it leaves the other parts as they are."
FILES = {
    "scores": (f"run_date=2026-01-01/{RUN}-00012.parquet", "run_date=20260101/x.parquet"),
    "regions": (f"run_date=2026-01-01/merged-{'0' * 16}.parquet", "run_date=2026-01-01/x.parquet.txt"),
    "manifests": (f"{RUN}/00012.parquet", "00012.parquet"),
    "superseded": (f"{RUN}.parquet", f"{RUN}/x.parquet"),
    "dropped": (f"{RUN}.parquet", f"{RUN}.json"),
    "verdicts": (f"{MOMENT}.parquet", f"{RUN}.parquet"),
    "samples": (f"{MOMENT}.parquet", f"merged-{'0' * 16}.parquet"),
    "masks": (f"{'f' * 16}/0a/{'0' * 16}.png", f"{'f' * 16}/0/{'0' * 16}.png"),
    "runs": (f"{RUN}.plan.json", "x.txt"),
    "requests": (f"{'0' * 16}/{'a' * 32}.parquet", f"{'0' * 16}/other.json"),
    "leases": ("00000001.json", "7.json"),
    "compactions": (f"merged-{'0' * 16}.json", "merged-1.json"),
    "retention": ("rule.json", "rules.json"),
    "detectors": (f"{'0' * 16}.json", "x.json"),
    "thresholds": (f"{MOMENT}.json", f"{MOMENT}.parquet"),
}
"Of each part a name that is of it, and one that is not."


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_keep_their_names_types_and_order(name: str) -> None:
    found = ", ".join(f"{column.name} {column.type}" for column in PARTS[name].columns)
    assert found == " ".join(COLUMNS[name].split())


def test_files_are_sorted_as_before() -> None:
    assert {name: part.order for name, part in PARTS.items() if part.order} == SORTED_BY


@pytest.mark.parametrize("name", FILES)
def test_each_part_has_its_folder_and_names_of_files(name: str) -> None:
    own, other = FILES[name]
    assert part_of(f"{name}/{own}") is PARTS[name]
    assert part_of(f"{name}/{other}") is None
    assert part_of(f"other/{own}") is None


def test_every_part_is_named_here() -> None:
    assert set(PARTS) == set(FILES)
    assert {name for name, part in PARTS.items() if part.schema is not None} == set(COLUMNS)


def test_other_names_of_files_of_a_part() -> None:
    assert part_of(f"requests/{'0' * 16}/detector.json") is PARTS["requests"]
    assert part_of(f"verdicts/merged-{'0' * 16}.parquet") is PARTS["verdicts"]
    assert part_of(f"runs/{RUN}.planning") is PARTS["runs"]
