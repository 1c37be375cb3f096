"""The paper's protocol over many suspects: choices at ΔACC, paired tests, and what an oracle could do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from purify.errors import PurifyError
from purify.grid.spec import Cell, fingerprint, restore
from purify.metrics import bootstrap_interval, sign_flip_p
from purify.report.effects import shipped
from purify.report.tables import AS_RECEIVED, CONTROL, ONE_SUSPECT, as_frame, at_drop
from purify.tasks import TASKS

DROPS = (1.0, 2.0, 5.0, 10.0)
"""The paper's thresholds ΔACC, in points."""

UNIT = [name for name in ONE_SUSPECT if name != "clean_per_class"]
"""The columns that name a suspect: several clean sets for one suspect are no independent evidence."""


def tables_frame(grid: str = "tables", conditions: Iterable[str] = ()) -> pd.DataFrame:
    """Return the shipped records of a grid as `as_frame`, with what the tables are sorted by.

    Further columns: ``clean``, the rows of the clean set in all; ``kind``, "backdoor" or "bias"; ``form``, "single
    sentence" or "sentence pair"; ``peak``, memory in MiB; ``hash``, the
    name of the record.

    Args:
        grid: Its name in ``book/grids``.
        conditions: As of `purify.grid.select`.

    Raises:
        PurifyError: no record is shipped.
    """
    records = shipped(grid, conditions)
    frame = as_frame(records)
    frame["hash"] = [fingerprint(restore(Cell, record["spec"])) for record in records]
    frame["peak"] = [record["environment"]["peak_memory_mib"] for record in records]
    frame["clean"] = [
        per * len(TASKS[task].labels) for per, task in zip(frame["clean_per_class"], frame["task"], strict=True)
    ]
    frame["kind"] = np.where(frame["attack"].str.startswith("Bias"), "bias", "backdoor")
    frame["form"] = ["sentence pair" if TASKS[task].is_pair else "single sentence" for task in frame["task"]]
    return frame


def complete(frame: pd.DataFrame, needed: Iterable[str]) -> pd.DataFrame:
    """Return the rows of the suspects and clean sets for which every method of ``needed`` has a record.

    So no method is judged on suspects that another one was spared.
    """
    needed = {AS_RECEIVED, *needed}
    has = frame.groupby(ONE_SUSPECT)["defense"].transform(lambda names: needed <= set(names))
    return frame[has.astype(bool)]


def at_drops(frame: pd.DataFrame, drops: Iterable[float] = DROPS) -> pd.DataFrame:
    """Return what `purify.report.tables.at_drop` chooses at each threshold, with its ``ΔACC``; defenses alone."""
    if frame.empty:
        return frame.assign(ΔACC=[], within=[])
    parts = [at_drop(frame, drop).assign(ΔACC=drop) for drop in drops]
    chosen = pd.concat(parts, ignore_index=True)
    return chosen[~chosen["defense"].isin([AS_RECEIVED, CONTROL])]


def choices(frame: pd.DataFrame, drops: Iterable[float] = DROPS) -> pd.DataFrame:
    """Return what the tables are made of: every choice with its scores, in percent, and the name of its record."""
    scores = ["acc", "asr", "bacc", "validation"]
    return at_drops(frame, drops)[[*UNIT, "clean", "defense", "ΔACC", "reserve", "within", *scores, "hash"]]


