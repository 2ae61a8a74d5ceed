"""The ten questions of docs/tables.md, each answered from a table of two lines with two cameras."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from engines import run_statements, spark
from hand_made_table import write_run

from diffad_ray import query
from diffad_ray.analytics.ddl import ddl

__all__ = ["spark"]
ROOT = Path(__file__).parents[1]


def questions() -> list[str]:
    section = (ROOT / "docs" / "tables.md").read_text().partition("## Ten questions")[2].partition("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


ANSWERS: list[tuple[str, dict[str, Any]]] = [
    ("run_date, line, count", {"line": "press", "images": 17, "defect_rate": pytest.approx(6 / 17)}),
    ("LIMIT 100", {"image_uri": "/side/00003/00000.png", "score": pytest.approx(0.9)}),
    ("first_night", {"line": "press", "images": 6, "last_night": date(2026, 1, 1)}),
    ("serial = '00003'", {"camera": "side", "is_anomalous": True, "region_count": 2}),
    (
        "cumulative_share",
        {"place": "side left", "size": "small", "found": 2, "cumulative_share": pytest.approx(14 / 16)},
    ),
    ("status, error", {"status": "timeout", "error": "no answer in 30 s", "images": 1}),
    ("gigabytes", {"images": 9, "gigabytes": pytest.approx(9e-7)}),
    ("rate_before", {"line": "press", "last_rate": pytest.approx(0.5), "rate_before": pytest.approx(6 / 17)}),
    ("share_over_budget", {"line": "press", "share_over_budget": 0.0}),
    ("grid_x", {"camera": "top", "parts": 2, "found": 6}),
]


def write_table(table: str) -> None:
    """Two parts that a camera saw in the first night, one of which another camera saw in the second. Images whose
    names end in 0, 3, 6 or 9 have two regions."""
    for day, camera, serial, images in ((1, "top", "00003", 9), (1, "top", "00006", 9), (2, "side", "00003", 4)):
        names = [f"{k:05d}.png" for k in range(images)]
        columns = {"line": "press", "camera": camera, "serial": serial}
        failing = names[4] if (day, serial) == (1, "00003") else ""
        write_run(
            table, day, names, archive=f"/{camera}/{serial}", suffix=serial[-3:], columns=columns, failing=failing
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("questions") / "table"
    write_table(str(table))
    return table


@pytest.mark.parametrize(("words", "answer"), ANSWERS, ids=[words for words, _ in ANSWERS])
def test_an_answer(table: Path, words: str, answer: dict[str, Any]) -> None:
    (sql,) = (question for question in questions() if words in question)
    rows = query(table, sql).to_pylist()
    assert any(row.items() >= answer.items() for row in rows)


def test_there_are_ten() -> None:
    assert len(questions()) == len(ANSWERS) == 10


@pytest.mark.long
def test_spark_gives_the_same_answers(table: Path, spark: Any) -> None:
    run_statements(spark, ddl(table, "spark"))
    for sql in questions():
        answers = [row.asDict() for row in spark.sql(sql).collect()]
        expected = query(table, sql).to_pylist()
        assert len(answers) == len(expected), sql
        for answer, other in zip(answers, expected, strict=True):
            assert answer.keys() == other.keys()
            same = [name for name, value in other.items() if not isinstance(value, datetime | Decimal | float)]
            assert [answer[name] for name in same] == [other[name] for name in same], sql
