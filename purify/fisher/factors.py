"""What a rule returns: the gradient of each example in a factored form, and how each form is squared and summed.

No form holds the gradients of a whole batch for a weight matrix, (B, P), or an embedding, (B, V, D): they are made,
squared and added block by block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Protocol, cast

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
        self.value = torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, least), device=like.device)
        self.matrix = self.value.view(len(like) if like.dim() else 1, -1)  # what `add` sees
        self._lost = torch.zeros_like(self.matrix) if accumulate == "kahan" else None

    def add(self, block: Tensor, where: Where = slice(None)) -> None:
        """Add a block to a part of the parameter as a matrix; ``where`` names no row twice."""
        block = block.reshape(-1, block.shape[-1] if isinstance(where, tuple) else self.matrix.shape[1])
        if self._lost is None:
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


class Factor(Protocol):
    """The gradients g_n of one parameter for the examples n of a batch, in some form."""

    def example(self, n: int) -> Tensor:
        """g_n, in the parameter's shape."""

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """Add Σ_n g_n² to a sum, with temporaries of about ``scratch.chunk`` elements."""


class Outer:
    """g_n = Σ_t left_nt ⊗ right_nt: the weight of a linear map.

    Args:
        pairs: (left (B, T, R), right (B, T, C)) of each time that the (R, C) weight was used.
    """

    def __init__(self, *pairs: tuple[Tensor, Tensor]) -> None:
        types = {values.dtype for pair in pairs for values in pair}
        # Products of bf16 are made in bf16, twice as fast: its range is that of fp32, unlike fp16's.
        low = torch.bfloat16 in types
        dtype = torch.bfloat16 if low else reduce(torch.promote_types, types, torch.float32)
        self.pairs = [(left.to(dtype), right.to(dtype)) for left, right in pairs]

    def example(self, n: int) -> Tensor:
        """See `Factor`."""
        return reduce(torch.add, (left[n].T @ right[n] for left, right in self.pairs))

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`. One row of the weight is the least that is made at a time.

        Cost: the floating-point operations of an ordinary weight gradient. A CPU is fastest with the longer side as
        rows and one example at a time; a GPU gets as many examples at once as the chunk allows.
        """
        pairs = self.pairs
        left, right = pairs[0]
        if len(pairs) == 1 and left.shape[1] == 1:  # (l ⊗ r)² = l² ⊗ r²
            total.add(_wide(left[:, 0]).square().T @ _wide(right[:, 0]).square())
            return
        turned = left.shape[-1] < right.shape[-1]
        if turned:
            pairs = [(right, left) for left, right in pairs]
        rows, columns = pairs[0][0].shape[-1], pairs[0][1].shape[-1]
        height = min(rows, max(1, scratch.chunk // columns))
        together = max(1, scratch.chunk // (height * columns))
        for start in range(0, rows, height):
            here = slice(start, start + height)
            block = [(a[..., here], b) for a, b in pairs]
            squares = _one_by_one(block, scratch) if _one_by_one_is_faster(left.device) else _batched(block, together)
            total.add(squares.T if turned else squares, (slice(None), here) if turned else here)


def _one_by_one_is_faster(device: torch.device) -> bool:
    return device.type == "cpu"


def _one_by_one(pairs: Sequence[tuple[Tensor, Tensor]], scratch: Scratch) -> Tensor:
    left, right = pairs[0]
    shape = left.shape[-1], right.shape[-1]
    product = scratch.take("product", *shape, left.dtype, left.device)
    squares = scratch.take("squares", *shape, _wide_type(left), left.device).zero_()
    more = [list(zip(a.mT.unbind(), b.unbind(), strict=True)) for a, b in pairs[1:]]
    for n, (a, b) in enumerate(zip(left.mT.unbind(), right.unbind(), strict=True)):
        torch.mm(a, b, out=product)
        for use in more:
            product.addmm_(*use[n])
        squares.addcmul_(product, product)
    return squares


def _batched(pairs: Sequence[tuple[Tensor, Tensor]], together: int) -> Tensor:
    left, right = pairs[0]
    squares = left.new_zeros(left.shape[-1], right.shape[-1], dtype=_wide_type(left))
    for start in range(0, len(left), together):
        part = slice(start, start + together)
        products = torch.bmm(left[part].transpose(1, 2), right[part])
        for a, b in pairs[1:]:
            products.baddbmm_(a[part].transpose(1, 2), b[part])
        squares += _wide(products).square().sum(0)
    return squares


@dataclass
class Rows:
    """g_n = Σ_t value_nt in the row index_nt: the weight of an embedding.

    Attributes:
        index: Rows of the weight (B, T).
        values: Gradients of what was looked up (B, T, D).
        rows: V, how many rows the weight has.
        ignore: A row that gets no gradient.
    """

    index: Tensor
    values: Tensor
    rows: int
    ignore: int | None = None

    def example(self, n: int) -> Tensor:
        """See `Factor`."""
        g = self.values.new_zeros(self.rows, self.values.shape[-1]).index_add_(0, self.index[n], self.values[n])
        if self.ignore is not None:
            g[self.ignore] = 0
        return g

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`. A row that occurs twice in one example is squared once, after the sum."""
        batch, width = len(self.index), self.values.shape[-1]
        owner = torch.arange(batch, device=self.index.device).unsqueeze(1)  # (B, 1)
        pairs, which = (owner * self.rows + self.index).flatten().unique(return_inverse=True)  # (P,), (B T,)
        found, row = (pairs % self.rows).unique(return_inverse=True)  # (U,), (P,)
        values = self.values.reshape(-1, width)  # (B T, D)
        columns = max(1, min(width, scratch.chunk // max(1, len(which))))
        for start in range(0, width, columns):
            here = slice(start, start + columns)
            part = _wide(values[:, here])
            sums = part.new_zeros(len(pairs), part.shape[1]).index_add_(0, which, part)
            squares = part.new_zeros(len(found), part.shape[1]).index_add_(0, row, sums.square_())
            if self.ignore is not None:
                squares[found == self.ignore] = 0
            if columns == width:
                total.add(squares, found)
            else:
                dense = total.matrix.new_zeros(self.rows, part.shape[1]).index_copy_(
                    0, found, squares.to(total.matrix.dtype)
                )
                total.add(dense, (slice(None), here))


@dataclass
class Summed:
    """g_n as it is, for parameters as small as a bias.

    Attributes:
        values: (B, *shape of the parameter).
    """

    values: Tensor

    def example(self, n: int) -> Tensor:
        """See `Factor`."""
        return self.values[n]

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`."""
        total.add(_wide(self.values).square().sum(0))


