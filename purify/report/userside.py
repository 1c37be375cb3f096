"""How well scanning and cleaning serve a user, from records of the measure `purify.measures.UserSide`."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from purify.calibration import Calibration
from purify.errors import PurifyError
from purify.gate import shown
from purify.grid.spec import Cell, restore
from purify.grid.store import scores_from_json
from purify.measures.userside import UserSide
from purify.metrics import Proportion
from purify.report.tables import headed
from purify.scanning import Scan

Records = Iterable[Mapping[str, Any]]


def honest_law(records: Records) -> Calibration:
    """Return the law that scans are held against: the highest value of each statistic among honest models.

    Args:
        records: Those of honest models that were scanned and not cleaned are taken; the others are held back.

    Raises:
        PurifyError: there is none, or a suspect among them is poisoned.
    """
    found = [(cell, record) for record, cell in _scanned(records) if not _measure(cell).clean]
    if not found:
        raise PurifyError("there is no scan of an honest model: run the first part of the grid 'scan'")
    if not all(cell.suspect.control for cell, _ in found):
        raise PurifyError("a poisoned model is among those that should be honest")
    statistics = pd.DataFrame([record["measured"]["statistics"] for _, record in found])
    tasks = sorted({cell.suspect.task for cell, _ in found})
    plms = sorted({cell.suspect.plm for cell, _ in found})
    ways = len({cell.suspect.training for cell, _ in found})
    source = f"{', '.join(tasks)}; {', '.join(plms)} clean model; {ways} ways of training"
    return Calibration(len(found), {str(name): float(values.max()) for name, values in statistics.items()}, source)


def held_back(records: Records, law: Calibration) -> pd.DataFrame:
    """Return one row per suspect that was scanned and cleaned, poisoned or honest.

    Columns: ``task``, ``attack`` ("none" for honest models), ``seed``, ``training``, ``ratio``; ``score`` of the scan;
    ``acc``, ``asr`` and ``acc_after``, ``asr_after`` in percent; ``natural``, the ASR of the control (an honest model's
    own), NaN where it is not among the records; ``reserve``, ``suspicious``.

    Args:
        records: Of the grid ``scan``.
        law: That the scores are computed by.

    Raises:
        PurifyError: no suspect was cleaned.
    """
    records = list(records)
    natural = {}
    for record in records:
        cell = restore(Cell, record["spec"])
        if cell.suspect.control and not cell.measure:
            natural[cell.suspect] = scores_from_json(record["scores"]).asr.percent
    rows = []
    for record, cell in _scanned(records):
        if not _measure(cell).clean:
            continue
        suspect, found = cell.suspect, record["measured"]
        before, after = (scores_from_json(found[when]) for when in ("before", "after"))
        rows.append(
            {
                "task": suspect.task,
                "attack": "none" if suspect.control else suspect.attack.name,
                "seed": suspect.seed,
                "training": _training(cell),
                "ratio": 0.0 if suspect.control else suspect.build_attack().ratio,
                "score": law.score(found["statistics"]),
                "acc": before.acc.percent,
                "asr": before.asr.percent,
                "acc_after": after.acc.percent,
                "asr_after": after.asr.percent,
                "natural": before.asr.percent if suspect.control else natural.get(suspect.as_control, np.nan),
                "reserve": found["reserve"],
                "suspicious": ", ".join(found["suspicious"]),
            }
        )
    if not rows:
        raise PurifyError("no suspect of the grid 'scan' was cleaned yet: run it")
    return pd.DataFrame(rows)


def detection(frame: pd.DataFrame) -> dict[str, Any]:
    """Return how well the score tells poisoned from honest models.

    Args:
        frame: Of `held_back`.

    Returns:
        ``auroc`` (NaN unless there are both), ``alarms`` among the poisoned and ``false alarms`` among the honest, each
        a `purify.metrics.Proportion`.
    """
    poisoned = frame["attack"] != "none"
    auroc = float("nan")
    if poisoned.nunique() == 2:
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415

        auroc = float(roc_auc_score(poisoned, frame["score"]))
    alarms = frame["score"] > 1
    return {
        "auroc": auroc,
        "alarms": Proportion(int((alarms & poisoned).sum()), int(poisoned.sum())),
        "false alarms": Proportion(int((alarms & ~poisoned).sum()), int((~poisoned).sum())),
    }


_SCORES = {"acc": "ACC", "acc_after": "ACC after", "asr": "ASR", "asr_after": "ASR after", "natural": "natural ASR"}
"""Columns of `held_back` -> what the book calls them."""

LOST, LEFT = 3, 10
"""What a cleaning may cost in accuracy, and leave beyond the ASR of the control, in points, to count as safe."""


def outcome_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what scan and cleaning come to per attack, means over suspects, as text for reading.

    *safe* counts the poisoned suspects that lost at most `LOST` points of ACC and whose ASR is at most `LEFT` points
    above that of their control; of honest ones, those that lost at most one point.

    Args:
        frame: Of `held_back`.
    """
    rows = []
    for attack, part in frame.groupby("attack", sort=False):
        lost, left = part["acc"] - part["acc_after"], part["asr_after"] - part["natural"]
        safe = lost <= 1 if attack == "none" else (lost <= LOST) & (left <= LEFT)
        means = {name: f"{part[score].mean():.1f}" for score, name in _SCORES.items()}
        counts = {"alarms": int((part["score"] > 1).sum()), "safe": int(safe.sum())}
        rows.append({"attack": attack} | means | {name: f"{k} of {len(part)}" for name, k in counts.items()})
    return headed(rows, "attack")


