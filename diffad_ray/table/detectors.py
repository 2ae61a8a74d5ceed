"""The detectors of a table, `TABLE/detectors/<fingerprint>.json`: where each is, and what its scores mean.

Scoring writes them before its plan, so that whoever reads the table knows the calibration behind each row without
access to the bundles.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.table.documents import document, read_documents
from diffad_ray.table.parts import DETECTORS


@dataclass(frozen=True)
class KnownDetector:
    """A detector that has scored images of a table.

    Attributes:
        fingerprint: 16 hex digits, as in the rows.
        name, location, kind: of the bundle.
        threshold: the score from which the detector itself calls an image anomalous.
        calibration: the scores of held-back normal images; None if nobody knows them.
    """

    fingerprint: str
    name: str
    location: str
    kind: str
    threshold: float
    calibration: Calibration | None

    def __post_init__(self) -> None:
        # Read back from JSON, it is a dictionary.
        if isinstance(self.calibration, dict):
            object.__setattr__(self, "calibration", Calibration(**self.calibration))


def write_detector(table: str, known: KnownDetector) -> None:
    """Write a detector, unless the table has the same document already.

    A training that was repeated with other calibration images gives the same fingerprint: then the newer one counts.
    """
    location, data = f"{table}/{DETECTORS.name}/{known.fingerprint}.json", document(known)
    if not storage.create(location, data) and storage.read(location) != data:
        storage.write(location, data)


def read_detectors(table: str) -> dict[str, KnownDetector]:
    """Return the detectors of a table by fingerprint.

    Raises:
        UserError: the table can't be read, a document is damaged, or it is of a newer schema version.
    """
    return {known.fingerprint: known for known in read_documents(table, DETECTORS.name, KnownDetector)}