@dataclass
class Each:
    """g_n by whatever computes it for one example; never more than one is kept.

    Attributes:
        example: n -> g_n.
        batch: B.
    """

    example: Callable[[int], Tensor]
    batch: int

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`."""
        add_squares({"": self}, {"": total}, scratch)


def merged(factors: Sequence[Factor], batch: int) -> Factor:
    """The gradient of a parameter that was used several times: the sum, per example, of those of each use."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(factor, Outer) for factor in factors):
        return Outer(*(pair for factor in cast("Sequence[Outer]", factors) for pair in factor.pairs))
    if all(isinstance(factor, Summed) for factor in factors):
        return Summed(reduce(torch.add, (factor.values for factor in cast("Sequence[Summed]", factors))))
    return Each(lambda n: reduce(torch.add, (factor.example(n) for factor in factors)), batch)


def add_squares(factors: Mapping[str, Factor], totals: Mapping[str, Sum], scratch: Scratch) -> None:
    """Add the squares of several parameters; what goes example by example does so for all of them together."""
    single = {name: factor for name, factor in factors.items() if isinstance(factor, Each)}
    for name in factors.keys() - single.keys():
        factors[name].add_squares(totals[name], scratch)
    for n in range(max((factor.batch for factor in single.values()), default=0)):
        for name, factor in single.items():
            totals[name].add(_wide(factor.example(n)).square())


def _wide_type(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _wide(values: Tensor) -> Tensor:
    """Squares overflow or vanish in half precision."""
    return values.to(_wide_type(values))
