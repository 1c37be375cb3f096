"""What this machine computes on."""

import timeit
from functools import cache
from typing import Literal

import torch

from purify.budget import Precision
from purify.errors import PurifyError


def has_bf16() -> bool:
    """Say whether bf16 matrices pay on this machine."""
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _processor_has_bf16()


@cache
def _processor_has_bf16() -> bool:
    """Ask the processor for the instructions, and time them, once per process (under 0.1 s).

    With AMX, bf16 is far faster. Without it, some Intel processors multiply bf16 matrices at half the speed of fp32
    ones, where AMD's double it. The limit of `_PAYS` lies far from both, so that the answer is the same each time, also
    while other processes compute.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would have to wait for each other on a busy machine
    try:
        return _seconds(torch.float32) > _PAYS * _seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


_PAYS = 1.2
"""How many times as fast bf16 has to be."""


def _seconds(kind: torch.dtype) -> float:
    """Return the least time of twenty products of a batch's states with a layer's weights."""
    states, weights = torch.ones(256, 384, dtype=kind), torch.ones(384, 1024, dtype=kind)
    return min(timeit.repeat(lambda: states @ weights, number=1, repeat=20))


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


def rows_per_pass() -> int:
    """Return how many rows to predict at once: on a GPU, to launch small kernels takes longer than to compute."""
    return 512 if device().type == "cuda" else 64


def device() -> torch.device:
    """Return the device that `use` named, else the GPU if there is one, else the CPU."""
    return _chosen or torch.device("cuda" if torch.cuda.is_available() else "cpu")
