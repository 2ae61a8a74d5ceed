"""What a run has to tell of its images beside their number: why some have no score, and what was left out of others."""

from __future__ import annotations

import duckdb

MOST_REASONS = 8
"Reasons that are named; reasons that differ in numbers alone are one."


def findings(connection: duckdb.DuckDBPyConnection, scores: str) -> list[str]:
    """Sentences with a count and an example each, the largest count first.

    Args:
        scores: what follows FROM, the rows of one run.
    """
    failed = connection.execute(
        f"SELECT status, count(*), min(image_uri), arg_min(error, image_uri) FROM {scores} WHERE status <> 'ok' "
        "GROUP BY status, regexp_replace(coalesce(error, ''), '[0-9]+', '', 'g') ORDER BY 2 DESC, 1, 3"
    ).fetchall()
    sentences = [f"{count} {status}, such as {uri}: {error}" for status, count, uri, error in failed[:MOST_REASONS]]
    if rest := failed[MOST_REASONS:]:
        images = sum(count for _, count, _, _ in rest)
        sentences.append(f"{images} more have no score, for {len(rest)} other reasons: see the column error")
    ((count, uri, mode),) = connection.execute(
        f"SELECT count(*), min(image_uri), arg_min(mode, image_uri) FROM {scores} "
        "WHERE regexp_matches(mode, '(page|frame) 1 of')"
    ).fetchall()
    if count:
        sentences.append(f"of {count} files only the first page or frame was scored, such as {uri}: {mode}")
    return sentences
