"""What this machine computes on."""

from typing import Literal

import torch

from purify.budget import Precision
from purify.errors import PurifyError


def has_bf16() -> bool:
    """Say whether this machine multiplies bf16 matrices in hardware."""
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16"]:
    """Turn "auto" into what this machine will use."""
    if precision == "auto":
        return "bf16" if has_bf16() else "fp32"
    return precision


_chosen: torch.device | None = None


def use(name: str) -> None:
    """Compute on this device from now on, in this process.

    Args:
        name: "auto", "cpu" or "cuda"; which of several GPUs is said by ``CUDA_VISIBLE_DEVICES``.

    Raises:
        PurifyError: there is no such device.
    """
    global _chosen  # noqa: PLW0603
    if name not in ("auto", "cpu", "cuda"):
        raise PurifyError(f"the device must be auto, cpu or cuda, not '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        raise PurifyError("there is no GPU that torch can use: take --device cpu, or install torch for your GPU")
    _chosen = None if name == "auto" else torch.device(name)


def device() -> torch.device:
    """Return the device that `use` named, else the GPU if there is one, else the CPU."""
    return _chosen or torch.device("cuda" if torch.cuda.is_available() else "cpu")
