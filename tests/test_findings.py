"""What a run tells of its images: every reason with a count and an example."""

from __future__ import annotations

import duckdb

from diffad_ray.table.findings import MOST_REASONS, findings


def found(*rows: tuple[str, str, str | None, str]) -> list[str]:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE rows (image_uri VARCHAR, status VARCHAR, error VARCHAR, mode VARCHAR)")
        if rows:
            connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)
        return findings(connection, "rows")


def test_reasons_that_differ_in_numbers_are_one() -> None:
    assert found() == []
    assert found(("a", "ok", None, "8-bit RGB")) == []
    sentences = found(
        ("b", "unreadable", "cut off: 12 bytes", ""),
        ("a", "unreadable", "cut off: 900 bytes", ""),
        ("c", "unreadable", "a HEIC image", ""),
        ("d", "missing", "gone", ""),
        ("e", "ok", None, "8-bit RGB, page 1 of 3"),
    )
    assert sentences == [
        "2 unreadable, such as a: cut off: 900 bytes",
        "1 missing, such as d: gone",
        "1 unreadable, such as c: a HEIC image",
        "of 1 files only the first page or frame was scored, such as e: 8-bit RGB, page 1 of 3",
    ]


def test_many_reasons_are_counted() -> None:
    rows = [(f"{k}", "failed", chr(65 + k), "") for k in range(MOST_REASONS + 3)]
    sentences = found(*rows, ("z", "failed", "A", ""))
    assert len(sentences) == MOST_REASONS + 1
    assert sentences[0] == "2 failed, such as 0: A"
    assert sentences[-1] == "3 more have no score, for 3 other reasons: see the column error"
