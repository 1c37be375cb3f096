"""The protocol over suspects: choices, oracle, paired tests, tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_comparison import BASE, record

from purify import PurifyError
from purify.defenses import DEFENSES
from purify.grid import load_grid, select
from purify.grid.spec import fingerprint
from purify.home import project_root
from purify.metrics import bootstrap_interval, mean_interval, sign_flip_p
from purify.report import curves, protocol
from purify.report.tables import as_frame


def defended(seed, clean, name, **parameters):
    cell = replace(BASE, suspect=replace(BASE.suspect, seed=seed), clean_per_class=clean)
    return replace(cell, defense=DEFENSES.named(name, **parameters)) if name else cell


@pytest.fixture
def frame():
    """Three suspects with two clean sets each; Fine-purifying leaves 10 points less of the attack, then 2."""
    records = []
    for seed in range(3):
        for clean, gain in ((2, 10), (16, 2)):
            records += [
                record(defended(seed, clean, None), 900, 100, 90),
                record(defended(seed, clean, "FineMixing", reserve=0.2), 880, 50 + seed, 89),
                record(defended(seed, clean, "FineMixing", reserve=0.4), 900, 90, 90),
                record(defended(seed, clean, "FinePurifying", reserve=0.5), 890, 50 + seed - gain, 89),
                record(defended(seed, clean, "FinePurifying", reserve=0.6), 895, 20, 70),
            ]
    return as_frame(records).assign(clean=lambda f: f["clean_per_class"] * 4)


def test_clean_sets_and_attacks_of_one_draw_are_no_draws_of_their_own(frame):
    found = protocol.difference(protocol.at_drops(frame, [2.0]), "FinePurifying", "FineMixing")
    assert (found.n, found.suspects, found.wins) == (3, 6, 6)
    assert found.mean == found.low == found.high == -6
    assert found.p == 0.25  # two of the eight sign patterns are as extreme
    both = pd.concat([frame, frame.assign(attack="BadSent")], ignore_index=True)
    twice = protocol.difference(protocol.at_drops(both, [2.0]), "FinePurifying", "FineMixing")
    assert (twice.n, twice.suspects, twice.p) == (3, 12, 0.25)


def test_the_interval_of_a_difference_is_the_t_interval_over_draws(frame):
    frame.loc[(frame["reserve"] == 0.5) & (frame["seed"] == 0), "asr"] -= 9
    found = protocol.difference(protocol.at_drops(frame, [2.0]), "FinePurifying", "FineMixing")
    assert (found.mean, found.low, found.high) == pytest.approx(mean_interval([-15, -6, -6]))
    assert found.low < found.bootstrap[0] < found.bootstrap[1] < found.high


def test_pairs_are_of_one_clean_set(frame):
    short = frame[~((frame["defense"] == "FineMixing") & (frame["clean_per_class"] == 2))]
    found = protocol.difference(protocol.at_drops(short, [2.0]), "FinePurifying", "FineMixing")
    assert (found.mean, found.suspects) == (-2, 3)  # those with 2 rows per class have nothing to be compared with


def test_one_draw_has_a_difference_and_no_interval(frame):
    chosen = protocol.at_drops(frame[frame["seed"] == 0], [2.0])
    found = protocol.difference(chosen, "FinePurifying", "FineMixing")
    assert (found.n, found.mean) == (1, -6)
    assert np.isnan([found.low, found.high, found.p, *found.bootstrap]).all()
    assert protocol.differences_table(chosen, "FinePurifying", ["FineMixing"])["p"].tolist() == [""]


def test_each_clean_set_has_its_own_choice(frame):
    frame.loc[(frame["clean_per_class"] == 2) & (frame["reserve"] == 0.2), "validation"] = 50
    chosen = protocol.at_drops(frame, [2.0]).query("defense == 'FineMixing'")
    assert dict(zip(chosen["clean_per_class"], chosen["reserve"], strict=True)) == {2: 0.4, 16: 0.2}


def test_the_oracle_looks_at_what_no_defender_sees(frame):
    chosen = protocol.oracle_at(frame, 2.0).query("defense == 'FinePurifying'")
    assert set(chosen["reserve"]) == {0.6}  # validation accuracy would forbid it
    assert set(chosen["asr"]) == {20}
    strict = protocol.oracle_at(frame, 0.1).query("defense == 'FinePurifying'")
    assert not strict["within"].any()
    assert set(strict["reserve"]) == {0.6}  # the most accurate one


def test_what_lacks_a_method_is_left_out_of_all(frame):
    short = frame[~((frame["defense"] == "FineMixing") & (frame["seed"] == 1))]
    kept = protocol.complete(short, ["FineMixing", "FinePurifying"])
    assert set(kept["seed"]) == {0, 2}
    assert len(kept) == 20


def test_methods_without_a_common_suspect_are_not_compared(frame):
    chosen = protocol.at_drops(frame)
    assert protocol.difference(chosen, "FinePurifying", "Wanda").n == 0
    with pytest.raises(PurifyError, match="no suspect has records of FinePurifying and another"):
        protocol.differences_table(chosen, "FinePurifying", ["Wanda"])
    table = protocol.differences_table(chosen, "FinePurifying", ["FineMixing", "Wanda"])
    assert list(table.index) == ["1", "2", "5", "10"]
    assert table.loc["2", "difference in ASR"] == "-6.0 [-6.0, -6.0]"
    assert table.loc["2", ["lower on", "draws"]].tolist() == ["6 of 6", "3"]


def test_tables_by_attack_and_by_size(frame):
    chosen = protocol.at_drops(frame, [2.0])
    table = protocol.main_table(chosen[chosen["clean"] == 64])
    assert table.loc["docstrings"].to_dict() == {
        "attack": "BadWord",
        "FineMixing": "51.0",
        "FinePurifying": "49.0",
    }
    assert table.loc["all", "FineMixing"] == "51.0"
    sizes = protocol.by_size(chosen)
    assert list(sizes.columns) == [8, 64]
    assert sizes.loc["draws"].tolist() == ["3", "3"]
    assert sizes.loc["FinePurifying", 8].startswith("41.0 [")
    assert protocol.coverage(chosen).loc["docstrings"].tolist() == [3, 3]
    with pytest.raises(PurifyError, match="no record has this ΔACC"):
        protocol.main_table(chosen[chosen["clean"] == 7])
    two = pd.concat([chosen, chosen.assign(plm="other")])
    with pytest.raises(PurifyError, match="a table is of one plm, and there are bundled, other"):
        protocol.by_size(two)


def test_what_was_not_met_and_what_lies_at_an_end_is_counted(frame):
    frame.loc[(frame["defense"] == "FineMixing") & (frame["seed"] == 0), "validation"] = 50
    table = protocol.met_table(protocol.at_drops(frame, [2.0]), frame)
    assert table.loc["FineMixing", "2"] == "4 (6)"
    wider = pd.concat([frame, frame[frame["reserve"] == 0.5].assign(reserve=0.4, validation=10)])
    assert protocol.met_table(protocol.at_drops(wider, [2.0]), wider).loc["FinePurifying", "2"] == "6 (0)"


def test_figures_have_a_line_per_method_and_a_dot_per_draw(frame):
    chosen = protocol.at_drops(frame)
    seer = pd.concat([protocol.oracle_at(frame, drop) for drop in protocol.DROPS])
    axis = curves.drop_curves(chosen, seer).axes[0]
    assert axis.get_title() == "docstrings: 3 suspects, 3 draws"
    assert len(axis.lines) == 2 * 2  # each method solid and dotted, in one colour
    assert len({line.get_color() for line in axis.lines}) == 2
    (sizes, *_) = curves.size_curves(protocol.at_drops(frame, [2.0])).axes
    assert sorted(sizes.lines[0].get_xdata()) == [8, 64]
    assert len(sizes.collections[0].get_offsets()) == 2 * 3


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    """200 samples of 30 values: the mean 0 lies inside in about 95 % of them (bounds of four standard errors)."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        _, low, high = bootstrap_interval(rng.exponential(size=30) - 1)
        inside += low <= 0 <= high
    assert 0.89 <= inside / 200 <= 0.99
    mean, low, high = bootstrap_interval([1.0, 2.0, 6.0])
    assert (mean, low, high) == (3.0, 1.0, 6.0)
    assert np.isnan(bootstrap_interval([1.0])[1])
    with pytest.raises(PurifyError, match="no value to average"):
        bootstrap_interval([])
    assert mean_interval([1.0, 2.0, 6.0])[2] > high  # the cautious one


