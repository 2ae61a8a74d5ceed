"""The first look of a shard: the gate scores every image, and the detector sees those that do not pass."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from diffad_ray.gates.evidence import Opening
from diffad_ray.gates.look import Gatekeeper
from diffad_ray.table.gates import PlannedGate


@dataclass(frozen=True)
class OpenGate:
    """A gate as workers need it: what the plan says of it, and where it opens."""

    planned: PlannedGate
    opening: Opening


class FirstLook:
    """Sifts the images of a shard.

    Args:
        keeper: the gate on the device.
        gate: where it opens.
        image_ids: of the rows of the shard.
    """

    def __init__(self, keeper: Gatekeeper, gate: OpenGate, image_ids: list[int]):
        self.keeper, self.gate, self.image_ids = keeper, gate, image_ids
        self.scores: dict[int, float] = {}
        "The gate's score of each row that it looked at."
        self.passed: set[int] = set()
        "The rows that the detector does not see."

    def sifted(self, images: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield those of the rows and images that the detector has to see."""
        rows: deque[int] = deque()

        def pixels() -> Iterator[np.ndarray]:
            for row, image in images:
                rows.append(row)
                yield image

        for image, score in self.keeper.looked_at(pixels()):
            row = rows.popleft()
            self.scores[row] = score
            if score < self.gate.planned.limit and not is_audited(self.image_ids[row], self.gate.planned.audit):
                self.passed.add(row)
            else:
                yield row, image

    def estimates(self) -> Mapping[int, float]:
        """Return the scores of the passed rows, as the detector would give them."""
        rows = sorted(self.passed)
        found = self.gate.opening.estimated(np.array([self.scores[row] for row in rows]))
        return dict(zip(rows, found.tolist(), strict=True))


def is_audited(image_id: int, share: float) -> bool:
    """Return whether an image is one of the random share of passed images that the detector sees too.

    The choice depends on the image alone, so it is the same whenever and wherever the image is scored.

    Example:
        >>> sum(is_audited(number, 0.1) for number in range(1000))
        98
    """
    digest = hashlib.blake2b(image_id.to_bytes(8, "little", signed=True), digest_size=8, person=b"gate audit").digest()
    return int.from_bytes(digest, "little") < share * 2**64
