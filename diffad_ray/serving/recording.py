"""Rows of requests with `record=1`: kept one by one at once, and appended to the table by `appending.py`.

A row is kept as `TABLE/requests/<fingerprint>/<request>.parquet` before its request is answered, so that none is lost
with its replica. From time to time, a replica appends all that are there as a run with plan, manifests and record, by
the code that commits the shards of scoring. The kept rows are deleted last. Should the replica die in between, the next
run finds them again, and leaves out those that the table has: an image has one row under a detector.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from dataclasses import asdict

import pyarrow as pa

from diffad_ray import storage
from diffad_ray.inference.verdict import MAP_TYPE
from diffad_ray.scoring.detect import ADDED
from diffad_ray.scoring.load import FOUND
from diffad_ray.serving.detectors import LoadedDetector
from diffad_ray.serving.judging import Answer
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.requests import GivenImage
from diffad_ray.storage import FileInfo
from diffad_ray.table.gates import BY_DETECTOR
from diffad_ray.table.layout import MANIFEST, image_id, parquet_bytes

log = logging.getLogger(__name__)
BLOCK = pa.schema(
    [
        *MANIFEST,
        *FOUND,
        *ADDED,
        ("seconds", pa.float64()),
        ("shard", pa.int32()),
        ("threshold", pa.float64()),
    ]
)
"""What `CommitShard` takes, and the threshold by which the answer was judged; a kept row is a table of these columns
with one row."""
SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"II": ".tif", b"MM": ".tif"}


class Recorder:
    """Keeps the rows of requests.

    Args:
        table: its location.
        images: prefix for images that came in the body of a request; None refuses to record these.
    """

    def __init__(self, table: str, images: str | None):
        self.table = storage.normalised(table)
        self.images = None if images is None else storage.normalised(images)
        self._described: set[str] = set()

    async def record(self, given: GivenImage, answer: Answer | Refused, detector: LoadedDetector) -> bool:
        """Keep the row of an answer, or of an image that gives none; true once it can't be lost any more.

        Raises:
            Refused: 400 if nothing says where the image is to be kept, 503 if the table can't be written.
        """
        if given.info is None and self.images is None:
            raise Refused(400, "this server records images that are named by URI: it has no record_images")
        try:
            await asyncio.to_thread(self._keep, given, answer, detector)
        except OSError as error:
            log.warning("a row can't be kept in %s: %s", self.table, error)
            raise Refused(503, "the table can't be written now", retry_after=10) from error
        return True

    def _keep(self, given: GivenImage, answer: Answer | Refused, detector: LoadedDetector) -> None:
        fingerprint = detector.bundle.fingerprint
        folder = f"{self.table}/requests/{fingerprint}"
        if fingerprint not in self._described:
            calibration = detector.bundle.calibration
            kind = detector.bundle.detector.kind
            described = {"name": detector.name, "kind": kind, "calibration": asdict(calibration)}
            storage.create(f"{folder}/detector.json", json.dumps(described).encode())
            self._described.add(fingerprint)
        info = given.info or self._kept_image(given.data)
        row = {
            "image_id": image_id(info.uri, info.version),
            "image_uri": info.uri,
            "image_version": info.version,
            "image_bytes": info.bytes,
            "image_modified": info.modified,
            "detector_fingerprint": fingerprint,
            "seconds": 0.0,
        } | _found(answer, detector)
        data = parquet_bytes(pa.Table.from_pylist([row], schema=BLOCK))
        storage.write(f"{folder}/{secrets.token_hex(16)}.parquet", data)

    def _kept_image(self, data: bytes) -> FileInfo:
        """Keep an image under the hash of its bytes."""
        suffix = next((suffix for begin, suffix in SUFFIXES.items() if data.startswith(begin)), ".img")
        location = f"{self.images}/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        storage.create(location, data)
        store, key = storage.open_store(location)
        return store.info(key)


def _found(answer: Answer | Refused, detector: LoadedDetector) -> dict[str, object]:
    """Return the columns of a row that scoring an image fills in."""
    if isinstance(answer, Refused):
        return {"status": answer.status, "error": str(answer)}
    image, detection = answer.image, answer.detection
    found = {"status": "ok", "width": image.width, "height": image.height, "mode": image.mode}
    found |= {"score": answer.verdict.score, "scored_by": BY_DETECTOR, "threshold": answer.verdict.threshold}
    found["network_mode"] = str(detector.engine.runtime)
    found |= image.quality._asdict()
    if answer.verdict.is_anomalous:
        found["anomaly_map"] = detection.anomaly_map.astype(MAP_TYPE).tobytes()
        found["map_width"] = detection.anomaly_map.shape[1]
    return found
