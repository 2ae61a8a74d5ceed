"""The core runs on a bare GPU machine, with torch, NumPy and safetensors alone."""

from __future__ import annotations

import subprocess
import sys

from diffad_ray.detectors.kinds import KINDS

HEAVY = ("ray", "pydantic", "cv2", "pyarrow", "duckdb", "PIL", "matplotlib", "fsspec", "obstore", "openvino")
CORE = (
    *(place.partition(":")[0] for place in KINDS.values()),
    "diffad_ray.familiarity.learning",
    "diffad_ray.bundles.calibration",
    "diffad_ray.inference.engine",
    "diffad_ray.training.loop",
    "diffad_ray.training.settle",
    "diffad_ray.bench.bench",
)


def test_the_core_needs_torch_and_numpy_alone() -> None:
    code = f"import sys, {', '.join(CORE)}; print(*(set({HEAVY!r}) & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
