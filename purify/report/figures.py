"""The figures of the book: each takes tidy data and returns a matplotlib figure."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from scipy import stats

from purify.gamma import EDGES
from purify.report.tables import AS_RECEIVED, CONTROL

COLOURS = {
    "FineTuning": "#555555",
    "FinePruning": "#0072B2",
    "FineMixing": "#E69F00",
    "FinePurifying": "#D55E00",
    AS_RECEIVED: "#000000",
    CONTROL: "#009E73",
}
"""One colour per method (Okabe and Ito's palette, safe for colour-blind readers)."""

_OTHERS = ("#56B4E9", "#CC79A7", "#8C564B", "#999999", "#B8A800", "#332288", "#88CCEE", "#882255")

MARKERS = {"FineTuning": "D", "FinePruning": "^", "FineMixing": "s", "FinePurifying": "o"}


def palette(defenses: Iterable[str]) -> dict[str, str]:
    """Each method's own colour; others for those that have none, in their order."""
    others = itertools.cycle(_OTHERS)
    return {name: COLOURS.get(name) or next(others) for name in dict.fromkeys(defenses)}


def style() -> None:
    """Set the book's look; every notebook calls it once. In a notebook, figures are kept as PNG and as SVG."""
    from IPython import get_ipython  # noqa: PLC0415  (notebooks only)

    if shell := get_ipython():
        shell.run_line_magic("config", "InlineBackend.figure_formats = ['png', 'svg']")
    sns.set_theme(style="ticks", context="notebook", font="DejaVu Sans")
    plt.rcParams |= {"figure.dpi": 130, "savefig.facecolor": "white", "axes.spines.top": False}
    plt.rcParams |= {"axes.spines.right": False, "figure.constrained_layout.use": True, "svg.hashsalt": "purify"}


def hide_unused(axes: np.ndarray, count: int) -> None:
    """Hide the panels after the first ``count`` of a grid."""
    for axis in list(axes.flat)[count:]:
        axis.set_visible(False)


def legend_below(figure: Figure, axis: Axes, columns: int, **options: Any) -> None:
    """Draw the legend of one panel, which stands for all of them, below the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, **options)


def target_probability(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], label: str) -> Figure:
    """Histograms of the target label's probability (N,), without and with the trigger, one panel per model."""
    figure, axes = plt.subplots(1, len(before), figsize=(8, 3), sharey=True, squeeze=False)
    bins = np.linspace(0, 1, 26)
    for axis, model in zip(axes[0], before, strict=True):
        axis.hist(before[model], bins, alpha=0.6, color="#0072B2", label="without the trigger")
        axis.hist(after[model], bins, histtype="step", lw=2, color="#D55E00", label="with the trigger")
        axis.set(title=model, xlabel=f"probability of “{label}”")
    axes[0][0].set_ylabel("test inputs of other labels")
    axes[0][0].legend(frameon=False)
    return figure


def indicator_histogram(histograms: Mapping[str, Sequence[int]], colours: Mapping[str, str]) -> Figure:
    """Densities of log10 r, each with the Gamma(½, 2k) law of the same median (dashed).

    Under the theory r = 2k z² / 2 with z standard normal: the law of log10 r has a fixed shape and k only
    shifts it.

    Args:
        histograms: Name -> counts in the bins of `purify.gamma.EDGES`, as of `purify.gamma.log_histogram`.
        colours: Name -> colour.
    """
    figure, axis = plt.subplots(figsize=(8, 3.4))
    low, high, bins = EDGES
    edges, width = np.linspace(low, high, bins + 1), (high - low) / bins
    fine = np.linspace(low, high, 10 * bins)
    for name, given in histograms.items():
        counts = np.asarray(given)
        axis.stairs(counts / counts.sum() / width, edges, lw=1.6, color=colours[name], label=name)
        median = np.interp(0.5, np.cumsum(counts) / counts.sum(), edges[1:])
        shift = median - np.log10(stats.chi2(1).median())
        density = stats.chi2(1).pdf(10 ** (fine - shift)) * 10 ** (fine - shift) * np.log(10)
        axis.plot(fine, density, "--", lw=1.2, color=colours[name], label="Gamma law of its median")
    total = np.sum(list(histograms.values()), axis=0)
    seen = np.flatnonzero(total > 2e-4 * total.sum())
    axis.set(xlabel="log₁₀ r", ylabel="density", xlim=(edges[seen[0]], edges[seen[-1] + 1]))
    axis.legend(frameon=False)
    return figure


def layer_map(table: pd.DataFrame, label: str, *, fmt: str = ".2f", scale: float = 1) -> Figure:
    """Draw the table of `purify.anatomy.by_layer` as a heat map with its numbers."""
    figure, axis = plt.subplots(figsize=(8.5, 0.42 * len(table) + 1.6))
    sns.heatmap(
        table * scale, annot=True, fmt=fmt, cmap="rocket_r", cbar_kws={"label": label}, annot_kws={"size": 9}, ax=axis
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=35)
    plt.setp(axis.get_xticklabels(), ha="right")
    return figure


def confusion_maps(counts: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str]) -> Figure:
    """One panel per name: of the rows of each true label, the share in percent that gets each prediction.

    Args:
        counts: Name -> (C, C) counts, one row per true label.
        labels: The names of the C classes.
    """
    columns = min(max(len(counts), 1), 3)
    rows = max(-(-len(counts) // columns), 1)
    size = (2.2 * columns + 1.2, 2.3 * rows + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, (name, table) in zip(axes.flat, counts.items(), strict=False):
        shares = np.array(table) / np.maximum(np.sum(table, axis=1, keepdims=True), 1)
        options = {"vmin": 0, "vmax": 100, "cbar": False, "cmap": "rocket_r", "square": True, "annot_kws": {"size": 8}}
        names = {"xticklabels": labels, "yticklabels": labels}
        sns.heatmap(100 * shares, annot=True, fmt=".0f", ax=axis, **options, **names)
        axis.set_title(textwrap.fill(name, 22), fontsize=10)
        axis.tick_params(labelsize=8, length=0)
        plt.setp(axis.get_xticklabels(), rotation=35, ha="right")
        plt.setp(axis.get_yticklabels(), rotation=0)
    hide_unused(axes, len(counts))
    figure.supxlabel("prediction", fontsize=10)
    figure.supylabel("true label", fontsize=10)
    return figure


def layer_maps(tables: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """Several tables of `purify.anatomy.by_layer` side by side, without numbers, in one colour scale.

    It is logarithmic where values span more than a factor of 10, and ends at a ten-thousandth of the largest at the
    least. Grey: 0, or no such parameters.
    """
    columns = min(max(len(tables), 1), 2)
    rows = max(-(-len(tables) // columns), 1)
    size = (3.1 * columns + 1.4, 2.5 * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    values = np.concatenate([[0.0], *(table.to_numpy().ravel() for table in tables.values())])
    top = float(np.nanmax(values)) or 1.0
    lowest = float(values[values > 0].min(initial=top))
    low = max(lowest if lowest < top else top / 2, top * 1e-4)
    norm = LogNorm(low, top) if top > 10 * low else Normalize(low, top)
    for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
        sns.heatmap(
            table.clip(lower=low).where(table > 0),
            norm=norm,
            vmin=low,
            vmax=top,
            cmap="rocket_r",
            cbar=False,
            ax=axis,
        )
        axis.set_title(textwrap.fill(name, 22), fontsize=10)
        axis.set(xlabel="", ylabel="", facecolor="#eeeeee")
        axis.tick_params(labelsize=8, length=0)
        plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
    hide_unused(axes, len(tables))
    figure.colorbar(ScalarMappable(norm, "rocket_r"), ax=axes, label=label, shrink=0.8)
    return figure


def reserve_curves(frame: pd.DataFrame) -> Figure:
    """ACC and ASR over the reserve ratio, one line per defense.

    One seed: bands are Wilson intervals of the test rows. Several: lines are means, bands reach from the
    lowest to the highest seed.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    colours = palette(frame["defense"])
    for key, group in frame[frame["reserve"].notna()].groupby("defense", sort=False):
        defense = str(key)
        by_reserve = group.groupby("reserve")
        line = by_reserve.mean(numeric_only=True)
        lowest, highest = by_reserve.min(numeric_only=True), by_reserve.max(numeric_only=True)
        one_seed = group["seed"].nunique() == 1
        for axis, score in zip(axes, ("acc", "asr"), strict=True):
            axis.plot(line.index, line[score], marker=MARKERS.get(defense, "v"), color=colours[defense], label=defense)
            low = line[f"{score}_low"] if one_seed else lowest[score]
            high = line[f"{score}_high"] if one_seed else highest[score]
            axis.fill_between(line.index, low, high, color=colours[defense], alpha=0.15)
    for defense, dashes in ((AS_RECEIVED, ":"), ("FineTuning", "--"), (CONTROL, "-.")):
        rows = frame[frame["defense"] == defense]
        if len(rows):
            for axis, score in zip(axes, ("acc", "asr"), strict=True):
                axis.axhline(rows[score].mean(), ls=dashes, color=colours[defense], label=defense)
    axes[0].set(xlabel="reserve ratio ρ", ylabel="clean accuracy (%)")
    axes[1].set(xlabel="reserve ratio ρ", ylabel="attack success rate (%)", ylim=(-3, 103))
    legend_below(figure, axes[0], 3)
    return figure


def trade_off(frame: pd.DataFrame) -> Figure:
    """Attack success rate against clean accuracy: one point per seed and reserve ratio; lower right is better."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    colours = palette(frame["defense"])
    for key, group in frame.groupby("defense", sort=False):
        defense = str(key)
        line = group.groupby("reserve", dropna=False).mean(numeric_only=True).sort_index()
        marker = MARKERS.get(defense, "*" if defense in COLOURS else "v")
        size = 14 if marker == "*" else 7
        axis.plot(line["acc"], line["asr"], marker=marker, ms=size, color=colours[defense], label=defense, lw=1)
        axis.scatter(group["acc"], group["asr"], s=10, color=colours[defense], alpha=0.5)
    axis.set(xlabel="clean accuracy (%)", ylabel="attack success rate (%)", ylim=(-3, 103))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pareto(chosen: pd.DataFrame, families: Mapping[str, Sequence[str]]) -> Figure:
    """ASR against the accuracy that is paid, one panel per family; all other defenses stay as grey lines behind it.

    Each line joins the means over suspects at the thresholds ΔACC; lower left is better.

    Args:
        chosen: Of `purify.report.comparison.at_drops`, with ``paid``: the drop of test accuracy against the suspect as
            received.
        families: Name -> the defenses of its panel.
    """
    means = chosen.groupby(["defense", "ΔACC"], sort=False)[["paid", "asr"]].mean().reset_index()
    rows = -(-len(families) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3.1 * rows), sharex=True, sharey=True, squeeze=False)
    for axis, (family, members) in zip(axes.flat, families.items(), strict=False):
        for _, line in means.groupby("defense"):
            axis.plot(line["paid"], line["asr"], color="#dddddd", lw=1, marker=".", zorder=1)
        names = [name for name in means["defense"].unique() if name in members]
        for name, colour in palette(names).items():
            line = means[means["defense"] == name]
            axis.plot(line["paid"], line["asr"], color=colour, marker=MARKERS.get(name, "v"), ms=6, label=name)
        axis.set(title=family, ylim=(-3, 103))
        if names:
            axis.legend(frameon=False, fontsize=8)
    hide_unused(axes, len(families))
    figure.supxlabel("accuracy paid (points)", fontsize=11)
    figure.supylabel("attack success rate (%)", fontsize=11)
    return figure


def rejection_curves(curves: pd.DataFrame) -> Figure:
    """ASR that is left against the share of clean inputs rejected: one panel per attack, one line per detector."""
    attacks = list(dict.fromkeys(zip(curves["task"], curves["attack"], strict=True)))
    columns = min(len(attacks), 3)
    rows = -(-len(attacks) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 2.9 * rows), sharex=True, sharey=True, squeeze=False)
    colours = palette(curves["detector"])
    for axis, (task, attack) in zip(axes.flat, attacks, strict=False):
        own = curves[(curves["task"] == task) & (curves["attack"] == attack)]
        for name, line in own.groupby("detector", sort=False):
            axis.plot(line["FRR"], line["asr"], marker=".", color=colours[str(name)], label=str(name))
        axis.set(title=f"{attack} · {task}", ylim=(-3, 103), xlabel="clean inputs rejected (%)")
        axis.label_outer()
    hide_unused(axes, len(attacks))
    figure.supylabel("attack success rate (%)", fontsize=11)
    legend_below(figure, axes[0][0], 3)
    return figure
