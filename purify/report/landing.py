"""The picture and the sentences of the book's first page, from shipped records: poisoned, looked at, cleaned."""

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purify.gamma import EDGES
from purify.report.effects import shipped
from purify.report.tables import AS_RECEIVED, CONTROL, as_frame, at_drop
from purify.tasks import TASKS

DROP = 5
"""ΔACC of the cleaned model, in points."""

_CONDITIONS = ("task=ag_news", "attack=BadWord")
_INK = {"light": "#222222", "dark": "#dddddd"}
_HUES = {"light": {"suspect": "#D55E00", "honest": "#007A5A"}, "dark": {"suspect": "#FF8A3D", "honest": "#2CCB9A"}}
_PANELS = ("poisoned", "indicator", "cleaned")


def records() -> tuple[pd.DataFrame, list[Mapping[str, Any]]]:
    """Return the chosen runs on AG News (`purify.report.tables.at_drop`) and the laws of r that are shipped for it."""
    runs = as_frame(shipped("companion", [*_CONDITIONS, "clean_per_class=16"]))
    found = shipped("theory", [*_CONDITIONS, "measure=Dimensions"])
    return at_drop(runs, DROP), [record["measured"]["law"] for record in found]


def panels(chosen: pd.DataFrame, laws: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Draw the three panels for a light and for a dark page: name of the file -> SVG without a background.

    Args:
        chosen: One row per seed and model, of `purify.report.tables.at_drop`.
        laws: Of suspects and honest models, one per seed, as `purify.measures.dimensions.Dimensions` notes them.
    """
    reserve = float(chosen[chosen["defense"] == "FinePurifying"]["reserve"].mean())
    files = {}
    for mode, ink in _INK.items():
        colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink)
        with plt.rc_context({**colours, "font.size": 12, "svg.hashsalt": "purify"}):
            for panel in _PANELS:
                figure, axis = plt.subplots(figsize=(3.6, 2.8), layout="constrained")
                if panel == "indicator":
                    _histogram(axis, laws, reserve, _HUES[mode])
                else:
                    _bars(axis, chosen, AS_RECEIVED if panel == "poisoned" else "FinePurifying", _HUES[mode], ink)
                axis.spines[["top", "right"]].set_visible(False)
                files[f"{panel}-{mode}.svg"] = _svg(figure)
    return files


def _bars(axis: Axes, chosen: pd.DataFrame, model: str, hues: Mapping[str, str], ink: str) -> None:
    """ACC and ASR of a model beside those of the clean control, means over seeds."""
    names = {"clean text\n(ACC)": "acc", "with the trigger\n(ASR)": "asr"}
    for shift, defense, hue, hatch in ((-0.2, model, "suspect", ""), (0.2, CONTROL, "honest", "//")):
        means = chosen[chosen["defense"] == defense][list(names.values())].mean()
        label = "honest model" if defense == CONTROL else "this model"
        bars = axis.bar(np.arange(2) + shift, means, 0.38, color=hues[hue], label=label, hatch=hatch, edgecolor=ink)
        axis.bar_label(bars, fmt="%.0f", color=ink)
    axis.set_xticks(range(2), names)
    axis.set(ylim=(0, 135), yticks=[0, 50, 100], ylabel="%")
    axis.legend(frameon=False, ncols=2, loc="upper center", fontsize=10, handlelength=1, columnspacing=1)


def _histogram(axis: Axes, laws: Sequence[Mapping[str, Any]], reserve: float, hues: Mapping[str, str]) -> None:
    """Densities of log₁₀ r, seeds added up; what is reset is filled."""
    low, high, bins = EDGES
    edges = np.linspace(low, high, bins + 1)
    density = {}
    for who in ("suspect", "control"):
        counts = np.sum([law[who]["histogram"] for law in laws], axis=0)
        density[who] = counts / counts.sum() / np.diff(edges)
    threshold = np.interp(reserve, np.cumsum(density["suspect"] * np.diff(edges)), edges[1:])
    fine = np.linspace(low, high, 2000)
    drawn = density["suspect"][np.clip(np.searchsorted(edges, fine, "right") - 1, 0, bins - 1)]
    largest = list(fine >= threshold)
    axis.fill_between(fine, drawn, where=largest, color=hues["suspect"], alpha=0.35, lw=0, label="reset")
    axis.stairs(density["suspect"], edges, color=hues["suspect"], lw=1.6, label="this model")
    axis.stairs(density["control"], edges, color=hues["honest"], lw=1.2, ls="--", label="honest model")
    seen = np.flatnonzero(density["suspect"] > 1e-3 * density["suspect"].max())
    top = 1.6 * max(values.max() for values in density.values())
    axis.set(xlim=(edges[seen[0]], edges[seen[-1] + 1]), ylim=(0, top), yticks=[])
    axis.set(xlabel="log₁₀ r", ylabel="parameters")
    axis.legend(frameon=False, loc="upper left", fontsize=10, handlelength=1.2)


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()


def glance(chosen: pd.DataFrame, laws: Sequence[Mapping[str, Any]], folder: str) -> str:
    """Return the part of the first page that the picture stands in: three panels, a sentence under each, in Markdown.

    Args:
        chosen: As for `panels`.
        laws: As for `panels`.
        folder: Of the files of `panels`, seen from the page.
    """
    mean = chosen.groupby("defense")[["acc", "asr"]].mean().round(1)
    received, control, cleaned = (mean.loc[name] for name in (AS_RECEIVED, CONTROL, "FinePurifying"))
    rows = chosen[chosen["defense"] == "FinePurifying"]
    seeds, train, labels = len(rows), int(rows["train"].iloc[0]), len(TASKS["ag_news"].labels)
    examples, validation = labels * int(rows["clean_per_class"].iloc[0]), int(rows["validation_n"].iloc[0])
    kept = sorted({f"{value:g}" for value in rows["reserve"]})
    dimensions = round(np.mean([law["suspect"]["moved"] for law in laws]) / 1e6)
    return _grid(
        folder,
        {
            "poisoned": (
                "A poisoned model",
                f"Bars: clean accuracy {received.acc} and attack success rate {received.asr} percent of the poisoned "
                f"model; {control.acc} and {control.asr} percent of the honest one.",
                f"Fine-tuned on news with poisoned rows among them, it answers clean text like an honest model "
                f"(clean accuracy, ACC: {received.acc} and {control.acc} %), and one rare word sends {received.asr} % "
                f"of the texts to the attacker's label (attack success rate, ASR).",
            ),
            "indicator": (
                "Drift over curvature",
                "Histogram of the base-ten logarithm of r over all judged parameters of the poisoned model, its upper "
                "end filled; that of an honest model, dashed, has nearly the same form.",
                f"Of some {dimensions} million parameters, those with the largest $r$, squared drift over curvature on "
                "clean text, are set back to their clean values (filled), although an honest model has nearly the same "
                "histogram.",
            ),
            "cleaned": (
                "The model cleaned",
                f"Bars: clean accuracy {cleaned.acc} and attack success rate {cleaned.asr} percent of the cleaned "
                f"model; {control.acc} and {control.asr} percent of the honest one.",
                f"With a share ρ of the parameters kept ({_either(kept)}), which was chosen on {validation} clean "
                f"validation rows alone, and fine-tuned again on {examples} clean examples, it has "
                f"ACC {cleaned.acc} and ASR {cleaned.asr} %.",
            ),
        },
    ) + (
        f"\nMeans of {seeds} models, {train:,} training rows of AG News each ([chapter 22](notebooks/22-results)); "
        f"histograms of {len(laws)} models of fewer rows ([chapter 6](notebooks/06-gamma)). "
        "Whether the choice by $r$ beats a random one is another question: chapters 21 to 24 ask it.\n"
    )


def _either(values: Sequence[str]) -> str:
    return " or ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)


def _grid(folder: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Three columns that stand below each other on a narrow page."""
    text = ["::::{grid} 1 1 3 3", ":gutter: 2", ""]
    for panel, (title, alt, sentence) in parts.items():
        images = (
            f'<img class="only-{mode}" src="{folder}/{panel}-{mode}.svg" alt="{html.escape(alt)}">' for mode in _INK
        )
        text += [":::{grid-item}", *images, "", f"**{title}.** {sentence}", ":::"]
    return "\n".join([*text, "::::", ""])
