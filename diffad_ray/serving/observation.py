"""What operators see of a replica: metrics for Prometheus, and a line of JSON for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
requests_log = logging.getLogger("diffad_ray.requests")


@dataclass
class Record:
    """What is known of a request; it becomes its log line.

    Attributes:
        seconds: by stage.
    """

    request_id: str
    method: str
    path: str
    client: str = ""
    detector: str = ""
    fingerprint: str = ""
    decision: str = ""
    image_status: str = ""
    status: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def line(self) -> str:
        """Return one line of JSON; times are in milliseconds."""
        fields: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        named = ("request_id", "client", "method", "path", "status", "detector", "fingerprint", "decision", "bytes")
        fields |= {name: value for name in (*named, "image_status") if (value := getattr(self, name))}
        fields["ms"] = {name: round(1000 * seconds, 2) for name, seconds in self.seconds.items()}
        fields["ms"]["total"] = round(1000 * (time.perf_counter() - self.began), 2)
        return json.dumps(fields)


class Metrics:
    """Counts of a replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "diffad_ray_serve_requests",
            "Requests by detector and HTTP status",
            ["detector", "status"],
            registry=self.registry,
        )
        self.images = Counter(
            "diffad_ray_serve_images",
            "Scored images by detector and decision",
            ["detector", "decision"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "diffad_ray_serve_stage_seconds",
            "Seconds of a request by stage",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "diffad_ray_serve_batch_images", "Images in a batch", buckets=IMAGES, registry=self.registry
        )
        self.places = Gauge("diffad_ray_serve_places_taken", "Requests that are being answered", registry=self.registry)
        self.held = Gauge(
            "diffad_ray_serve_detectors_bytes", "Bytes of the detectors that are held", registry=self.registry
        )
        self.swaps = Gauge(
            "diffad_ray_serve_detector_swaps", "Detectors that were replaced by new ones", registry=self.registry
        )
        self.thresholds_age = Gauge(
            "diffad_ray_serve_thresholds_age_seconds",
            "Seconds since the thresholds in force were read; 0 without a table",
            registry=self.registry,
        )

    def count(self, record: Record) -> None:
        """Count a request that was answered, and write its line."""
        self.requests.labels(record.detector, str(record.status)).inc()
        if record.decision:
            self.images.labels(record.detector, record.decision).inc()
        for stage, seconds in record.seconds.items():
            self.seconds.labels(stage).observe(seconds)
        requests_log.info(record.line())

    def families(self) -> list[Metric]:
        return list(self.registry.collect())


def exposition(replicas: dict[str, list[Metric]]) -> bytes:
    """Return the metrics of replicas in the text format of Prometheus, each sample with the label `replica`."""
    merged: dict[str, Metric] = {}
    for replica, families in replicas.items():
        for family in families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return merged.values()

    return generate_latest(Collected())


def write_request_lines(file: str | None) -> None:
    """Write a line for each request to a file, or to standard error."""
    stream: TextIO = sys.stderr if file is None else open(file, "a", buffering=1, encoding="utf-8")  # noqa: SIM115, PTH123
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    requests_log.handlers = [handler]
    requests_log.setLevel(logging.INFO)
    requests_log.propagate = False
