"""The driver: one forward and one backward pass per batch, with the layer rules hung on the way back."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from purify.errors import PurifyError
from purify.fisher import _embedding, _layernorm, _linear  # noqa: F401  (they register their rules)
from purify.fisher._registry import RULES

log = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]


def fisher_diagonal(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    r"""Return the exact diagonal of the empirical Fisher information of every trainable parameter.

    .. math:: \hat H_i = \frac{1}{N} \sum_{n=1}^{N}
        \left( \frac{\partial \log p(y_n \mid x_n)}{\partial w_i} \right)^2

    The square is taken per example, after the sum over tokens. The model is evaluated without dropout
    and left as it was found.

    Args:
        model: A classifier of the Hugging Face kind: called with a batch less its labels, it returns an
            object with ``logits`` of shape (B, C).
        batches: Mappings of tensors with the batch as first dimension: ``input_ids`` (B, T), whatever
            else the model takes, and ``labels`` (B,), integers in [0, C).

    Returns:
        Parameter name -> tensor of the parameter's shape and dtype, on its device. A parameter that
        the loss does not depend on has 0.

    Raises:
        PurifyError: no batch, no labels, labels out of range, no trainable parameter, or a loss or
            Fisher value that is not finite.

    Cost:
        About one ordinary forward and backward pass over the same examples. Layers without a rule,
        tied parameters, and modules that a forward pass does not call exactly once take the exact
        per-example path, one backward pass per example; a logged note names them. Which these are is
        found out on the first batch, by three passes over a few copies of one example.

    Source: the paper, section 4, which estimates the Hessian's diagonal by this quantity.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise PurifyError("the model has no trainable parameter: set requires_grad before asking for the Fisher")
    total = {name: torch.zeros_like(p) for name, p in trainable.items()}
    device = next(iter(trainable.values())).device
    examples = 0
    covered: dict[nn.Module, dict[str, str]] | None = None
    with _evaluating(model):
        for batch in batches:
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            labels = _labels(batch).to(device)
            if not len(labels):
                continue
            if covered is None:
                covered = _verified(model, inputs, labels, _covered(model, trainable, inputs), trainable)
                names = {name for module in covered.values() for name in module.values()}
                rest = {name: p for name, p in trainable.items() if name not in names}
                if rest:
                    log.info("per-example Fisher path for %d parameters: %s", len(rest), ", ".join(rest))
            with torch.enable_grad():
                _add_by_rules(model, inputs, labels, covered, trainable, total)
                _add_by_examples(model, inputs, labels, rest, total)
            examples += len(labels)
    if not examples:
        raise PurifyError("the clean data is empty: the Fisher needs at least one labelled example")
    for name, value in total.items():
        if not torch.isfinite(value).all():
            raise PurifyError(f"the Fisher of '{name}' is not finite: the model's weights or logits overflow")
    return {name: value.div_(examples) for name, value in total.items()}


def _labels(batch: Batch) -> Tensor:
    if "labels" not in batch:
        raise PurifyError(f"a batch has no 'labels' (it has {', '.join(sorted(batch))})")
    return batch["labels"]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and put every module's mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No ordinary weight gradient is computed while the rules are at work."""
    parameters = list(parameters)
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


