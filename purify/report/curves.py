"""Figures of the result tables: means over draws, and each draw as a dot, against ΔACC or the clean-set size."""

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from purify.report.figures import MARKERS, hide_unused, palette
from purify.report.protocol import DRAW


def drop_curves(chosen: pd.DataFrame, oracle: pd.DataFrame) -> Figure:
    """ASR against ΔACC, one panel per task: what a defender reaches (solid) and what an oracle would (dotted).

    Args:
        chosen: Of `purify.report.protocol.at_drops`.
        oracle: Of `purify.report.protocol.oracle_at`, several ΔACC joined.
    """
    tasks, hues = list(dict.fromkeys(chosen["task"])), palette(chosen["defense"])
    figure, axes = _panels(len(tasks), 3.0)
    for axis, task in zip(axes, tasks, strict=True):
        own, seer = chosen[chosen["task"] == task], oracle[oracle["task"] == task]
        _lines(axis, own, "ΔACC", hues)
        for name, line in seer.groupby("defense", sort=False):
            means = line.groupby("ΔACC")["asr"].mean()
            axis.plot(means.index, means, ":", color=hues[str(name)])
        axis.set(title=_title(task, own))
    return _finished(figure, axes, "accepted drop of clean accuracy, ΔACC (points)")


def size_curves(chosen: pd.DataFrame) -> Figure:
    """ASR against the rows of the clean set, one panel per task.

    Args:
        chosen: Of `purify.report.protocol.at_drops` at one ΔACC, with the column ``clean``.
    """
    tasks, hues = list(dict.fromkeys(chosen["task"])), palette(chosen["defense"])
    figure, axes = _panels(len(tasks), 3.0)
    for axis, task in zip(axes, tasks, strict=True):
        own = chosen[chosen["task"] == task]
        _lines(axis, own, "clean", hues)
        axis.set(title=_title(task, own), xscale="log")
        axis.xaxis.set_major_locator(FixedLocator(sorted(chosen["clean"].unique())))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
    return _finished(figure, axes, "clean examples")


def _title(task: str, rows: pd.DataFrame) -> str:
    suspects, draws = (len(rows.drop_duplicates(keys)) for keys in ([*DRAW, "attack"], DRAW))
    return f"{task}: {suspects} suspects, {draws} draws"


def _lines(axis: Axes, rows: pd.DataFrame, x: str, hues: Mapping[str, str]) -> None:
    """One line per method through its means over draws, which are dots."""
    draws = rows.groupby(["defense", x, *DRAW], sort=False)["asr"].mean().reset_index()
    for name, group in draws.groupby("defense", sort=False):
        method, means = str(name), group.groupby(x)["asr"].mean()
        axis.plot(means.index, means, marker=MARKERS.get(method, "v"), ms=5, color=hues[method], label=method)
        axis.scatter(group[x], group["asr"], s=8, color=hues[method], alpha=0.5)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(max(count, 1), 2)
    rows = max(-(-count // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=(9, height * rows), sharex=True, sharey=True, squeeze=False)
    hide_unused(axes, count)
    return figure, list(axes.flat)[:count]


def _finished(figure: Figure, axes: Iterable[Axes], label: str) -> Figure:
    handles: dict[str, Artist] = {}
    for axis in axes:
        axis.set(ylim=(-3, 103), xlabel=label)
        axis.label_outer()
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.supylabel("attack success rate (%)", fontsize=11)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    return figure
