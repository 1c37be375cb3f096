"""The paper's protocol over many suspects: choices at ΔACC, paired tests, and what an oracle could do.

What is drawn anew is a *draw*: rows, head, order of training and clean set of one task and seed. The suspects of
several attacks on one draw, and several clean sets, share all of that, and so are averaged before they are compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from purify.errors import PurifyError
from purify.grid.spec import Cell, fingerprint, restore
from purify.metrics import bootstrap_interval, mean_interval, sign_flip_p
from purify.report.effects import shipped
from purify.report.tables import AS_RECEIVED, CONTROL, ONE_SUSPECT, as_frame, at_each_drop, headed
from purify.tasks import TASKS

DROPS = (1.0, 2.0, 5.0, 10.0)
"""The paper's thresholds ΔACC, in points."""

DRAW = ["task", "plm", "train", "seed"]
"""The columns that name a draw, the unit of every comparison."""


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
    records = [record for record in shipped(grid, conditions) if not _defended_control(record)]
    frame = as_frame(records)
    frame["hash"] = [fingerprint(restore(Cell, record["spec"])) for record in records]
    frame["peak"] = [record["environment"]["peak_memory_mib"] for record in records]
    frame["clean"] = [
        per * len(TASKS[task].labels) for per, task in zip(frame["clean_per_class"], frame["task"], strict=True)
    ]
    frame["kind"] = np.where(frame["attack"].str.startswith("Bias"), "bias", "backdoor")
    frame["form"] = ["sentence pair" if TASKS[task].is_pair else "single sentence" for task in frame["task"]]
    return frame


def _defended_control(record: Mapping[str, Any]) -> bool:
    cell = restore(Cell, record["spec"])
    return cell.suspect.control and cell.build_defense() is not None


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
    drops = list(drops)
    parts = [part.assign(ΔACC=drop) for part, drop in zip(at_each_drop(frame, drops), drops, strict=True)]
    chosen = pd.concat(parts, ignore_index=True)
    return chosen[~chosen["defense"].isin([AS_RECEIVED, CONTROL])]


def choices(frame: pd.DataFrame, drops: Iterable[float] = DROPS) -> pd.DataFrame:
    """Return what the tables are made of: every choice with its scores, in percent, and the name of its record."""
    scores = ["acc", "asr", "bacc", "validation"]
    return at_drops(frame, drops)[[*DRAW, "attack", "clean", "defense", "ΔACC", "reserve", "within", *scores, "hash"]]


