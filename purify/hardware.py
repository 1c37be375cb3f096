"""What this machine computes on."""

from functools import cache
from typing import Literal

import torch

from purify.budget import Precision


@cache
def has_bf16() -> bool:
    """Say whether this machine multiplies bf16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16"]:
    """Turn "auto" into what this machine will use."""
    if precision == "auto":
        return "bf16" if has_bf16() else "fp32"
    return precision


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
