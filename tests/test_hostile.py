"""Whatever lies in an archive: right pixels or a reason, and a row in any case."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import PNG, readable, refused
from hostile_names import KEYS, NAMES, OTHER_FILES, contents, write_corpus

from diffad_ray import query, score
from diffad_ray.images import DEFAULT_MAX_PIXELS, ImageError, decode_image, network_input
from diffad_ray.scoring.isolated import IsolatedDecoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
SIDE = 32


@pytest.mark.parametrize("name", readable())
def test_odd_images_show_what_they_hold(name: str) -> None:
    file = readable()[name]
    decoded = decode_image(file.data)
    assert (decoded.mode, decoded.pixels.dtype) == (file.mode, file.pixels.dtype)
    assert decoded.pixels.shape == file.pixels.shape
    assert np.abs(decoded.pixels.astype(float) - file.pixels).mean() <= file.tolerance
    assert network_input(decoded.pixels, SIDE).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("name", refused())
def test_hostile_files_are_refused_with_a_reason(name: str) -> None:
    file = refused()[name]
    with pytest.raises(ImageError) as caught:
        network_input(decode_image(file.data).pixels, SIDE)
    assert caught.value.status == file.status
    assert file.reason in str(caught.value)
    assert str(caught.value)


@pytest.fixture(scope="module")
def small_decoder() -> Iterator[IsolatedDecoder]:
    """With some 100 MB to spare beside its libraries."""
    with IsolatedDecoder(DEFAULT_MAX_PIXELS, memory_bytes=400 * 2**20) as decoder:
        decoder.decode(PNG)
        yield decoder


@pytest.mark.parametrize("name", [name for name in [*readable(), *refused()] if "bomb" in name])
def test_bombs_take_neither_time_nor_memory(name: str, small_decoder: IsolatedDecoder) -> None:
    start = time.perf_counter()
    if name in readable():
        assert small_decoder.decode(readable()[name].data).pixels.shape == readable()[name].pixels.shape
    else:
        with pytest.raises(ImageError, match="more than the limit of 100,000,000"):
            small_decoder.decode(refused()[name].data)
    assert time.perf_counter() - start < 1


def check_rows(table: Path | str, expected: dict[str, str]) -> None:
    """One row for each image with the status it must get, all scores finite, and the same for the same picture."""
    rows = query(table, "SELECT image_uri, status, error, score FROM scores").to_pylist()
    assert sorted(row["image_uri"] for row in rows) == sorted(expected)
    wrong = [row for row in rows if row["status"] != expected[row["image_uri"]]]
    assert not wrong
    for row in rows:
        is_ok = row["status"] == "ok"
        assert (row["error"] is None) == is_ok
        assert (row["score"] is not None and np.isfinite(row["score"])) == is_ok
    same = [row["score"] for row in rows if "names/" in row["image_uri"]]
    assert np.ptp(same) < 1e-6


@pytest.mark.usefixtures("cluster")
def test_every_file_of_the_corpus_is_one_row(detector: Path, tmp_path: Path) -> None:
    expected = write_corpus(tmp_path / "archive")
    score(tmp_path / "archive", detector=detector, table=tmp_path / "table", actors=1)
    check_rows(tmp_path / "table", expected)


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_every_object_of_the_corpus_is_one_row(s3: str, detector: Path, tmp_path: Path) -> None:
    import boto3

    # The store's own client writes, so that ours can't agree with itself on other names.
    bucket, statuses = boto3.client("s3"), {}
    for name, (data, status) in (contents() | {f"names/{key}": (PNG, "ok") for key in KEYS}).items():
        if "\n" not in name:  # the test's server takes none
            bucket.put_object(Bucket="plant", Key=f"hostile/{name}", Body=data)
            statuses[f"{s3}/hostile/{name}"] = status
    assert max(map(len, statuses)) > 900
    for name in OTHER_FILES:
        bucket.put_object(Bucket="plant", Key=f"hostile/{name}", Body=PNG)
    for name, data in (("folder.jpg/", b""), ("folder.jpg/inside.png", PNG)):  # consoles make folders so
        bucket.put_object(Bucket="plant", Key=f"hostile/{name}", Body=data)
    statuses[f"{s3}/hostile/folder.jpg/inside.png"] = "ok"
    score(f"{s3}/hostile", detector=detector, table=tmp_path / "table", actors=1)
    check_rows(tmp_path / "table", statuses)


def test_the_corpus_is_large_and_its_names_are_distinct() -> None:
    assert len(contents()) == len(readable()) + len(refused()) + len(NAMES) > 100
