"""Golden samples: they tell a changed camera or detector from a changed product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nights import FINGERPRINT, THRESHOLD, Change, Part, write_nights

from diffad_ray.analytics.drift.golden import Golden, golden
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.table.detectors import KnownDetector, write_detector

LAST = 11


def compared(table: Path, change: Change, nights: int = LAST + 1) -> Golden:
    """Golden samples of one camera, whose scores are the same every night but for small noise."""
    levels = np.random.default_rng(5).normal(size=12)

    def samples(part: Part) -> None:
        part.uris = [f"/golden/{k}.png" for k in range(len(levels))]
        part.score = levels + 0.02 * part.rng.normal(size=len(levels))
        part.failed[:] = False
        change(part)

    write_nights(table, change=samples, nights=nights, images=len(levels), cameras=["top"])
    calibration = Calibration.from_scores(np.random.default_rng(9).logistic(size=200))
    write_detector(
        str(table), KnownDetector(FINGERPRINT, "part", "/detectors/part", "familiarity", THRESHOLD, calibration)
    )
    return golden(table)


def test_parts_that_look_as_ever_are_steady(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda part: None)
    assert (found.state, found.images, len(found.samples)) == ("steady", 12, 12)
    assert found.samples[0].nights == LAST


def test_a_dim_lamp_moves_all_of_them(tmp_path: Path) -> None:
    def dim(part: Part) -> None:
        if part.day == LAST:
            part.brightness *= 0.8
            part.score += 1.5

    found = compared(tmp_path, dim)
    assert found.state == "moved"
    assert "12 of 12 golden samples moved" in found.reasons[0]
    assert "brightness fell by " in found.reasons[1]


def test_one_scratched_part_is_no_changed_camera(tmp_path: Path) -> None:
    def scratch(part: Part) -> None:
        if part.day == LAST:
            part.score[3] += 6

    found = compared(tmp_path, scratch)
    assert found.state == "watch"
    assert "1 of 12 golden samples moved, such as /golden/3.png" in found.reasons[0]


@pytest.mark.parametrize("moves", [False, True])
def test_the_same_files_check_the_detector_alone(tmp_path: Path, moves: bool) -> None:
    def same(part: Part) -> None:
        part.ids = np.arange(len(part.ids))
        part.score = np.linspace(-1, 1, len(part.ids))
        part.score[0] += 0.2 * (moves and part.day == LAST)

    found = compared(tmp_path, same)
    assert found.state == ("moved" if moves else "steady")
    assert ("the detector's side changed" in " ".join(found.reasons)) == moves


def test_samples_that_are_missing_or_unreadable_are_told(tmp_path: Path) -> None:
    def lose(part: Part) -> None:
        if part.day == LAST:
            part.failed[2] = True
            part.uris[7] = "/golden/other.png"

    found = compared(tmp_path, lose)
    assert found.state == "watch"
    assert "1 golden sample could not be scored, such as /golden/2.png" in found.reasons[0]
    assert "1 golden sample of the night before is missing: /golden/7.png" in found.reasons[1]


def test_the_first_night_has_nothing_to_compare_with(tmp_path: Path) -> None:
    found = compared(tmp_path, lambda part: None, nights=1)
    assert (found.state, found.samples) == ("first night", [])
