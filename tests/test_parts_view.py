"""The view `parts`: one row for each part and night, whatever its images are; and the question about it in the docs."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hand_made_table import write_run
from test_cli import run
from test_questions import ROOT, write_table

from diffad_ray import UserError, query
from diffad_ray.analytics.parts import images_without_part
from diffad_ray.table.verdicts import Verdict, add_verdicts


def question() -> str:
    section = (ROOT / "docs" / "tables.md").read_text().partition("## Parts")[2].partition("\n## ")[0]
    (sql,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return sql


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the ten questions, with verdicts on two images of a part."""
    table = tmp_path_factory.mktemp("parts") / "table"
    write_table(str(table))
    said = {"/top/00003/00000.png": "good", "/top/00003/00001.png": "defect"}
    numbers = {row["image_uri"]: row["image_id"] for row in query(table, "FROM scores").to_pylist()}
    moment = datetime(2026, 1, 3, tzinfo=UTC)
    add_verdicts(str(table), [Verdict(numbers[uri], uri, None, word, "ada", moment) for uri, word in said.items()])
    return table


def test_the_eleventh_question(table: Path) -> None:
    rows = query(table, question(), group_by="serial").to_pylist()
    assert [(row["serial"], row["run_date"].day) for row in rows] == [("00003", 1), ("00003", 2), ("00006", 1)]
    (first,) = (row for row in rows if row["serial"] == "00003" and row["run_date"] == date(2026, 1, 1))
    assert first["worst_image"] in {f"/top/00003/{name}.png" for name in ("00000", "00003", "00006")}
    assert (first["images"], first["failed_images"], first["verdict"]) == (9, 1, "defect")


def test_each_part_against_its_images(table: Path) -> None:
    """The figures of the view against those of a loop over the rows."""
    images: dict[tuple[str, date], list[dict[str, Any]]] = defaultdict(list)
    for row in query(table, "FROM scores").to_pylist():
        images[row["serial"], row["run_date"]].append(row)
    parts = query(table, "FROM parts", group_by="serial").to_pylist()
    assert len(parts) == len(images)
    for part in parts:
        mine = images[part["serial"], part["run_date"]]
        scored = [row for row in mine if row["score"] is not None]
        assert part["images"] == len(mine)
        assert part["failed_images"] == len(mine) - len(scored)
        assert part["tail_probability"] == min(row["tail_probability"] for row in scored)
        assert part["decision"] == ("reject" if any(row["is_anomalous"] for row in scored) else "good")
        (worst,) = (row for row in mine if row["image_id"] == part["image_id"])
        for name in ("image_uri", "score", "tail_probability", "detector", "detector_fingerprint"):
            assert part[name] == worst[name]
        assert part["verdict_images"] == 2 * (part["serial"] == "00003" and part["run_date"].day == 1)


def test_columns_that_are_not_there(table: Path) -> None:
    with pytest.raises(UserError, match="no column 'lot' to group by: it has line, camera, serial"):
        query(table, "FROM parts", group_by="lot")
    with pytest.raises(UserError, match="no column 'score'"):
        images_without_part(table, "score")
    with pytest.raises(UserError, match="parts"):
        query(table, "FROM parts")


def test_images_without_a_part_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "table")
    write_run(table, 1, ["0.png", "1.png"], archive="/with", columns={"serial": "1"})
    write_run(table, 2, ["b.png", "a.png", "0.png"], archive="/without", suffix="two")
    assert len(query(table, "FROM parts", group_by="serial")) == 1
    assert images_without_part(table, "serial")[1:] == (3, "/without/0.png")
    assert run(monkeypatch, "query", table, "--group-by", "serial") == 0
    told = capfd.readouterr()
    assert "3 images have no serial and belong to no part, such as /without/0.png" in told.err
    assert told.out.splitlines()[0].startswith("serial\trun_date\timages")
    assert len(told.out.splitlines()) == 2
    output = tmp_path / "parts.csv"
    assert (
        run(
            monkeypatch,
            "query",
            table,
            "SELECT serial, decision FROM parts",
            "--output",
            output,
            "--group-by",
            "serial",
        )
        == 0
    )
    assert output.read_text().split() == ["serial,decision", "1,reject"]
    assert run(monkeypatch, "query", table, "--group-by", "lot") == 2
    assert "it has serial" in capfd.readouterr().err
