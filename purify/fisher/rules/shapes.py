"""Shapes that several rules need."""

import torch
from torch import Tensor


def by_position(values: Tensor) -> Tensor:
    """(B, …, D) -> (B, T, D), with T = 1 for (B, D)."""
    return values.flatten(1, -2) if values.dim() > 2 else values.unsqueeze(1)


def per_example(values: Tensor, dimensions: int = 1) -> Tensor:
    """Sum over all positions of each example, in fp32 at least: (B, …, *shape) -> (B, *shape).

    Args:
        values: (B, …, *shape).
        dimensions: How many the shape has.
    """
    shape = values.shape[values.dim() - dimensions :]
    return values.reshape(len(values), -1, *shape).sum(1, dtype=torch.promote_types(values.dtype, torch.float32))
