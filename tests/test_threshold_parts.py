"""Thresholds counted in parts: a part is judged by its image with the highest score, and by its severest verdict."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from plant_table import FINGERPRINT, THRESHOLD, tool_mark, write_plant
from typer.testing import CliRunner

from diffad_ray.analytics.query import query
from diffad_ray.analytics.thresholds.choice import Wish
from diffad_ray.analytics.thresholds.proposal import Proposal, propose
from diffad_ray.cli import app
from diffad_ray.errors import UserError
from diffad_ray.table.verdicts import Verdict, add_verdicts


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = str(tmp_path_factory.mktemp("parts") / "table")
    write_plant(table, 4, 240, tool_mark(2))
    return table


def parts_above(table: str, threshold: float) -> list[int]:
    """Parts by night that a threshold rejects, by plain SQL."""
    sql = (
        f"SELECT count(*) FILTER (highest >= {threshold!r}::FLOAT) AS n FROM (SELECT run_date, serial, max(score) AS "
        "highest FROM scores WHERE score IS NOT NULL GROUP BY ALL) GROUP BY run_date ORDER BY run_date"
    )
    return query(table, sql)["n"].to_pylist()


def in_force(found: Proposal) -> int:
    (one,) = [one for one in found.consequences if "in force" in one.candidate.reasons]
    return one.windows["month"].alerts


def test_alerts_are_those_of_parts(table: str) -> None:
    found = propose(table, group_by="serial")
    assert in_force(found) == sum(parts_above(table, THRESHOLD))
    assert in_force(found) < in_force(propose(table)), "some parts have two images that are alerts"
    images = query(table, "SELECT count(DISTINCT (serial, run_date)) AS n FROM scores WHERE score IS NOT NULL")
    (window,) = {one.windows["month"].images for one in found.consequences}
    assert window == images["n"].to_pylist()[0]
    assert {one.windows["month"].false_alarms for one in found.consequences} == {None}


def test_a_budget_is_one_of_parts(table: str) -> None:
    found = propose(table, Wish(alerts_per_night=20), group_by="serial")
    assert found.choice is not None
    chosen = found.choice.reject[FINGERPRINT]
    assert max(parts_above(table, chosen)) <= 20
    of_images = propose(table, Wish(alerts_per_night=20)).choice
    assert of_images is not None
    assert chosen <= of_images.reject[FINGERPRINT], "so many parts are at least as many images"
    changed = query(table, f"SELECT count(*) AS n FROM scores WHERE is_anomalous AND score < {chosen!r}::FLOAT")
    assert found.changes[0].cease == changed["n"].to_pylist()[0], "changes are told in images"


def test_the_severest_verdict_of_a_part_counts(table: str) -> None:
    sql = (
        "SELECT serial, list({i: image_id, u: image_uri, s: score} ORDER BY score DESC) AS images FROM scores "
        "WHERE score IS NOT NULL GROUP BY 1 HAVING count(*) = 2 ORDER BY max(score) DESC LIMIT 1"
    )
    (highest, lower) = query(table, sql).to_pylist()[0]["images"]
    at = datetime(2026, 4, 1, tzinfo=UTC)
    for image, word in ((highest, "good"), (lower, "defect")):
        add_verdicts(table, [Verdict(image["i"], image["u"], None, word, "ada", at)])  # type: ignore[arg-type]
    reviewed = {
        (one.reviewed.good, one.reviewed.defects)
        for one in propose(table, group_by="serial").consequences
        if one.reviewed
    }
    assert reviewed == {(0, 1)}


def test_the_command_counts_parts_and_refuses_what_is_of_images(table: str) -> None:
    done = CliRunner().invoke(app, ["threshold", table, "--group-by", "serial"])
    assert done.exit_code == 0, done.output
    assert "in parts (serial)" in done.stdout
    with pytest.raises(UserError, match="--fdr counts images"):
        propose(table, Wish(fdr=0.1), group_by="serial")
    with pytest.raises(UserError, match="no column 'part' to group by"):
        propose(Path(table), group_by="part")
