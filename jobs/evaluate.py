"""Compare a detector, or the scores of a table, with labels, as a Ray job.

    ray job submit --working-dir . --submission-id evaluate-2026-11-28 -- python jobs/evaluate.py \
        --table s3://plant/scores --labels s3://plant/labels.csv --json

Takes the arguments of `diffad-ray evaluate`. It runs on the node where the job's process starts.
"""

import sys

from diffad_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
