"""All defenses on one bench: safety at equal accuracy, paired over suspects; knowledge, detection and cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from purify.defenses import DEFENSES, FAMILIES
from purify.defenses.base import Detector, knowledge
from purify.errors import PurifyError
from purify.grid.checks import refuse
from purify.grid.spec import NONE, Cell, restore
from purify.metrics import Proportion, mean_interval
from purify.registry import parse_assignments
from purify.report.effects import shipped
from purify.report.protocol import DROPS, at_drops
from purify.report.tables import AS_RECEIVED, CONTROL, ONE_SUSPECT, as_frame, label

FINE_DROPS = tuple(np.linspace(0, 10, 21))
"""ΔACC in steps of half a point."""


def areas(frame: pd.DataFrame, score: str = "asr") -> pd.DataFrame:
    """Return the area under the ACC–ASR curve of each suspect and defense: the mean of a score over ΔACC.

    ΔACC runs from 0 to 10 points in steps of a half; at each, ρ is chosen on clean validation accuracy. So 0 is a
    defense that removes the attack at no cost, 100 one that never does. It is not an area over the test accuracy, which
    no defender could choose by.

    Args:
        frame: Of `as_frame`.
        score: "asr", or "validation_asr" for those who develop a method.
    """
    chosen = at_drops(frame, FINE_DROPS)
    return chosen.groupby([*ONE_SUSPECT, "defense"], sort=False)[score].mean().rename("area").reset_index()


def safety_table(frame: pd.DataFrame, drops: Sequence[float] = DROPS) -> pd.DataFrame:
    """Return the mean over suspects of ASR at each ΔACC and of the area with its 95 % interval, best area first.

    *met* says for how many suspects some setting stays within the smallest ΔACC, *tried* how many there were.
    """
    settings = frame.groupby("defense")["reserve"].nunique().clip(lower=1)
    chosen, area = at_drops(frame, drops), areas(frame)
    rows = {}
    for defense, group in area.groupby("defense", sort=False):
        own = chosen[chosen["defense"] == defense]
        row: dict[str, Any] = {f"≤ {drop:g}": own.loc[own["ΔACC"] == drop, "asr"].mean() for drop in drops}
        within = own[own["ΔACC"] == min(drops)]["within"]
        row |= {"area": _share(group["area"]), "met": f"{within.sum()} of {len(within)}"}
        row["tried"] = str(settings[defense])
        rows[defense] = row
    table = pd.DataFrame(rows).T
    means = area.groupby("defense")["area"].mean()
    return table.loc[means.sort_values().index].map(lambda value: value if isinstance(value, str) else f"{value:.1f}")


def _share(values: pd.Series) -> str:
    """Mean and interval of a share, which ends at 0 and 100."""
    mean, low, high = mean_interval(list(values))
    return f"{mean:.1f}" if np.isnan(low) else f"{mean:.1f} [{max(low, 0):.0f}, {min(high, 100):.0f}]"


_SHORT = {
    "clean data": "clean",
    "clean PLM": "PLM",
    "training data": "training",
    "validation data": "validation",
    "access at inference": "inputs",
}


def knowledge_table(families: Iterable[str] = tuple(FAMILIES)) -> pd.DataFrame:
    """Return what a defender must have for each defense, and what comes out of it."""
    rows = {}
    for family in families:
        for cls in FAMILIES[family]:
            has = knowledge(cls)
            row = {"family": family}
            row |= {short: "yes" if need in has else "" for need, short in _SHORT.items()}
            rows[cls.__name__] = row | {"result": "guard" if issubclass(cls, Detector) else "model"}
    return pd.DataFrame(rows).T


def detection_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return, per suspect and detector, AUROC, the false rejection rate on test rows, and ASR with and without it."""
    rows, bare = [], {}
    records = list(records)
    for record in records:
        cell = restore(Cell, record["spec"])
        if cell.build_defense() is None:
            bare[cell.suspect] = Proportion(**record["scores"]["asr"]).percent
    for record in records:
        if "detection" not in record:
            continue
        cell, found = restore(Cell, record["spec"]), record["detection"]
        rows.append(
            {
                "task": cell.suspect.task,
                "attack": cell.suspect.attack.name,
                "detector": label(cell.defense),
                "AUROC": round(found["auroc"], 3),
                "FRR": Proportion(**found["set"]["rejected clean"]).percent,
                "caught": Proportion(**found["set"]["rejected triggered"]).percent,
                "ASR before": bare.get(cell.suspect, np.nan),
                "ASR": Proportion(**record["scores"]["asr"]).percent,
                "ACC": Proportion(**record["scores"]["acc"]).percent,
            }
        )
    if not rows:
        raise PurifyError("there is no detector among these defenses: choose one of the family 'detection'")
    return pd.DataFrame(rows).round(dict.fromkeys(("FRR", "caught", "ASR before", "ASR", "ACC"), 1))


