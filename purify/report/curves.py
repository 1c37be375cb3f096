"""Figures of the result tables: means over suspects with bootstrap intervals, against ΔACC or the clean-set size."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from purify.metrics import bootstrap_interval
from purify.report.figures import MARKERS, palette
from purify.report.protocol import UNIT


def drop_curves(chosen: pd.DataFrame, oracle: pd.DataFrame) -> Figure:
    """ASR against ΔACC, one panel per task: what a defender reaches (solid) and what an oracle would (dotted).

    Args:
        chosen: Of `purify.report.protocol.at_drops`.
        oracle: Of `purify.report.protocol.oracle_at`, several ΔACC joined.
    """
    tasks = list(dict.fromkeys(chosen["task"]))
    figure, axes = _panels(len(tasks), 3.0)
    for axis, task in zip(axes, tasks, strict=True):
        own, seer = chosen[chosen["task"] == task], oracle[oracle["task"] == task]
        _lines(axis, own, "ΔACC")
        for name, line in seer.groupby("defense", sort=False):
            means = line.groupby("ΔACC")["asr"].mean()
            axis.plot(means.index, means, ":", color=palette(chosen["defense"])[str(name)])
        axis.set(title=f"{task}, {len(own[UNIT].drop_duplicates())} suspects")
    return _finished(figure, axes, "accepted drop of clean accuracy, ΔACC (points)")


def size_curves(chosen: pd.DataFrame) -> Figure:
    """ASR against the rows of the clean set, one panel per task.

    Args:
        chosen: Of `purify.report.protocol.at_drops` at one ΔACC, with the column ``clean``.
    """
    tasks = list(dict.fromkeys(chosen["task"]))
    figure, axes = _panels(len(tasks), 3.0)
    for axis, task in zip(axes, tasks, strict=True):
        own = chosen[chosen["task"] == task]
        _lines(axis, own, "clean")
        axis.set(title=f"{task}, {len(own[UNIT].drop_duplicates())} suspects", xscale="log")
        axis.xaxis.set_major_locator(FixedLocator(sorted(chosen["clean"].unique())))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
    return _finished(figure, axes, "clean examples")


def _lines(axis: Axes, rows: pd.DataFrame, x: str) -> None:
    """One line per method through its means over suspects, with their intervals."""
    for name, group in rows.groupby("defense", sort=False):
        method, points = str(name), sorted(group[x].unique())
        found = [bootstrap_interval(list(group[group[x] == point]["asr"])) for point in points]
        means, lows, highs = zip(*found, strict=True)
        colour = palette(rows["defense"])[method]
        axis.plot(points, means, marker=MARKERS.get(method, "v"), ms=5, color=colour, label=method)
        axis.fill_between(points, lows, highs, color=colour, alpha=0.12)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(max(count, 1), 2)
    rows = max(-(-count // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=(9, height * rows), sharex=True, sharey=True, squeeze=False)
    for axis in list(axes.flat)[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat)[:count]


def _finished(figure: Figure, axes: Iterable[Axes], label: str) -> Figure:
    handles: dict[str, Artist] = {}
    for axis in axes:
        axis.set_ylim(-3, 103)
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.supxlabel(label, fontsize=11)
    figure.supylabel("attack success rate (%)", fontsize=11)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    return figure
