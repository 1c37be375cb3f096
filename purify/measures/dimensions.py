"""Which dimensions of a suspect are poisonous, by three ground truths, and how well each indicator finds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from purify.errors import PurifyError
from purify.measures.base import Measure, Stage, rounded
from purify.measures.law import law_of

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from purify.grid.bench import Bench
    from purify.grid.spec import Cell
    from purify.resources import Resources

FLAGGED = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(round(0.1 + 0.05 * i, 2) for i in range(18)))
"""Shares of the judged dimensions that an indicator is asked to name: 1 − ρ."""


@dataclass(frozen=True)
class Dimensions(Measure):
    r"""Hold every indicator against ground truth that only the attacker has.

    All is over the judged dimensions, those with Ĥ > 0 on the defender's clean set. Poisonous is the ``share`` of them
    with the largest

    * *pair*: squared difference between suspect and control, :math:`(w_{poisoned} - w_{clean})^2`, which share head
      and clean rows, and differ by the poisoned copies and what they change of length and order of training;
    * *curvature*: ratio of the empirical Fisher on triggered rows (target label) to that on clean rows (their own),
      the condition of the paper's section 3: means over points of the segment from the clean weights to the suspect,
      ends included, on validation rows, under the suspect's head;
    * *effect*: part in the backdoor, :math:`\delta_i` times the gradient of the mean log-probability of the target
      label on triggered validation rows, averaged over midpoints of that segment (integrated gradients).

    *pair* and *effect* contain the drift, so that every indicator with a drift in it finds them without any poison as
    well. How well is measured on an honest model in the suspect's place, the control of the next seed.

    Then the law of r: histograms of suspect and honest model, fitted Gamma laws, Kolmogorov–Smirnov distances.

    Attributes:
        share: Of the judged dimensions that are called poisonous.
        rows: At most so many validation rows are used for a ground truth.
        points: On the segment.

    Source: the paper, sections 3 and 5; Sundararajan, Taly and Yan (2017) for integrated gradients.
    """

    share: float = 0.05
    rows: int = 128
    points: int = 3

    needs: ClassVar[tuple[Stage, ...]] = ("suspect", "control", "Fisher")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.share < 1:
            raise PurifyError(f"the share of poisonous dimensions must lie between 0 and 1, not {self.share}")
        if self.rows < 1 or self.points < 1:
            raise PurifyError(f"rows and points must be at least 1, not {self.rows} and {self.points}")

    def examples(self, cell: "Cell") -> float:
        """Three ground truths on the segment, and two Fishers of the clean set."""
        return 3 * self.points * min(self.rows, cell.validation)

    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return AUROC and recall of every indicator for every ground truth, and the law of r.

        The same is done with an honest model in the place of the suspect, the control of the next seed: what an
        indicator reaches there has nothing to do with poison.

        Raises:
            PurifyError: no triggered validation row has another label than the target's, or the clean set judges none.
        """
        have, control = work.resources, work.resources_for(work.control())
        honest = work.resources_for(work.control(work.cell.suspect.seed + 1))
        r, found = self._judge(work, have, control)
        null_r, null = self._judge(work, honest, control)
        law = {"suspect": law_of(r), "control": law_of(null_r)}
        return {"judged": len(r), "flagged": list(FLAGGED), **found, "honest": null, "law": law}

    def _judge(self, work: "Bench", have: "Resources", control: "Resources") -> "tuple[np.ndarray, dict[str, Any]]":
        """Hold the indicators on one model against its ground truths; return its r too."""
        import numpy as np

        from purify.identification import INDICATORS, Ranking, top

        batch_size = work.cell.suspect.training.batch_size
        judged = {name: have.fisher[name] > 0 for name in have.drift}
        if not any(bool(mask.any()) for mask in judged.values()):
            raise PurifyError("the clean set judges no dimension: its Fisher is 0 everywhere")

        def flat(values: "Mapping[str, Tensor]") -> "np.ndarray":
            return np.concatenate([values[name][mask].double().cpu().numpy() for name, mask in judged.items()])

        difference = {name: control.drift[name] - have.drift[name] for name in judged}
        truths = {
            "pair": top(flat(difference) ** 2, self.share),
            "curvature": top(self._curvature(work, have, flat), self.share),
            "effect": top(flat(self._effect(work, have)), self.share),
        }
        drift, fisher = flat(have.drift), flat(have.fisher)
        scores: dict[str, Any] = {}
        for name, indicator in INDICATORS.items():
            ranking = Ranking(indicator(drift, fisher, batch_size))
            scores[name] = {
                truth: {"auroc": ranking.auroc(mask), "recall": ranking.recall(mask, FLAGGED)}
                for truth, mask in truths.items()
            }
        overlap = {
            f"{one}, {other}": float((truths[one] & truths[other]).sum() / truths[one].sum())
            for one, other in (("pair", "curvature"), ("pair", "effect"), ("curvature", "effect"))
        }
        return drift**2 / fisher, {"indicators": rounded(scores), "overlap": rounded(overlap)}

    def _rows(self, work: "Bench") -> "tuple[Dataset, Dataset]":
        """Clean validation rows of other classes than the target, and the same triggered, with the target's label."""
        import numpy as np

        target = work.attack.target
        chosen = np.flatnonzero(np.asarray(work.splits.validation["label"]) != target)[: self.rows].tolist()
        if not chosen:
            raise PurifyError("no validation row has another label than the target: ask for more")
        clean, triggered = work.splits.validation.select(chosen), work.triggered_validation.select(chosen)
        aimed = triggered.remove_columns("label").add_column("label", [target] * len(chosen))
        return clean, aimed

    def _curvature(self, work: "Bench", have: "Resources", flat: Any) -> "np.ndarray":
        import numpy as np

        from purify.fisher import fisher_diagonal

        clean, poisoned = (
            flat(fisher_diagonal(have.suspect, _batches(work, rows), at=self.points, clean=have.reference))
            for rows in self._rows(work)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(poisoned > 0, poisoned / clean, 0)

    def _effect(self, work: "Bench", have: "Resources") -> "dict[str, Tensor]":
        import torch

        model = have.with_weights()
        _, poisoned = self._rows(work)
        feed = _batches(work, poisoned)
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(delta) for name, delta in have.drift.items()}
        for point in range(self.points):
            fraction = (point + 0.5) / self.points
            with torch.no_grad():
                for name, delta in have.drift.items():
                    parameters[name].copy_(have.reference[name] + fraction * delta)
            for batch in feed:
                model.zero_grad()
                loss = model(**batch).loss * len(batch["labels"]) / len(poisoned)
                loss.backward()
                for name, value in total.items():
                    if (slope := parameters[name].grad) is not None:
                        value.add_(slope, alpha=-1 / self.points)
        return {name: value * have.drift[name] for name, value in total.items()}


def _batches(work: "Bench", rows: "Dataset") -> "list[dict[str, Tensor]]":
    from purify.training import batches

    found = batches(rows, work.clean.tokenizer, max_length=work.cell.tuning.max_length)
    return [{key: value.to(work.resources.suspect.device) for key, value in batch.items()} for batch in found]