def detection_curves(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per suspect, detector and false rejection rate that was set: ``FRR`` on test rows and ``asr``."""
    rows = []
    for record in records:
        cell = restore(Cell, record["spec"])
        for point in record.get("detection", {}).get("curve", ()):
            rows.append(
                {
                    "attack": cell.suspect.attack.name,
                    "task": cell.suspect.task,
                    "detector": label(cell.defense),
                    "FRR": Proportion(**point["rejected clean"]).percent,
                    "asr": Proportion(**point["asr"]).percent,
                }
            )
    return pd.DataFrame(rows)


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return median seconds of one run of each defense, and as a multiple of plain fine-tuning on the same suspects.

    The Fisher, which is computed once per suspect, is counted with every run. Where the frame has the column ``peak``,
    the largest peak memory (MiB) and the number of runs stand beside it.
    """
    defended = frame[frame["max_drop"].isna() & ~frame["defense"].isin([AS_RECEIVED, CONTROL])]
    defended = defended.assign(seconds=defended["seconds"] + defended["fisher_seconds"])
    medians = defended.groupby("defense", sort=False)["seconds"].median()
    table = pd.DataFrame({"seconds (median)": medians.round(1)})
    if "FineTuning" in medians:
        table["of fine-tuning"] = (medians / medians["FineTuning"]).map("{:.2f}×".format)
    if "peak" in defended:
        grouped = defended.groupby("defense", sort=False)
        table = table.assign(**{"peak (MiB)": grouped["peak"].max(), "runs": grouped.size()})
    return table.rename_axis(None)


def page_cells(base: Cell, defenses: Iterable[str]) -> list[Cell]:
    """Return the suspect as received, and with defenses as they are written on a page: "FinePruning reserve=0.4".

    Raises:
        PurifyError: an unknown defense or parameter, or one that cannot be read.
    """
    cells = [base]
    for text in defenses:
        name, *assignments = text.split()
        cells.append(replace(base, defense=DEFENSES.read(name, parse_assignments(assignments))))
    refuse(cells, "the page")
    return cells


def shipped_frame(grids: Iterable[str], families: Iterable[str], conditions: Iterable[str] = ()) -> pd.DataFrame:
    """Return, as `as_frame`, the shipped records of some families of defenses and of the suspects as received.

    Args:
        grids: Names in ``book/grids``.
        families: Keys of `purify.defenses.FAMILIES`; detectors are left out, because their records are no curves.
        conditions: As of `purify.grid.select`.
    """
    names = {cls.__name__ for family in families for cls in FAMILIES[family] if not issubclass(cls, Detector)}
    records = {}
    for grid in grids:
        for record in shipped(grid, conditions):
            cell = restore(Cell, record["spec"])
            if not cell.suspect.control and cell.defense.name in {*names, NONE}:
                records[cell] = record
    return as_frame(records.values())


def guard_cost(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return median seconds to prepare each detector and to ask it about all rows of a record."""
    rows = [
        {
            "detector": label(restore(Cell, record["spec"]).defense),
            "prepare": record["stages"]["purify"],
            "ask": record["stages"]["evaluate"],
        }
        for record in records
        if "detection" in record
    ]
    return pd.DataFrame(rows).groupby("detector", sort=False).median().round(1)


def control_table(grid: str) -> pd.DataFrame:
    """Return what defenses do to the clean controls of a grid: the accuracy that is paid, in points."""
    records = shipped(grid, ["control=true"])
    frame = as_frame(records)
    frame["defense"] = [label(restore(Cell, record["spec"]).defense) for record in records]
    bare = frame[frame["defense"] == NONE].drop_duplicates(["task", "seed"]).set_index(["task", "seed"])["acc"]
    frame["paid"] = [
        bare[task, seed] - acc for task, seed, acc in zip(frame["task"], frame["seed"], frame["acc"], strict=True)
    ]
    table = frame[frame["defense"] != NONE].pivot_table(index="defense", columns=["task", "seed"], values="paid")
    return table.round(1).rename_axis(None)