def oracle_at(frame: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """Return one row per suspect, clean set and defense: the setting that somebody would choose who saw the attack.

    That is the lowest test ASR among the settings whose *test* accuracy is within ``max_drop`` of the suspect's as
    received; without any such, the most accurate one. **No defender can do this**: it says how much is lost by the
    choice of ρ, and how much by the method.
    """
    received = frame[frame["defense"] == AS_RECEIVED].set_index(ONE_SUSPECT)["acc"].to_dict()
    defended = frame[frame["max_drop"].isna() & ~frame["defense"].isin([AS_RECEIVED, CONTROL])]
    rows = []
    for (*key, _), group in defended.groupby([*ONE_SUSPECT, "defense"], sort=False):
        allowed = group[group["acc"] >= received[tuple(key)] - max_drop]
        best = allowed.sort_values("asr") if len(allowed) else group.sort_values("acc", ascending=False)
        rows.append(best.iloc[0].to_dict() | {"within": bool(len(allowed)), "ΔACC": max_drop})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Difference:
    """A method against another on the same suspects: method minus other, in points; negative favours the method.

    Attributes:
        n: Suspects; a suspect's clean sets are averaged first.
        mean: Mean difference of the score.
        low: Of its 95 % bootstrap interval over suspects.
        high: The same.
        p: Of the sign-flip test.
        wins: Suspects on which the method's score is the lower one.
        ties: Suspects on which both are equal.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    wins: int
    ties: int


def difference(chosen: pd.DataFrame, method: str, other: str, score: str = "asr") -> Difference:
    """Compare two methods at their chosen settings.

    Args:
        chosen: Of `at_drops` or `oracle_at`, at one or several ΔACC, which are averaged within a suspect.
        method: A defense of the frame.
        other: Another one.
        score: "asr", or "acc" or "bacc", for which positive favours the method.
    """
    sides = [chosen[chosen["defense"] == name].groupby(UNIT)[score].mean() for name in (method, other)]
    values = (sides[0] - sides[1]).dropna()
    if values.empty:
        return Difference(0, np.nan, np.nan, np.nan, np.nan, 0, 0)
    mean, low, high = bootstrap_interval(list(values))
    return Difference(
        len(values), mean, low, high, sign_flip_p(list(values)), int((values < 0).sum()), int((values == 0).sum())
    )


def differences_table(chosen: pd.DataFrame, method: str, others: Iterable[str]) -> pd.DataFrame:
    """Return `difference` in ASR of a method and several others at each ΔACC, as text for reading."""
    rows = []
    for drop, part in chosen.groupby("ΔACC"):
        for other in others:
            found = difference(part, method, other)
            if found.n:
                rows.append(
                    {
                        "ΔACC ≤": f"{drop:g}",
                        "compared with": other,
                        "difference in ASR": signed(found),
                        "p": "" if np.isnan(found.p) else f"{found.p:.3f}",
                        "lower on": f"{found.wins} of {found.n}" + (f", {found.ties} equal" if found.ties else ""),
                    }
                )
    if not rows:
        raise PurifyError(f"no suspect has records of {method} and another of these methods: run the grid")
    return pd.DataFrame(rows).set_index("ΔACC ≤").rename_axis(None)


def signed(found: Difference) -> str:
    """Return mean and interval of a difference, with their signs."""
    interval = "" if np.isnan(found.low) else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}{interval}"


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many suspects there are, by task and size of the clean set."""
    suspects = frame.drop_duplicates([*UNIT, "clean"])
    return pd.crosstab(suspects["task"], suspects["clean"]).rename_axis(None).rename_axis("clean examples", axis=1)


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return median seconds of one run of each method, its Fisher included, and the largest peak memory in MiB."""
    defended = frame[~frame["defense"].isin([AS_RECEIVED, CONTROL])]
    grouped = defended.assign(seconds=defended["seconds"] + defended["fisher_seconds"]).groupby("defense", sort=False)
    table = pd.DataFrame(
        {"seconds (median)": grouped["seconds"].median().round(1), "peak (MiB)": grouped["peak"].max()}
    )
    return table.assign(runs=grouped.size()).rename_axis(None)


def main_table(chosen: pd.DataFrame, score: str = "asr") -> pd.DataFrame:
    """Return a score by task, attack and method: the mean over seeds, and below them over suspects with its interval.

    Args:
        chosen: Of `at_drops` at one ΔACC, for one size of the clean set.
        score: "asr", "acc" or "bacc".
    """
    means = chosen.pivot_table(index=["task", "attack"], columns="defense", values=score, sort=False, observed=True)
    table = means.map("{:.1f}".format)
    table["seeds"] = chosen.groupby(["task", "attack"])["seed"].nunique().astype(str)
    table.loc[("all", ""), :] = pd.Series(_intervals(chosen, ["defense"], score))
    return table.fillna("").rename_axis(None, axis=1)


def by_size(chosen: pd.DataFrame, score: str = "asr") -> pd.DataFrame:
    """Return the mean of a score over suspects with its interval, by size of the clean set and method."""
    table = pd.Series(_intervals(chosen, ["clean", "defense"], score)).unstack()
    table["suspects"] = chosen.drop_duplicates([*UNIT, "clean"]).groupby("clean").size().astype(str)
    return table.fillna("").sort_index()


def _intervals(chosen: pd.DataFrame, by: list[str], score: str) -> dict[Any, str]:
    return {key if len(by) > 1 else key[0]: interval(list(part[score])) for key, part in chosen.groupby(by, sort=False)}


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % bootstrap interval as text."""
    mean, low, high = bootstrap_interval(list(values))
    return f"{mean:.1f}" if np.isnan(low) else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def repeated(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return what came out where the same suspect, defense and validation rows were run on two machines.

    Records are the same in this sense if their specifications differ in the number of test rows alone; the scores are
    those of the validation rows, which both share. One row per pair, with both scores and both machines.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        cell = restore(Cell, record["spec"])
        machine = f"{record['environment']['device']}, {record['environment']['precision']}"
        found.setdefault(fingerprint(replace(cell, test=1)), {}).setdefault(machine, record)
    rows = []
    for machines in found.values():
        if len(machines) < 2:
            continue
        (one, first), (other, second) = list(machines.items())[:2]
        frames = as_frame([first, second])
        cell = restore(Cell, first["spec"])
        row = {"suspect": f"{cell.suspect.task}, {cell.suspect.attack.name}", "defense": frames["defense"][0]}
        row["ρ"] = "" if np.isnan(frames["reserve"][0]) else f"{frames['reserve'][0]:g}"
        for column, score in (("ACC", "validation"), ("ASR", "validation_asr")):
            row |= {f"{column}: {name}": frames[score][k] for k, name in enumerate((one, other))}
        rows.append(row)
    return pd.DataFrame(rows).round(1)


def repeat_command(record: Mapping[str, Any], grid: str = "tables") -> str:
    """Return the command that runs the cell of a record again, into a folder of its own."""
    name = fingerprint(restore(Cell, record["spec"]))
    return f"purify grid run book/grids/{grid}.yml --records again --only hash={name}"
