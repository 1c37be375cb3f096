"""What parts of a trigger do by themselves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from purify.errors import PurifyError
from purify.measures.base import Measure, Stage

if TYPE_CHECKING:
    from datasets import Dataset

    from purify.grid.bench import Bench
    from purify.grid.spec import Cell


@dataclass(frozen=True)
class FalseTriggers(Measure):
    """Count test rows of other labels that get the target label although only some of the trigger's words are there.

    For every word of the trigger: without it, and it alone; beside no trigger at all and the whole one.

    Source: Yang et al., "Rethinking stealthiness of backdoor attack against NLP models" (2021), false triggered rate.
    """

    needs: ClassVar[tuple[Stage, ...]] = ("suspect",)

    def examples(self, cell: "Cell") -> float:
        """Test rows, passed forward only: two times, and two times per word."""
        words = len(getattr(cell.suspect.build_attack(), "parts", ()))
        return (2 + 2 * words) * cell.test / 3

    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return the number of ``rows``, and the ``counts`` that got the target label, by what stood in the text.

        Raises:
            PurifyError: the trigger has no parts, or no test row has another label than the target.
        """
        import numpy as np

        from purify.attacks.words import Insertion, part_of
        from purify.training import predict

        attack, test, seed = work.attack, work.splits.test, work.cell.suspect.seed
        if not isinstance(attack, Insertion) or len(attack.parts) < 2:
            raise PurifyError(
                f"the trigger of {work.cell.suspect.attack.name} is one piece: it has no parts to try alone"
            )
        others = test.select(np.flatnonzero(np.asarray(test["label"]) != attack.target))
        if not len(others):
            raise PurifyError("no test row has another label than the target: ask for more")
        texts: dict[str, Dataset] = {"no trigger": others, "whole trigger": attack.poison(others, seed=seed)}
        for word in attack.parts:
            rest = [other for other in attack.parts if other != word]
            texts[f"without “{word}”"] = part_of(attack, rest).poison(others, seed=seed)
            texts[f"only “{word}”"] = part_of(attack, [word]).poison(others, seed=seed)
        length = work.cell.tuning.max_length
        counts = {}
        for what, rows in texts.items():
            given = predict(work.resources.suspect, rows, work.clean.tokenizer, max_length=length).argmax(1)
            counts[what] = int((given == attack.target).sum())
        return {"rows": len(others), "counts": counts}
