"""Tables from records: one tidy frame, the choice of ρ, and the summary over seeds."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from purify.errors import PurifyError
from purify.grid.spec import Cell, restore
from purify.grid.store import scores_from_json
from purify.home import BUNDLED
from purify.metrics import mean_interval
from purify.registry import Named
from purify.selection import choose_reserve

ONE_SUSPECT = ["task", "plm", "train", "attack", "seed", "clean_per_class"]
"""The columns that together name a suspect and the clean set that it is defended with."""

SCORES = ("acc", "asr", "bacc", "validation")
CONTROL = "clean control"
AS_RECEIVED = "as received"


def label(named: Named, *, but: str = "") -> str:
    """Return a name with the parameters that are not the default, less one of them."""
    return ", ".join([named.name, *(f"{key} = {value}" for key, value in named.parameters if key != but)])


def as_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record: suspect, defense, reserve, and each score in percent with n and interval.

    Where a policy chose the reserve ratio, ``max_drop`` is its ΔACC, else it is NaN. Hyperparameters other than
    the reserve ratio are part of the defense's name, parameters that differ from the defaults part of the attack's.

    Raises:
        PurifyError: there is no record.
    """
    rows = []
    for record in records:
        cell = restore(Cell, record["spec"])
        suspect = cell.suspect
        name = CONTROL if suspect.control else AS_RECEIVED
        defense = cell.build_defense()
        if defense:
            name = label(cell.defense, but="reserve")
        row = {
            "task": suspect.task,
            "plm": _plm(record),
            "train": suspect.train,
            "attack": label(suspect.attack),
            "seed": suspect.seed,
            "clean_per_class": cell.clean_per_class,
            "defense": name,
            "reserve": record["chosen"]["reserve"] if cell.policy else getattr(defense, "reserve", np.nan),
            "max_drop": cell.policy.max_drop if cell.policy else np.nan,
            "seconds": record["seconds"],
            "fisher_seconds": record.get("stages", {}).get("fisher") or 0.0,
        }
        scores = scores_from_json(record["scores"])
        row["validation_asr"] = scores.validation_asr.percent if scores.validation_asr else np.nan
        for score in SCORES:
            proportion = getattr(scores, score)
            low, high = proportion.interval()
            row |= {score: proportion.percent, f"{score}_n": proportion.n, f"{score}_low": low, f"{score}_high": high}
        rows.append(row)
    if not rows:
        raise PurifyError("there is no record to tabulate: run the grid first")
    return pd.DataFrame(rows)


def _plm(record: Mapping[str, Any]) -> str:
    """The clean PLM of a record, with its origin where that must not be forgotten."""
    name, origin = record["spec"]["suspect"].get("plm", BUNDLED), record.get("inputs", {}).get("plm origin")
    return f"{name} ({origin})" if origin else name


