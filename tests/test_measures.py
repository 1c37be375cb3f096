"""The measures, on a tiny model and the embedded corpus, and the arithmetic behind them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from purify import PurifyError
from purify.gamma import log_histogram
from purify.grid import Cell, Named, Suspect, run
from purify.grid.bench import bench
from purify.grid.files import load_grid, select
from purify.grid.plan import plan
from purify.grid.schedule import jobs_for
from purify.grid.spec import canonical, restore
from purify.identification import INDICATORS, Ranking, adam_spread, f1, precision, top
from purify.indicator import indicator
from purify.measures import MEASURES
from purify.measures.dimensions import FLAGGED
from purify.measures.driftlaw import BINS
from purify.report.export import export_records
from purify.training import Training

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")
TRUTHS = ("pair", "curvature", "effect")


@pytest.fixture
def cell(plm_folder) -> Cell:
    suspect = Suspect("docstrings", Named("BadWord"), plm=str(plm_folder), train=32, training=QUICK)
    return Cell(suspect, clean_per_class=1, validation=12, test=12, tuning=QUICK)


@pytest.fixture
def dimensions(cell) -> Cell:
    return replace(cell, measure=MEASURES.named("Dimensions", rows=6, points=2, share=0.1))


@given(st.lists(st.integers(0, 5), min_size=4, max_size=60), st.randoms(use_true_random=False))
def test_the_auroc_is_that_of_scikit_learn(r, random):
    truth = np.array([random.random() < 0.5 for _ in r])
    if truth.all() or not truth.any():
        with pytest.raises(PurifyError, match="AUROC"):
            Ranking(np.array(r, float)).auroc(truth)
        return
    # ties are drawn: the mean over the draws is what scikit-learn counts as half
    found = np.mean([Ranking(np.array(r, float), seed).auroc(truth) for seed in range(300)])
    assert found == pytest.approx(roc_auc_score(truth, r), abs=0.1)
    distinct = np.array(r) + np.linspace(0, 0.5, len(r))
    assert Ranking(distinct).auroc(truth) == pytest.approx(roc_auc_score(truth, distinct))


def test_recall_precision_and_f1_are_their_definitions():
    r, truth = np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False])
    (recall,) = Ranking(r).recall(truth, [0.4])
    assert recall == 0.5
    assert precision(recall, 0.4, 0.4) == 0.5
    assert f1(recall, 0.4, 0.4) == pytest.approx(0.5)
    assert Ranking(r).recall(truth, [0.6]) == [1.0]
    assert precision(1.0, 0.6, 0.4) == pytest.approx(2 / 3)
    assert top(r, 0.4).tolist() == [True, True, False, False, False]
    assert top(np.ones(10), 0.3).sum() == 3


def test_adams_indicator_lies_between_drift_alone_and_the_papers():
    drift, batch = np.array([1e-4, 2e-4]), 32
    large, small = np.array([1e-3, 1e-5]), np.array([1e-20, 1e-18])
    adam = INDICATORS["Adam"]
    assert adam(drift, large, batch) == pytest.approx(drift**2, rel=1e-3)
    expected = drift**2 / small * batch * 1e-16
    assert adam(drift, small, batch) == pytest.approx(expected, rel=0.05)
    assert np.all(np.diff(adam_spread(np.logspace(-25, 0, 50), batch)) > 0)


def test_dimensions_are_found_by_every_indicator_and_truth(dimensions, store):
    (record,) = run([dimensions], store)
    found = record["measured"]
    assert set(found["indicators"]) == set(INDICATORS)
    for scores in found["indicators"].values():
        for truth in TRUTHS:
            assert 0 <= scores[truth]["auroc"] <= 1
            assert len(scores[truth]["recall"]) == len(FLAGGED)
            assert np.all(np.diff(scores[truth]["recall"]) >= 0)
    for who in ("suspect", "control"):
        law = found["law"][who]
        assert sum(law["histogram"]) == law["moved"]
        assert law["fits"]["mixture"]["ks"] <= law["fits"]["one Gamma"]["ks"] + 0.05
    assert found["honest"]["indicators"].keys() == found["indicators"].keys()
    assert "scores" not in record
    assert run([dimensions], store) == [record]


def test_the_effects_add_up_to_what_the_drift_did_to_the_target(dimensions, store):
    """Integrated gradients: with enough points, the parts sum to the change of the mean log-probability."""
    import torch

    from purify.grid.bench import bench
    from purify.measures.dimensions import Dimensions, _batches

    work = bench(dimensions.received, store)
    measure = Dimensions(rows=6, points=60)
    parts = measure._effect(work, work.resources)
    _, aimed = measure._rows(work)

    def value(model):
        with torch.no_grad():
            return -sum(model(**b).loss.item() * len(b["labels"]) for b in _batches(work, aimed)) / len(aimed)

    have = work.resources
    change = value(have.suspect) - value(have.with_weights(dict(have.reference)))
    assert sum(part.sum().item() for part in parts.values()) == pytest.approx(change, rel=0.05)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_drift_law_has_bins_and_slopes_for_every_kind(cell, store, optimizer):
    measure = MEASURES.named(
        "DriftLaw", optimizer=optimizer, runs=3, steps=[1, 2], batch_size=4, rows=16, learning_rate=1e-3
    )
    one = replace(cell, measure=measure)
    assert [job.kind for job in jobs_for(one)] == ["score"]  # no suspect is trained
    (record,) = run([one], store)
    steps = record["measured"]["steps"]
    assert list(steps) == ["1", "2"]
    assert {"all", "query", "feed-forward in"} <= set(steps["1"])
    found = steps["2"]["all"]
    assert len(found["fisher"]) == len(found["variance"]) == BINS
    assert np.all(np.diff(found["fisher"]) >= 0)
    assert np.all(np.array(found["square"]) * 3 * 1.01 >= np.array(found["variance"]) * 2)
    assert restore(Cell, json.loads(json.dumps(canonical(one)))) == one


def test_one_step_of_sgd_moves_by_the_gradient(cell, store):
    """After one step with all rows of a batch drawn alike, the mean square is η² times that of the gradient."""
    base = {"runs": 2, "steps": [1], "batch_size": 4, "rows": 16}
    cells = [replace(cell, measure=MEASURES.named("DriftLaw", learning_rate=rate, **base)) for rate in (1e-3, 2e-3)]
    small, large = (record["measured"]["steps"]["1"]["all"] for record in run(cells, store))
    assert np.array(large["square"]) == pytest.approx(4 * np.array(small["square"]), rel=0.02)


def test_measures_stand_in_grid_files(tmp_path, plm_folder, store):
    grid = {
        "suspect": {"task": "docstrings", "plm": str(plm_folder), "train": 32},
        "attack": {"name": "BadWord"},
        "measures": {"DriftLaw": {"optimizer": ["sgd", "adamw"], "steps": [[1, 2]]}},
    }
    path = tmp_path / "grid.yml"
    path.write_text(yaml.safe_dump(grid))
    assert [cell.measure.name for cell in load_grid(path)] == ["DriftLaw"] * 2
    path.write_text(yaml.safe_dump({**grid, "control": True, "defenses": {}, "measures": {"Dimensions": {}}}))
    cells = load_grid(path)
    assert [(cell.suspect.control, cell.measure is not None) for cell in cells] == [
        (False, False),
        (False, True),
        (True, False),
    ]
    assert len(select(cells, ["measure=Dimensions"])) == 1
    made = plan(cells, store)
    assert (made.suspects, made.fishers) == (2, 1)
    assert "Dimensions" in str(cells[1])


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("Dimension", {}, "unknown measure"),
        ("Dimensions", {"share": 1.0}, "share"),
        ("Dimensions", {"rows": 0}, "rows"),
        ("DriftLaw", {"runs": 1}, "two runs"),
        ("DriftLaw", {"steps": [3, 2]}, "rising"),
        ("DriftLaw", {"learning_rate": 0.0}, "learning_rate"),
        ("DriftLaw", {"optimizer": "adam"}, "optimizer"),
        ("IndicatorLaw", {"exponents": [-1.0]}, "exponents"),
        ("IndicatorLaw", {"exponents": []}, "exponents"),
    ],
)
def test_measures_refuse_what_cannot_be(name, parameters, sentence):
    with pytest.raises(PurifyError, match=sentence):
        MEASURES.named(name, **parameters)


def test_the_law_of_r_is_that_of_the_indicator(cell, store):
    (record,) = run([replace(cell, measure=MEASURES.named("IndicatorLaw", exponents=[1.0]))], store)
    have = bench(cell.received, store).resources
    r = torch.cat([value.flatten() for value in indicator(have.drift, have.fisher).values()]).numpy()
    (law,) = record["measured"]["laws"].values()
    assert law["moved"] == (np.isfinite(r) & (r > 0)).sum() > 0
    assert law["histogram"] == log_histogram(r).tolist()
    assert law["quantiles"][2] == pytest.approx(np.median(r[np.isfinite(r) & (r > 0)]), rel=1e-3)


def test_false_triggers_are_counted_on_rows_of_other_labels(cell, store):
    attack = Named("SOS", (("trigger", "friends weekend"),))
    sos = replace(cell, suspect=replace(cell.suspect, attack=attack), measure=MEASURES.named("FalseTriggers"))
    (record,) = run([sos], store)
    found = record["measured"]
    work = bench(sos.received, store)
    labels = np.array(work.splits.test["label"])
    assert found["rows"] == (labels != work.attack.target).sum() > 0
    given = work.predictions(work.resources.suspect).test
    assert found["counts"]["no trigger"] == ((given == work.attack.target) & (labels != work.attack.target)).sum()
    assert list(found["counts"])[2:] == [
        f"{w} “{word}”" for word in ("friends", "weekend") for w in ("without", "only")
    ]
    assert found["counts"]["without “friends”"] == found["counts"]["only “weekend”"]  # the same text


def test_a_trigger_of_one_piece_has_no_parts(cell, store):
    with pytest.raises(PurifyError, match="BadWord is one piece"):
        run([replace(cell, measure=MEASURES.named("FalseTriggers"))], store)


def test_a_diverging_run_says_what_to_do(cell, store):
    measure = MEASURES.named("DriftLaw", learning_rate=1e30, runs=2, steps=[4], batch_size=4, rows=16)
    with pytest.raises(PurifyError, match="smaller learning_rate"):
        run([replace(cell, measure=measure)], store)


def test_measures_are_left_out_of_exports_of_scores(cell, dimensions, store, tmp_path):
    run([cell, dimensions], store)
    assert export_records(store, None, tmp_path / "all.csv") == 1
