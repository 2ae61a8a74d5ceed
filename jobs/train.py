"""Train a detector as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py s3://plant/good \
        --detector s3://plant/detectors/part --workers 4

Takes the arguments of `diffad-ray train`. Locations must be reachable from all nodes. A job that dies is submitted
again as it is: the training goes on from its last checkpoint.
"""

import sys

from diffad_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
