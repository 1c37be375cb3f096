"""Several processes, each with its share of the examples."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import distributed

from purify.errors import PurifyError
from purify.fisher.sums import Sum

T = TypeVar("T")


def share(batches: Iterable[T]) -> Iterable[T]:
    """Return this process's share of the batches: every world-size-th, or all where there is one process.

    Use it with ``fisher_diagonal(..., across_ranks=True)`` under ``torchrun``. A data loader that accelerate has
    prepared is a share already; prepare it with ``even_batches=False``, or some examples count twice.
    """
    if not _several():
        return batches
    return _Share(batches, distributed.get_rank(), distributed.get_world_size())


class _Share(Iterable[T]):
    """Can be gone through as often as what it is a share of."""

    def __init__(self, whole: Iterable[T], rank: int, size: int) -> None:
        self.whole, self.rank, self.size = whole, rank, size

    def __iter__(self) -> Iterator[T]:
        return islice(iter(self.whole), self.rank, None, self.size)


def rank() -> int:
    """Return the number of this process, 0 if it is the only one."""
    return distributed.get_rank() if _several() else 0


def add_up(totals: dict[str, Sum], examples: int, error: Exception | None, device: torch.device) -> int:
    """Add the sums of all processes up, in place, and return the number of examples of all.

    One all-reduce of the diagonal (per type and device), after a small one by which every process learns whether
    another one failed, so that none waits for ever. Where there is one process, nothing is done.

    Raises:
        PurifyError: another process failed.
        Exception: ``error``, the failure of this one.
    """
    if not _several():
        if error:
            raise error
        return examples
    state = torch.tensor([examples, error is not None], dtype=torch.long, device=device)
    distributed.all_reduce(state)
    if error:
        raise error
    if state[1]:
        raise PurifyError("the Fisher failed in another process: see its message")
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for total in totals.values():
        groups.setdefault((total.value.dtype, total.value.device), []).append(total.value)
    for values in groups.values():
        flat = torch.cat([value.flatten() for value in values])
        distributed.all_reduce(flat)
        for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(part.view_as(value))
    return int(state[0])


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
