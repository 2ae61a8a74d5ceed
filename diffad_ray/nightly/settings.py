"""The section `[nightly]`, and the commented file that `--init` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffad_ray import storage
from diffad_ray.errors import UserError

TEMPLATE = Path(__file__).parent / "template.toml"


@dataclass(frozen=True, kw_only=True)
class NightlySettings:
    """What a night does. `[scoring]` has the choice of images and how they are scored, `[cluster]` the resources.

    Attributes:
        archive: folder or URI of images, manifest of URIs, or S3 inventory.
        table: folder or URI of the table.
        detector: folder or URI of the detector for images that no route of `[scoring]` matches; without it they get the
            status `unrouted`.
        compact_files: the table is compacted once this many of its Parquet files could be merged, because a query opens
            each of them. It is also compacted if it has superseded rows, or files that lack columns.
        verify_masks: number of masks that are opened, spread evenly over all masks.
        golden: folder or manifest of golden samples: images of parts that are known to be good or defective, which
            every night scores again. None: there are none.
        golden_table: their table; None: the location of `table` with `-golden` behind it.
        drift_since, drift_by: days that are compared, and columns that make groups, as `drift` takes them.
        fail_on_drift: end the night with exit code 2 if golden samples have moved or a group needs action.
        report: HTML page that each night writes anew, a file or URI; None writes none.
        report_since: days that it is about, as `report` takes them.
        keep_masks_days: days after which a run's masks are deleted; None keeps them. Scores and regions stay.
        keep_manifests_days: days after which a run's manifests are deleted; None keeps them.
    """

    archive: str
    table: str
    detector: str | None = None
    compact_files: int = 200
    verify_masks: int = 1000
    golden: str | None = None
    golden_table: str | None = None
    drift_since: str = "30d"
    drift_by: tuple[str, ...] = ()
    fail_on_drift: bool = False
    report: str | None = None
    report_since: str = "7d"
    keep_masks_days: int | None = None
    keep_manifests_days: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("compact_files", 2), ("verify_masks", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in ("keep_masks_days", "keep_manifests_days"):
            if (days := getattr(self, name)) is not None and days < 0:
                raise ValueError(f"{name} must be 0 or more, not {days}")


def write_template(location: str) -> None:
    """Write a commented settings file of a night.

    Raises:
        UserError: the location exists already.
    """
    if not storage.create(location, TEMPLATE.read_bytes()):
        raise UserError(f"{location} exists already: choose another name, or move it away")
