"""Which parameters are told by which site, found out by trying."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from purify.fisher._loss import Inputs, Target, log_likelihood, logits_of
from purify.fisher._recorder import Recorder
from purify.fisher._sites import Site, requires_grad
from purify.fisher.factors import Factor, along
from purify.fisher.rules import rule_for

log = logging.getLogger(__name__)


Own = dict[str, tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Plan:
    """How the Fisher of each trainable parameter is computed.

    Attributes:
        sites: Where gradients are seen, each parameter at all the modules that hold it.
        rest: Parameters that need one backward pass through the whole model per example.
    """

    sites: list[Site]
    rest: dict[str, nn.Parameter]


def make_plan(model: nn.Module, trainable: Mapping[str, nn.Parameter], inputs: Inputs) -> Plan:
    """Try every rule on two examples and keep what agrees with ordinary backpropagation of one.

    What is left out uses a weight in a way that no hook sees (a functional call elsewhere), or mixes the examples
    before it uses the weight.

    Args:
        model: In evaluation mode.
        trainable: Parameter name -> parameter.
        inputs: A batch; its first two examples are used, or the only one twice.

    Gradients are compared by the product with one random vector, so that none is kept, and few are written at all.

    Cost: three examples forward and backward, two more where a rule is missing; the memory of the largest parameter.
    """
    batch = len(next(iter(inputs.values())))
    two = {key: value[:2] if batch > 1 else torch.cat([value, value]) for key, value in inputs.items()}
    with torch.enable_grad():
        logits = logits_of(model, {key: value[:1] for key, value in inputs.items()})
        # The least likely class: the gradient at a class that is all but certain is rounding error.
        target = (logits.new_ones(1), logits.detach().argmin(1))
        expected = _expected(logits, target, trainable)
    del logits
    owners = _owners(model, trainable)
    rules = {module: rule_for(module) for module in owners}
    sites = [
        Site(module, own, rules[module], expand=True)
        for module, own in owners.items()
        if module is not model or rules[module]
    ]
    agreed, called = _trial(model, sites, two, target, trainable, expected)
    missing = {name for name in expected.keys() - agreed if expected[name].any()}
    more = _fallbacks(model, owners, called, missing)
    if more:
        agreed |= _trial(model, more, two, target, trainable, expected)[0]
    sites = [replace(site, parameters=own) for site in sites if (own := _among(site.parameters, agreed - missing))]
    sites += [replace(site, parameters=own) for site in more if (own := _among(site.parameters, agreed))]
    plan = Plan(sites, {name: p for name, p in trainable.items() if name not in agreed})
    _note(plan, missing)
    return plan


def _owners(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> dict[nn.Module, Own]:
    """Return the modules that hold trainable parameters themselves, and which."""
    names = {id(p): name for name, p in trainable.items()}
    owners = {}
    for module in model.modules():
        own = module.named_parameters(recurse=False, remove_duplicate=False)
        found = {names[id(p)]: (local, p) for local, p in own if id(p) in names}
        if found:
            owners[module] = found
    return owners


def _expected(logits: Tensor, target: Target, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the gradients of one example by ordinary backpropagation, each as a matrix times a random vector."""
    found: dict[str, Tensor] = {}
    loss = log_likelihood(logits, target)
    if not loss.requires_grad:
        return found

    def note(name: str, p: Tensor) -> None:
        assert p.grad is not None
        g = p.grad.to_dense() if p.grad.is_sparse else p.grad
        found[name] = along(g, _direction(p))
        p.grad = None

    before = {name: p.grad for name, p in parameters.items()}
    with ExitStack() as stack:
        for name, p in parameters.items():
            p.grad = None
            stack.callback(p.register_post_accumulate_grad_hook(partial(note, name)).remove)
        try:
            loss.backward(inputs=list(parameters.values()))
        finally:
            for name, p in parameters.items():
                p.grad = before[name]
    return found


@lru_cache(maxsize=64)
def _random(size: int) -> Tensor:
    """A vector of values of either sign, none near zero, between which no simple relation holds."""
    values = 2 * torch.rand(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) - 1
    return values + values.sign()


def _direction(parameter: Tensor) -> Tensor:
    columns = parameter.numel() // len(parameter) if parameter.dim() else 1
    return _random(columns).to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))


