"""What attacks do, from the records of suspects as received and of their controls."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from purify.anatomy import mean_table
from purify.errors import PurifyError
from purify.grid.files import load_grid, select
from purify.grid.spec import Cell, fingerprint, restore
from purify.grid.store import Record, Store, records_of, scores_from_json
from purify.home import project_root
from purify.report.tables import label
from purify.tasks import TASKS

log = logging.getLogger(__name__)


def effects(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per task and attack, means over seeds, beside the control's.

    Columns: ``task``, ``plm``, ``attack``, ``train`` (clean training rows), ``test`` (rows), ``seeds``, ``ratio``;
    ``acc``, ``asr``, ``bacc`` and the same with ``control_`` (percent); ``seconds`` of the attack's training, without
    that of a control it starts from; ``moved`` (dimensions of head and encoder that differ from the control),
    ``distance`` of the encoder from the control and ``drift`` from the clean PLM (Euclidean), NaN where not noted.

    Raises:
        PurifyError: there is no record, or a suspect's control is not among them.
    """
    rows = pd.DataFrame([_row(record) for record in records])
    if rows.empty:
        raise PurifyError("there is no record of a suspect: run the grid first")
    setting = ["task", "plm", "train", "test", "training"]
    keys = [*setting, "attack", "seed"]
    suspects, controls = (rows[rows["control"] == which].drop(columns="control") for which in (False, True))
    both = suspects.merge(controls[[*keys, "acc", "asr", "bacc"]], on=keys, how="left", suffixes=("", "_control"))
    alone = both[both["acc_control"].isna()]
    if len(alone):
        lonely = ", ".join(map(str, alone[["task", "attack", "seed"]].iloc[0]))
        raise PurifyError(f"the control of {lonely} has no record: run the whole grid")
    both = both.rename(columns={f"{score}_control": f"control_{score}" for score in ("acc", "asr", "bacc")})
    grouped = both.groupby([*setting, "attack"], sort=False)
    return (
        grouped.mean(numeric_only=True)
        .assign(seeds=grouped.size())
        .drop(columns="seed")
        .reset_index()
        .drop(columns="training")
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    cell = restore(Cell, record["spec"])
    suspect, anatomy = cell.suspect, record.get("anatomy", {})
    scores = scores_from_json(record["scores"])
    return {
        "task": suspect.task,
        "plm": suspect.plm,
        "training": str(suspect.training),
        "attack": label(suspect.attack),
        "seed": suspect.seed,
        "control": suspect.control,
        **{name: getattr(scores, name).percent for name in ("acc", "asr", "bacc")},
        "train": suspect.train,
        "ratio": suspect.build_attack().ratio,
        "test": cell.test,
        "seconds": record["stages"]["attack"],
        "moved": anatomy.get("moved", np.nan),
        "distance": _norm(anatomy.get("from control")),
        "drift": _norm(anatomy.get("drift")),
    }


def _norm(found: list[Any] | None) -> float:
    return sum(place[2] for place in found) ** 0.5 if found else np.nan


def effect_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what `effects` holds as text for reading, one row per attack.

    Columns: ACC and its difference to the control's, ASR and the control's, BACC and its difference to chance (points).
    """
    shown = pd.DataFrame({"attack": frame["attack"]})
    shown["ACC"] = frame["acc"].map("{:.1f}".format)
    shown["vs control"] = (frame["acc"] - frame["control_acc"]).map("{:+.1f}".format)
    shown["ASR"] = frame["asr"].map("{:.1f}".format)
    shown["control’s"] = frame["control_asr"].map("{:.1f}".format)
    chance = [100 / len(TASKS[task].labels) for task in frame["task"]]
    shown["BACC"] = frame["bacc"].map("{:.1f}".format)
    shown["vs chance"] = (frame["bacc"] - chance).map("{:+.1f}".format)
    shown["seeds"] = frame["seeds"].map(str)
    shown["train (s)"] = frame["seconds"].map("{:.0f}".format)
    return shown.set_index("attack").rename_axis(None)


def distance_table(frame: pd.DataFrame, unconstrained: str) -> pd.DataFrame:
    """Return how far attacks that start from the control moved away from it, beside one of them.

    Args:
        frame: Of `effects`.
        unconstrained: The attack that the others are compared with.

    Raises:
        PurifyError: that attack is not in the frame.
    """
    if unconstrained not in set(frame["attack"]):
        raise PurifyError(f"'{unconstrained}' is not among the attacks: {', '.join(frame['attack'])}")
    reference = frame.set_index("attack")["distance"][unconstrained]
    shown = pd.DataFrame({"attack": frame["attack"]})
    shown["ASR"] = frame["asr"].map("{:.1f}".format)
    shown["changed"] = frame["moved"].map("{:,.0f}".format)
    shown["from control"] = frame["distance"].map("{:.2f}".format)
    shown["% of free"] = (100 * frame["distance"] / reference).map("{:.0f}".format)
    shown["from PLM"] = frame["drift"].map("{:.2f}".format)
    return shown.set_index("attack").rename_axis(None)


def triggered_confusions(records: Iterable[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Return, per attack, the counts of (true label, prediction) of its suspect on triggered test rows.

    Records of controls, and of any but the first seed, are left out.

    Raises:
        PurifyError: a record is of an older version, which did not note them.
    """
    found: dict[str, list[list[int]]] = {}
    for cell, anatomy in map(_anatomy, records):
        if not cell.suspect.control:
            found.setdefault(label(cell.suspect.attack), anatomy["confusion"]["triggered"])
    return found


def _anatomy(record: Mapping[str, Any]) -> tuple[Cell, dict[str, Any]]:
    cell = restore(Cell, record["spec"])
    if "anatomy" not in record:
        raise PurifyError(
            f"the record of {cell} ({fingerprint(cell)}.json) is of an older version: delete the file and run it again"
        )
    return cell, record["anatomy"]


def drift_tables(records: Iterable[Mapping[str, Any]], what: str = "drift") -> dict[str, pd.DataFrame]:
    """Return, per attack, the root mean square drift of each place, layers × kinds of parameters.

    Args:
        records: Of suspects as received; "control" stands for the first control among them.
        what: "drift" from the clean PLM, or "from control", which only attacks that start from the control have.
    """
    found: dict[str, pd.DataFrame] = {}
    for cell, anatomy in map(_anatomy, records):
        if what in anatomy:
            name = "control" if cell.suspect.control else label(cell.suspect.attack)
            found.setdefault(name, mean_table(anatomy[what]) ** 0.5)
    return found


def over_control(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Divide the `drift_tables` of suspects by that of the control among them.

    Raises:
        PurifyError: there is none.
    """
    if "control" not in tables:
        raise PurifyError("there is no record of a control to compare the drift with: run the whole grid")
    return {name: table / tables["control"] for name, table in tables.items() if name != "control"}


def shipped(grid: str, conditions: Iterable[str] = ()) -> list[Record]:
    """Return the records in ``results`` of the cells of a grid of the book, those with a policy for ρ left out.

    Args:
        grid: Its name in ``book/grids``.
        conditions: As of `purify.grid.select`: "attack=BadWord".
    """
    root = project_root()
    cells = select(load_grid(root / "book" / "grids" / f"{grid}.yml"), conditions)
    wanted = [cell for cell in cells if cell.policy is None]
    found = records_of(wanted, Store(str(root / ".purify"), (root / "results",)))
    if len(found) < len(wanted):
        log.warning("%d of the %d cells of the grid '%s' are not shipped", len(wanted) - len(found), len(wanted), grid)
    return found
