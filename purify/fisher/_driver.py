"""The driver: one forward and one backward pass per batch, with the layer rules hung on the way back."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from purify.budget import Precision
from purify.errors import PurifyError
from purify.fisher._loss import Labels, Target, log_likelihood, logits_of, targets_of
from purify.fisher._plan import Plan, gradients_of, make_plan
from purify.fisher._point import At, fractions, weights_at
from purify.fisher._ranks import add_up, rank
from purify.fisher._recorder import Recorder
from purify.fisher._sites import requires_grad
from purify.fisher.factors import add_squares
from purify.fisher.sums import Accumulate, Scratch, Sum
from purify.hardware import resolve_precision
from purify.progress import bar

Batch = Mapping[str, Tensor]


def fisher_diagonal(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    labels: Labels = "data",
    at: At = "suspect",
    clean: Mapping[str, Tensor] | None = None,
    precision: Precision = "fp32",
    accumulate: Accumulate = "fp32",
    chunk: int | None = None,
    seed: int = 0,
    across_ranks: bool = False,
) -> dict[str, Tensor]:
    r"""Return the exact diagonal of the Fisher information of every trainable parameter.

    .. math:: \hat H_i = \frac{1}{N} \sum_{n=1}^{N}
        \left( \frac{\partial \log p(y_n \mid x_n)}{\partial w_i} \right)^2

    The square is taken per example, after the sum over tokens. The model is evaluated without dropout
    and left as it was found.

    Args:
        model: A classifier, called with a batch less its labels; it returns logits (B, C), or an object
            that has them as ``logits``.
        batches: Mappings of tensors with the batch as first dimension: ``input_ids`` (B, T), whatever
            else the model takes, and ``labels`` (B,), integers in [0, C).
        labels: "data", the empirical Fisher; "sampled", one class per example drawn from the model's own
            prediction; "exact", the expectation over that prediction, with a backward pass for each of the C classes.
            The last two need no labels.
        at: Where the weights are: "suspect", the model as it is; "clean", the clean weights; or a number n ≥ 2,
            the average over n equally spaced points of the segment between them, ends included. The batches are
            then gone through n times.
        clean: Clean weights by parameter name, for ``at``; what is missing, such as the head, stays as it is.
        precision: Of forward and backward passes: "bf16" is autocast, "auto" takes it where the hardware has it.
        accumulate: Of the sums over examples: "fp32", "kahan" (compensated) or "fp64".
        chunk: The most elements of a temporary product of activations and gradients; layers without a rule and
            convolutions make the gradient of one example, whatever its size. Default: 2²² on a CPU (one
            weight matrix of one example in most models), 2²⁶ on a GPU (several examples at once).
        seed: For ``labels="sampled"``.
        across_ranks: Average over the examples of all processes of `torch.distributed`; each passes its own
            part (`purify.fisher.share`), and gets the whole result.

    Returns:
        Parameter name -> tensor of the parameter's shape, in fp32 at least, on its device. A parameter that
        the loss does not depend on has 0.

    Raises:
        PurifyError: no batch, no labels, labels out of range, no trainable parameter, an option out of range, a model
            that returns no logits, or a loss or Fisher value that is not finite.

    Warns:
        UserWarning: the model is in training mode; it is evaluated without dropout all the same.

    Cost:
        About one ordinary forward and backward pass over the same examples, and its memory: the result takes the
        place of the gradients. Whatever no rule covers takes an exact example-by-example path, through its own module
        where that is enough, otherwise through the whole model; a logged note names it. Which that is, is
        found out at the first batch, by three to five examples forward and backward. What a model does for some inputs
        only is seen when they come.

    Precision:
        Largest error against float64, relative to the largest value of each tensor, of MiniLM on 128 rows of AG News:
        1.4e-6 in fp32, 1.4e-2 in bf16 (``benchmarks/fisher.py``). The tests allow 1e-4 and 0.3 on tiny random models.

    Source: the paper, section 4, which estimates the Hessian's diagonal by this quantity.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which no hook can look into
    with torch.inference_mode(False):
        work: _Work | None = None
        error: Exception | None = None
        try:
            bf16 = resolve_precision(_one_of("precision", precision, Precision)) == "bf16"
            work = _Work(model, labels, bf16, accumulate, chunk, seed)
            work.add_all(batches, at, clean)
        except Exception as problem:
            if not across_ranks:
                raise
            error = problem
        totals, examples = (work.totals, work.examples) if work else ({}, 0)
        if across_ranks:
            device = work.device if work else torch.device("cpu")
            examples = add_up(totals, examples, error, device)
        if not examples:
            raise PurifyError("the clean data is empty: the Fisher needs at least one labelled example")
        return {name: total.value.div_(examples) for name, total in totals.items()}


def _one_of(name: str, value: Any, choices: Any) -> Any:
    if value not in get_args(choices):
        raise PurifyError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")
    return value