def user_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as the book shows them: score, and ACC and ASR before and after."""
    table = frame.rename(columns={**_SCORES, "reserve": "ρ"})
    order = ["task", "attack", "seed", "score", *_SCORES.values()]
    places = {"score": 2, "ratio": 2} | dict.fromkeys(_SCORES.values(), 1)
    return table[[*order, "ratio", "training", "ρ", "suspicious"]].round(places).set_index(order[:3])


def words_figure(scans: Mapping[str, Scan]) -> Figure:
    """Draw the share of predictions that a far word changes beyond its meaning against how far it moved.

    One colour per scan. Words beyond the limits of honest models are named; dashed lines are the limits.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    for (name, found), hue, marker in zip(scans.items(), ("#D55E00", "#0072B2"), ("o", "s"), strict=False):
        asked = [one for one in found.words if one.flips.among]
        axis.plot([w.word.times for w in asked], [w.flips.excess for w in asked], marker, color=hue, label=name)
        for one in asked:
            if one.abnormal:
                place = (one.word.times, one.flips.excess)
                axis.annotate(shown(one.word.word), place, xytext=(-6, -12), textcoords="offset points", ha="right")
        axis.axvline(found.law.limits["farthest word"], color="#999999", ls="--", lw=0.8)
        axis.axhline(found.law.limits["one word"], color="#999999", ls="--", lw=0.8)
    axis.set(
        xlabel="drift of the word, in units of the tenth",
        ylabel="predictions changed, beyond the meaning",
        ylim=(-0.03, 1.05),
    )
    axis.legend(frameon=False)
    return figure


def _scanned(records: Records) -> list[tuple[Mapping[str, Any], Cell]]:
    pairs = [(record, restore(Cell, record["spec"])) for record in records]
    return [(record, cell) for record, cell in pairs if cell.measure and cell.measure.name == UserSide.__name__]


def _measure(cell: Cell) -> UserSide:
    found = cell.build_measure()
    assert isinstance(found, UserSide)
    return found


def _training(cell: Cell) -> str:
    one = cell.suspect.training
    return f"{one.optimizer} {one.learning_rate:g}, {one.epochs} epochs, decay {one.weight_decay:g}"
