"""What a user gets who scans and cleans a suspect with default options, held against what only the attacker knows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from purify.measures.base import Measure, Stage, rounded

if TYPE_CHECKING:
    from purify.grid.bench import Bench
    from purify.grid.spec import Cell


@dataclass(frozen=True)
class UserSide(Measure):
    """Scan the suspect on the clean set as ``purify scan`` does, and clean it as ``purify clean`` does.

    The suspect's ACC and ASR before and after are counted on the test rows; neither scan nor cleaning sees them.

    Attributes:
        clean: Whether to clean it, too; a scan alone is what calibration needs.
    """

    clean: bool = True

    needs: ClassVar[tuple[Stage, ...]] = ("suspect",)

    def examples(self, cell: "Cell") -> float:
        """The scan's questions, and the fine-tuning of the cleaning."""
        rows = 4 * cell.clean_per_class
        return rows * (20 + (10 if self.clean else 0))

    def measure(self, work: "Bench") -> dict[str, Any]:
        """Return the statistics of the scan, the words that it suspects, and scores before and after cleaning."""
        from purify.case import open_case
        from purify.cleaning import clean
        from purify.grid.store import scores_to_json
        from purify.scanning import scan

        folder = work.made(work.cell.suspect.trained, work.train)
        case = open_case(folder, work.cell.suspect.plm) if folder else None
        assert case
        seed, length = work.cell.suspect.seed, work.cell.tuning.max_length
        rows = work.splits.clean
        found = scan(case, rows, max_length=length, seed=seed)
        result: dict[str, Any] = {
            "statistics": rounded(dict(found.statistics)),
            "suspicious": [word.word for word in found.suspicious],
            "score": rounded(found.score),
            "accuracy": vars(found.accuracy),
            "distance": rounded(found.survey.distance),
        }
        if not self.clean:
            return result
        cleaned = clean(found, rows, max_length=length, seed=seed)
        scores = {
            "before": work.scores(work.predictions(case.model)),
            "after": work.scores(work.predictions(cleaned.model)),
        }
        return result | {
            "reserve": cleaned.reserve,
            "unlearned": list(cleaned.unlearned),
            "held out": {"before": vars(cleaned.before.accuracy), "after": vars(cleaned.after.accuracy)},
            **{when: scores_to_json(one) for when, one in scores.items()},
        }
