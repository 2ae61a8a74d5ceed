"""Keep a table up to date, night by night, as a Ray job.

    ray job submit --working-dir . --submission-id nightly-2026-11-28 -- python jobs/nightly.py nightly.toml --gpus 4

Takes the arguments of `diffad-ray nightly`; the settings are a file of the working directory, or a URI. Locations in
them must be reachable from all nodes. Ray refuses a second job of the same submission ID. A job that dies is submitted
again under another one: it goes on where the first one stopped.
"""

import sys

from diffad_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "nightly")
    main()
