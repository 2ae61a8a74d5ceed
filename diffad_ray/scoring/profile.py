"""Where the time of a run went: what each process did when, as a trace, and the sums by stage and by process."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from diffad_ray import storage

SPANS = "diffad_spans"
"Column of a block with what was done to its shard."
StageName = Literal["load", "detect", "commit"]
FETCH, DECODE, WAIT, DETECT, COMMIT, IDLE = "fetch", "decode", "wait", "detect", "commit", "idle"
MEANINGS = {
    FETCH: "reading files, in threads beside the other stages",
    DECODE: "decoding and resizing",
    WAIT: "rest of loading: waiting for files, reading the manifest, handing the images on",
    DETECT: "networks and maps; where tiles are seen, images are decoded beside them, so that part counts twice",
    COMMIT: "verdicts, masks, regions and rows, in processes of their own",
    IDLE: "processes with a detector that had no shard, from the run's first span to its last",
}


class Span(NamedTuple):
    """What a process did with a shard.

    Attributes:
        node, process: name of the machine, and id of the process there.
        began: seconds since 1970, by the clock of the machine.
        seconds: wall-clock time from there on.
        fetch: seconds that the threads of the span read files, all together.
        decode: seconds in which it decoded.
    """

    stage: StageName
    node: str
    process: int
    shard: int
    images: int
    began: float
    seconds: float
    fetch: float = 0.0
    decode: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds of loading in which nothing was decoded."""
        return max(0.0, self.seconds - self.decode) if self.stage == "load" else 0.0


class Clock:
    """Measures the span of a stage, from when it is made."""

    def __init__(self, stage: StageName):
        self.stage: StageName = stage
        self.at, self.began = time.time(), time.perf_counter()

    def span(self, shard: int, images: int, fetch: float = 0.0, decode: float = 0.0) -> Span:
        seconds = time.perf_counter() - self.began
        return Span(self.stage, socket.gethostname(), os.getpid(), shard, images, self.at, seconds, fetch, decode)


def spans_column(spans: Sequence[Span], rows: int) -> pa.Array:
    """Return the column by which the spans of a shard travel with its block: JSON in each row."""
    return pa.array([spans_text(spans)] * rows, pa.string())


def spans_in(block: pa.Table) -> list[Span]:
    """Return the spans that travel with a block; rows of requests that were served have none."""
    return spans_of(block[SPANS][0].as_py()) if SPANS in block.column_names else []


def spans_text(spans: Sequence[Span]) -> str:
    return json.dumps(spans)


def spans_of(text: str) -> list[Span]:
    """Return the spans that `spans_text` wrote.

    Example:
        >>> span = Span("load", "node", 7, shard=0, images=3, began=1.0, seconds=0.5, decode=0.25)
        >>> spans_of(spans_text([span])) == [span], span.wait
        (True, 0.25)
    """
    return [Span(*values) for values in json.loads(text)]


@dataclass(frozen=True)
class ProcessTime:
    """The seconds that one process spent in each stage."""

    node: str
    process: int
    images: int
    seconds: dict[str, float]


@dataclass
class Profile:
    """The spans of a run, collected shard by shard.

    Attributes:
        spans: of all shards that are done.
    """

    spans: list[Span] = field(default_factory=list)

    def add(self, spans: str) -> None:
        """Add the spans of a shard, as its summary has them."""
        self.spans += spans_of(spans)

    @property
    def elapsed(self) -> float:
        """Seconds from the first span to the end of the last one."""
        if not self.spans:
            return 0.0
        return max(span.began + span.seconds for span in self.spans) - min(span.began for span in self.spans)

    @property
    def images(self) -> int:
        return sum(span.images for span in self.spans if span.stage == "commit")

    def by_process(self) -> list[ProcessTime]:
        """Return the time of each process, those with a detector first."""
        groups: dict[tuple[str, int], list[Span]] = {}
        for span in self.spans:
            groups.setdefault((span.node, span.process), []).append(span)
        found = []
        for (node, process), spans in sorted(groups.items()):
            seconds = {
                FETCH: sum(span.fetch for span in spans),
                DECODE: sum(span.decode for span in spans),
                WAIT: sum(span.wait for span in spans),
                DETECT: sum(span.seconds for span in spans if span.stage == "detect"),
                COMMIT: sum(span.seconds for span in spans if span.stage == "commit"),
                IDLE: 0.0,
            }
            if seconds[DETECT]:
                seconds[IDLE] = max(0.0, self.elapsed - sum(span.seconds for span in spans))
            images = max(sum(span.images for span in spans if span.stage == name) for name in ("load", DETECT, COMMIT))
            found.append(ProcessTime(node, process, images, seconds))
        return sorted(found, key=lambda one: -one.seconds[DETECT])

    def by_stage(self) -> dict[str, float]:
        """Return the seconds of each stage, of all processes together."""
        processes = self.by_process()
        return {stage: sum(one.seconds[stage] for one in processes) for stage in MEANINGS}

    def as_dict(self) -> dict[str, Any]:
        """Return the profile as JSON: `traceEvents` as Chrome and Perfetto show them, and the sums."""
        nodes = {node: place for place, node in enumerate(sorted({span.node for span in self.spans}))}
        named = [
            {"name": "process_name", "ph": "M", "pid": place, "tid": 0, "args": {"name": node}}
            for node, place in nodes.items()
        ]
        events = [
            {
                "name": span.stage,
                "cat": "shard",
                "ph": "X",
                "pid": nodes[span.node],
                "tid": span.process,
                "ts": round(span.began * 1e6),
                "dur": round(span.seconds * 1e6),
                "args": {
                    "shard": span.shard,
                    "images": span.images,
                    "fetch seconds": round(span.fetch, 4),
                    "decode seconds": round(span.decode, 4),
                },
            }
            for span in self.spans
        ]
        return {
            "traceEvents": [*named, *events],
            "displayTimeUnit": "ms",
            "images": self.images,
            "elapsed": self.elapsed,
            "seconds": self.by_stage(),
            "processes": [asdict(one) for one in self.by_process()],
        }

    def write(self, location: str) -> None:
        """Write the profile to a file or URI."""
        storage.write(storage.normalised(location), json.dumps(self.as_dict(), indent=1).encode())
