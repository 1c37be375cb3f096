"""Which rule factors the per-example gradients of which layer type."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from purify.fisher.factors import Factor

Rule = Callable[[Any, Tensor, Tensor], dict[str, Factor]]
"""``rule(module, x, g)`` -> {name of a parameter in the module: its `Factor`}. ``x`` is the module's input and ``g``
the gradient of the summed log-likelihood with respect to its output, both with the examples as first dimension."""

_RULES: dict[type[nn.Module] | str, Rule] = {}


def register(*layers: type[nn.Module] | str) -> Callable[[Rule], Rule]:
    """Make the decorated rule the one for some layers.

    Args:
        layers: A class, which its subclasses do not share since their forward pass may differ, or a pattern of class
            names such as ``"*RMSNorm"``, for what every model file of transformers has its own copy of.

    A rule need not fear the wrong layer: `fisher_diagonal` compares each with ordinary backpropagation before it is
    used. The last one registered for a class counts, and a class goes before a pattern.
    """

    def add(rule: Rule) -> Rule:
        for layer in layers:
            _RULES.pop(layer, None)
            _RULES[layer] = rule
        return rule

    return add


def rule_for(module: nn.Module) -> Rule | None:
    """Return the rule of a module, if there is one."""
    kind = type(module)
    patterns = (layer for layer in reversed(_RULES) if isinstance(layer, str) and fnmatchcase(kind.__name__, layer))
    found = kind if kind in _RULES else next(patterns, None)
    return None if found is None else _RULES[found]
