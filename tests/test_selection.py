"""Which images of an archive a run is about, and what becomes of their paths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import selected

from diffad_ray import UserError
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.selection import Routed, select_images, since
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import image_id, image_id_sql

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.text("abc\n", max_size=5))
def test_ids_of_sql_and_python_agree(uri: str, version: str) -> None:
    sql = f"SELECT {image_id_sql('u', 'v')} FROM (SELECT ? AS u, ? AS v)"
    assert duckdb.connect().execute(sql, [uri, version]).fetchall() == [(image_id(uri, version),)]


def test_since() -> None:
    assert since("36h", NOW) == NOW - timedelta(hours=36)
    assert since("7d", NOW) == NOW - timedelta(days=7)
    assert since("90m", NOW) == NOW - timedelta(minutes=90)
    assert since("1.5w", NOW) == NOW - timedelta(weeks=1.5)
    assert since("20261120", NOW) == datetime(2026, 11, 20, tzinfo=UTC)
    assert since("2026-11-20", NOW) == datetime(2026, 11, 20, tzinfo=UTC)
    assert since("2026-11-20T22:00+02:00", NOW) == datetime(2026, 11, 20, 20, tzinfo=UTC)
    for wrong in ("yesterday", "d", "1.2.3d", "-3d", "99999999999w", ""):
        with pytest.raises(UserError, match="write 2026-11-20"):
            since(wrong, NOW)


def test_what_is_selected(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    found, rows = selected(two_lines, bundle, tmp_path)
    assert len(rows) == 40
    assert found.archive.other_files == 1
    for row in rows:
        path = Path(row["image_uri"])
        assert row["image_id"] == image_id(row["image_uri"], row["image_version"])
        assert row["image_bytes"] == path.stat().st_size
        assert abs(row["image_modified"].timestamp() - path.stat().st_mtime) < 1e-3

    def count(**settings: Any) -> int:
        return len(selected(two_lines, bundle, tmp_path, **settings)[1])

    assert count(include=("line1/**",)) == 20
    assert count(include=("line1/**", "**/top/*")) == 30
    assert count(include=("line1/**",), exclude=("*3.png",)) == 18
    assert count(since="1h") == 39
    assert count(limit=7) == 7
    sample = selected(two_lines, bundle, tmp_path, sample=0.5)[1]
    assert 8 < len(sample) < 32
    assert sample == selected(two_lines, bundle, tmp_path, sample=0.5)[1]
    with pytest.raises(UserError, match=r"no image of .* is chosen"):
        count(include=("*.tif",))


def test_since_leaves_out_what_is_older_and_takes_what_is_of_unknown_age(bundle: Bundle, tmp_path: Path) -> None:
    lines = ["uri,modified", "old.png,2026-11-19T23:59:59", "at.png,2026-11-20", "new.png,2026-11-21", "unknown.png,"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "ageless.csv").write_text("uri\na.png\nb.png\n")

    def names(manifest: str) -> set[str]:
        _, rows = selected(tmp_path / manifest, bundle, tmp_path, since="2026-11-20")
        return {Path(row["image_uri"]).name for row in rows}

    assert names("list.csv") == {"at.png", "new.png", "unknown.png"}
    assert names("ageless.csv") == {"a.png", "b.png"}


def test_an_image_stays_in_the_sample_whatever_becomes_of_it_and_of_others(bundle: Bundle, tmp_path: Path) -> None:
    def sampled(manifest: str, *lines: str, share: float = 0.3) -> set[str]:
        (tmp_path / manifest).write_text("\n".join(["uri,version,bytes,modified", *lines]))
        _, rows = selected(tmp_path / manifest, bundle, tmp_path, sample=share)
        return {row["image_uri"] for row in rows}

    names = [f"s3://plant/{k}.png" for k in range(200)]
    first = sampled("first.csv", *(f"{name},v1,1,2026-11-20" for name in names))
    assert 30 < len(first) < 90
    assert sampled("other.csv", *(f"{name},v2,2,2026-11-21" for name in names)) == first
    assert sampled("fewer.csv", *(f"{name},," for name in names[:100])) == first & {*names[:100]}
    assert sampled("more.csv", *(f"{name},v1" for name in names), share=0.6) > first


def test_columns_and_notes_of_a_template(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    (two_lines / "stray.png").write_bytes(b"")
    found, rows = selected(two_lines, bundle, tmp_path, template="{line}/{camera}/{name}.png")
    assert found.columns.names == ["line", "camera", "name"]
    assert {(row["line"], row["camera"]) for row in rows} == {
        ("line1", "top"),
        ("line1", "side"),
        ("line2", "top"),
        ("line2", "side"),
        (None, None),
    }
    assert "1 paths don't fit the template" in found.notes[0]
    assert "stray.png" in found.notes[0]


def test_values_that_do_not_fit_the_format_of_a_template(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    for day in ("20261121", "20261122", "2026-11"):
        (two_lines / f"cam_{day}.png").touch()
    found, rows = selected(two_lines, bundle, tmp_path, template="cam_{t:%Y%m%d}.png", include=["cam_*"])
    assert found.columns.names == ["t"]
    assert sum(row["t"] is None for row in rows) == 1
    assert found.notes == ["1 values of t do not fit %Y%m%d, such as 2026-11: they are null"]
    with pytest.raises(UserError, match="2 values of t do not fit %Y-%m, such as 20261121: change the format"):
        selected(two_lines, bundle, tmp_path, template="cam_{t:%Y-%m}.png", include=["cam_*"])
    with pytest.raises(UserError, match=r"40 of 43 paths don't fit the template, such as .*/line1/.*each field stands"):
        selected(two_lines, bundle, tmp_path, template="{camera}_{day}.png")


def test_words_of_sql_are_names_of_columns(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    found, rows = selected(two_lines, bundle, tmp_path, template="{order}/{group}/{table}.png")
    assert found.columns.names == ["order", "group", "table"]
    assert rows[0]["order"] == "line1"


def test_a_table_within_its_archive_is_not_scored(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    mask = two_lines / "scores" / "masks" / ("f" * 16) / "00" / "0.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"")
    folder = tmp_path / "scratch"
    folder.mkdir()
    found = select_images(
        str(two_lines), str(two_lines / "scores"), [Routed("detector", bundle, ())], ScoringSettings(), folder
    )
    assert found.images == 40


def test_a_table_to_which_a_link_of_the_archive_leads_is_not_scored(
    two_lines: Path, bundle: Bundle, tmp_path: Path
) -> None:
    mask = tmp_path / "table" / "masks" / ("f" * 16) / "00" / "0.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"")
    (two_lines / "results").symlink_to(tmp_path / "table")
    found, rows = selected(two_lines, bundle, tmp_path)
    assert (len(rows), found.notes) == (40, [])


def test_what_a_listing_leaves_out_is_noted(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    (two_lines / "line1").rename(tmp_path / "elsewhere")
    (two_lines / "line1").symlink_to(tmp_path / "elsewhere")
    (two_lines / "line3").symlink_to(tmp_path / "elsewhere")
    (two_lines / "._a.png").write_bytes(b"")
    found, rows = selected(two_lines, bundle, tmp_path)
    assert len(rows) == 40
    assert rows[0]["image_uri"] == f"{two_lines}/line1/side/0.png"
    repeated, hidden = found.notes
    assert repeated.endswith(f"listed once, by another path: {two_lines}/line3")
    assert hidden.endswith(f"left out: {two_lines}/._a.png")
    notes = selected(two_lines, bundle, tmp_path, exclude=("line3/**", "line1/top/**"))[0].notes
    assert notes == [hidden]


def test_half_of_the_paths_and_values_may_not_fit(bundle: Bundle, tmp_path: Path) -> None:
    def notes(*names: str, template: str) -> list[str]:
        (tmp_path / "list.csv").write_text("\n".join(["uri", *(f"{tmp_path}/{name}" for name in names)]))
        return selected(tmp_path / "list.csv", bundle, tmp_path, template=f"**/{template}")[0].notes

    half = notes("cam_1.png", "cam_2.png", "x.png", "y.png", template="cam_{n}.png")
    assert half == [f"2 paths don't fit the template, such as {tmp_path}/x.png"]
    with pytest.raises(UserError, match="2 of 3 paths don't fit"):
        notes("cam_1.png", "x.png", "y.png", template="cam_{n}.png")
    assert notes("cam_1.png", "cam_2.png", template="cam_{n}.png") == []
    day = "cam_{day:%Y%m%d}.png"
    assert len(notes("cam_20261121.png", "cam_other.png", template=day)) == 1
    half = notes("cam_20261121.png", "cam_other.png", "x.png", template=day)
    assert half[1:] == ["1 values of day do not fit %Y%m%d, such as other: they are null"]
    with pytest.raises(UserError, match="2 values of day do not fit %Y%m%d, such as other: change the format"):
        notes("cam_20261121.png", "cam_other.png", "cam_some.png", "x.png", template=day)


def test_each_format_of_a_template_is_told_apart(bundle: Bundle, tmp_path: Path) -> None:
    names = ["20261121_0300.png", "20261121_late.png", "20261122_0400.png"]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *names]))
    found, _ = selected(tmp_path / "list.csv", bundle, tmp_path, template="**/{day:%Y%m%d}_{at:%H%M}.png")
    assert found.notes == ["1 values of at do not fit %H%M, such as late: they are null"]


def test_images_that_no_route_leads_to_a_detector_are_told(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    routed = [Routed("detector", bundle, ("line1/**",))]
    found = select_images(str(two_lines), str(tmp_path / "table"), routed, ScoringSettings(), folder)
    example = two_lines / "line2" / "side" / "0.png"
    assert found.notes == [f"no route leads 20 images to a detector, such as {example}: they get the status unrouted"]


def test_an_archive_without_images(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"empty holds no images \(1 other files\): give a folder or prefix"):
        selected(tmp_path / "empty", bundle, tmp_path)
    (tmp_path / "list.csv").write_text("uri,line\n")
    with pytest.raises(UserError, match=r"the manifest .*list.csv names no images"):
        selected(tmp_path / "list.csv", bundle, tmp_path)


def test_a_selection_has_bounded_memory(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    found, _ = selected(two_lines, bundle, tmp_path)
    settings = "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
    assert found.connection.execute(settings).fetchall() == [("953.6 MiB", str(tmp_path / "scratch"))]


def test_refused_settings(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no glob"):
        selected(two_lines, bundle, tmp_path, include=("[z-a].png",))
    with pytest.raises(UserError, match="format '%Q' of day is none of strptime"):
        selected(two_lines, bundle, tmp_path, template="{day:%Q}.png")
    for wrong in (
        {"limit": 0},
        {"sample": 0.0},
        {"threshold": float("nan")},
        {"shard_images": 0},
        {"manifest_encoding": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ScoringSettings(**wrong)
