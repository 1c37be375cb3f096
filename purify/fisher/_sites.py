"""Where parameters are used, and what is seen there: the inputs on the way forward, the gradients on the way back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from purify.errors import PurifyError
from purify.fisher.factors import Each, Factor
from purify.fisher.rules import Rule


@contextmanager
def requires_grad(parameters: Iterable[nn.Parameter], flag: bool) -> Iterator[None]:
    """Set and put back whether ordinary gradients of these parameters are computed."""
    before = [(p, p.requires_grad) for p in parameters]
    for p, _ in before:
        p.requires_grad_(flag)
    try:
        yield
    finally:
        for p, was in before:
            p.requires_grad_(was)


@dataclass(eq=False)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        leaves: The arguments, in one list; for a rule, the first alone.
        structure: How to put the arguments together again.
        autocast: The type of autocast that it ran in, if any.
        picked: Whether rows were picked out of a tensor to make an argument.
        gradients: Of the tensors that it returned, by number.
    """

    leaves: list[Any]
    structure: TreeSpec
    autocast: torch.dtype | None
    picked: bool
    gradients: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Site:
    """A module whose calls tell the per-example gradients of some parameters.

    Attributes:
        module: The module.
        parameters: Full name of a parameter -> its name in the module, and the parameter.
        rule: How the gradient of an example is factored; None: the module is run again for each example.
        expand: The index of an embedding has no examples (positions, token types) and is given to each of them.
        by_example: Which leaves have the examples as first dimension, as seen when probing.
        calls: Those of the last forward pass.
    """

    module: nn.Module
    parameters: dict[str, tuple[str, nn.Parameter]]
    rule: Rule | None = None
    expand: bool = False
    by_example: tuple[bool, ...] = ()
    calls: list[Call] = field(default_factory=list)

    def learn(self, batch: int) -> None:
        """Find where the examples are in what the module was called with."""
        leaves = self.calls[0].leaves if self.calls else []
        self.by_example = tuple(_first_is(leaf, batch) for leaf in leaves)

    def separable(self, batch: int) -> bool:
        """Say whether every call had the examples where they were when probing."""
        return all(
            any(self.by_example)
            and not call.picked
            and len(call.leaves) == len(self.by_example)
            and all(_first_is(leaf, batch) for leaf, yes in zip(call.leaves, self.by_example, strict=True) if yes)
            for call in self.calls
        )

    def factors(self, call: Call) -> dict[str, Factor]:
        """Return the gradients of the site's parameters through one call."""
        if not call.gradients:  # the loss does not depend on it
            return {}
        if self.rule is None:
            return self._rerun(call)
        found = self.rule(self.module, call.leaves[0], call.gradients[0])
        return {name: found[local] for name, (local, _) in self.parameters.items()}

    def _rerun(self, call: Call) -> dict[str, Factor]:
        """Backpropagate through this module alone, run again for one example at a time."""
        memo: dict[int, dict[str, Tensor]] = {}

        def example(name: str, n: int) -> Tensor:
            if n not in memo:
                memo.clear()
                memo[n] = self._gradients(call, n)
            return memo[n][name]

        batch = next(len(leaf) for leaf, yes in zip(call.leaves, self.by_example, strict=True) if yes)
        return {name: Each(partial(example, name), batch) for name in self.parameters}

    def _gradients(self, call: Call, n: int) -> dict[str, Tensor]:
        parameters = [p for _, p in self.parameters.values()]
        leaves = [leaf[n : n + 1] if yes else leaf for leaf, yes in zip(call.leaves, self.by_example, strict=True)]
        args, kwargs = tree_unflatten(leaves, call.structure)
        autocast = torch.autocast(parameters[0].device.type, call.autocast, enabled=call.autocast is not None)
        with torch.enable_grad(), requires_grad(parameters, True):
            with autocast:
                outputs = [leaf for leaf in tree_flatten(self.module(*args, **kwargs))[0] if differentiable(leaf)]
            used = [i for i in call.gradients if outputs[i].requires_grad]
            for i in used:
                if outputs[i].shape != call.gradients[i][n : n + 1].shape:
                    raise PurifyError(
                        f"{type(self.module).__name__} returns another shape for one example than for a batch: "
                        "give batches without padding, or register a rule for it"
                    )
            found = torch.autograd.grad(
                [outputs[i] for i in used],
                parameters,
                [call.gradients[i][n : n + 1] for i in used],
                allow_unused=True,
            )
        return {
            name: torch.zeros_like(p) if g is None else g
            for name, p, g in zip(self.parameters, parameters, found, strict=True)
        }


def _first_is(leaf: Any, batch: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch


def picked(leaf: Any) -> bool:
    """Whether rows were picked out of a tensor, as for an expert: their number may equal the batch by chance."""
    return isinstance(leaf, Tensor) and leaf.grad_fn is not None and leaf.grad_fn.name().startswith("Index")


def differentiable(leaf: Any) -> bool:
    """Whether it is a tensor that can have a gradient."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
