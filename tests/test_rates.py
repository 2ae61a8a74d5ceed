"""Rates compared: intervals and tests against simulation, and days that differ by themselves."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from diffad_ray.analytics.recurrence import log_binomial_tail
from diffad_ray.analytics.report.rates import (
    Dispersion,
    Rate,
    compare_rates,
    dispersion_of,
    two_sided,
)
from diffad_ray.errors import percent
from diffad_ray.intervals import cohens_h


def test_equal_rates_are_seldom_called_different() -> None:
    rng = np.random.default_rng(0)
    counts = rng.binomial(2000, 0.01, (4000, 2))
    changes = [compare_rates(Rate(int(a), 2000), Rate(int(b), 2000)) for a, b in counts]
    assert 0.03 < np.mean([change.p < 0.05 for change in changes]) < 0.07
    assert np.mean([change.low <= 0 <= change.high for change in changes]) == pytest.approx(0.95, abs=0.02)
    assert all((change.effect > 0) == (a > b) for change, (a, b) in zip(changes, counts, strict=True) if a != b)


def test_a_difference_is_found_and_measured() -> None:
    change = compare_rates(Rate(300, 10_000), Rate(100, 10_000))
    assert change.ratio == pytest.approx(3)
    assert change.low < 0.02 < change.high
    assert change.p < 1e-20
    assert change.effect == pytest.approx(2 * math.asin(math.sqrt(0.03)) - 2 * math.asin(0.1))
    assert compare_rates(Rate(3, 10), Rate(0, 10)).ratio is None
    assert cohens_h(1, 0) == pytest.approx(math.pi)


def test_days_that_differ_by_themselves_make_a_test_careful() -> None:
    rng = np.random.default_rng(1)
    calls = {"careful": 0, "binomial": 0}
    for _ in range(300):
        shares = rng.uniform(0.005, 0.035, 14)
        days = [Rate(int(rng.binomial(3000, share)), 3000) for share in shares]
        spread = dispersion_of([days[:7], days[7:]])
        now, earlier = (Rate(sum(day.count for day in part), 21_000) for part in (days[:7], days[7:]))
        calls["careful"] += compare_rates(now, earlier, spread).p < 0.01
        calls["binomial"] += compare_rates(now, earlier).p < 0.01
        assert spread.pairs == 12
    assert calls["careful"] <= 15
    assert calls["binomial"] > 100


def test_one_jump_within_a_period_is_no_dispersion() -> None:
    rng = np.random.default_rng(2)
    days = [Rate(int(rng.binomial(3000, 0.01 if day < 9 else 0.1)), 3000) for day in range(14)]
    assert dispersion_of([days[:7], days[7:]]).factor < 4
    assert dispersion_of([[Rate(1, 10)], [Rate(5, 10)]]) == Dispersion(1.0, 0)


def test_the_bound_holds() -> None:
    rng = np.random.default_rng(3)
    counts = rng.binomial(50, 0.1, 200_000)
    for count in (8, 12, 15):
        bound = math.exp(log_binomial_tail(np.array(count), np.array(50), np.array(0.1)))
        assert (counts >= count).mean() <= bound < 1
    assert log_binomial_tail(np.array(3), np.array(50), np.array(0.1)) == 0
    assert log_binomial_tail(np.array(50), np.array(50), np.array(0.5)) == pytest.approx(50 * math.log(0.5))


@pytest.mark.parametrize(("t", "freedom", "expected"), [(2.228, 10, 0.05), (3.169, 10, 0.01), (1.96, 0, 0.05)])
def test_students_t_is_approximated(t: float, freedom: int, expected: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.61408, "61.4 %"), (0.00033, "0.033 %"), (0.0, "0 %"), (1.0, "100 %"), (2.5, "250 %"), (None, "–")],
)
def test_percentages(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_all_percentages_are_written_alike() -> None:
    package = Path(__file__).parents[1] / "diffad_ray"
    modules = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    assert len(modules) > 200
    # `percent` is the one place that formats a share; a format such as `:.1%` leaves no space.
    assert [name for name, source in modules.items() if re.search(r":[^\"'{}]*\.\d%\}", source)] == []
