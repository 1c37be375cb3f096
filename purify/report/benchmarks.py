"""The benchmark of the Fisher as tables and figures: ``results/benchmarks/fisher.csv``, by ``benchmarks/fisher.py``."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from purify.errors import PurifyError

UNIT = "ordinary"
"""The method that times and memory are relative to: forward and backward pass as in training."""

_COLOURS = {
    "purify": "#D55E00",
    "purify, bf16": "#E69F00",
    "loop over examples": "#0072B2",
    "vmap(grad)": "#009E73",
    "Opacus": "#CC79A7",
}
_MARKERS = {"purify": "o", "purify, bf16": "s", "loop over examples": "^", "vmap(grad)": "D", "Opacus": "X"}


def read(path: Path) -> pd.DataFrame:
    """Return the rows of the benchmark.

    Raises:
        PurifyError: the file is not there.
    """
    if not path.is_file():
        raise PurifyError(f"there is no {path}: run benchmarks/fisher.py first")
    return pd.read_csv(path)


def speed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Time per example relative to an ordinary pass, one row per model and length, one column per method."""
    speed = rows[rows["part"] == "speed"]
    index = ["model", "tokens"]
    ratios = speed.pivot_table(index=index, columns="method", values="ratio", sort=False).drop(columns=UNIT)
    unit = speed[speed["method"] == UNIT].set_index(index)["seconds_per_example"]
    own = speed[speed["method"] == "purify"].set_index(index)
    table = ratios[[name for name in _COLOURS if name in ratios]].round(2)
    table.insert(0, "ordinary (ms per example)", (1000 * unit).round(1))
    left = own["seconds_per_example"] - own["setup_seconds"] / own["examples"]
    table.insert(list(table).index("purify") + 1, "purify, less set-up", (left / unit).round(2))
    table["examples × batch"] = own["examples"].astype(int).astype(str) + " in " + own["batch"].astype(int).astype(str)
    table["set-up (s)"] = own["setup_seconds"].round(2)
    order = {name: place for place, name in enumerate(speed["model"].unique())}
    table = table.sort_index(level="tokens", sort_remaining=False)
    return (
        table.reset_index()
        .sort_values("model", key=lambda names: names.map(order), kind="stable")
        .astype({"tokens": int})
    )


def text_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Real text: what sorting by length saves."""
    text = rows[rows["part"] == "text"]
    milliseconds = (1000 * text["seconds_per_example"]).round(1)
    return pd.DataFrame({"method": text["method"], "ms per example": milliseconds, "ratio": text["ratio"].round(2)})


def memory_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Peak memory on top of the model."""
    memory = rows[rows["part"] == "memory"]
    table = memory.pivot_table(index=["model", "tokens"], columns="method", values="ratio", sort=False)
    unit = memory[memory["method"] == UNIT].set_index(["model", "tokens"])["megabytes"]
    table = table.drop(columns=UNIT).round(2)
    table.insert(0, "ordinary (MB)", unit.round(0).astype(int))
    own = memory[memory["method"] == "purify"].set_index(["model", "tokens"])["ratio_with_model"]
    table["purify, model included"] = own.round(2)
    return table.reset_index().astype({"tokens": int})


def error_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How far lower precisions are from float64."""
    error = rows[rows["part"] == "error"][["method", "largest_error", "median_error"]]
    names = {"largest_error": "largest, of a tensor's largest value", "median_error": "median, of the value itself"}
    return error.rename(columns={"method": "precision", **names})


def peers_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What each library gives for a tiny BERT, against the definition in float64."""
    return rows[rows["part"] == "peers"][["method", "verdict"]]


def machine(rows: pd.DataFrame) -> str:
    """Say where, when and with what it was measured."""
    one = rows.iloc[-1]
    return f"{one['device']}, {one['cores']} cores, torch {one['torch']}, {one['day']}, revision {one['revision']}"


def speed_figure(rows: pd.DataFrame) -> Figure:
    """Time relative to an ordinary pass over the length, one panel per model."""
    speed = rows[(rows["part"] == "speed") & (rows["method"] != UNIT)]
    models = list(speed["model"].unique())
    figure, axes = plt.subplots(1, len(models), figsize=(8, 3.2), sharey=True, squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        mine = speed[speed["model"] == model].sort_values("tokens")
        for method, points in mine.groupby("method", sort=False):
            name = str(method)
            axis.plot(points["tokens"], points["ratio"], color=_COLOURS[name], marker=_MARKERS[name], label=name)
        axis.axhline(1, color="black", linewidth=1, linestyle="--")
        axis.set(title=model, xlabel="tokens", xscale="log", xticks=sorted(mine["tokens"].unique()))
        axis.set_xticks([], minor=True)
        axis.set_xticklabels([str(int(value)) for value in sorted(mine["tokens"].unique())])
    axes[0][0].set(ylabel="time, ordinary pass = 1", ylim=(0, None))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def growth_slopes(rows: pd.DataFrame) -> dict[str, float]:
    """Return the slope of log time over log examples, and over log parameters: 1 is linear."""
    growth = rows[rows["part"] == "growth"]
    fits = {}
    for what in ("examples", "parameters"):
        points = _of(growth, what)
        fits[what] = float(np.polyfit(np.log(points[what]), np.log(points["seconds"]), 1)[0])
    return fits


def _of(growth: pd.DataFrame, what: str) -> pd.DataFrame:
    with_parameters = growth["parameters"].notna()
    return growth[with_parameters if what == "parameters" else ~with_parameters]


def growth_figure(rows: pd.DataFrame) -> Figure:
    """Time over the number of examples and over the number of parameters, with lines of slope 1."""
    growth = rows[rows["part"] == "growth"]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    labels = {"examples": "examples (MiniLM-L6)", "parameters": "parameters, without embeddings"}
    for axis, (what, label) in zip(axes, labels.items(), strict=True):
        points = _of(growth, what).sort_values(what)
        x, y = points[what].to_numpy(), points["seconds"].to_numpy()
        middle = np.exp(np.mean(np.log(y / x)))
        axis.loglog(x, middle * x, color="black", linewidth=1, linestyle="--", label="linear")
        axis.loglog(x, y, color=_COLOURS["purify"], marker="o", linestyle="none", label="measured")
        axis.set(xlabel=label, ylabel="seconds")
        axis.minorticks_off()
        ticks = x if what == "examples" else np.array([5e6, 1e7, 2e7, 4e7, 8e7])
        axis.set_xticks(ticks, [f"{tick:g}" if what == "examples" else f"{tick / 1e6:g} M" for tick in ticks])
        seconds = [tick for tick in (0.5, 1, 2, 4, 8, 16) if y.min() / 2 < tick < 2 * y.max()]
        axis.set_yticks(seconds, [f"{tick:g}" for tick in seconds])
    axes[0].legend(frameon=False)
    sns.despine(figure)
    return figure
