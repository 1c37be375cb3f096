"""The tables and figures of the theory chapters, from records that are made up here, and the checked exercises."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from purify import PurifyError
from purify.gamma import EDGES, Mixture
from purify.grid import Cell, Named, Suspect
from purify.grid.files import measurement
from purify.grid.spec import canonical
from purify.measures import MEASURES
from purify.measures.dimensions import FLAGGED
from purify.measures.driftlaw import BINS, _bins
from purify.measures.law import law_of
from purify.report import theory
from purify.report.exercises import ANSWERS, check

INDICATORS = {"good": 0.9, "chance": 0.5}


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


def law(slope, rng):
    fisher = np.logspace(-12, -4, BINS)
    return {
        "fisher": fisher.tolist(),
        "square": (2 * fisher**slope).tolist(),
        "variance": (fisher**slope * rng.uniform(0.9, 1.1, BINS)).tolist(),
        "slope": {"square": slope, "variance": slope + 0.1},
        "dimensions": 1000,
    }


@pytest.fixture
def laws():
    rng = np.random.default_rng(0)
    records = []
    for seed in range(3):
        for optimizer, slope in (("sgd", 1.0), ("adamw", 0.1 * seed)):
            cell = measurement(
                "DriftLaw", {"optimizer": optimizer, "steps": [1, 4]}, task="docstrings", plm="bundled", seed=seed
            )
            steps = {step: {"all": law(slope, rng), "query": law(slope, rng)} for step in ("1", "4")}
            records.append({"spec": canonical(cell), "measured": {"runs": 6, "steps": steps}})
    return records


@pytest.fixture(scope="module")
def dimensions():
    rng = np.random.default_rng(0)
    laws = {who: law_of(scale * rng.standard_normal(2000) ** 2) for who, scale in (("suspect", 10), ("control", 1))}
    records = []
    for seed in range(3):
        for attack in ("BadWord", "BiasSent"):
            suspect = Suspect("ag_news", Named(attack), seed=seed)
            cell = Cell(suspect, measure=MEASURES.named("Dimensions", share=0.1))
            found = {
                name: {
                    truth: {"auroc": auroc + 0.01 * seed, "recall": [min(1.0, f * (1 + auroc)) for f in FLAGGED]}
                    for truth in ("pair", "effect")
                }
                for name, auroc in INDICATORS.items()
            }
            honest = {name: {t: one | {"auroc": 0.5} for t, one in truths.items()} for name, truths in found.items()}
            measured = {"flagged": list(FLAGGED), "indicators": found, "honest": {"indicators": honest}, "law": laws}
            records.append({"spec": canonical(cell), "measured": measured})
    return records


def test_slopes_are_means_with_intervals_over_seeds(laws):
    frame = theory.drift_laws(laws)
    assert len(frame) == 6 * 2 * 2
    table = theory.slopes_table(frame[frame["kind"] == "all"], ["optimizer"], "slope of the mean square")
    assert list(table.columns) == ["1 steps", "4 steps"]
    assert table.loc["SGD", "1 steps"] == "1.00 [1.00, 1.00]"
    assert table.loc["AdamW", "4 steps"].startswith("0.10 [")
    figure = theory.drift_law_figure(frame)
    assert [axis.get_title() for axis in figure.axes] == ["SGD", "AdamW"]


def test_identification_has_scores_of_every_indicator_and_truth(dimensions):
    frame = theory.identification(dimensions)
    assert len(frame) == 6 * 2 * 2
    table = theory.identification_table(frame)
    assert table.loc["good", ("pair", "ag_news")].startswith("0.91 [")
    assert theory.identification_table(frame, "gain").loc["good", ("pair", "ag_news")].startswith("0.41 [")
    precise = theory.identification_table(frame, "precision")
    assert precise.loc["chance", ("effect", "ag_news")].startswith("0.15")
    assert len(theory.recall_curves(frame).axes) == 2


def test_the_law_of_r_is_told_per_model(dimensions):
    table = theory.law_table(dimensions)
    suspect, control = (table.loc[("ag_news", "BadWord", who)] for who in ("suspect", "control"))
    assert suspect["KS, one Gamma"] < 0.03
    assert suspect["median r / control’s"] == pytest.approx(10, rel=0.15)
    assert control["median r / control’s"] == 1
    assert table["seeds"].unique().tolist() == [3]
    assert len(theory.law_figure(dimensions).axes) == 2


def test_the_histogram_holds_every_value():
    r = np.concatenate([np.logspace(-20, 10, 300), [0.0, np.inf]])
    found = law_of(r)
    assert found["moved"] == 300
    assert sum(found["histogram"]) == 300
    assert len(found["histogram"]) == EDGES[2]


def test_bins_recover_a_planted_slope():
    rng = np.random.default_rng(0)
    fisher = 10 ** rng.uniform(-8, -2, 40_000)
    square = 3 * fisher**0.5 * rng.standard_normal(40_000) ** 2
    found = _bins(np.stack([fisher, square, square * 0]))
    assert found["slope"]["square"] == pytest.approx(0.5, abs=0.02)
    assert found["slope"]["variance"] is None


def test_figures_of_densities_and_lines():
    grid = np.linspace(-1, 1, 50)
    ends = {0.1: np.zeros(100), 1.0: np.zeros(100)}
    figure = theory.density_steps(grid, [0.1, 1.0], {"flat": lambda time: grid * 0 + time}, ends=ends)
    assert [axis.get_title() for axis in figure.axes] == ["t = 0.1", "t = 1"]
    lines = theory.lines({"a": (grid, grid), "b": (grid, -grid)}, x="x", y="y").axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2
    r = np.random.default_rng(0).standard_normal(100_000) ** 2
    points, _ = theory.qq(r, Mixture(1.0, 1.0, 0.0), "the law").axes[0].get_lines()
    assert np.abs(points.get_xdata() - points.get_ydata()).mean() < 0.05


def test_without_records_the_sentence_says_what_to_do():
    with pytest.raises(PurifyError, match="no record of the measure Dimensions: run its grid"):
        theory.identification([])
    with pytest.raises(PurifyError, match="DriftLaw"):
        theory.drift_laws([{"scores": {}, "spec": canonical(Cell(Suspect("imdb", Named("BadWord"))))}])


def test_answers_are_checked():
    assert check("sde-batch", 2) == "right"
    assert check("sde-batch", 2.05) == "right"
    assert check("sde-batch", 3).startswith("wrong")
    assert check("sde-batch", None).startswith("no answer")
    with pytest.raises(PurifyError, match="there is no exercise 'sde'"):
        check("sde", 1)
    assert all(np.isfinite(answer) for answer in ANSWERS.values())
