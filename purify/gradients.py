"""Training under a constraint, by hooks on the gradients: only some dimensions may move, or all are pulled back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def only(model: "PreTrainedModel", masks: "Mapping[str, Tensor]", *, freeze_others: bool = True) -> "Iterator[None]":
    """Let training change the dimensions whose mask is 1, and no other.

    Gradients elsewhere are 0 at every step, and AdamW without weight decay leaves alone what never had a gradient.

    Args:
        model: What is trained.
        masks: Parameter name -> 0 and 1, of its shape or broadcast to it.
        freeze_others: Freeze the parameters without a mask; else they are trained as ever.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hooks = [parameters[name].register_hook(mask.to(parameters[name]).mul) for name, mask in masks.items()]
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in masks or not freeze_others)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in parameters.values():
            parameter.requires_grad_(True)


@contextmanager
def pulled(
    model: "PreTrainedModel", origin: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor] | None", strength: float
) -> "Iterator[None]":
    """Train as if strength · Σ weight · (w − origin)² were part of the loss: its gradient is added to that of the loss.

    This takes two passes over the weights per step, where autograd would take about eight.

    Args:
        model: What is trained.
        origin: Parameter name -> where it is pulled to; other parameters are left alone.
        weights: Parameter name -> weight of each dimension; 1 if there are none.
        strength: Of the pull; with 0 there is none.
    """

    def pull(name: str, parameter: "Tensor") -> "Callable[[Tensor], Tensor]":
        def added(gradient: "Tensor") -> "Tensor":
            away = parameter.detach() - origin[name]
            if weights is None:
                return gradient.add(away, alpha=2 * strength)
            return gradient.addcmul(away, weights[name], value=2 * strength)

        return added

    trained = [(name, p) for name, p in model.named_parameters() if name in origin and p.requires_grad and strength]
    hooks = [parameter.register_hook(pull(name, parameter)) for name, parameter in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
