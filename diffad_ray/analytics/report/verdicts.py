"""What people said of images of the period: confirmed alerts, overkill, escapes, and kinds of defects."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from diffad_ray.analytics.report.rates import Rate


@dataclass(frozen=True)
class KindOfDefect:
    """Images that people called defective with a kind, in the period and in the one before."""

    kind: str
    now: int
    earlier: int


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of images of the period.

    Attributes:
        reviewed: images with a verdict; of them `unsure`, and `disputed` ones, about which reviewers differ.
        confirmed: alerts that are defects; `overkill`: alerts that are good.
        escapes: images below the thresholds that are defects; `passed`: those that are good.
        kinds: of defects, most images first.
    """

    reviewed: int
    unsure: int
    disputed: int
    confirmed: int
    overkill: int
    escapes: int
    passed: int
    kinds: list[KindOfDefect]

    @property
    def overkill_rate(self) -> Rate:
        """Good images among the reviewed alerts."""
        return Rate(self.overkill, self.overkill + self.confirmed)

    @property
    def escape_rate(self) -> Rate:
        """Defects among the reviewed images that are no alerts; not of all images, unless a random sample was shown."""
        return Rate(self.escapes, self.escapes + self.passed)

    @property
    def new_kinds(self) -> list[str]:
        """Kinds of defects that were named in the period and not in the one before."""
        return [one.kind for one in self.kinds if one.now and not one.earlier]


def verdicts(connection: duckdb.DuckDBPyConnection) -> Verdicts | None:
    """Return the verdicts of the period; None if no image of it has one."""
    judged = (
        "(SELECT is_now, decision, v.* FROM (SELECT image_id, is_now, any_value(decision) AS decision FROM asked "
        "SEMI JOIN verdicts USING (image_id) GROUP BY ALL) JOIN verdicts v USING (image_id))"
    )
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (verdict = 'unsure'), count(*) FILTER (is_disputed), "
        "count(*) FILTER (verdict = 'defect' AND decision = 'reject'), "
        "count(*) FILTER (verdict = 'good' AND decision = 'reject'), "
        "count(*) FILTER (verdict = 'defect' AND decision <> 'reject'), "
        f"count(*) FILTER (verdict = 'good' AND decision <> 'reject') FROM {judged} WHERE is_now"
    ).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    if not row[0]:
        return None
    kinds = connection.execute(
        "SELECT kind, count(*) FILTER (is_now) AS now, count(*) FILTER (NOT is_now) AS earlier "
        f"FROM {judged} WHERE verdict = 'defect' AND kind <> '' GROUP BY kind ORDER BY now DESC, kind"
    ).fetchall()
    names = ("reviewed", "unsure", "disputed", "confirmed", "overkill", "escapes", "passed")
    return Verdicts(**dict(zip(names, row, strict=True)), kinds=[KindOfDefect(*kind) for kind in kinds])
