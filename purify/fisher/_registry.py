"""Which rule squares the per-example gradients of which layer type."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Rule = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
"""``rule(module, input, grad_output)`` -> the sum over the batch of the squared per-example gradient,
for each parameter name of the module. ``grad_output`` is the gradient of the summed log-likelihood."""

RULES: dict[type[nn.Module], Rule] = {}


def register(layer: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Make the decorated rule the one for modules whose type is exactly ``layer``.

    Subclasses are not matched: their forward pass may differ, and the driver treats what it does not
    know with the slower, always exact per-example path.
    """

    def add(rule: Rule) -> Rule:
        RULES[layer] = rule
        return rule

    return add
