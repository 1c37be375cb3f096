"""Hooks on the sites of a model: what is seen on the way forward, and handed on, on the way back."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from purify.fisher._sites import Call, Site, differentiable, picked
from purify.fisher._uses import Uses
from purify.fisher.factors import Factor, merged

log = logging.getLogger(__name__)


class Recorder:
    """Hooks on the sites of a model, which hand on the gradients that arrive there.

    A module that is called once, and shares its parameters with no other, is done with as soon as its gradient
    arrives. What is called several times or shared waits for the end of the backward pass, as do modules that have
    to be run again.

    Args:
        sites: Where to look.
        take: What is done with gradients, given as parameter name -> `Factor`; it holds each parameter once.
        scales: Gets, while probing, the size of the terms that each parameter's gradient is a sum of.
    """

    def __init__(
        self, sites: Iterable[Site], take: Callable[[dict[str, Factor]], None], scales: dict[str, float] | None = None
    ) -> None:
        self.sites = list(sites)
        self.excluded: set[str] = set()
        self._take = take
        self._batch = 0
        self._at_once: set[Site] = set()
        self._keep = False
        self._probing = False
        self._handles: list[RemovableHandle] = []
        self._scales = {} if scales is None else scales
        uses = Counter(name for site in self.sites for name in site.parameters)
        self._alone = {name for name, count in uses.items() if count == 1}

    @contextmanager
    def forward(self, batch: int, *, probing: bool = False) -> Iterator[None]:
        """Record the forward pass inside.

        Afterwards ``excluded`` names the parameters whose examples could not be told apart this time.
        """
        self._batch, self._probing = batch, probing
        with ExitStack() as stack:
            for site in self.sites:
                site.calls = []
                if isinstance(site.module, nn.Embedding) and site.rule:
                    before = partial(self._expand, site)
                    stack.callback(site.module.register_forward_pre_hook(before, with_kwargs=True).remove)
                after = partial(self._record, site)
                stack.callback(site.module.register_forward_hook(after, with_kwargs=True).remove)
            uses = stack.enter_context(Uses(self.sites))
            yield
        for site in self.sites if probing else ():
            site.learn(batch)
        self.excluded = uses.elsewhere | {
            name for site in self.sites if not site.separable(batch) for name in site.parameters
        }
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
        others = list(others)
        if not loss.requires_grad:
            return [None for _ in others]
        # All leaves of the graph are wanted, so that every hook fires, wherever the model starts a graph of its own.
        before = [p.grad for p in others]
        try:
            for p in others:
                p.grad = None
            loss.backward(retain_graph=again)
            found = [p.grad for p in others]
        finally:
            for p, g in zip(others, before, strict=True):
                p.grad = g
        self._collect()
        return found

    def _expand(self, site: Site, module: nn.Module, args: Any, kwargs: Any) -> Any:
        # Position and token-type ids often come as one (1, T) or (T,) index for the whole batch: the gradient would be
        # summed over the examples before it could be squared.
        leaves, structure = tree_flatten((args, kwargs))
        index = leaves[0]
        if self._probing and site.expand:
            site.expand = len(index) == 1 or (index.dim() == 1 and len(index) != self._batch)
        if site.expand and (len(index) == 1 or index.dim() == 1):
            index = index if index.dim() > 1 else index.unsqueeze(0)
            leaves[0] = index.expand(self._batch, *index.shape[1:])
        return tree_unflatten(leaves, structure)

    def _record(self, site: Site, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves[: 1 if site.rule else None]]
        kind = next(iter(site.parameters.values()))[1].device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        call = Call(kept, structure, autocast, picked=any(map(picked, leaves)))
        site.calls.append(call)
        if not torch.is_grad_enabled():
            return None
        outputs, structure = tree_flatten(output)
        found = [i for i, leaf in enumerate(outputs) if differentiable(leaf)]
        for number, i in enumerate(found):
            hooked = outputs[i]
            if not hooked.requires_grad:  # nothing below it is trainable: the graph starts here
                hooked = hooked.detach().requires_grad_()
                outputs[i] = hooked.clone()  # the model may change it in place
            self._handles.append(hooked.register_hook(partial(self._arrive, site, call, number)))
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

    def release(self) -> None:
        """Let go of what the last forward pass left: hooks on tensors refer to this, and this to the tensors."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for site in self.sites:
            site.calls = []

    @torch.no_grad()
    def _hand_on(self, calls: Mapping[Site, list[Call]]) -> None:
        found: dict[str, list[Factor]] = {}
        for site, call in [(site, call) for site, its in calls.items() for call in its]:
            if site.parameters.keys() <= self.excluded:
                continue
            if self._probing:
                self._inspect(site, call)
            with self._forgiving(site.parameters):
                for name, factor in site.factors(call).items():
                    found.setdefault(name, []).append(factor)
        factors = {name: merged(parts, self._batch) for name, parts in found.items() if name not in self.excluded}
        for part in ({name: factor} for name, factor in factors.items()) if self._probing else [factors]:
            with self._forgiving(part):
                self._take(part)

    def _inspect(self, site: Site, call: Call) -> None:
        """While probing, only the first example has a loss: what reaches the others mixes the examples."""
        for g in call.gradients.values():
            if len(g) != self._batch or g[1:].any():
                self.excluded.update(site.parameters)
                return
            inputs = [leaf[0].abs().max().item() for leaf in call.leaves if differentiable(leaf) and leaf.numel()]
            scale = g[0].abs().reshape(-1, g.shape[-1]).sum(0).max().item() * max([1.0, *inputs])
            for name in site.parameters:
                self._scales[name] = self._scales.get(name, 0.0) + scale

    @contextmanager
    def _forgiving(self, names: Iterable[str]) -> Iterator[None]:
        """While probing, a rule that fails is a rule that does not apply."""
        try:
            yield
        except Exception:
            if not self._probing:
                raise
            log.debug("the rule for %s does not apply", ", ".join(names), exc_info=True)
            self.excluded.update(names)
