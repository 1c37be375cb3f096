"""Does fine-tuning spread a dimension in proportion to its Fisher? Many short runs from one start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from purify.errors import PurifyError
from purify.measures.base import Measure, rounded

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from purify.grid.bench import Bench
    from purify.grid.spec import Cell

BINS = 20
"""Equally filled bins of Ĥ that slopes are fitted to."""


@dataclass(frozen=True)
class DriftLaw(Measure):
    r"""Fine-tune the clean model again and again from one start, and regress the drift on the Fisher.

    The runs differ in nothing but the order of the rows: one head, no dropout, a constant learning rate. After some
    steps the drift of every dimension has, over the runs, a mean square :math:`E[\delta_i^2]` and a variance. Diffusion
    theory says for SGD and short times :math:`Var[\delta_i] = \eta^2 n \hat H_i / B` after n steps: a slope of 1
    between the logarithms, as :math:`\hat H` stands for the covariance of the gradients. The mean square also holds
    the transport, :math:`E[\delta_i]^2`.

    Within each kind of parameter, and over all, dimensions with Ĥ > 0 are sorted into equally filled bins of Ĥ; slopes
    are least squares through the logarithms of the bins' means.

    Attributes:
        optimizer: "sgd" without momentum, or "adamw" without weight decay.
        learning_rate: η.
        runs: How many.
        steps: Numbers of steps after which the drift is looked at, rising.
        batch_size: B.
        rows: Training rows that Ĥ is computed on, at the start.
        warmup: Steps of AdamW that all runs share, before the start: 0 starts at the pre-trained weights.

    Source: the paper, section 3; the regression is this project's.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    runs: int = 6
    steps: tuple[int, ...] = (2, 8, 32)
    batch_size: int = 16
    rows: int = 256
    warmup: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.runs < 2 or min(self.batch_size, self.rows) < 1 or self.warmup < 0:
            raise PurifyError("a drift law needs two runs or more, batch_size and rows of 1, warmup of 0 or more")
        if not self.steps or self.steps[0] < 1 or list(self.steps) != sorted(set(self.steps)):
            raise PurifyError(f"the steps must be rising numbers of 1 or more, not {list(self.steps)}")
        if not 0 < self.learning_rate < float("inf"):
            raise PurifyError(f"learning_rate must be more than 0, not {self.learning_rate}")

    def examples(self, cell: "Cell") -> float:
        """All runs, and the Fisher."""
        return self.batch_size * (self.runs * self.steps[-1] + self.warmup) + self.rows

    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return bins and slopes by kind of parameter and number of steps, and how far the runs went.

        Raises:
            PurifyError: a run diverges.
        """
        from purify.fisher import fisher_diagonal
        from purify.hardware import device
        from purify.progress import bar
        from purify.training import batches

        rows, length, seed = work.training.train, work.cell.suspect.training.max_length, work.cell.suspect.seed
        model = work.clean.classifier(len(work.training.task.labels), seed=seed).to(device()).eval()
        if self.warmup:
            self._train(work, model, "adamw", 5e-5, seed, {self.warmup: len})
        names = set(work.clean.weights_for(model))
        start = {name: value.detach().clone() for name, value in model.named_parameters()}
        sample = batches(rows.select(range(min(self.rows, len(rows)))), work.clean.tokenizer, max_length=length)
        moved = ({key: value.to(model.device) for key, value in batch.items()} for batch in sample)
        fisher = {name: value for name, value in fisher_diagonal(model, moved).items() if name in names}
        sums = {step: _Sums(fisher) for step in self.steps}
        for run in bar(range(self.runs), desc=f"{self.runs} runs with {self.optimizer}", unit="run"):
            _load(model, start)
            looks = {step: total.add for step, total in sums.items()}
            self._train(work, model, self.optimizer, self.learning_rate, 1000 * (seed + 1) + run, looks)
        found = {step: total.by_kind(fisher) for step, total in sums.items()}
        return {"runs": self.runs, "steps": {str(step): kinds for step, kinds in found.items()}}

    def _train(
        self,
        work: "Bench",
        model: "PreTrainedModel",
        optimizer: str,
        learning_rate: float,
        seed: int,
        looks: "Mapping[int, Callable[[dict[str, Tensor]], object]]",
    ) -> None:
        """Train with batches in an order of its own, and look at the drift after some of the steps.

        The optimizer's parameters are the drifts, which add up without loss; a step that is smaller than the rounding
        of the weight would otherwise be lost.
        """
        import torch

        from purify.training import shuffled_batches

        parameters = dict(model.named_parameters())
        start = {name: value.detach().clone() for name, value in parameters.items()}
        drift = {name: torch.zeros_like(value) for name, value in start.items()}
        steps = (
            torch.optim.SGD(drift.values(), lr=learning_rate)
            if optimizer == "sgd"
            else torch.optim.AdamW(drift.values(), lr=learning_rate, weight_decay=0.0)
        )
        feed = shuffled_batches(
            work.training.train,
            work.clean.tokenizer,
            batch_size=self.batch_size,
            max_length=work.cell.suspect.training.max_length,
            seed=seed,
        )
        for step, batch in zip(range(1, max(looks) + 1), feed, strict=False):
            model.zero_grad()
            loss = model(**{key: value.to(model.device) for key, value in batch.items()}).loss
            if not torch.isfinite(loss):
                raise PurifyError(f"a run diverged at step {step}: take a smaller learning_rate than {learning_rate}")
            loss.backward()
            for name, delta in drift.items():
                delta.grad = parameters[name].grad
            steps.step()
            _load(model, {name: start[name] + delta for name, delta in drift.items()})
            if step in looks:
                looks[step](drift)


class _Sums:
    """Σ δ and Σ δ² over the runs, per parameter."""

    def __init__(self, like: "dict[str, Tensor]") -> None:
        import torch

        self.runs = 0
        self.first = {name: torch.zeros_like(value) for name, value in like.items()}
        self.second = {name: torch.zeros_like(value) for name, value in like.items()}

    def add(self, drift: "dict[str, Tensor]") -> None:
        self.runs += 1
        for name, total in self.first.items():
            total.add_(drift[name])
            self.second[name].addcmul_(drift[name], drift[name])

    def by_kind(self, fisher: "dict[str, Tensor]") -> dict[str, Any]:
        """Bins and slopes over all dimensions and within each kind of parameter."""
        import numpy as np

        from purify.anatomy import place_of

        parts: dict[str, list[np.ndarray]] = {}
        for name, value in fisher.items():
            judged = value > 0
            first, second = (total[name][judged].double() for total in (self.first, self.second))
            variance = (second - first**2 / self.runs).clamp(min=0) / (self.runs - 1)
            columns = np.stack([x.cpu().numpy() for x in (value[judged].double(), second / self.runs, variance)])
            parts.setdefault(place_of(name)[1], []).append(columns)
        kinds = {kind: np.concatenate(found, axis=1) for kind, found in parts.items()}
        kinds = {"all": np.concatenate(list(kinds.values()), axis=1), **kinds}
        return {kind: _bins(columns) for kind, columns in kinds.items() if columns.shape[1] >= BINS}


def _bins(columns: Any) -> dict[str, Any]:
    """Means within equally filled bins of the first row (Ĥ), and the slopes through their logarithms."""
    import numpy as np

    order = np.argsort(columns[0], kind="stable")
    parts = np.array_split(columns[:, order], BINS, axis=1)
    fisher, square, variance = np.stack([part.mean(axis=1) for part in parts], axis=1)
    found = {"fisher": fisher, "square": square, "variance": variance}
    slopes = {what: _slope(fisher, found[what]) for what in ("square", "variance")}
    return {**rounded(found), "slope": rounded(slopes), "dimensions": columns.shape[1]}


def _slope(x: Any, y: Any) -> float | None:
    import numpy as np

    good = (x > 0) & (y > 0)
    return float(np.polyfit(np.log(x[good]), np.log(y[good]), 1)[0]) if good.sum() >= 3 else None


def _load(model: "nn.Module", weights: "dict[str, Tensor]") -> None:
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights[name])
