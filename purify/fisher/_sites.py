"""Where parameters are used, and what is seen there: the inputs on the way forward, the gradients on the way back."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from purify.fisher.factors import Each, Factor, merged
from purify.fisher.rules import Rule

log = logging.getLogger(__name__)


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
        gradients: Of the tensors that it returned, by number.
    """

    leaves: list[Any]
    structure: TreeSpec
    autocast: torch.dtype | None
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
                outputs = [leaf for leaf in tree_flatten(self.module(*args, **kwargs))[0] if _has_gradient(leaf)]
            used = [i for i in call.gradients if outputs[i].requires_grad]
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


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


class Recorder:
    """Hooks on the sites of a model, which hand on the gradients that arrive there.

    A module that is called once, and shares its parameters with no other, is done with as soon as its gradient
    arrives. What is called several times or shared waits for the end of the backward pass, as do modules that have
    to be run again.

    Args:
        sites: Where to look.
        take: What is done with gradients, given as parameter name -> `Factor`; it holds each parameter once.
    """

    def __init__(self, sites: Iterable[Site], take: Callable[[dict[str, Factor]], None]) -> None:
        self.sites = list(sites)
        self.starts: list[Tensor] = []
        self.excluded: set[str] = set()
        self._take = take
        self._batch = 0
        self._at_once: set[Site] = set()
        self._keep = False
        self._probing = False
        names = [name for site in self.sites for name in site.parameters]
        self._alone = {name for name in names if names.count(name) == 1}

    @contextmanager
    def forward(self, batch: int, *, probing: bool = False) -> Iterator[None]:
        """Record the forward pass inside.

        Afterwards ``starts`` are the tensors that a backward pass has to reach, and ``excluded`` names the parameters
        whose examples could not be told apart this time.
        """
        self._batch, self._probing = batch, probing
        self.starts = []
        with ExitStack() as stack:
            for site in self.sites:
                site.calls = []
                if isinstance(site.module, nn.Embedding) and site.rule:
                    before = partial(self._expand, site)
                    stack.callback(site.module.register_forward_pre_hook(before, with_kwargs=True).remove)
                after = partial(self._record, site)
                stack.callback(site.module.register_forward_hook(after, with_kwargs=True).remove)
            yield
        for site in self.sites if probing else ():
            site.learn(batch)
        self.excluded = {name for site in self.sites if not site.separable(batch) for name in site.parameters}
        self._at_once = {
            site
            for site in self.sites
            if site.rule and len(site.calls) == 1 and site.parameters.keys() <= self._alone - self.excluded
        }

    def backward(self, loss: Tensor, others: Iterable[Tensor] = (), *, again: bool = False) -> list[Tensor | None]:
        """Go back from the loss and hand on all gradients; return the ordinary gradients of ``others``.

        Args:
            loss: A scalar.
            others: Parameters that no site has.
            again: Another backward pass over the same forward pass will follow.
        """
        self._keep = again
        wanted = [*self.starts, *others]
        if not wanted or not loss.requires_grad:
            return [None for _ in others]
        gradients = torch.autograd.grad(loss, wanted, retain_graph=again, allow_unused=True)
        self._collect()
        return list(gradients[len(self.starts) :])

    def _expand(self, site: Site, module: nn.Module, args: Any, kwargs: Any) -> Any:
        # Position and token-type ids often come as one (1, T) or (T,) index for the whole batch: the gradient would be
        # summed over the examples before it could be squared.
        leaves, structure = tree_flatten((args, kwargs))
        index = leaves[0]
        if self._probing and site.expand:
            site.expand = len(index) == 1 or (index.dim() == 1 and len(index) != self._batch)
        if site.expand:
            index = index if index.dim() > 1 else index.unsqueeze(0)
            leaves[0] = index.expand(self._batch, *index.shape[1:])
        return tree_unflatten(leaves, structure)

    def _record(self, site: Site, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves[: 1 if site.rule else None]]
        kind = next(iter(site.parameters.values()))[1].device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        call = Call(kept, structure, autocast)
        site.calls.append(call)
        if not torch.is_grad_enabled():
            return None
        outputs, structure = tree_flatten(output)
        found = [i for i, leaf in enumerate(outputs) if _has_gradient(leaf)]
        for number, i in enumerate(found):
            hooked = outputs[i]
            if not hooked.requires_grad:  # nothing below it is trainable: the graph starts here
                hooked = hooked.detach().requires_grad_()
                self.starts.append(hooked)
                outputs[i] = hooked.clone()  # the model may change it in place
            hooked.register_hook(partial(self._arrive, site, call, number))
        return tree_unflatten(outputs, structure)

    def _arrive(self, site: Site, call: Call, number: int, g: Tensor) -> None:
        call.gradients[number] = g
        if site in self._at_once:
            self._hand_on({site: [call]})
            call.gradients = {}
            if not self._keep:
                call.leaves = []

    def _collect(self) -> None:
        """Hand on what had to wait."""
        waiting = {site: site.calls for site in self.sites if site not in self._at_once}
        self._hand_on(waiting)
        for call in chain.from_iterable(waiting.values()):
            call.gradients = {}
        for site in () if self._keep or self._probing else self.sites:
            site.calls = []

    @torch.no_grad()
    def _hand_on(self, calls: Mapping[Site, list[Call]]) -> None:
        found: dict[str, list[Factor]] = {}
        for site, call in [(site, call) for site, its in calls.items() for call in its]:
            if site.parameters.keys() <= self.excluded:
                continue
            with self._forgiving(site.parameters):
                for name, factor in site.factors(call).items():
                    found.setdefault(name, []).append(factor)
        factors = {name: merged(parts, self._batch) for name, parts in found.items() if name not in self.excluded}
        for part in ({name: factor} for name, factor in factors.items()) if self._probing else [factors]:
            with self._forgiving(part):
                self._take(part)

    @contextmanager
    def _forgiving(self, names: Iterable[str]) -> Iterator[None]:
        """While probing, a rule that fails is a rule that does not apply."""
        try:
            yield
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError):
            if not self._probing:
                raise
            log.debug("the rule for %s does not apply", ", ".join(names), exc_info=True)
            self.excluded.update(names)
