"""What the processor of this machine is, and what it computes fast."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"Flags of processors that multiply in bfloat16, as Linux names them; the last one is ARM's."


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16. Without them, torch computes in bfloat16 many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(UNITS & _flags())


def processor_name() -> str:
    """Return the name of the processor, or its architecture where Linux does not know its name."""
    return next((value for name, value in _known() if name == "model name"), platform.machine())


@cache
def _flags() -> frozenset[str]:
    return frozenset(flag for name, value in _known() if name in ("flags", "Features") for flag in value.split())


def _known() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()
