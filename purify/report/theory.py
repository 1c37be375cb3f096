"""Figures and tables of the chapters on the theory: densities, the law of the drift, the law of r, identification."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from purify.errors import PurifyError
from purify.gamma import EDGES, Mixture
from purify.grid.spec import Cell, restore
from purify.identification import adam_spread, f1, precision
from purify.measures.dimensions import Dimensions
from purify.measures.driftlaw import DriftLaw
from purify.metrics import mean_interval
from purify.report.figures import COLOURS, hide_unused, legend_below

Array = np.ndarray

HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))


def density_steps(
    grid: Array,
    times: Sequence[float],
    densities: Mapping[str, Callable[[float], Array]],
    *,
    ends: Mapping[float, Array],
) -> Figure:
    """Draw the spreading of a density, one panel per time: predicted lines over a histogram of simulated ends.

    Args:
        grid: (m,) places.
        times: Of the panels.
        densities: Name -> function of the time that returns the density on the grid, (m,).
        ends: Time -> simulated places, (P,).
    """
    figure, axes = plt.subplots(1, len(times), figsize=(9, 2.7), sharex=True, sharey=True, squeeze=False)
    for axis, time in zip(axes[0], times, strict=True):
        axis.hist(ends[time], 60, range=(grid[0], grid[-1]), density=True, color="#cccccc", label="simulated")
        for (name, density), hue, dash in zip(densities.items(), HUES, _DASHES, strict=False):
            axis.plot(grid, density(time), color=hue, ls=dash, lw=1.6, label=name)
        axis.set(title=f"t = {time:g}", xlabel="w")
    axes[0][0].set_ylabel("density")
    legend_below(figure, axes[0][0], 4)
    return figure


def lines(
    data: Mapping[str, tuple[Array, Array]], *, x: str, y: str, scales: tuple[str, str] = ("linear", "linear")
) -> Figure:
    """Draw one line per name, told apart by colour and dashes."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for (name, (places, values)), hue, dash in zip(data.items(), HUES, _DASHES, strict=False):
        axis.plot(places, values, color=hue, ls=dash, lw=1.8, label=name)
    axis.set(xlabel=x, ylabel=y, xscale=scales[0], yscale=scales[1])
    axis.legend(frameon=False)
    return figure


def qq(r: Array, law: Mixture, label: str) -> Figure:
    """Draw the quantiles of positive values of r against those of a law, both as logarithms."""
    figure, axis = plt.subplots(figsize=(4.4, 4))
    levels = np.concatenate([np.logspace(-4, -1, 40), np.linspace(0.1, 0.9, 40), 1 - np.logspace(-1, -4, 40)])
    expected, found = np.log10(law.quantile(levels)), np.log10(np.quantile(r, levels))
    axis.plot(expected, found, ".", color=HUES[0])
    ends = [min(expected.min(), found.min()), max(expected.max(), found.max())]
    axis.plot(ends, ends, "--", color="#555555", lw=1)
    axis.set(xlabel=f"log₁₀ of the quantiles of {label}", ylabel="log₁₀ of the quantiles of r")
    return figure


