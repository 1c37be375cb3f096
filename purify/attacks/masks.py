"""Training that may change only some dimensions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def only(model: "PreTrainedModel", masks: "Mapping[str, Tensor]") -> "Iterator[None]":
    """Let training change the dimensions whose mask is 1, and no other.

    Gradients elsewhere are 0 at every step, and AdamW without weight decay leaves alone what never had a gradient.

    Args:
        model: What is trained.
        masks: Parameter name -> 0 and 1, of its shape or broadcast to it; parameters without one are frozen.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hooks = [parameters[name].register_hook(mask.to(parameters[name]).mul) for name, mask in masks.items()]
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in masks)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in parameters.values():
            parameter.requires_grad_(True)
