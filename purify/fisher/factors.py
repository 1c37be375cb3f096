"""What a rule returns: the gradient of each example in a factored form, and how each form is squared and summed.

No form holds the gradients of a whole batch for a weight matrix, (B, P), or an embedding, (B, V, D): they are made,
squared and added block by block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from typing import Protocol, cast

import torch
from torch import Tensor

from purify.fisher.sums import Scratch, Sum


class Factor(Protocol):
    """The gradients g_n of one parameter for the examples n of a batch, in some form."""

    def example(self, n: int) -> Tensor:
        """g_n, in the parameter's shape."""

    def along(self, n: int, direction: Tensor) -> Tensor:
        """g_n, as a matrix, times a vector: enough to tell one gradient from another."""
        return along(self.example(n), direction)

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """Add Σ_n g_n² to a sum, with temporaries of about ``scratch.chunk`` elements."""


def along(g: Tensor, direction: Tensor) -> Tensor:
    """Return a gradient, as a matrix, times a vector."""
    return g.reshape(-1, len(direction)).to(direction.dtype) @ direction


class Outer(Factor):
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

    def along(self, n: int, direction: Tensor) -> Tensor:
        """See `Factor`."""
        wide = [(left[n].to(direction.dtype), right[n].to(direction.dtype)) for left, right in self.pairs]
        return reduce(torch.add, (left.T @ (right @ direction) for left, right in wide))

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`. One row of the weight is the least that is made at a time.

        Cost: the floating-point operations of an ordinary weight gradient, less those for positions whose gradient is
        zero in all examples: most of the last layer of a classifier that reads one position. A CPU is fastest with
        one example at a time; a GPU gets as many at once as the chunk allows.
        """
        pairs = [_trimmed(left, right) for left, right in self.pairs]
        left, right = pairs[0]
        if len(pairs) == 1 and left.shape[1] == 1:  # (l ⊗ r)² = l² ⊗ r²
            total.add(_wide(left[:, 0]).square().T @ _wide(right[:, 0]).square())
            return
        rows, columns = left.shape[-1], right.shape[-1]
        height = ceil(rows / ceil(rows / max(1, scratch.chunk // columns)))  # blocks of one height, or nearly
        together = max(1, scratch.chunk // (height * columns))
        for start in range(0, rows, height):
            here = slice(start, start + height)
            block = [(a[..., here], b) for a, b in pairs]
            if _one_by_one_is_faster(left.device):
                _one_by_one(block, total, here, scratch)
            else:
                total.add(_batched(block, together), here)


def _trimmed(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Cut off positions (B, T, …) before the first and after the last that any example has a gradient at."""
    if left.shape[1] == 1 or not left.is_cpu:  # a GPU would have to wait for the answer
        return left, right
    there = left[..., 0] != 0
    missing = ~there
    if missing.any():  # seldom: one column tells mostly
        there[missing] = left[missing].any(-1)
    found = there.any(0).nonzero().flatten().tolist() or [0]
    part = slice(found[0], found[-1] + 1)
    return left[:, part], right[:, part]


def _one_by_one_is_faster(device: torch.device) -> bool:
    return device.type == "cpu"


def _one_by_one(pairs: Sequence[tuple[Tensor, Tensor]], total: Sum, here: slice, scratch: Scratch) -> None:
    left, right = pairs[0]
    shape = left.shape[-1], right.shape[-1]
    product = scratch.take("product", *shape, left.dtype, left.device)
    squares = total.open(here, _wide_type(left))
    whole = squares is not None
    if squares is None:
        squares = scratch.take("squares", *shape, _wide_type(left), left.device).zero_()
    more = [list(zip(a.mT.unbind(), b.unbind(), strict=True)) for a, b in pairs[1:]]
    for n, (a, b) in enumerate(zip(left.mT.unbind(), right.unbind(), strict=True)):
        torch.mm(a, b, out=product)
        for use in more:
            product.addmm_(*use[n])
        squares.addcmul_(product, product)
    if not whole:
        total.add(squares, here)


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
class Rows(Factor):
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

    def along(self, n: int, direction: Tensor) -> Tensor:
        """See `Factor`."""
        values = (self.values[n].to(direction.dtype) @ direction).unsqueeze(1)
        return Rows(self.index[n : n + 1], values.unsqueeze(0), self.rows, self.ignore).example(0).squeeze(1)

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
class Summed(Factor):
    """g_n as it is, for parameters as small as a bias.

    Attributes:
        values: (B, …): the gradients of all examples, each in the shape of the parameter.
    """

    values: Tensor

    def example(self, n: int) -> Tensor:
        """See `Factor`."""
        return self.values[n]

    def add_squares(self, total: Sum, scratch: Scratch) -> None:
        """See `Factor`."""
        total.add(_wide(self.values).square().sum(0))


class Each(Factor):
    """g_n by whatever computes it for one example; never more than one is kept.

    Args:
        make: n -> g_n.
        batch: B.
    """

    def __init__(self, make: Callable[[int], Tensor], batch: int) -> None:
        self._make, self.batch = make, batch

    def example(self, n: int) -> Tensor:
        """See `Factor`."""
        return self._make(n)

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
