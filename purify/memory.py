"""Memory that a checkpoint's file already holds need not be held twice."""

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

_PAGEOUT = 21
"""Linux, <asm-generic/mman-common.h>: give pages back; what is read again comes from the file, or from swap."""


def let_go(tensor: Tensor) -> None:
    """Give the pages of a tensor on the CPU back; its values stay, and are read again from its file when needed.

    Safetensors are memory-mapped when they are loaded in the type that they are stored in: after use, a tensor of them
    need not stay. Without effect elsewhere than on Linux 5.4 or newer.
    """
    advise = _madvise()
    if advise is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page  # whole pages only: the others are shared with its neighbours
    last = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if last > first:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(_PAGEOUT))


def trim() -> None:
    """Give freed memory that the allocator keeps for later back to the system. Without effect where it is not glibc."""
    if _libc() and hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def _madvise() -> Any:
    return getattr(_libc(), "madvise", None)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
