"""Stage 2, on actors that hold detectors, on a GPU if there is one: computes scores and anomaly maps from pixels."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cluster import cores
from diffad_ray.gates.bundle import load_gate
from diffad_ray.gates.look import Gatekeeper
from diffad_ray.images import Decoding, ImageError, check_side
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.verdict import MAP_TYPE
from diffad_ray.inference.views import decoding_of
from diffad_ray.read_ahead import read_ahead
from diffad_ray.scoring import measures
from diffad_ray.scoring.attempts import Attempts
from diffad_ray.scoring.first_look import FirstLook, OpenGate
from diffad_ray.scoring.load import FOUND, LoadedImage, decode, decoder_for, dies_if_stuck
from diffad_ray.scoring.profile import SPANS, Clock, spans_column, spans_in
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.gates import BY_DETECTOR, BY_GATE

log = logging.getLogger(__name__)
DETECTORS_HELD = 2
"""Number of detectors that an actor keeps. Shards are sorted by detector, so an actor needs one detector at a time, and
two where the shards of one detector end."""

ADDED = pa.schema(
    [
        ("score", pa.float32()),
        ("scored_by", pa.string()),
        ("score_of_gate", pa.float32()),
        ("anomaly_map", pa.large_binary()),
        ("map_width", pa.int32()),
        ("network_mode", pa.string()),
    ]
)
"Columns whose values come from the detector, or from its gate."


class DetectShard:
    """Runs the detector on the images of a shard.

    It adds the columns `ADDED`: `anomaly_map` is the bytes of [h,w] `MAP_TYPE`, for images that get a mask, and
    `network_mode` the memory format and precision of the networks. It drops `data`.

    Args:
        locations: locations of the detectors by fingerprint.
        thresholds: for each fingerprint the score from which an image is anomalous.
        threads: CPU threads of the networks on machines without GPUs; a machine with fewer cores uses fewer.
        attempts: counts attempts at shards whose images are decoded in this stage, because the detector sees tiles.
        gates: the gates that take a first look, by fingerprint of the detector.
    """

    def __init__(
        self,
        locations: dict[str, str],
        settings: ScoringSettings,
        storage_settings: storage.StorageSettings,
        thresholds: dict[str, float],
        threads: int,
        attempts: Attempts,
        gates: Mapping[str, OpenGate] | None = None,
    ):
        storage.configure(storage_settings)
        self.device = default_device()
        if self.device.type == "cpu":
            torch.set_num_threads(min(threads, cores()))
        self.locations, self.settings, self.thresholds, self.attempts = locations, settings, thresholds, attempts
        self.gates = gates or {}
        self.engines: dict[str, tuple[Engine, Gatekeeper | None]] = {}

    def _networks(self, fingerprint: str) -> tuple[Engine, Gatekeeper | None]:
        """Return a detector, and its gate in a run with gates, ready to score."""
        if fingerprint in self.engines:
            return self.engines[fingerprint]
        location, keeper = self.locations[fingerprint], None
        bundle = load_bundle(location)
        if bundle.fingerprint != fingerprint:
            raise RuntimeError(f"the detector at {location} was replaced while the run went on")
        if (wanted := self.gates.get(fingerprint)) is not None:
            gate = load_gate(location, bundle)
            if gate.fingerprint != wanted.planned.fingerprint:
                raise RuntimeError(f"the gate of the detector at {location} was replaced while the run went on")
            keeper = Gatekeeper(gate.look, bundle.detector.settings, self.device)
        if len(self.engines) == DETECTORS_HELD:
            del self.engines[next(iter(self.engines))]
        self.engines[fingerprint] = Engine(bundle.detector, self.device), keeper
        return self.engines[fingerprint]

    def __call__(self, block: pa.Table) -> pa.Table:
        started, clock = time.process_time(), Clock("detect")
        cv2.setNumThreads(1)
        found: dict[str, list[Any]] = {field.name: block[field.name].to_pylist() for field in FOUND}
        found |= {name: [None] * len(block) for name in ADDED.names}
        files = {row: data.as_buffer() for row, data in enumerate(block["data"]) if data.is_valid}
        spent_decoding: list[float] = []
        if files:
            self._detect(block, files, found, spent_decoding)
        detected = block.drop_columns(["data"])
        for field in FOUND:
            column = pa.array(found[field.name], field.type)
            detected = detected.set_column(detected.column_names.index(field.name), field, column)
        for field in ADDED:
            detected = detected.append_column(field, pa.array(found[field.name], field.type))
        spent = np.asarray(detected["seconds"]) + time.process_time() - started
        detected = detected.set_column(detected.column_names.index("seconds"), "seconds", pa.array(spent))
        span = clock.span(block["shard"][0].as_py(), len(block), decode=sum(spent_decoding))
        measures.add_seconds("detect", span.seconds)
        measures.add_seconds("decode", span.decode)
        spans = spans_column([*spans_in(block), span], len(block))
        return detected.set_column(detected.column_names.index(SPANS), SPANS, spans)

    def _detect(
        self, block: pa.Table, files: dict[int, pa.Buffer], found: dict[str, list[Any]], spent_decoding: list[float]
    ) -> None:
        """Score the files of the rows of a block, and write all columns of `found`."""
        fingerprint = block["detector_fingerprint"][0].as_py()
        engine, keeper = self._networks(fingerprint)
        found["network_mode"] = [str(engine.runtime)] * len(block)
        if engine.detector.settings.view == "tiles":
            decoding = decoding_of(engine.detector.settings)
            images = self._decoded(files, found, block["shard"][0].as_py(), decoding, spent_decoding)
        else:
            side = engine.detector.settings.image_size
            images = ((row, image_from_bytes(data, side)) for row, data in files.items())
        look = None
        if keeper is not None:
            look = FirstLook(keeper, self.gates[fingerprint], block["image_id"].to_pylist())
            images = look.sifted(images)
        order: list[int] = []

        def in_order() -> Iterator[np.ndarray]:
            for row, pixels in images:
                order.append(row)
                yield pixels

        for count, detection in enumerate(engine.detect_images(in_order(), with_reconstruction=False)):
            # The commit compares the same Python float. NumPy would round the threshold to float32.
            row = order[count]
            found["score"][row] = exact = float(detection.score)
            found["scored_by"][row] = BY_DETECTOR
            if self.settings.masks == "all" or exact >= self.thresholds[fingerprint]:
                found["anomaly_map"][row] = detection.anomaly_map.astype(MAP_TYPE).tobytes()
                found["map_width"][row] = detection.anomaly_map.shape[1]
        if look is not None:
            for row, score in look.scores.items():
                found["score_of_gate"][row] = score
            for row, score in look.estimates().items():
                found["score"][row], found["scored_by"][row] = score, BY_GATE

    def _decoded(
        self,
        files: dict[int, pa.Buffer],
        found: dict[str, list[Any]],
        shard: int,
        decoding: Decoding,
        spent: list[float],
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Decode large images while the networks work on the image before; write failures to `found`, and the
        seconds of each image to `spent`. Yield the number of the row and the pixels."""
        max_pixels = self.settings.max_pixels

        def decoded(data: pa.Buffer) -> LoadedImage:
            began = time.perf_counter()
            with dies_if_stuck(1):
                image = decode(data.to_pybytes(), max_pixels, decoding, isolated)
            spent.append(time.perf_counter() - began)
            return image

        with decoder_for(self.attempts, shard, max_pixels) as isolated:
            for row, image in zip(files, read_ahead(decoded, files.values(), 1), strict=True):
                try:
                    if image.pixels is not None:
                        check_side(image.pixels)
                except ImageError as error:
                    image = LoadedImage(error.status, str(error))
                for field in FOUND:
                    found[field.name][row] = image.value(field.name)
                if image.pixels is not None:
                    yield row, image.pixels


def image_from_bytes(data: pa.Buffer, side: int) -> np.ndarray:
    """Return an image [S,S,3] from its bytes. Their number tells whether it is uint8 or uint16."""
    deep = len(data) == 2 * side * side * 3
    return np.frombuffer(data, np.uint16 if deep else np.uint8).reshape(side, side, 3)