def oracle_at(frame: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """Return one row per suspect, clean set and defense: the setting that somebody would choose who saw the attack.

    That is the lowest test ASR among the settings whose *test* accuracy is within ``max_drop`` of the suspect's as
    received; without any such, the most accurate one. **No defender can do this**: it says how much is lost by the
    choice of ρ, and how much by the method. It keeps to test accuracy and a defender to that of validation rows, so
    that a defender may end lower where the two disagree.

    Raises:
        PurifyError: a suspect's own record, the reference, is not in the frame.
    """
    received = frame[frame["defense"] == AS_RECEIVED].set_index(ONE_SUSPECT)["acc"].to_dict()
    defended = frame[frame["max_drop"].isna() & ~frame["defense"].isin([AS_RECEIVED, CONTROL])]
    rows = []
    for (*key, _), group in defended.groupby([*ONE_SUSPECT, "defense"], sort=False):
        if tuple(key) not in received:
            raise PurifyError(f"a suspect ({', '.join(map(str, key))}) has no record of its own: run the whole grid")
        allowed = group[group["acc"] >= received[tuple(key)] - max_drop]
        best = allowed.sort_values("asr") if len(allowed) else group.sort_values("acc", ascending=False)
        rows.append(best.iloc[0].to_dict() | {"within": bool(len(allowed)), "ΔACC": max_drop})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Difference:
    """A method against another on the same suspects: method minus other, in points; negative favours the method.

    Attributes:
        n: Draws (`DRAW`); a draw's attacks and clean sets are averaged first.
        mean: Mean difference of the score over draws.
        low: Of its 95 % t interval over draws.
        high: The same.
        bootstrap: The percentile bootstrap interval over draws, which is too narrow for so few.
        p: Of the sign-flip test over draws.
        suspects: Pairs of a suspect and a clean set.
        wins: Those on which the method's score is the lower one.
    """

    n: int
    mean: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    p: float
    suspects: int
    wins: int


def difference(chosen: pd.DataFrame, method: str, other: str, score: str = "asr") -> Difference:
    """Compare two methods at their chosen settings.

    Args:
        chosen: Of `at_drops` or `oracle_at`, at one or several ΔACC. Pairs are of one suspect, clean set and ΔACC.
        method: A defense of the frame.
        other: Another one.
        score: "asr", or "acc" or "bacc", for which positive favours the method.
    """
    sides = (chosen[chosen["defense"] == name].set_index([*ONE_SUSPECT, "ΔACC"])[score] for name in (method, other))
    pairs = next(sides).sub(next(sides)).dropna()
    if pairs.empty:
        nothing = np.nan
        return Difference(0, nothing, nothing, nothing, (nothing, nothing), nothing, 0, 0)
    return of_draws(pairs.groupby(ONE_SUSPECT).mean(), DRAW)


def of_draws(pairs: pd.Series, draw: Sequence[str]) -> Difference:
    """Return mean and intervals of paired differences over draws.

    Args:
        pairs: One difference per pair, indexed by levels that hold those of ``draw``.
        draw: What pairs of one draw have in common; they are averaged first.
    """
    draws = list(pairs.groupby(list(draw)).mean())
    _, *resampled = bootstrap_interval(draws)
    return Difference(
        len(draws),
        *mean_interval(draws),
        (resampled[0], resampled[1]),
        sign_flip_p(draws),
        len(pairs),
        int((pairs < 0).sum()),
    )


def differences_table(chosen: pd.DataFrame, method: str, others: Iterable[str]) -> pd.DataFrame:
    """Return `difference` in ASR of a method and several others at each ΔACC, as text for reading.

    Raises:
        PurifyError: no suspect has records of the method and of one of the others.
    """
    rows = []
    for drop, part in chosen.groupby("ΔACC"):
        for other in others:
            found = difference(part, method, other)
            if found.n:
                low, high = found.bootstrap
                rows.append(
                    {
                        "ΔACC ≤": f"{drop:g}",
                        "compared with": other,
                        "difference in ASR": signed(found),
                        "bootstrap": "" if np.isnan(low) else f"[{low:+.1f}, {high:+.1f}]",
                        "p": "" if np.isnan(found.p) else f"{found.p:.3f}",
                        "lower on": f"{found.wins} of {found.suspects}",
                        "draws": str(found.n),
                    }
                )
    if not rows:
        raise PurifyError(f"no suspect has records of {method} and another of these methods: run the grid")
    return headed(rows, "ΔACC ≤")


def met_table(chosen: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return on how many suspects some ρ met each ΔACC and, in brackets, how often the choice is an end of those tried.

    Where ΔACC is not met, the most accurate setting stands in; at an end, a wider grid might have done better.
    """
    ends = frame.groupby("defense")["reserve"].agg(["min", "max"])
    lowest, highest = (chosen["defense"].map(ends[side]) for side in ("min", "max"))
    ended = chosen.assign(end=(chosen["reserve"] == lowest) | (chosen["reserve"] == highest))
    counts = ended.groupby(["defense", "ΔACC"], sort=False).agg(
        met=("within", "sum"), end=("end", "sum"), n=("end", "size")
    )
    text = pd.Series([f"{row.met} ({row.end})" for row in counts.itertuples()], index=counts.index).unstack()
    text.columns = [f"{drop:g}" for drop in text.columns]
    return text.assign(of=counts["n"].groupby("defense").max()).rename_axis(None).rename_axis("ΔACC ≤", axis=1)


def signed(found: Difference) -> str:
    """Return mean and interval of a difference, with their signs; no difference of shares goes beyond 100."""
    interval = "" if np.isnan(found.low) else f" [{max(found.low, -100):+.1f}, {min(found.high, 100):+.1f}]"
    return f"{found.mean:+.1f}{interval}"


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many suspects there are, by task and size of the clean set."""
    suspects = frame.drop_duplicates([*DRAW, "attack", "clean"])
    return pd.crosstab(suspects["task"], suspects["clean"]).rename_axis(None).rename_axis("clean examples", axis=1)


def main_table(chosen: pd.DataFrame, score: str = "asr") -> pd.DataFrame:
    """Return a score by task, attack and method: the mean over seeds, and in the last row over draws.

    Args:
        chosen: Of `at_drops` at one ΔACC, for one size of the clean set, and of suspects that all methods have.
        score: "asr", "acc" or "bacc".

    Raises:
        PurifyError: there is no choice, or they are of several clean models or training sizes.
    """
    one_kind(chosen)
    means = chosen.pivot_table(index=["task", "attack"], columns="defense", values=score, sort=False, observed=True)
    table = means.map(lambda value: "" if np.isnan(value) else f"{value:.1f}")
    over = chosen.groupby(["defense", *DRAW])[score].mean().groupby("defense").mean()
    table.loc[("all", ""), :] = over.map("{:.1f}".format)
    return table.fillna("").rename_axis(None, axis=1).reset_index().set_index("task").rename_axis(None)


def by_size(chosen: pd.DataFrame, score: str = "asr") -> pd.DataFrame:
    """Return the mean of a score over draws with its interval, by method and size of the clean set; as `main_table`."""
    one_kind(chosen)
    draws = chosen.groupby(["defense", "clean", *DRAW], sort=False)[score].mean()
    means = draws.groupby(["defense", "clean"], sort=False)
    table = pd.Series({key: interval(list(part)) for key, part in means}).unstack()
    table.loc["draws"] = chosen.drop_duplicates([*DRAW, "clean"]).groupby("clean").size().astype(str)
    return table.fillna("").rename_axis("clean examples", axis=1)


def one_kind(chosen: pd.DataFrame) -> None:
    """Refuse, with a `PurifyError`, what is of several clean models or training sizes, or of nothing."""
    if chosen.empty:
        raise PurifyError("there is no choice to tabulate: no record has this ΔACC and clean-set size")
    for column in ("plm", "train"):
        if chosen[column].nunique() > 1:
            values = ", ".join(map(str, chosen[column].unique()))
            raise PurifyError(f"a table is of one {column}, and there are {values}: choose one")


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


def repeat_command(name: str, grid: str = "tables") -> str:
    """Return the command that runs the cell of a record, by its ``hash``, again, into a folder of its own."""
    return f"purify grid run book/grids/{grid}.yml --records again --only hash={name}"
