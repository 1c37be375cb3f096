"""Where squares are added up, and the memory that is used on the way."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Accumulate = Literal["fp32", "kahan", "fp64"]
Where = slice | Tensor | tuple[slice, slice]


class Sum:
    """The sum of squares of one parameter over batches, in fp32 at least.

    Args:
        like: The parameter.
        accumulate: "fp32"; "kahan", which carries the rounding errors of the sum over batches along, for twice the
            memory; or "fp64". What is in float64 stays so.
    """

    def __init__(self, like: Tensor, accumulate: Accumulate = "fp32") -> None:
        least = torch.float64 if accumulate == "fp64" else torch.float32
        self._shape, self._device = like.shape, like.device
        self._dtype = torch.promote_types(like.dtype, least)
        self._kahan = accumulate == "kahan"

    @cached_property
    def value(self) -> Tensor:
        """The sum; its memory is taken when it is first needed, when most activations are gone."""
        return torch.zeros(self._shape, dtype=self._dtype, device=self._device)

    @cached_property
    def matrix(self) -> Tensor:
        """The same memory as `add` sees it."""
        return self.value.view(self._shape[0] if self._shape else 1, -1)

    @cached_property
    def _lost(self) -> Tensor:
        return torch.zeros_like(self.matrix)

    def open(self, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """Return rows of the matrix to add squares of this type to in place, if that is how they are summed."""
        return self.matrix[rows] if dtype == self._dtype and not self._kahan else None

    def add(self, block: Tensor, where: Where = slice(None)) -> None:
        """Add a block to a part of the parameter as a matrix; ``where`` names no row twice."""
        block = block.reshape(-1, block.shape[-1] if isinstance(where, tuple) else self.matrix.shape[1])
        if not self._kahan:
            self.matrix[where] += block
            return
        before = self.matrix[where].clone()
        block = block.to(before.dtype) - self._lost[where]
        after = before + block
        self._lost[where] = (after - before) - block
        self.matrix[where] = after


class Scratch:
    """Memory for temporaries, used again and again: fresh memory costs a page fault for every 4 kB of it.

    Args:
        chunk: The most elements of a temporary product.
    """

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, purpose: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a (rows, columns) tensor with any content, good until the next call for the same purpose."""
        key, size = (purpose, dtype, device), rows * columns
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=dtype, device=device)
        return self._buffers[key][:size].view(rows, columns)
