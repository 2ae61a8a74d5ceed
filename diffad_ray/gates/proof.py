"""The proof of a gate: the scores of images that the student did not learn from, by the detector and by each look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.errors import UserError
from diffad_ray.familiarity.samples import Tell
from diffad_ray.gates.bundle import LOOKS
from diffad_ray.gates.evidence import GROUPS, MADE, Evidence
from diffad_ray.gates.look import Gatekeeper, Look
from diffad_ray.gates.samples import Recipe, scored_samples
from diffad_ray.gates.student import Student
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.views import decoding_of
from diffad_ray.training.normals import read_images

PSEUDO_SHARE = 0.8
"Share of the samples with a pseudo-anomaly."
CHOOSING = 3
"One of so many samples chooses what the gate looks by; the others alone set its limit."
SPARE, ROUND, MOST_ROUNDS = 1.05, 600, 12
"Factor on the flagged samples that a promise needs; samples that are made at a time, and how often."
FEWEST_FLAGGED = 300
"Flagged samples that are made in any case."
LEAST_SPREAD = 1e-3
COMPONENTS = LOOKS[:2]
"Looks that compute scores of their own."


def components(student: Student | None, detector: JudgedDetector, looks: Sequence[str]) -> dict[str, Look]:
    """Return the looks by one thing each that `looks` need, with scores that are not standardised."""
    plain = torch.zeros(2), torch.ones(2)
    found = {} if student is None else {"student": Look(student, None, *plain)}
    return found if set(looks) == {"student"} else found | {"gaussians": Look(None, detector.familiarity, *plain)}


class Proof:
    """Scores of images that the student did not learn from.

    Args:
        engine: of the detector.
        looks: by name, see `components`.
        threshold: of the detector.
        tell: receives progress messages.
    """

    def __init__(self, engine: Engine, looks: Mapping[str, Look], threshold: float, tell: Tell):
        self.engine, self.threshold, self.tell = engine, threshold, tell
        settings = engine.detector.settings
        self.keepers = {name: Gatekeeper(look, settings, engine.device) for name, look in looks.items()}
        self.problems: dict[str, str] = {}
        self._group: list[int] = []
        self._full: list[float] = []
        self._by: dict[str, list[float]] = {name: [] for name in looks}

    def add_images(self, locations: Sequence[str], group: str) -> None:
        """Add the readable images at locations; the problems of others are kept in `problems`."""

        def images() -> Iterator[np.ndarray]:
            return read_images(locations, self.problems, decoding_of(self.engine.detector.settings))

        full = [found.score for found in self.engine.detect_images(images(), with_reconstruction=False)]
        self._full += full
        self._group += [GROUPS.index(group)] * len(full)
        for name, keeper in self.keepers.items():
            self._by[name] += [score for _, score in keeper.looked_at(images())]

    def add_samples(self, squares: np.ndarray, recipe: Recipe, fewest: int) -> None:
        """Make samples of normal squares [N,S,S,C] until the detector flags enough of them.

        Args:
            fewest: flagged samples that the limit needs.

        Raises:
            UserError: the detector flags too few of them.
        """
        wanted = max(FEWEST_FLAGGED, round(SPARE * fewest * CHOOSING / (CHOOSING - 1)))
        flagged = made = 0
        for number in range(MOST_ROUNDS):
            own = recipe.with_share(PSEUDO_SHARE, recipe.seed + 1 + number)
            samples = scored_samples(self.engine, squares, ROUND, own, self.tell)
            self._full += samples.score.tolist()
            self._group += [MADE[int(is_pseudo)] for is_pseudo in samples.is_pseudo]
            for name, keeper in self.keepers.items():
                self._by[name] += keeper.squares(samples.pixels)
            flagged, made = flagged + int((samples.score >= self.threshold).sum()), made + ROUND
            self.tell(f"proof: {flagged} of {wanted} samples that the detector flags")
            if flagged >= wanted:
                return
            if flagged * MOST_ROUNDS < wanted * (number + 1):
                break
        raise UserError(
            f"the detector flags {flagged} of {made} samples, and the promise needs {wanted} of {MOST_ROUNDS * ROUND}: "
            "raise --missed, lower the threshold, or train the detector longer"
        )

    def for_choice(self, kind: str) -> tuple[Evidence, float, float]:
        """Return the evidence, threshold and promise by which a look is compared with others: that it passes nothing of
        the few samples that choose."""
        rows = self._is_choosing()
        flagged = int((self._full_scores()[rows] >= self.threshold).sum())
        return self._evidence(kind, rows | ~self._is_made()), self.threshold, 1 / (flagged + 1)

    def for_limit(self, kind: str) -> Evidence:
        """Return the evidence that sets the limit of a look; none of its samples has had a part in the choice."""
        return self._evidence(kind, ~self._is_choosing())

    def scale(self) -> tuple[list[float], list[float]]:
        """Return `usual` and `spread` of a `Look`, from the held-back normal images."""
        is_normal = np.array(self._group) == GROUPS.index("normal")
        usual, spread = [0.0, 0.0], [1.0, 1.0]
        for name, scores in self._by.items():
            place, own = COMPONENTS.index(name), np.array(scores)[is_normal]
            usual[place] = float(np.median(own))
            spread[place] = max(LEAST_SPREAD, float(np.quantile(own, 0.9)) - usual[place])
        return usual, spread

    def flagged_by_group(self) -> dict[str, tuple[int, int]]:
        """Return for each group how many of its images the detector flags, and of how many."""
        group, full = np.array(self._group), self._full_scores()
        of = {name: full[group == number] for number, name in enumerate(GROUPS)}
        return {name: (int((scores >= self.threshold).sum()), len(scores)) for name, scores in of.items()}

    def _full_scores(self) -> np.ndarray:
        return np.array(self._full, np.float32)

    def _is_made(self) -> np.ndarray:
        return np.isin(self._group, MADE)

    def _is_choosing(self) -> np.ndarray:
        is_made = self._is_made()
        return is_made & (np.cumsum(is_made) % CHOOSING == 0)

    def _evidence(self, kind: str, rows: np.ndarray) -> Evidence:
        usual, spread = self.scale()
        names = COMPONENTS if kind == "both" else (kind,)
        places = {name: COMPONENTS.index(name) for name in names}
        found = [(np.array(self._by[name], np.float32) - usual[at]) / spread[at] for name, at in places.items()]
        gate = np.max(np.stack(found), axis=0).astype(np.float32)
        return Evidence(np.array(self._group, np.int8)[rows], gate[rows], self._full_scores()[rows])
