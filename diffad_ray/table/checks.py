"""What `verify` asks of a table in SQL: each check finds rows that should not be."""

from __future__ import annotations

from diffad_ray.table.parts import SCORES

IMAGE_OF_RUN = ", ".join(SCORES.key)
EXAMPLE = "image_uri || ' (run ' || run_id || ')' AS example"
IMAGE = "image_id, detector_fingerprint"
ENTRIES = f"""SELECT {IMAGE_OF_RUN}, any_value(status) AS status, any_value(is_anomalous) AS is_anomalous
FROM (FROM superseded UNION ALL BY NAME FROM dropped) GROUP BY ALL"""
"Rows that later runs supersede, whether compaction has removed them or not."
SHOWN = f"""FROM scores ANTI JOIN (
    FROM superseded SEMI JOIN (SELECT {IMAGE}, run_id AS superseded_by FROM scores) USING ({IMAGE}, superseded_by)
) USING ({IMAGE_OF_RUN})"""
"Rows that readers see: a superseded one is left out as soon as the new one is there."
CHECKS = {
    "missing row": (
        "images that a finished run planned have no row of it",
        f"SELECT {EXAMPLE} FROM manifests SEMI JOIN finished USING (run_id) ANTI JOIN scores USING ({IMAGE_OF_RUN}) "
        f"ANTI JOIN entries USING ({IMAGE_OF_RUN})",
    ),
    "double row": (
        "images have more than one row of a run",
        f"SELECT any_value(image_uri) || ' (run ' || run_id || ')' AS example FROM scores GROUP BY {IMAGE_OF_RUN} "
        "HAVING count(*) > 1",
    ),
    "double image": (
        "images have rows of several runs, none of which says that it supersedes the other",
        f"SELECT any_value(image_uri) AS example FROM shown GROUP BY {IMAGE} HAVING count(DISTINCT run_id) > 1",
    ),
    "superseded without successor": (
        "superseded rows have no row of a later run in their place",
        f"SELECT 'image_id ' || image_id || ' (run ' || run_id || ')' AS example "
        f"FROM (FROM superseded UNION BY NAME FROM dropped) SEMI JOIN ended ON superseded_by = ended.run_id "
        f"ANTI JOIN shown USING ({IMAGE})",
    ),
    "unplanned row": (
        "rows are of images that their run did not plan",
        f"SELECT {EXAMPLE} FROM scores SEMI JOIN with_manifests USING (run_id) "
        f"ANTI JOIN manifests USING ({IMAGE_OF_RUN})",
    ),
    "region count": (
        "images have another number of regions than their row says",
        f"SELECT {EXAMPLE} FROM scores LEFT JOIN (SELECT {IMAGE_OF_RUN}, count(*) AS found FROM regions GROUP BY ALL) "
        f"USING ({IMAGE_OF_RUN}) ANTI JOIN entries USING ({IMAGE_OF_RUN}) "
        "WHERE coalesce(region_count, 0) <> coalesce(found, 0)",
    ),
    "region without image": (
        "regions belong to no row of their finished run",
        "SELECT 'image_id ' || image_id || ' (run ' || run_id || ')' AS example FROM regions "
        f"SEMI JOIN finished USING (run_id) ANTI JOIN scores USING ({IMAGE_OF_RUN}) "
        f"ANTI JOIN entries USING ({IMAGE_OF_RUN})",
    ),
    "mask elsewhere": (
        "masks lie outside the table",
        "SELECT DISTINCT mask_uri AS example FROM scores WHERE NOT starts_with(mask_uri, getvariable('masks'))",
    ),
    "mask missing": (
        "masks are not there",
        "SELECT DISTINCT mask_uri AS example FROM scores ANTI JOIN mask_files USING (mask_uri) "
        "WHERE starts_with(mask_uri, getvariable('masks')) AND run_id >= getvariable('masks_kept_since')",
    ),
}
UNUSED_MASKS = "SELECT mask_uri AS example FROM mask_files ANTI JOIN scores USING (mask_uri)"
