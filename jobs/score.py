"""Score an archive as a Ray job.

    ray job submit --working-dir . -- python jobs/score.py s3://plant/line1 \
        --detector s3://plant/detectors/part --table s3://plant/scores

Takes the arguments of `diffad-ray score`. Locations must be reachable from all nodes. A job that dies is submitted
again as it is: the run is finished, and no image is scored twice.
"""

import sys

from diffad_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "score")
    main()