def test_the_sign_flip_test_is_exact_for_few_pairs():
    values = [3.0, 1.0, 2.0, 4.0, -1.0]
    signs = np.array(np.meshgrid(*[[1, -1]] * 5)).reshape(5, -1).T
    means = np.abs((signs * values).mean(axis=1))
    assert sign_flip_p(values) == pytest.approx((means >= np.mean(values)).mean())
    assert np.isnan(sign_flip_p([]))


def test_what_two_machines_found_stands_side_by_side():
    def on(device, asr, cell):
        return record(cell, 900, asr, 90, environment={"device": device, "precision": "fp32"})

    cell = defended(0, 16, "FineMixing", reserve=0.2)
    again, other = replace(cell, test=20), replace(cell, validation=30)
    table = protocol.repeated([on("A", 50, cell), on("B", 52, again), on("C", 70, other), on("A", 1, again)])
    (row,) = table.to_dict("records")
    assert (row["defense"], row["ρ"]) == ("FineMixing", "0.2")
    assert (row["ASR: A, fp32"], row["ASR: B, fp32"]) == (50, 52)
    assert protocol.repeated([on("A", 50, cell)]).empty


def test_the_command_repeats_one_cell():
    cell = next(
        cell for cell in load_grid(project_root() / "book" / "grids" / "tables.yml") if cell.defense.name != "none"
    )
    command = protocol.repeat_command(fingerprint(cell))
    condition = command.split()[-1]
    assert condition == f"hash={fingerprint(cell)}"
    assert select(load_grid(project_root() / command.split()[3]), [condition]) == [cell]


def test_controls_that_were_defended_are_no_suspects():
    frame = protocol.tables_frame(
        "defenses", ["attack=BadWord", "task=ag_news", "seed=0", "defense=FineMixing", "defense=none"]
    )
    assert not frame.duplicated(["seed", "defense", "reserve"]).any()


def test_what_is_shipped_has_what_the_tables_are_sorted_by():
    frame = protocol.tables_frame(conditions=["task=ag_news", "attack=BiasSent", "seed=0", "clean_per_class=16"])
    assert set(frame["kind"]) == {"bias"}
    assert set(frame["form"]) == {"single sentence"}
    assert set(frame["clean"]) == {64}
    assert isinstance(protocol.main_table(protocol.at_drops(frame, [5.0])), pd.DataFrame)