def at_drop(frame: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """Return one row per suspect, clean set and defense: the reserve ratio chosen at ΔACC ≤ ``max_drop``.

    The choice looks at clean validation accuracy alone (`purify.selection.choose_reserve`), against that
    of the suspect as received. ``within`` says whether any ratio met the threshold. The suspect as received
    and the clean control stand in the result unchanged.

    Raises:
        PurifyError: a suspect's own record, the reference, is not in the frame.
    """
    return at_each_drop(frame, [max_drop])[0]


def at_each_drop(frame: pd.DataFrame, drops: Sequence[float]) -> list[pd.DataFrame]:
    """Return `at_drop` at each of several ΔACC; that costs little more than one."""
    frame = frame[frame["max_drop"].isna()].reset_index(drop=True)
    received = frame[frame["defense"] == AS_RECEIVED].set_index(ONE_SUSPECT)["validation"].to_dict()
    chosen: list[list[tuple[int, bool]]] = [[] for _ in drops]  # row of the frame, within
    for (*key, defense), group in frame.groupby([*ONE_SUSPECT, "defense"], sort=False):
        if defense not in (AS_RECEIVED, CONTROL) and tuple(key) not in received:
            named = ", ".join(f"{column} {value}" for column, value in zip(ONE_SUSPECT, key, strict=True))
            raise PurifyError(f"the suspect of {named} has no record of its own: run the whole grid")
        reserves = list(group["reserve"].fillna(1.0))
        accuracy = dict(zip(reserves, group["validation"], strict=True))
        for rows, max_drop in zip(chosen, drops, strict=True):
            if defense in (AS_RECEIVED, CONTROL):
                rows.append((group.index[0], True))
            else:
                choice = choose_reserve(accuracy, received[tuple(key)], max_drop)
                rows.append((group.index[reserves.index(choice.reserve)], choice.within))
    return [
        frame.iloc[[row for row, _ in rows]].assign(within=[within for _, within in rows]).reset_index(drop=True)
        for rows in chosen
    ]


def summary(frame: pd.DataFrame, drops: Iterable[float] = (2, 5)) -> pd.DataFrame:
    """Return mean and 95 % interval of ACC, ASR and BACC for each defense and ΔACC.

    With several seeds the interval is the t interval over seeds; with one it is the Wilson interval of
    the test rows. ``met`` counts the seeds whose threshold could be met.
    """
    rows = []
    for drop in drops:
        for defense, group in at_drop(frame, drop).groupby("defense", sort=False):
            row: dict[str, Any] = {
                "ΔACC": drop,
                "defense": defense,
                "seeds": len(group),
                "met": int(group["within"].sum()),
            }
            row["ρ"] = ", ".join(filter(None, map(_ratio, group["reserve"])))
            for score in ("acc", "asr", "bacc"):
                mean, low, high = mean_interval(list(group[score]))
                if len(group) == 1:
                    low, high = group[f"{score}_low"].iloc[0], group[f"{score}_high"].iloc[0]
                row |= {score: mean, f"{score}_low": low, f"{score}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.1f}" if np.isnan(low) else f"{value:.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]"


def _scores(frame: pd.DataFrame, scores: Iterable[str]) -> dict[str, list[str]]:
    columns = {}
    for score in scores:
        values = zip(frame[score], frame[f"{score}_low"], frame[f"{score}_high"], strict=True)
        columns[score.upper()] = [_cell(*triple) for triple in values]
    return columns


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what `as_frame` holds as text for reading: scores in percent with 95 % Wilson intervals."""
    table = pd.DataFrame({"": frame["defense"], "ρ": [_ratio(value) for value in frame["reserve"]]})
    for column, cells in _scores(frame, ("acc", "asr", "bacc")).items():
        table[f"{column} (n = {frame[f'{column.lower()}_n'].iloc[0]})"] = cells
    return table.set_index("").rename_axis(None)


def summary_table(frame: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """Return what `summary` holds for one ΔACC as text for reading."""
    frame = frame[frame["ΔACC"] == max_drop]
    met = [f"{met} of {seeds}" for met, seeds in zip(frame["met"], frame["seeds"], strict=True)]
    table = pd.DataFrame({"": frame["defense"], "ρ": frame["ρ"], "met": met})
    return table.assign(**_scores(frame, ("acc", "asr", "bacc"))).set_index("").rename_axis(None)


def paired_table(frame: pd.DataFrame, method: str, drops: Iterable[float]) -> pd.DataFrame:
    """Compare a method with every other defense within seeds, as text for reading.

    Differences are method minus other, in points, with the mean and 95 % t interval over seeds.

    Args:
        frame: Of `as_frame`, with several seeds.
        method: Name of the defense.
        drops: Values of ΔACC at which all are compared.
    """
    rows = []
    for drop in drops:
        chosen = at_drop(frame, drop)
        own = chosen[chosen["defense"] == method].set_index("seed")[["acc", "asr"]]
        for other, group in chosen.groupby("defense", sort=False):
            if other in (method, AS_RECEIVED, CONTROL):
                continue
            difference = (own - group.set_index("seed")[["acc", "asr"]]).dropna()
            row = {"ΔACC ≤": f"{drop:g}", "compared with": str(other)}
            for score in ("asr", "acc"):
                mean, low, high = mean_interval(list(difference[score]))
                interval = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
                row[f"difference in {score.upper()}"] = f"{mean:+.1f}{interval}"
            row["lower ASR in"] = f"{int((difference['asr'] < 0).sum())} of {len(difference)} seeds"
            rows.append(row)
    return headed(rows, "ΔACC ≤")


def headed(rows: Iterable[Mapping[str, Any]], column: str) -> pd.DataFrame:
    """Return rows with a column as their index, whose name stands in line with those of the other columns."""
    return pd.DataFrame(list(rows)).set_index(column).rename_axis(index=None, columns=column)


def text_table(rows: Iterable[dict[str, str]], *marked: str) -> Any:
    """Return rows of text as a table in which the words ``marked`` stand out; everything is escaped."""
    frame = pd.DataFrame(list(rows))
    words = "|".join(re.escape(html.escape(word)) for word in marked) or r"\b\B"  # which is nowhere
    word = re.compile(rf"(?<!\S)(?:{words})(?!\S)")
    shown = frame.map(lambda text: word.sub(lambda found: f"<mark>{found[0]}</mark>", html.escape(text)))
    from IPython.display import HTML  # noqa: PLC0415  (notebooks only)

    return HTML(shown.to_html(index=False, escape=False, classes="text", border=0).replace("dataframe ", ""))


def environments(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return on what machine, with which versions and when the records were made, one row per environment."""
    rows = []
    for record in records:
        environment = record["environment"]
        rows.append(
            {
                "device": environment["device"],
                "threads": environment["threads"],
                "precision": environment["precision"],
                "python": environment["python"],
                **environment["packages"],
                "git revision": environment["revision"],
                "day": environment["finished"][:10],
                "peak memory (MiB)": environment["peak_memory_mib"],
            }
        )
    frame = pd.DataFrame(list(rows))
    keys = [column for column in frame if column != "peak memory (MiB)"]
    groups = frame.groupby(keys, sort=False)["peak memory (MiB)"].agg(["size", "max"]).reset_index()
    groups = groups.rename(columns={"size": "cells", "max": "peak memory (MiB)"}).T
    return groups.rename(columns=lambda number: f"environment {number + 1}")


def _ratio(value: float) -> str:
    return "" if np.isnan(value) else f"{value:g}"
