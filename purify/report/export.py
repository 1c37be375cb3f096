"""Records and tables for other programs: CSV, Parquet, LaTeX."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from purify.errors import PurifyError
from purify.grid.folder import write_whole
from purify.grid.spec import Cell, fingerprint, restore
from purify.grid.store import Record, Store, records_of
from purify.metrics import Proportion
from purify.report.protocol import at_drops, complete, main_table
from purify.report.tables import AS_RECEIVED, CONTROL

MEASURED = ("purify_seconds", "evaluate_seconds", "peak_memory_mib", "finished")
"""The columns that differ from one run of a cell to the next; all others are the same on one machine."""


def export_records(store: Store, cells: Sequence[Cell] | None, output: Path) -> int:
    """Write the records of some cells, or all, as CSV or Parquet, one row each, and return how many.

    What was measured without scores is left out. Rows are in the order of their hashes, columns always the same: what
    was run, the scores in percent with their counts, and how, where and when they were made.

    Raises:
        PurifyError: another file type, or no record.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise PurifyError(f"{output} must end in .csv or .parquet")
    found = [one for one in (store.all_records() if cells is None else records_of(cells, store)) if "scores" in one]
    if not found:
        raise PurifyError("there is no record to export: run the grid first")
    frame = pd.DataFrame([_row(record) for record in found]).sort_values("hash", ignore_index=True)
    csv = output.suffix == ".csv"
    write_whole(output, lambda path: frame.to_csv(path, index=False) if csv else frame.to_parquet(path, index=False))
    return len(frame)


def _row(record: Record) -> dict[str, Any]:
    cell = restore(Cell, record["spec"])
    suspect, defense, chosen = cell.suspect, cell.build_defense(), record.get("chosen", {})
    environment, stages = record["environment"], record.get("stages", {})
    row = {
        "hash": fingerprint(cell),
        "task": suspect.task,
        "plm": suspect.plm,
        "attack": suspect.attack.name,
        "attack_parameters": _json(suspect.attack.parameters),
        "control": suspect.control,
        "seed": suspect.seed,
        "train": suspect.train,
        "epochs": suspect.training.epochs,
        "clean_per_class": cell.clean_per_class,
        "defense": cell.defense.name,
        "defense_parameters": _json(cell.defense.parameters),
        "reserve": chosen.get("reserve", getattr(defense, "reserve", None)),
        "max_drop": cell.policy.max_drop if cell.policy else None,
        "within": chosen.get("within"),
        "tuning_epochs": cell.tuning.epochs,
    }
    for name, counts in sorted(record["scores"].items()):
        score = Proportion(**counts)
        low, high = score.interval()
        row |= {
            name: score.percent,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_k": score.k,
            f"{name}_n": score.n,
        }
    return row | {
        "source": record["inputs"]["source"],
        "rows": record["inputs"].get("rows"),
        "device": environment["device"],
        "threads": environment["threads"],
        "precision": environment["precision"],
        "packages": _json({"python": environment["python"], **environment["packages"]}),
        "revision": environment["revision"],
        "purify_seconds": record["seconds"],
        "evaluate_seconds": stages.get("evaluate"),
        "peak_memory_mib": environment["peak_memory_mib"],
        "finished": environment["finished"],
    }


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value if isinstance(value, Mapping) else dict(value), sort_keys=True, ensure_ascii=False)


def latex_table(frame: pd.DataFrame, drop: float, clean: int, score: str) -> str:
    """Return the main table (`purify.report.protocol.main_table`) as LaTeX, with a caption that says what it shows.

    Args:
        frame: Of `purify.report.protocol.tables_frame`.
        drop: ΔACC.
        clean: Rows of the clean set in all.
        score: "asr", "acc" or "bacc".

    Raises:
        PurifyError: another score, or no record with a clean set of that size.
    """
    if score not in ("asr", "acc", "bacc"):
        raise PurifyError(f"the score must be asr, acc or bacc, not '{score}'")
    part = frame[frame["clean"] == clean]
    methods = set(part["defense"]) - {AS_RECEIVED, CONTROL}
    part = complete(part, methods)
    if part.empty or not methods:
        sizes = ", ".join(map(str, sorted(frame["clean"].unique())))
        raise PurifyError(f"no suspect has records of all defenses with {clean} clean rows; there are sizes {sizes}")
    plms = ", ".join(sorted(part["plm"].unique()))
    caption = (
        f"{score.upper()} in percent at an accepted accuracy drop of {drop:g} points with {clean} clean examples; "
        f"clean model: {plms}. Means over seeds; last row: mean over draws (a task with a seed)."
    )
    table = main_table(at_drops(part, [drop]), score)
    return table.to_latex(caption=caption, label=f"tab:{score}-{drop:g}-{clean}", escape=True, multirow=False)
