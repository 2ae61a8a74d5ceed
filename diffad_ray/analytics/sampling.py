"""Stratified random samples of the scored images of a table, for figures of the whole archive from few reviewed images.

The strata are the detectors, their decisions, and bands of the score. Each decision of a detector gets an equal share
of the sample. Within a decision, a stratum of N images gets a share in proportion to the square root of N, so that the
small bands with high scores, in which defects are likely, are sampled more densely. The draw within a stratum is
uniform, whatever was reviewed before.
"""

from __future__ import annotations

import math

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.table.reading import existing
from diffad_ray.table.samples import Sample, SampledImage, read_sample, sample_ids, write_sample
from diffad_ray.table.verdicts import JUDGED_FOR_SAMPLE
from diffad_ray.table.views import ask_views

FEWEST = 2
"Images that a stratum gets at least, unless it has fewer: an estimate needs an image of each."
SPARE = 4
"So many times the images that are needed pass the first filter, so that too few of them practically never do."

BANDS = """SELECT detector_fingerprint, decision, approx_quantile(score, 0.5) AS middle,
    approx_quantile(score, 0.9) AS top_tenth, approx_quantile(score, 0.99) AS top_hundredth
FROM scores WHERE score IS NOT NULL AND {wanted} GROUP BY ALL"""
STRATUM = """decision || '/' || CASE
    WHEN decision = 'review' THEN 'all'
    WHEN decision = 'reject' THEN CASE WHEN score >= middle THEN 'upper half' ELSE 'lower half' END
    WHEN score >= top_hundredth THEN 'top 1 %' WHEN score >= top_tenth THEN 'next 9 %' ELSE 'rest' END
|| '/' || detector_fingerprint"""
ROWS = f"""SELECT image_id, image_uri, detector_fingerprint, {STRATUM} AS stratum
FROM scores JOIN bands USING (detector_fingerprint, decision) WHERE score IS NOT NULL"""
CANDIDATES = f"""FROM (SELECT *, random() AS dice FROM ({ROWS})) JOIN allotted USING (stratum)
WHERE dice < {SPARE} * (sampled + 5) / stratum_images
QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY dice) <= sampled"""
SHUFFLED = (
    "SELECT image_id, image_uri, detector_fingerprint, stratum, stratum_images, sampled FROM ({}) ORDER BY random()"
)


def draw_sample(table: str, images: int, fingerprint: str | None = None) -> Sample:
    """Draw a sample of a table's scored images and store it in the table.

    Args:
        images: number of images to draw; all, if there are fewer.
        fingerprint: of the detector whose scores count; None takes those of all detectors.

    Raises:
        UserError: there is no table, no score, or fewer images are asked for than there are strata to draw from.
    """
    location = existing(table)

    def draw(views: duckdb.DuckDBPyConnection) -> list[SampledImage]:
        wanted = "true" if fingerprint is None else "detector_fingerprint = getvariable('fingerprint')"
        views.execute("SET VARIABLE fingerprint = ?", [fingerprint])
        views.execute(f"CREATE TEMP TABLE bands AS {BANDS.format(wanted=wanted)}")
        sizes = dict(views.execute(f"SELECT stratum, count(*) FROM ({ROWS}) GROUP BY 1 ORDER BY 1").fetchall())
        if not sizes:
            raise UserError(f"the table {table} has no scores to draw a sample from")
        shares = allotted(sizes, images)
        values = ", ".join(["(?, ?, ?)"] * len(sizes))
        parameters = [value for name, size in sizes.items() for value in (name, size, shares[name])]
        views.execute("CREATE TEMP TABLE allotted (stratum VARCHAR, stratum_images BIGINT, sampled BIGINT)")
        views.execute(f"INSERT INTO allotted VALUES {values}", parameters)
        while True:
            drawn = [SampledImage(*row) for row in views.execute(SHUFFLED.format(CANDIDATES)).fetchall()]
            if len(drawn) == sum(shares.values()):
                return drawn

    return write_sample(location, ask_views(location, draw))


def allotted(sizes: dict[str, int], images: int) -> dict[str, int]:
    """Return how many images to draw from each stratum.

    Args:
        sizes: number of images by the names of the strata, which begin with the decision.
        images: number to draw in all.

    Raises:
        UserError: there are more strata than images to draw.

    Example:
        >>> allotted({"reject/all/d": 10, "good/top 1 %/d": 100, "good/rest/d": 10_000}, 40)
        {'reject/all/d': 10, 'good/top 1 %/d': 3, 'good/rest/d': 27}
    """
    images = min(images, sum(sizes.values()))
    shares = {name: min(FEWEST, size) for name, size in sizes.items()}
    if sum(shares.values()) > images:
        raise UserError(
            f"a sample of {images} images is too small for {len(sizes)} strata (detector, decision, band of the "
            f"score): draw {sum(shares.values())} at least, or name one detector by --detector"
        )
    groups = [name.split("/")[0] + name.rpartition("/")[2] for name in sizes]
    roots = dict.fromkeys(groups, 0.0)
    for group, size in zip(groups, sizes.values(), strict=True):
        roots[group] += math.sqrt(size)
    weights = {name: math.sqrt(sizes[name]) / roots[group] for name, group in zip(sizes, groups, strict=True)}
    while sum(shares.values()) < images:
        # The next image goes where it lacks most of its due share.
        name = min(
            (name for name in sizes if shares[name] < sizes[name]), key=lambda name: shares[name] / weights[name]
        )
        shares[name] += 1
    return shares


def continued_sample(table: str, images: int, fingerprint: str | None = None) -> Sample | None:
    """Return the newest sample if it has this size and detector, and images without a verdict for it; else None."""
    location = existing(table)
    ids = sample_ids(location)
    if not ids:
        return None
    sample = read_sample(location, ids[-1])
    if fingerprint is not None and {image.detector_fingerprint for image in sample.images} != {fingerprint}:
        return None

    def judged(views: duckdb.DuckDBPyConnection) -> set[int]:
        return {image for (image,) in views.execute(JUDGED_FOR_SAMPLE, [sample.id]).fetchall()}

    open_ones = {image.image_id for image in sample.images} - ask_views(location, judged)
    return sample if len(sample.images) == images and open_ones else None