def _trial(
    model: nn.Module,
    sites: list[Site],
    inputs: Inputs,
    target: Target,
    trainable: Mapping[str, nn.Parameter],
    expected: Mapping[str, Tensor],
) -> tuple[set[str], set[nn.Module]]:
    """Return the parameters whose squares the sites get right, and the modules that were called."""
    weight, classes = (torch.cat([part, part]) for part in target)
    weight[1:] = 0  # so that what reaches the second example shows
    agrees: dict[str, bool] = {}
    scales: dict[str, float] = {}
    largest = {name: g.abs().max().item() for name, g in expected.items()}

    def compare(factors: dict[str, Factor]) -> None:
        for name, factor in factors.items():
            kind = torch.finfo(trainable[name].dtype)
            tolerance, noise = {64: (1e-7, 100), 32: (1e-4, 100)}.get(kind.bits, (0.1, 4))
            direction = _direction(trainable[name])
            difference = (factor.along(0, direction) - expected.get(name, 0)).abs().max().item()
            # Where the true gradient is zero (the key bias of attention), rounding is all there is.
            rounding = noise * kind.eps * scales.get(name, 0.0) * direction.norm().item()
            agrees[name] = difference <= tolerance * largest.get(name, 0) + rounding

    recorder = Recorder(sites, compare, scales)
    called: set[nn.Module] = set()
    with requires_grad(model.parameters(), False), torch.enable_grad():
        for expand in (True, False):  # a model may mind that an index was expanded
            for site in sites:
                site.expand = expand
            try:
                logits = _probe(model, recorder, inputs, called)
                recorder.backward(log_likelihood(logits, (weight, classes)))
            except Exception:
                log.debug("the model cannot be tried on two examples", exc_info=True)
                recorder.release()
            else:
                break
        else:
            return set(), called
    seen = {name for site in sites if site.calls for name in site.parameters}
    recorder.release()
    # What no gradient reached is right where there is none.
    return {name for name in seen - recorder.excluded if agrees.get(name, not largest.get(name))}, called


def _probe(model: nn.Module, recorder: Recorder, inputs: Inputs, called: set[nn.Module]) -> Tensor:
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(lambda module, _: called.add(module)).remove)
        with recorder.forward(2, probing=True):
            return logits_of(model, inputs)


def _fallbacks(
    model: nn.Module, owners: Mapping[nn.Module, Own], called: set[nn.Module], missing: set[str]
) -> list[Site]:
    """Return the modules to run again for what the rules miss: the owner, or the part of the model around it.

    The whole model is none of them: it can as well run once for all that is left.
    """
    parents = {child: module for module in model.modules() for child in module.children()}
    found: dict[nn.Module, Own] = {}
    for owner, own in owners.items():
        module: nn.Module | None = owner
        while module is not None and module not in called:
            module = parents.get(module)
        tried = module is owner and rule_for(owner) is None
        if module is not None and module is not model and not tried and (left := _among(own, missing)):
            found.setdefault(module, {}).update(left)
    return [Site(module, own) for module, own in found.items()]


def _among(own: Own, names: set[str]) -> Own:
    return {name: value for name, value in own.items() if name in names}


def _note(plan: Plan, missing: set[str]) -> None:
    """Log once what costs more than an ordinary backward pass."""
    again = sorted(name for site in plan.sites if site.rule is None for name in site.parameters)
    whole = sorted(missing & plan.rest.keys())
    parts = []
    if again:
        parts.append(f"by running their own module again: {', '.join(again)}")
    if whole:
        parts.append(f"by a backward pass through the whole model: {', '.join(whole)}")
    if parts:
        log.info("no rule covers some parameters; their Fisher is computed example by example, %s", "; ".join(parts))


def gradients_of(
    logits: Tensor, target: Target, parameters: Mapping[str, nn.Parameter], *, again: bool = False
) -> dict[str, Tensor]:
    """Return the gradients of one example, of the parameters that its loss depends on: the definition."""
    loss = log_likelihood(logits, target)
    if not loss.requires_grad:
        return {}
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=again, allow_unused=True)
    return {
        name: g.to_dense() if g.is_sparse else g for name, g in zip(parameters, found, strict=True) if g is not None
    }
