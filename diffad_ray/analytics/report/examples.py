"""The images that a report shows: the worst ones, those of what changed, and good ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb

from diffad_ray.analytics.report.changes import Change
from diffad_ray.analytics.report.counts import sql_of
from diffad_ray.analytics.report.new_kinds import NewKind
from diffad_ray.analytics.report.recurring import Recurring, window
from diffad_ray.sql import quoted

WORST, OF_A_CHANGE, CHANGES, GOOD = 8, 3, 6, 24
"Images that are shown: the worst ones, those of a change, so many changes, and the good ones behind a heat map."
SPARE = 2
"So many times as many images are named, since some may be gone."
_COLUMNS = "image_id, image_uri, detector, detector_fingerprint, width, height, score, tail_probability, day"


class Key(NamedTuple):
    """A row of the table."""

    image_id: int
    detector_fingerprint: str


@dataclass(frozen=True)
class ExampleImage:
    """An image of the table, with its rows of `regions`, the highest peak first."""

    image_uri: str
    detector: str
    width: int
    height: int
    score: float
    tail_probability: float
    day: str
    regions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Examples:
    """Images by what they are examples of.

    Attributes:
        worst: alerts of the period, the smallest tail probability first.
        places, groups: of each recurring place and of each change, in their order; a change may have none.
        kinds: of each new kind of regions, in their order.
        named: of each kind of defect that people named in the period and not in the one before.
    """

    worst: list[ExampleImage]
    places: list[list[ExampleImage]]
    groups: list[list[ExampleImage]]
    kinds: list[list[ExampleImage]]
    named: dict[str, list[ExampleImage]]


def examples(
    connection: duckdb.DuckDBPyConnection,
    columns: tuple[str, ...],
    places: list[Recurring],
    told: list[Change],
    kinds: list[NewKind],
    named: list[str],
) -> Examples:
    """Return the images to show; more than are shown, since some may be gone.

    Args:
        named: kinds of defect that people named for the first time.
    """
    worst = _alerts(connection, "true", SPARE * WORST)
    of_places = [_of_place(connection, place, columns) for place in places[:CHANGES]]
    of_groups = [
        _alerts(connection, _in_group(change, columns), SPARE * OF_A_CHANGE)
        if change.kind in ("alerts", "new group")
        else []
        for change in told[:CHANGES]
    ]
    of_kinds = [_found(connection, kind.fingerprint, kind.condition) for kind in kinds[:CHANGES]]
    of_names = {name: _named(connection, name) for name in named[:CHANGES]}
    # The URIs and sizes of these few images are looked up in one pass.
    shown = (worst, *of_places, *of_groups, *of_kinds, *of_names.values())
    known = images_of(connection, {key for keys in shown for key in keys})

    def images(keys: list[Key]) -> list[ExampleImage]:
        return [known[key] for key in keys]

    return Examples(
        images(worst),
        list(map(images, of_places)),
        list(map(images, of_groups)),
        list(map(images, of_kinds)),
        {name: images(keys) for name, keys in of_names.items()},
    )


def good_images(connection: duckdb.DuckDBPyConnection, fingerprint: str) -> list[tuple[str, int, int]]:
    """Return images of a detector's commonest size on its last day that look most like good ones.

    Returns:
        URI, width and height of each.
    """
    mine = f"detector_fingerprint = {quoted(fingerprint)} AND is_now"
    last = connection.execute(f"SELECT max(day) FROM cells WHERE {mine} AND scored > 0").fetchone()
    if last is None or last[0] is None:
        return []
    good = f"asked WHERE {mine} AND day = DATE '{last[0]}' AND decision = 'good'"
    size = connection.execute(
        f"SELECT width, height FROM {good} GROUP BY ALL ORDER BY count(*) DESC, width, height LIMIT 1"
    ).fetchone()
    if size is None:
        return []
    return connection.execute(
        f"SELECT image_uri, width, height FROM {good} AND width = {size[0]} AND height = {size[1]} "
        f"ORDER BY tail_probability DESC, image_uri LIMIT {GOOD}"
    ).fetchall()


def _in_group(one: Change | Recurring, columns: tuple[str, ...]) -> str:
    """SQL of the images of the group of a change or place."""
    return f"{sql_of(one.column, columns)} = {quoted(one.value)}"


def _alerts(connection: duckdb.DuckDBPyConnection, condition: str, most: int) -> list[Key]:
    """The alerts of the period that fulfil a condition, the worst first."""
    sql = f"SELECT image_id, detector_fingerprint FROM alerts WHERE {condition} "
    rows = connection.execute(f"{sql} ORDER BY tail_probability, score DESC, image_id LIMIT {most}").fetchall()
    return [Key(*row) for row in rows]


def _of_place(connection: duckdb.DuckDBPyConnection, place: Recurring, columns: tuple[str, ...]) -> list[Key]:
    """The images with a region at a recurring place since it recurs, the newest first."""
    since = f"day >= DATE '{place.since}'"
    condition = f"{window(place.x, place.y)} AND {_in_group(place, columns)} AND {since}"
    return _found(connection, place.fingerprint, condition)


def _found(connection: duckdb.DuckDBPyConnection, fingerprint: str, condition: str) -> list[Key]:
    """Images of the period with a region that fulfils a condition, the newest first."""
    sql = (
        f"SELECT image_id, detector_fingerprint FROM found WHERE is_now AND {condition} "
        f"AND detector_fingerprint = {quoted(fingerprint)} "
        f"GROUP BY ALL ORDER BY max(day) DESC, image_id LIMIT {SPARE * OF_A_CHANGE}"
    )
    return [Key(*row) for row in connection.execute(sql).fetchall()]


def _named(connection: duckdb.DuckDBPyConnection, kind: str) -> list[Key]:
    """Images of the period that people call defects of a kind, each as the detector sees it that finds it worst."""
    judged = f"SELECT image_id FROM verdicts WHERE verdict = 'defect' AND kind = {quoted(kind)}"
    sql = (
        "SELECT image_id, arg_min(detector_fingerprint, coalesce(tail_probability, 1)) FROM asked "
        f"SEMI JOIN ({judged}) USING (image_id) WHERE is_now AND score IS NOT NULL "
        f"GROUP BY 1 ORDER BY max(day) DESC, image_id LIMIT {SPARE * OF_A_CHANGE}"
    )
    return [Key(*row) for row in connection.execute(sql).fetchall()]


def images_of(connection: duckdb.DuckDBPyConnection, keys: set[Key]) -> dict[Key, ExampleImage]:
    """Return images of the period with their regions."""
    if not keys:
        return {}
    ids = f"image_id IN ({', '.join(map(str, sorted({key.image_id for key in keys})))})"
    regions: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    sql = f"SELECT image_id, detector_fingerprint, x, y, width, height, peak, mask_runs FROM regions WHERE {ids}"
    for region in connection.sql(f"{sql} ORDER BY image_id, region").to_arrow_table().to_pylist():
        regions[Key(region.pop("image_id"), region.pop("detector_fingerprint"))].append(region)
    rows = connection.sql(f"SELECT {_COLUMNS} FROM asked WHERE is_now AND {ids}").to_arrow_table().to_pylist()
    found = {}
    for row in rows:
        key = Key(row["image_id"], row["detector_fingerprint"])
        found[key] = _image(row, regions[key])
    return found


def _image(row: dict[str, Any], regions: list[dict[str, Any]]) -> ExampleImage:
    kept = {name: row[name] for name in ("image_uri", "detector", "width", "height", "score", "tail_probability")}
    return ExampleImage(**kept, day=str(row["day"]), regions=regions)
