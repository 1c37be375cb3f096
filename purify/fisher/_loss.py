"""The log-likelihood whose gradients are squared, and the labels it is taken at."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from purify.errors import PurifyError

Inputs = Mapping[str, Tensor]
Labels = Literal["data", "sampled", "exact"]
Target = tuple[Tensor, Tensor]
"""Weights (B,) and classes (B,): the squared gradient of weight · log p(class | x) is what counts."""


def logits_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the logits (B, C) in fp32 at least.

    Raises:
        PurifyError: the model's output has no logits of this shape, or a single class.
    """
    # Copies: a model may change its inputs in place, and they may be views of the caller's.
    output = model(**{key: value.detach().clone() for key, value in inputs.items()})
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise PurifyError(f"the model must return logits of shape (examples, 2 or more classes), not {shape}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_likelihood(logits: Tensor, target: Target) -> Tensor:
    """Σ_n weight_n log p(class_n | x_n), a scalar."""
    weight, classes = target
    return (weight * logits.log_softmax(-1).gather(1, classes.unsqueeze(1)).squeeze(1)).sum()


def targets_of(logits: Tensor, labels: Tensor | None, how: Labels, generator: torch.Generator) -> list[Target]:
    """Return the targets of a batch: one, or one for each class of the exact expectation.

    Raises:
        PurifyError: a label that is no class, or logits that are not finite.
    """
    logits = logits.detach()
    batch, classes = logits.shape
    bad = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise PurifyError(
            f"the loss of example {bad[0]} of a batch is not finite: the model's weights or activations overflow"
        )
    one = logits.new_ones(batch)
    if how == "sampled":
        drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).flatten()
        return [(one, drawn.to(logits.device))]
    if how == "exact":  # E_y[g_y²] = Σ_c (√p_c g_c)²
        weights = logits.softmax(-1).sqrt()
        return [(weights[:, c], torch.full_like(weights[:, c], c, dtype=torch.long)) for c in range(classes)]
    assert labels is not None  # seen to when the batch was split
    if labels.shape != (batch,) or labels.is_floating_point() or labels.is_complex():
        raise PurifyError(f"labels must be {batch} integers, one per example, not {labels.dtype} {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise PurifyError(
            f"labels must lie in [0, {classes - 1}], the classes of the model, but the clean data has {low} to {high}"
        )
    return [(one, labels.to(logits.device, torch.long))]