def drift_laws(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record of `DriftLaw`, number of steps and kind of parameter.

    Columns: ``task``, ``seed``, ``optimizer``, ``warmup``, ``runs``, ``steps``, ``kind``, ``slope of the variance``,
    ``slope of the mean square``, and lists over the bins: ``fisher``, ``square``, ``variance``, and ``predicted``, the
    variance by the theory of the optimizer, for rows drawn without replacement.
    """
    rows = []
    for record, cell in _measured(records, DriftLaw):
        measure = cell.build_measure()
        assert isinstance(measure, DriftLaw)
        for steps, kinds in record["measured"]["steps"].items():
            for kind, found in kinds.items():
                rows.append(
                    {
                        "task": cell.suspect.task,
                        "seed": cell.suspect.seed,
                        "optimizer": {"sgd": "SGD", "adamw": "AdamW"}[measure.optimizer],
                        "warmup": measure.warmup,
                        "runs": measure.runs,
                        "steps": int(steps),
                        "kind": kind,
                        "slope of the variance": found["slope"]["variance"],
                        "slope of the mean square": found["slope"]["square"],
                        **{name: found[name] for name in ("fisher", "square", "variance")},
                        "predicted": _predicted(np.array(found["fisher"]), measure, int(steps), cell.suspect.train),
                    }
                )
    return pd.DataFrame(rows)


def _predicted(fisher: Array, measure: DriftLaw, steps: int, rows: int) -> list[float]:
    """The variance after some steps of a run through shuffled rows, by the theory of its optimizer."""
    spread = fisher / measure.batch_size if measure.optimizer == "sgd" else adam_spread(fisher, measure.batch_size)
    left = max(0.0, 1 - (steps * measure.batch_size - 1) / (rows - 1))
    return list(measure.learning_rate**2 * steps * left * spread)


def slopes_table(frame: pd.DataFrame, by: Sequence[str], what: str = "slope of the variance") -> pd.DataFrame:
    """Return mean slopes with their 95 % t intervals over seeds, steps as columns.

    Args:
        frame: Of `drift_laws`.
        by: Columns that the rows stand for.
        what: "slope of the variance", or of "the mean square".
    """
    grouped = frame.dropna(subset=[what]).groupby([*by, "steps"], sort=False)[what]
    shown = grouped.apply(lambda values: _interval(list(values), "{:.2f}")).unstack("steps")
    return shown.rename(columns=lambda steps: f"{steps} steps").rename_axis(None, axis=1)


def drift_law_figure(frame: pd.DataFrame, kind: str = "all") -> Figure:
    """Variance and mean square of the drift against the Fisher, means over seeds, one panel per optimizer.

    Each number of steps has its own colour; the thin line is what the theory of the optimizer predicts.
    """
    own = frame[frame["kind"] == kind]
    optimizers = list(dict.fromkeys(own["optimizer"]))
    figure, axes = plt.subplots(1, len(optimizers), figsize=(8.5, 3.6), sharex=True, squeeze=False)
    for axis, optimizer in zip(axes[0], optimizers, strict=True):
        for (steps, rows), hue in zip(own[own["optimizer"] == optimizer].groupby("steps"), HUES, strict=False):
            fisher, square, variance, predicted = (
                np.exp(np.log(np.maximum(np.array(rows[name].tolist()), 1e-300)).mean(axis=0))
                for name in ("fisher", "square", "variance", "predicted")
            )
            axis.plot(fisher, variance, "o-", color=hue, ms=4, label=f"variance, {steps} steps")
            axis.plot(fisher, square, "x:", color=hue, ms=4, label=f"mean square, {steps} steps")
            axis.plot(fisher, predicted, color=hue, lw=0.8)
        axis.set(title=optimizer, xscale="log", yscale="log", xlabel="Ĥ")
    axes[0][0].set_ylabel("variance, mean square of δ")
    legend_below(figure, axes[0][0], 3, fontsize=9)
    return figure


def identification(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record of `Dimensions`, indicator and ground truth.

    Columns: ``task``, ``attack``, ``seed``, ``indicator``, ``truth``, ``share`` (called poisonous), ``AUROC``, ``honest
    AUROC`` of an honest model in the suspect's place, ``gain`` over it, ``best F1`` over all shares flagged,
    ``precision`` when as many are flagged as are poisonous, and the lists ``flagged``, ``recall``, ``honest recall``.
    """
    rows = []
    for record, cell in _measured(records, Dimensions):
        measure, found = cell.build_measure(), record["measured"]
        assert isinstance(measure, Dimensions)
        flagged, share = found["flagged"], measure.share
        for indicator, truth in itertools.product(found["indicators"], next(iter(found["indicators"].values()))):
            own, honest = (part["indicators"][indicator][truth] for part in (found, found["honest"]))
            recall = own["recall"]
            rows.append(
                {
                    "task": cell.suspect.task,
                    "attack": cell.suspect.attack.name,
                    "seed": cell.suspect.seed,
                    "indicator": indicator,
                    "truth": truth,
                    "share": share,
                    "AUROC": own["auroc"],
                    "honest AUROC": honest["auroc"],
                    "gain": own["auroc"] - honest["auroc"],
                    "best F1": max(f1(r, f, share) for r, f in zip(recall, flagged, strict=True)),
                    "precision": precision(float(np.interp(share, flagged, recall)), share, share),
                    "flagged": flagged,
                    "recall": recall,
                    "honest recall": honest["recall"],
                }
            )
    return pd.DataFrame(rows)


def identification_table(frame: pd.DataFrame, score: str = "AUROC") -> pd.DataFrame:
    """Return a score with its 95 % t interval over seeds: indicators × (truth, task), attacks joined."""
    means = frame.groupby(["indicator", "truth", "task", "seed"], sort=False)[score].mean().reset_index()
    grouped = means.groupby(["indicator", "truth", "task"], sort=False)[score]
    return grouped.apply(lambda values: _interval(list(values), "{:.2f}")).unstack(["truth", "task"]).rename_axis(None)


def recall_curves(frame: pd.DataFrame) -> Figure:
    """Share of the poisonous dimensions found against the share flagged, one panel per ground truth; means.

    Thin lines: the same for an honest model in the suspect's place.
    """
    truths = list(dict.fromkeys(frame["truth"]))
    figure, axes = plt.subplots(1, len(truths), figsize=(9, 3.4), sharex=True, sharey=True, squeeze=False)
    for axis, truth in zip(axes[0], truths, strict=True):
        own = frame[frame["truth"] == truth]
        for (name, rows), hue, dash in zip(own.groupby("indicator", sort=False), HUES, _DASHES, strict=False):
            flagged = rows["flagged"].iloc[0]
            axis.plot(flagged, np.mean(rows["recall"].tolist(), axis=0), color=hue, ls=dash, label=str(name))
            honest = np.mean(rows["honest recall"].tolist(), axis=0)
            axis.plot(flagged, honest, color=hue, ls=dash, lw=0.7, alpha=0.6)
        axis.plot([0, 1], [0, 1], color="#999999", lw=0.7)
        axis.set(title=f"truth: {truth}")
    axes[0][0].set_ylabel("share of the poisonous found")
    axes[0][len(truths) // 2].set_xlabel("share of dimensions flagged, 1 − ρ")
    legend_below(figure, axes[0][0], 5)
    return figure


def law_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return what the fitted laws of r say, per task, attack and model, means over seeds.

    Columns: Kolmogorov–Smirnov distances of one Gamma law with shape ½, of the mixture of two, and of the mixture with
    a free shape; that shape; the mixture's share of abnormal dimensions in percent and its automatic ρ; the median of r
    over that of the control.
    """
    rows = []
    for record, cell in _measured(records, Dimensions):
        law = record["measured"]["law"]
        for who, own in law.items():
            fits = own["fits"]
            rows.append(
                {
                    "task": cell.suspect.task,
                    "attack": cell.suspect.attack.name,
                    "model": who,
                    "KS, one Gamma": fits["one Gamma"]["ks"],
                    "KS, mixture": fits["mixture"]["ks"],
                    "KS, free shape": fits["free shape"]["ks"],
                    "free shape": fits["free shape"]["shape"],
                    "abnormal (%)": 100 * fits["mixture"]["share"],
                    "automatic ρ": fits["mixture"]["reserve"],
                    "median r / control’s": own["quantiles"][2] / law["control"]["quantiles"][2],
                }
            )
    grouped = pd.DataFrame(rows).groupby(["task", "attack", "model"], sort=False)
    return grouped.mean().round(2).assign(seeds=grouped.size())


def law_figure(records: Iterable[Mapping[str, Any]]) -> Figure:
    """Histograms of log₁₀ r of suspects and controls, one panel per task and attack, seeds added up.

    The dashed line is the law Γ(½, 2k) with the suspects' median, as "one Gamma" of `law_table`.
    """
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record, cell in _measured(records, Dimensions):
        grouped.setdefault((cell.suspect.task, cell.suspect.attack.name), []).append(record["measured"]["law"])
    columns = 2
    rows = -(-len(grouped) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(8.5, 2.7 * rows), sharex=True, sharey=True, squeeze=False)
    low, high, bins = EDGES
    edges = np.linspace(low, high, bins + 1)
    for axis, ((task, attack), laws) in zip(axes.flat, grouped.items(), strict=False):
        for who, hue in (("suspect", COLOURS["FinePurifying"]), ("control", COLOURS["clean control"])):
            counts = np.sum([law[who]["histogram"] for law in laws], axis=0)
            axis.stairs(counts / counts.sum() / (edges[1] - edges[0]), edges, color=hue, lw=1.6, label=who)
        median = np.median([law["suspect"]["quantiles"][2] for law in laws])
        z = 10**edges / (median / stats.chi2(1).median())
        label = "Gamma law of the suspects’ median"
        axis.plot(edges, stats.chi2(1).pdf(z) * z * np.log(10), "--", color="#555555", lw=1.2, label=label)
        axis.set(title=f"{task}, {attack}", xlabel="log₁₀ r")
        axis.label_outer()
    total = np.sum([law[who]["histogram"] for laws in grouped.values() for law in laws for who in law], axis=0)
    seen = np.flatnonzero(total > 1e-5 * total.sum())
    axes[0][0].set_xlim(edges[seen[0]], edges[seen[-1] + 1])
    hide_unused(axes, len(grouped))
    figure.supylabel("density", fontsize=11)
    legend_below(figure, axes[0][0], 3)
    return figure


def _measured(records: Iterable[Mapping[str, Any]], kind: type) -> list[tuple[Mapping[str, Any], Cell]]:
    """The records of one kind of measure."""
    both = [(record, restore(Cell, record["spec"])) for record in records if "measured" in record]
    found = [(record, cell) for record, cell in both if isinstance(cell.build_measure(), kind)]
    if not found:
        raise PurifyError(f"there is no record of the measure {kind.__name__}: run its grid first")
    return found


def _interval(values: Sequence[float], form: str) -> str:
    mean, low, high = mean_interval(values)
    return form.format(mean) if np.isnan(low) else f"{form.format(mean)} [{form.format(low)}, {form.format(high)}]"
