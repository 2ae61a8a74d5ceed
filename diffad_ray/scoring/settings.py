"""How an archive is scored: the section `[scoring]` of a settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from diffad_ray.images import DEFAULT_MAX_PIXELS

Status = Literal["ok", "missing", "unreadable", "too_large", "timeout", "denied", "archived", "failed", "unrouted"]
PASSING: tuple[Status, ...] = ("timeout", "denied")
"Statuses that may pass by themselves: the next run tries these images again."


@dataclass(frozen=True, kw_only=True)
class Route:
    """Images whose path below the archive matches the glob `pattern` are scored by the detector at a location."""

    pattern: str
    detector: str


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How an archive is scored.

    Attributes:
        include, exclude: globs of paths below the archive; only images that match one of `include` (where there are
            any) and none of `exclude` are scored. A glob without a slash is one for file names.
        since: only images that changed at or after this: a date, a moment (`2026-11-20T22:00`, UTC) or an age (`36h`,
            `7d`). Images of unknown age are taken too.
        sample: a random share of the images in (0, 1], the same ones each time.
        limit: only the first so many images of those, in the order of their URIs.
        manifest_encoding: of a manifest that is text without a mark of it, such as `cp1252`; None takes UTF-8.
        template: columns from path parts, such as `{line}/{camera}/{date:%Y-%m-%d}/{name}`.
        routes: detectors by path; the first that matches counts, the run's own detector scores what none matches.
        retry: statuses that are tried again beside `timeout` and `denied`.
        masks: of which images PNG masks are written. Run lengths are in the regions table whatever this says.
        threshold: score from which an image is anomalous; None takes the one in force for the table, which
            `diffad-ray threshold` applies, and where there is none, the detector's.
        max_pixels: images with more pixels are not decoded and get the status `too_large`.
        readers: images of a shard that are fetched at the same time; None takes 4 from paths, 32 from URIs.
        shard_images: images of a shard, which is what a crash of a worker costs at most; None decides by their number.
        gate: whether the gates of the detectors take a first look, and pass on what is good beyond doubt.
        audit: share of the passed images, in (0, 1], that go through the detector too, to check the gate's promise.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: str | None = None
    sample: float = 1.0
    limit: int | None = None
    manifest_encoding: str | None = None
    template: str | None = None
    routes: tuple[Route, ...] = field(default_factory=tuple)
    retry: tuple[Status, ...] = ()
    masks: Literal["all", "anomalous", "none"] = "anomalous"
    threshold: float | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    readers: int | None = None
    shard_images: int | None = None
    gate: bool = False
    audit: float = 0.005

    def __post_init__(self) -> None:
        if self.masks not in ("all", "anomalous", "none"):
            raise ValueError(f"masks must be all, anomalous or none, not {self.masks!r}")
        for name in ("readers", "max_pixels", "shard_images", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold {self.threshold} is no number to compare scores with")
        if self.manifest_encoding is not None and not _is_encoding(self.manifest_encoding):
            raise ValueError(f"manifest_encoding {self.manifest_encoding!r} is unknown: take cp1252, latin-1 or alike")
        if self.gate and self.masks == "all":
            raise ValueError("masks of all images need the detector's map of each: leave out gate, or masks = 'all'")
        if not 0 < self.audit <= 1:
            raise ValueError(f"audit {self.audit} must lie in (0, 1]: 0.005 checks one passed image in 200")
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample {self.sample} must lie in (0, 1]: 0.05 takes 5 % of the images")
        if unknown := set(self.retry) - set(get_args(Status)):
            raise ValueError(f"retry {unknown.pop()!r} is no status: take from {', '.join(get_args(Status))}")


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)
    except LookupError:
        return False
    return True