class _Work:
    """The sums over the batches so far."""

    def __init__(
        self, model: nn.Module, labels: Labels, bf16: bool, accumulate: Accumulate, chunk: int | None, seed: int
    ) -> None:
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
        if not self.trainable:
            raise PurifyError("the model has no trainable parameter: set requires_grad before asking for the Fisher")
        _one_of("labels", labels, Labels)
        _one_of("accumulate", accumulate, Accumulate)
        self.model, self.labels, self.bf16 = model, labels, bf16
        self.device = next(iter(self.trainable.values())).device
        if chunk is not None and chunk < 1:
            raise PurifyError(f"chunk must be 1 or more, not {chunk}")
        self.scratch = Scratch(chunk or (2**22 if self.device.type == "cpu" else 2**26))
        self.totals = {name: Sum(p, accumulate) for name, p in self.trainable.items()}
        self.generator = torch.Generator().manual_seed(seed + rank())
        self.plan: Plan | None = None
        self.examples = 0

    def add_all(self, batches: Iterable[Batch], at: At, clean: Mapping[str, Tensor] | None) -> None:
        """Add the squares of all batches, at every point.

        Raises:
            PurifyError: see `fisher_diagonal`.
        """
        counts: list[int] = []
        with _undisturbed(self.model, self.device):
            for fraction in fractions(at):
                with weights_at(self.model, clean, fraction):
                    for batch in bar(batches, desc="Fisher", unit="batch"):
                        self.add(batch)
                counts.append(self.examples - sum(counts))
        if len(set(counts)) > 1:
            raise PurifyError("several points need the batches several times: give a list or a data loader")
        for name, total in self.totals.items():
            if not torch.isfinite(total.value.max()):
                raise PurifyError(f"the Fisher of '{name}' is not finite: the model's weights or gradients overflow")

    def add(self, batch: Batch) -> None:
        """Add the squares of a batch."""
        inputs, labels = self._split(batch)
        size = len(next(iter(inputs.values())))
        if not size:
            return
        self.plan = self.plan or make_plan(self.model, self.trainable, inputs)
        rest = self.plan.rest
        recorder = Recorder(self.plan.sites, partial(add_squares, totals=self.totals, scratch=self.scratch))
        others = [p for name, p in self.model.named_parameters() if name not in rest]
        try:
            with torch.enable_grad(), requires_grad(others, False):
                with recorder.forward(size), self._autocast():
                    logits = logits_of(self.model, inputs)
                targets = targets_of(logits, labels, self.labels, self.generator)
                left = set(recorder.excluded)
                for number, target in enumerate(targets, start=1):
                    loss = log_likelihood(logits, target)
                    found = recorder.backward(loss, list(rest.values()), again=number < len(targets))
                    left |= {name for name, g in zip(rest, found, strict=True) if g is not None}
        finally:
            recorder.release()
        self._by_example(inputs, targets, {name: p for name, p in self.trainable.items() if name in left})
        self.examples += size

    def _split(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what the model takes, and the labels, on its device."""
        sizes = {key: len(x) if isinstance(x, Tensor) and x.dim() else None for key, x in batch.items()}
        if None in sizes.values() or len(set(sizes.values())) != 1:
            raise PurifyError(f"a batch must map names to tensors with one first dimension, the examples, not {sizes}")
        moved = {key: x.to(self.device) for key, x in batch.items()}
        labels = moved.pop("labels", None)
        if labels is None and self.labels == "data":
            raise PurifyError(
                f"a batch has no 'labels' (it has {', '.join(sorted(moved))}): "
                "give them, or ask for labels='sampled' or 'exact'"
            )
        if not moved:
            raise PurifyError("a batch has nothing but labels")
        return moved, labels

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _by_example(
        self, inputs: Mapping[str, Tensor], targets: list[Target], parameters: dict[str, nn.Parameter]
    ) -> None:
        """The definition, for what no site tells: a backward pass through the whole model for each example."""
        if not parameters:
            return
        others = [p for name, p in self.model.named_parameters() if name not in parameters]
        with torch.enable_grad(), requires_grad(others, False), self._autocast():
            for n in range(len(targets[0][0])):
                one = slice(n, n + 1)
                logits = logits_of(self.model, {key: x[one] for key, x in inputs.items()})
                for number, (weight, classes) in enumerate(targets, start=1):
                    target = (weight[one], classes[one])
                    found = gradients_of(logits, target, parameters, again=number < len(targets))
                    for name, g in found.items():
                        self.totals[name].add(g.to(self.totals[name].value.dtype).square())


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch off dropout and whatever else changes what is computed or seen; put all back afterwards."""
    training = [module for module in model.modules() if module.training]
    if model.training:
        warnings.warn("the model is in training mode: its Fisher is computed without dropout", stacklevel=5)
    fast = torch.backends.mha.get_fastpath_enabled()  # it bypasses modules and their hooks
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if recurrent:  # cuDNN has no backward pass for them in evaluation mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module in training:
                module.training = True
