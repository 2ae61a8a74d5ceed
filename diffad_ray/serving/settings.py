"""How detectors are served: the section `[serving]` of a settings file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffad_ray.images import DEFAULT_MAX_PIXELS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class ServedDetector:
    """Where a detector is.

    Attributes:
        location: folder or URI of its bundle.
        fingerprint: the only one that may answer under this name; None takes whatever bundle is at the location, and
            changes to a new one as soon as it is there.
    """

    location: str
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.fingerprint is not None and not FINGERPRINT.fullmatch(self.fingerprint):
            raise ValueError(f"fingerprint {self.fingerprint!r} must be 16 hex digits")


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """How detectors are served.

    Attributes:
        detectors: by the names that requests give.
        preload: load all detectors at the start. Otherwise the first one is loaded then, and each other one when it is
            first asked for.
        detector_bytes: weights that a replica may hold; beyond it, the detector that was not asked for longest goes.
        refresh_seconds: how often a replica looks for a new bundle at the locations of the detectors it holds.
        tokens_file: file with tokens, see `serving.tokens`. The environment may hold tokens, too.
        loopback_only: the promise that the port is bound to loopback. Tokens are optional only then.
        prefixes: locations below which a request may name an image by URI. Without any, requests must hold the image.
        max_bytes: largest body of a request, and largest file that is fetched.
        max_pixels: images with more pixels are not decoded.
        places: requests that a replica takes at the same time; it refuses others with 503 and `Retry-After`.
        waiting_bytes: bytes of bodies that a replica holds at the same time; it refuses others likewise.
        body_seconds: time in which the body of a request must have arrived.
        request_seconds: time from the body to the answer.
        decode_seconds: time for decoding one image.
        decoders: processes of a replica that decode.
        thresholds: table whose thresholds in force decide; None takes `record_table`. Without both, the own threshold
            of each detector decides.
        threshold_seconds: how often a replica reads these thresholds, at the next look for new bundles.
        replicas: processes that hold detectors; None takes one a GPU, or one a CPU core up to 8.
        threads: threads of a replica's networks on CPUs; None shares the cores between the replicas.
        log_file: file for a line of JSON a request; None writes to standard error.
        record_table: table to which requests with `record=1` are appended.
        record_images: prefix under which recorded images are kept that came in the body of a request.
        record_seconds: time between two such appendings, each of which is a run of the table.
    """

    detectors: Mapping[str, ServedDetector] = field(default_factory=dict)
    preload: bool = False
    detector_bytes: int = 4 * 2**30
    refresh_seconds: float = 10.0
    tokens_file: str | None = None
    loopback_only: bool = False
    prefixes: tuple[str, ...] = ()
    max_bytes: int = 64 * 2**20
    max_pixels: int = DEFAULT_MAX_PIXELS
    places: int = 64
    waiting_bytes: int = 2**30
    body_seconds: float = 10.0
    request_seconds: float = 60.0
    decode_seconds: float = 20.0
    decoders: int = 2
    thresholds: str | None = None
    threshold_seconds: float = 60.0
    replicas: int | None = None
    threads: int | None = None
    log_file: str | None = None
    record_table: str | None = None
    record_images: str | None = None
    record_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in self.detectors:
            if not NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} of a detector must be letters, digits, '.', '_' and '-'")
        for name in ("detector_bytes", "max_bytes", "max_pixels", "places", "waiting_bytes", "decoders"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in (name for name in vars(self) if name.endswith("_seconds")):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("replicas", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
