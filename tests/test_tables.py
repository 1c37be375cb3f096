import numpy as np
import pytest
import torch

from purify import PurifyError
from purify.anatomy import by_layer
from purify.gamma import log_histogram
from purify.report import figures
from purify.report.tables import (
    AS_RECEIVED,
    CONTROL,
    as_frame,
    at_drop,
    environments,
    paired_table,
    score_table,
    summary,
    summary_table,
    text_table,
)


def record(defense, acc, asr, *, seed=0, reserve=None, validation=None, control=False):
    """A record with n = 100 everywhere, so that counts are percentages."""
    counts = {"acc": acc, "asr": asr, "bacc": 100 - asr, "validation": acc if validation is None else validation}
    spec = {"suspect": {"task": "t", "attack": {"name": "BadWord"}, "seed": seed, "control": control}}
    if defense:
        spec["defense"] = {"name": defense, "parameters": [["reserve", reserve]] if reserve is not None else []}
    return {
        "spec": spec,
        "scores": {name: {"k": k, "n": 100} for name, k in counts.items()},
        "seconds": 1.0,
        "inputs": {"source": "none"},
        "environment": {
            "device": "d",
            "threads": 2,
            "precision": "fp32",
            "python": "3.11",
            "packages": {"torch": "2"},
            "revision": "abc",
            "peak_memory_mib": 10 + acc,
            "finished": "2026-01-01T00:00:00",
        },
    }


@pytest.fixture
def records():
    found = []
    for seed in (0, 1):
        found += [
            record(None, 90, 99, seed=seed),
            record(None, 91, 3, seed=seed, control=True),
            record("FineTuning", 89, 98 - seed, seed=seed),
            # Validation says 0.6 at ΔACC ≤ 2; on test accuracy or ASR one would choose otherwise.
            record("FinePurifying", 90, 4, seed=seed, reserve=0.4, validation=80),
            record("FinePurifying", 86, 20 + 10 * seed, seed=seed, reserve=0.6, validation=88),
            record("FinePurifying", 90, 90, seed=seed, reserve=0.8, validation=90),
        ]
    return found


def test_the_choice_looks_at_validation_accuracy_alone(records):
    chosen = at_drop(as_frame(records), 2)
    purified = chosen[chosen["defense"] == "FinePurifying"]
    assert purified["reserve"].tolist() == [0.6, 0.6]
    assert at_drop(as_frame(records), 10).query("defense == 'FinePurifying'")["reserve"].tolist() == [0.4, 0.4]
    assert set(chosen["defense"]) == {AS_RECEIVED, CONTROL, "FineTuning", "FinePurifying"}


def test_a_threshold_that_no_ratio_meets_is_said(records):
    frame = as_frame(records)
    frame.loc[frame["defense"] == "FinePurifying", "validation"] -= 20
    chosen = at_drop(frame, 2).query("defense == 'FinePurifying'")
    assert not chosen["within"].any()
    assert chosen["reserve"].tolist() == [0.8, 0.8]


def test_means_over_seeds_and_their_intervals(records):
    table = summary(as_frame(records), drops=[2]).set_index("defense")
    assert table.loc["FinePurifying", "asr"] == 25
    half = 12.706204736432095 * 5  # t quantile with one degree of freedom times the standard error
    assert table.loc["FinePurifying", "asr_high"] == pytest.approx(25 + half)
    assert table.loc["FinePurifying", ["seeds", "met"]].tolist() == [2, 2]
    one = summary(as_frame(records[:6]), drops=[2]).set_index("defense")
    assert one.loc["FinePurifying", "asr_high"] == pytest.approx(28.9, abs=0.1)  # Wilson, 20 of 100


def test_tables_for_reading(records):
    frame = as_frame(records)
    table = score_table(frame)
    assert table.columns.tolist() == ["ρ", "ACC (n = 100)", "ASR (n = 100)", "BACC (n = 100)"]
    assert table.iloc[3, 0] == "0.4"
    assert table.iloc[3, 2].startswith("4.0 [")
    short = summary_table(summary(frame), 2)
    assert short.loc["FinePurifying", ["ρ", "met"]].tolist() == ["0.6, 0.6", "2 of 2"]
    machines = environments(records)
    assert machines.loc["cells"].tolist() == [12]
    assert machines.loc["peak memory (MiB)"].tolist() == [101]


def test_methods_are_compared_within_seeds(records):
    table = paired_table(as_frame(records), "FinePurifying", [2])
    (row,) = table.to_dict("records")
    assert row["compared with"] == "FineTuning"
    half = 12.706204736432095 * 5.5  # ASR differences of -78 and -67
    assert row["difference in ASR"] == f"-72.5 [{-72.5 - half:+.1f}, {-72.5 + half:+.1f}]"
    assert row["lower ASR in"] == "2 of 2 seeds"


def test_texts_are_escaped_and_the_word_is_marked():
    table = text_table([{"text": "a <b>cf</b> cf, not cfx"}, {"text": "x cf y"}], "cf").data
    assert "a &lt;b&gt;cf&lt;/b&gt; cf, not cfx" in table
    assert "x <mark>cf</mark> y" in table
    assert text_table([{"text": "a & b"}], "&").data.count("<mark>&amp;</mark>") == 1


def test_variants_of_a_method_are_told_apart(records):
    other = record("FinePurifying", 90, 50, reserve=0.6)
    other["spec"]["defense"]["parameters"].append(["count", "all"])
    frame = as_frame([*records, other])
    assert "FinePurifying, count = all" in set(frame["defense"])
    assert len(frame.query("defense == 'FinePurifying'")) == 6
    figures.reserve_curves(frame)


def test_a_frame_without_the_suspect_itself_is_refused(records):
    with pytest.raises(
        PurifyError, match=r"task t, plm bundled, train 4000, attack BadWord, seed 0, .* has no record of its own"
    ):
        at_drop(as_frame(records[1:6]), 2)


def test_nothing_to_tabulate():
    with pytest.raises(PurifyError, match="no record"):
        as_frame([])


def test_figures_show_what_they_are_given(records, suspect):
    figures.style()
    frame = as_frame(records)
    left, right = figures.reserve_curves(frame).axes
    (line,) = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert line.get_ydata().tolist() == [90, 86, 90]
    assert right.get_ylabel() == "attack success rate (%)"
    points = figures.trade_off(frame).axes[0].lines
    assert len(points) == frame["defense"].nunique()
    table = by_layer({name: torch.full(p.shape, p.dim()) for name, p in suspect.named_parameters()})
    assert table.index.tolist() == ["embeddings", "layer 1", "layer 2", "top"]
    assert table.loc["layer 1", "feed-forward out"] == (2 * 8 * 12 + 8) / (8 * 12 + 8)  # weight 2, bias 1
    assert table.loc["embeddings", "word embedding"] == 2
    assert figures.layer_map(table, "size").axes
    probabilities = {"model": np.linspace(0, 1, 20)}
    assert figures.target_probability(probabilities, probabilities, "label").axes


def test_infinite_and_zero_ratios_are_left_out_of_the_histogram(suspect):
    assert log_histogram(np.array([0.0, 1.0, 100.0, np.inf])).sum() == 2
    many = np.random.default_rng(0).standard_normal(100_000) ** 2
    figure = figures.indicator_histogram({"clean": log_histogram(many)}, {"clean": "black"})
    (law,) = figure.axes[0].lines
    heights = figure.axes[0].patches[0].get_data().values
    assert law.get_ydata().max() == pytest.approx(heights.max(), rel=0.25)  # squares of normals follow the law
