"""Globs and templates: the paths they match, and the columns they make of them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_ray import UserError
from diffad_ray.scoring.patterns import TAKEN, PathTemplate, check_column, enters, glob_regex, matches_any
from diffad_ray.table.parts import MANIFESTS, RESERVED_PREFIXES, SCORES

OF_VERSION_0_1 = """
image_id image_uri image_version image_bytes image_modified width height mode status error score tail_probability
threshold is_anomalous anomalous_fraction region_count mask_uri detector detector_fingerprint run_id scored_at run_date
uri version bytes modified path parts shard id data seconds network_mode anomaly_map map_width
brightness contrast sharpness
"""
"Names that were taken when 0.1 was released. None may be added then: users may have columns of any other name."


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.png", "a.png", True),
        ("*.png", "deep/below/a.png", True),
        ("*.png", "a.jpg", False),
        ("line1/*.png", "line1/a.png", True),
        ("line1/*.png", "line1/x/a.png", False),
        ("line1/*.png", "x/line1/a.png", False),
        ("line1/**", "line1/x/y/a.png", True),
        ("line1/**", "x/line1/a.png", False),
        ("line1/**/a.png", "line1/a.png", True),
        ("**/top/*.png", "x/y/top/a.png", True),
        ("**/top/*.png", "top/a.png", True),
        ("**/top/*.png", "stop/a.png", False),
        ("cam?/a.png", "cam1/a.png", True),
        ("cam?/a.png", "cam12/a.png", False),
        ("cam[!12]/*", "cam3/a.png", True),
        ("cam[!12]/*", "cam1/a.png", False),
        ("a+(b){c}.png", "a+(b){c}.png", True),
        ("a b\n.png", "x/a b\n.png", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(glob_regex(glob), path)) == matches
    sql = f"SELECT {matches_any('p', [glob])} FROM (SELECT ? AS p)"
    assert duckdb.connect().execute(sql, [path]).fetchall() == [(matches,)]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="*?[/", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    sql = f"SELECT {matches_any('p', [name])} FROM (VALUES (?), (?)) AS t(p)"
    assert duckdb.connect().execute(sql, [f"x/{name}", f"x/{name}y"]).fetchall() == [(True,), (False,)]


def parts(template: str, path: str) -> dict[str, Any]:
    parsed = PathTemplate.parse(template)
    columns = ", ".join(f"{column.sql} AS {column.name}" for column in parsed.columns)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    sql = f"SELECT {columns} FROM (SELECT {parsed.parts_sql('p')} AS parts FROM (SELECT ? AS p))"
    return connection.sql(sql, params=[path]).to_arrow_table().to_pylist()[0]


@pytest.mark.parametrize(
    ("include", "exclude", "entered", "left"),
    [
        ((), ("lost+found/**",), ["line1", "a/lost+found"], ["lost+found", "lost+found/a"]),
        ((), ("**/lost+found/**",), ["line1"], ["lost+found", "a/lost+found/b"]),
        ((), ("raw/**/*",), ["rawer"], ["raw", "raw/a"]),
        ((), ("raw/*", "*.tmp", "line1"), ["raw", "line1"], []),
        (("line1/**",), (), ["line1", "line1/a/b"], ["line2", "line"]),
        (("line?/*.png",), (), ["line2"], ["lines/a", "line2/a", "old"]),
        (("*/top/**", "x/*"), (), ["a", "a/top", "a/top/b", "x"], ["a/side", "x/b"]),
        (("*.png",), (), ["a", "a/b"], []),
        (("line1/**",), ("line1/raw/**",), ["line1"], ["line1/raw", "line2"]),
    ],
)
def test_folders_in_which_no_path_can_be_chosen_are_not_entered(
    include: tuple[str, ...], exclude: tuple[str, ...], entered: list[str], left: list[str]
) -> None:
    may_hold = enters(include, exclude)
    assert [folder for folder in entered + left if may_hold(folder)] == entered


GLOBS = st.lists(st.lists(st.sampled_from(["a", "b", "*", "?", "**", "/", "[ab]", "[!a]"]), min_size=1).map("".join))


@given(GLOBS, GLOBS, st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=4))
def test_no_folder_of_a_chosen_path_is_left_out(include: list[str], exclude: list[str], parts: list[str]) -> None:
    def is_matched(globs: list[str]) -> bool:
        return any(re.fullmatch(glob_regex(glob), "/".join(parts)) for glob in globs)

    may_hold = enters(include, exclude)
    if (is_matched(include) or not include) and not is_matched(exclude):
        assert all(may_hold("/".join(parts[:depth])) for depth in range(1, len(parts)))


def test_templates() -> None:
    assert parts("{line}/{camera}/{date:%Y-%m-%d}/{name}", "l1/top/2026-01-02/a.png") == {
        "line": "l1",
        "camera": "top",
        "date": date(2026, 1, 2),
        "name": "a.png",
    }
    assert parts("{line}/{}/**/{captured_at:%Y%m%d-%H%M%S}_*.png", "l1/x/a/b/20260102-030405_7.png") == {
        "line": "l1",
        "captured_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    assert parts("{line}/{name}", "too/many/parts.png") == {"line": None, "name": None}
    assert parts("{day:%Y-%m-%d}.png", "no-date.png") == {"day": None}
    columns = PathTemplate.parse("{line}/{day:%Y-%m-%d}/{at:%H%M}.png").columns
    assert [column.type for column in columns] == [pa.string(), pa.date32(), pa.timestamp("us", "UTC")]
    assert [column.form for column in columns] == ["", "%Y-%m-%d", "%H%M"]
    with pytest.raises(UserError, match="taken already"):
        PathTemplate.parse("{score}/{name}")
    with pytest.raises(UserError, match="twice"):
        PathTemplate.parse("{a}/{a}")
    with pytest.raises(UserError, match="small letters"):
        PathTemplate.parse("{Line 1}/{a}")
    with pytest.raises(UserError, match="no field"):
        PathTemplate.parse("*/*.png")


def test_new_columns_of_ours_begin_with_a_reserved_prefix() -> None:
    """Fails for a column that a user of an earlier version may have: rename it, and leave the list as it is."""
    ours = {*SCORES.columns.names, *MANIFESTS.columns.names, *TAKEN}
    assert [name for name in ours - {*OF_VERSION_0_1.split()} if not name.startswith(RESERVED_PREFIXES)] == []
    assert set(OF_VERSION_0_1.split()) <= TAKEN, "a name that was taken is free"


@pytest.mark.parametrize(
    "name", ["score_2", "decision_2", "threshold_high", "verdict", "anomaly", "detector_kind", "diffad_x"]
)
def test_reserved_names(name: str) -> None:
    with pytest.raises(UserError, match=f"the manifest gives a column '{name}', and names that begin with .* reserved"):
        check_column(name, "the manifest")
    with pytest.raises(UserError, match=r"take small letters, digits and _ for its name$"):
        check_column(name.upper(), "the manifest")
    check_column(f"plant_{name}", "the manifest")


def test_names_that_plants_give_their_columns_are_free() -> None:
    wanted = "line camera station lot serial operator date captured_at product side part batch shift name image_name"
    for name in [*wanted.split(), "image_type", "run_number", "model_year", "region", "mask_set", "_id", "tail"]:
        check_column(name, "the manifest")


def test_names_that_need_quotes_are_refused_with_one_that_needs_none() -> None:
    for name, possible in (("Line 1", ", such as line_1"), ("Prüfer", ", such as pr_fer"), ("ID", ""), ("7", "")):
        with pytest.raises(
            UserError, match=f"column '{name}': take small letters, digits and _ for its name{possible}$"
        ):
            check_column(name, "the manifest")
