"""What changed since the period before: rates of alerts and failures by group, groups that are new, and groups that are
gone. A change is told if it is significant and large enough to matter, since with a million images any difference is
significant."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

import duckdb

from diffad_ray.analytics.report.counts import ALL, Counts, Group, groups
from diffad_ray.analytics.report.rates import Dispersion, Rate, RateChange, compare_rates, dispersion_of

SIGNIFICANT = 0.01
"Of the p-value after Bonferroni's correction for all comparisons of the report."
SMALLEST_RATIO = 1.25
"A rate must have changed by this factor, up or down."
SMALLEST_EFFECT = 0.02
"Cohen's h that a change must have. From a rate of 1 % it is 1.2 %."
FEWEST = 20
"Images with a score that a group needs in both periods to be compared, and a new or gone group to be told."

MOST_CAUSES = 6
"Changes of alerts that a report tells."

Kind = Literal["alerts", "failures", "new group", "gone group"]


@dataclass(frozen=True)
class Change:
    """A change of a group.

    Attributes:
        kind: `alerts`: its defect rate against its own before; `failures`: its share of images without a score against
            its own before; `new group`: it had no images before, and its defect rate is compared with the rest of the
            period; `gone group`: it had images before and has none now.
        column, value: the group.
        rates: the comparison; None where there is nothing to compare with.
        p: the p-value of the comparison after Bonferroni's correction, at most 1.
        images: of the group in the period; of a group that is gone, in the period before.
        without: columns and values of groups with larger changes, whose images were left out of this comparison.
    """

    kind: Kind
    column: str
    value: str
    rates: RateChange | None
    p: float | None
    images: int
    without: tuple[tuple[str, str], ...] = ()

    @property
    def effect(self) -> float:
        """The size of the effect, by which changes are ranked: Cohen's h without its sign."""
        return abs(self.rates.effect) if self.rates else 0.0


def changes(connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...]) -> list[Change]:
    """Return what changed, the largest effect first; empty where the period before has no images.

    A defective camera raises the rate of its line and of all images, too. So once the largest change of alerts is
    found, its images are left out, and the others are compared again without them.
    """
    first = compared(groups(connection, columns))
    told = [change for change in first if change.kind in ("failures", "gone group")]
    without: list[tuple[str, str]] = []
    while len(without) < MOST_CAUSES:
        left = groups(connection, columns, without)
        alerts = [change for change in compared(left) if change.kind in ("alerts", "new group")]
        alerts = [change for change in alerts if (change.column, change.value) not in without]
        if not alerts:
            break
        told.append(replace(alerts[0], without=tuple(without)))
        if alerts[0].column == ALL:
            break
        without.append((alerts[0].column, alerts[0].value))
    return sorted(told, key=_largest_first)


def compared(groups: list[Group]) -> list[Change]:
    """Return the changes of groups that are certain and large, the largest effect first."""
    by_column: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_column[group.column].append(group)
    if ALL not in by_column or not by_column[ALL][0].earlier.images:
        return []
    drafts: list[Change] = []
    for column, members in by_column.items():
        spread = _dispersion(members)
        kept = [group for group in members if group.now.scored >= FEWEST and group.earlier.scored >= FEWEST]
        drafts += [_against_before(group, spread) for group in kept]
        drafts += [change for group in members if (change := _failures(group)) is not None]
        if column != ALL:
            drafts += _arrivals(members, by_column[ALL][0].now, spread)
    tests = sum(draft.rates is not None for draft in drafts)
    corrected = [
        draft if draft.rates is None else replace(draft, p=min(1.0, draft.rates.p * tests)) for draft in drafts
    ]
    return sorted(filter(_matters, corrected), key=_largest_first)


def _largest_first(change: Change) -> tuple[float, str, str]:
    return -change.effect, change.column, change.value


def _dispersion(members: list[Group]) -> Dispersion:
    """How much the rates of a column's groups differ from day to day."""
    periods = [
        [day.rate for day in days.values()] for group in members for days in (group.days, group.earlier_days) if days
    ]
    return dispersion_of(periods)


def _against_before(group: Group, spread: Dispersion) -> Change:
    rates = compare_rates(group.now.rate, group.earlier.rate, spread)
    return Change("alerts", group.column, group.value, rates, None, group.now.images)


def _failures(group: Group) -> Change | None:
    now, earlier = (Rate(counts.images - counts.scored, counts.images) for counts in (group.now, group.earlier))
    if now.of < FEWEST or earlier.of < FEWEST:
        return None
    days = [
        [Rate(day.images - day.scored, day.images) for day in period.values()]
        for period in (group.days, group.earlier_days)
    ]
    rates = compare_rates(now, earlier, dispersion_of(days))
    return Change("failures", group.column, group.value, rates, None, group.now.images)


def _arrivals(members: list[Group], everything: Counts, spread: Dispersion) -> list[Change]:
    """The groups that are new, against the rest of the period, and those that are gone.

    A column whose groups are mostly new, such as a serial number, has none.
    """
    new = [group for group in members if not group.earlier.images and group.now.images >= FEWEST]
    gone = [group for group in members if not group.now.images and group.earlier.images >= FEWEST]
    if len(new) + len(gone) > len(members) / 2:
        return []
    told = [Change("gone group", group.column, group.value, None, None, group.earlier.images) for group in gone]
    for group in new:
        rest = Rate(everything.alerts - group.now.alerts, everything.scored - group.now.scored)
        rates = compare_rates(group.now.rate, rest, spread) if group.now.scored and rest.of else None
        told.append(Change("new group", group.column, group.value, rates, None, group.now.images))
    return told


def _matters(change: Change) -> bool:
    """Whether a change is told: what appears or goes always, a rate if it changed for certain and by enough."""
    if change.kind in ("new group", "gone group"):
        return True
    assert change.rates is not None, "rates are compared with those before"
    assert change.p is not None, "the p-value was corrected"
    ratio = change.rates.ratio
    is_large = ratio is None or ratio >= SMALLEST_RATIO or ratio <= 1 / SMALLEST_RATIO
    return is_large and change.p < SIGNIFICANT and change.effect >= SMALLEST_EFFECT