@contextmanager
def _hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def _covered(model: nn.Module, trainable: Mapping[str, nn.Parameter], inputs: Batch) -> dict[nn.Module, dict[str, str]]:
    """Find the modules whose rule is exact here: {module: {local parameter name: full name}}.

    Left out are modules without a rule, with a parameter that another module also holds, that one forward
    pass calls never or twice (their weights may be used in a way that no hook sees), or whose input does
    not have the examples as its first dimension. Two passes over 2 and 3 copies of one example tell.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    names = {id(p): name for name, p in trainable.items()}
    candidates = {}
    for module in model.modules():
        own = {local: p for local, p in module.named_parameters(recurse=False) if id(p) in names}
        plain = own.keys() <= {"weight", "bias"} and not getattr(module, "scale_grad_by_freq", False)
        if own and plain and type(module) in RULES and all(owners[id(p)] == 1 for p in own.values()):
            candidates[module] = {local: names[id(p)] for local, p in own.items()}
    for copies in (2, 3):
        calls: Counter[nn.Module] = Counter()

        def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if len(args) != 1:  # called with keywords
                calls[module] += 2  # noqa: B023
                return
            x = args[0]
            shared = isinstance(module, nn.Embedding) and len(x) == 1  # expanded by _add_by_rules
            by_example = x.dim() >= 2 and (len(x) == copies or shared)  # noqa: B023
            calls[module] += 1 if by_example else 2  # noqa: B023

        probe = {key: torch.cat([value[:1]] * copies) for key, value in inputs.items()}
        with _hooked(module.register_forward_pre_hook(count) for module in candidates), torch.no_grad():
            model(**probe)
        candidates = {module: own for module, own in candidates.items() if calls[module] == 1}
    return candidates


def _verified(
    model: nn.Module,
    inputs: Batch,
    labels: Tensor,
    covered: dict[nn.Module, dict[str, str]],
    trainable: Mapping[str, nn.Parameter],
) -> dict[nn.Module, dict[str, str]]:
    """Keep the modules whose rule agrees with ordinary backpropagation on one example.

    The others use a weight in a way that no hook sees, such as in a functional call elsewhere.
    """
    one = {key: value[:1] for key, value in inputs.items()}
    by_rule, by_example = ({name: torch.zeros_like(p) for name, p in trainable.items()} for _ in range(2))
    with torch.enable_grad():
        _add_by_rules(model, one, labels[:1], covered, trainable, by_rule)
        _add_by_examples(model, one, labels[:1], trainable, by_example)
    # Gradients that are zero but for rounding (the key bias of attention) differ between the two.
    noise = 1e-9 * max(value.max().item() for value in by_example.values())

    def agrees(name: str) -> bool:
        error = (by_rule[name] - by_example[name]).abs().max().item()
        return error <= 1e-2 * by_example[name].max().item() + noise

    return {module: own for module, own in covered.items() if all(map(agrees, own.values()))}


def _log_likelihood(model: nn.Module, inputs: Batch, labels: Tensor) -> Tensor:
    """Σ_n log p(y_n | x_n), a scalar."""
    logits = model(**inputs).logits  # (B, C)
    if not (int(labels.min()) >= 0 and int(labels.max()) < logits.shape[-1]):
        raise PurifyError(
            f"labels must lie in [0, {logits.shape[-1] - 1}], the classes of the model, "
            f"but the clean data has {int(labels.min())} to {int(labels.max())}"
        )
    loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="sum")
    if not torch.isfinite(loss):
        raise PurifyError("the loss on the clean data is not finite: the model's weights or logits overflow")
    return -loss


def _add_by_rules(
    model: nn.Module,
    inputs: Batch,
    labels: Tensor,
    covered: Mapping[nn.Module, dict[str, str]],
    trainable: Mapping[str, nn.Parameter],
    total: dict[str, Tensor],
) -> None:
    """One pass: each covered module's rule runs when the gradient of its output arrives."""
    batch = len(labels)

    def expand(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Position and token-type ids often come as one (1, T) index for the whole batch: the gradient
        # would be summed over the examples before it could be squared.
        index, *rest = args
        return (index.expand(batch, *index.shape[1:]) if len(index) == 1 else index, *rest)

    def on_gradient(module: nn.Module, x: Tensor, g: Tensor) -> None:
        with torch.no_grad():
            squares = RULES[type(module)](module, x, g)
        for local, name in covered[module].items():
            total[name] += squares[local].to(total[name].dtype)

    def on_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:  # nothing below it is trainable: start the graph here
            output.requires_grad_(True)
        output.register_hook(partial(on_gradient, module, args[0].detach()))

    def handles() -> Iterator[RemovableHandle]:
        for module in covered:
            if isinstance(module, nn.Embedding):
                yield module.register_forward_pre_hook(expand)
            yield module.register_forward_hook(on_output)

    if not covered:
        return
    with _frozen(trainable.values()), _hooked(handles()):
        _log_likelihood(model, inputs, labels).backward()


def _add_by_examples(
    model: nn.Module,
    inputs: Batch,
    labels: Tensor,
    parameters: Mapping[str, nn.Parameter],
    total: dict[str, Tensor],
) -> None:
    """The exact path for everything else: one backward pass per example."""
    if not parameters:
        return
    for n in range(len(labels)):
        example = {key: value[n : n + 1] for key, value in inputs.items()}
        loss = _log_likelihood(model, example, labels[n : n + 1])
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name].addcmul_(gradient, gradient)
