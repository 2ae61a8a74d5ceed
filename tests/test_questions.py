"""The ten questions of docs/tables.md, each answered from a table of two lines with two cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hand_made_table import write_run
from test_engines import questions

from diffad_ray import query

ANSWERS: list[tuple[str, dict[str, Any]]] = [
    ("run_date, line, count", {"line": "press", "images": 8, "defect_rate": pytest.approx(0.5)}),
    ("LIMIT 100", {"image_uri": "/archive/00000.png", "score": pytest.approx(0.9)}),
    ("first_night", {"line": "press", "images": 6}),
    ("serial = '00003'", {"camera": "side", "is_anomalous": True, "region_count": 2}),
    ("cumulative_share", {"place": "side left", "size": "small", "found": 2}),
    ("status, error", {"status": "timeout", "error": "no answer in 30 s", "images": 1}),
    ("gigabytes", {"images": 8}),
    ("last_night", {"line": "press", "rate_before": pytest.approx(0.5)}),
    ("share_over_budget", {"line": "press", "share_over_budget": 0.0}),
    ("grid_x", {"parts": 2}),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of parts that two cameras see; every image of the second night whose name ends so is defective."""
    table = tmp_path_factory.mktemp("questions") / "table"
    for day, camera, names in (
        (1, "top", [f"{k:05d}.png" for k in range(9)]),
        (2, "side", [f"{k:05d}.png" for k in (0, 3, 4, 5)]),
    ):
        columns = {"line": "press", "camera": camera, "serial": "00003"}
        write_run(
            str(table),
            day,
            names,
            columns=columns,
            failing=names[4] if day == 1 else "",
            archive="/archive" if day == 2 else "/top",
        )
    return table


@pytest.mark.parametrize(("words", "answer"), ANSWERS, ids=[words for words, _ in ANSWERS])
def test_an_answer(table: Path, words: str, answer: dict[str, Any]) -> None:
    (sql,) = (question for question in questions() if words in question)
    rows = query(table, sql).to_pylist()
    print(rows[:4])
    assert any(row.items() >= answer.items() for row in rows)


def test_there_are_ten() -> None:
    assert len(questions()) == len(ANSWERS) == 10
