"""The shipped table of the Fisher's benchmark, as the book shows it."""

from pathlib import Path

import pandas as pd
import pytest

from purify import PurifyError
from purify.report import benchmarks

FILE = Path(__file__).parents[1] / "results" / "benchmarks" / "fisher.csv"


@pytest.fixture
def rows():
    return benchmarks.read(FILE)


def test_ratios_are_those_of_the_times(rows):
    table = benchmarks.speed_table(rows).set_index(["model", "tokens"])
    speed = rows[rows["part"] == "speed"].set_index(["model", "tokens", "method"])["seconds_per_example"]
    for model, tokens in table.index:
        wanted = speed[model, tokens, "purify"] / speed[model, tokens, "ordinary"]
        assert table.loc[(model, tokens), "purify"] == pytest.approx(wanted, abs=0.006)
        row = table.loc[(model, tokens)]
        examples = int(row["examples × batch"].split()[0])
        share = row["set-up (s)"] / (examples * speed[model, tokens, "ordinary"])
        assert row["purify, less set-up"] == pytest.approx(wanted - share, abs=0.02)
    assert len(table) >= 3
    for _, lengths in table.reset_index().groupby("model", sort=False)["tokens"]:
        assert lengths.is_monotonic_increasing
        assert lengths.index.tolist() == list(range(lengths.index[0], lengths.index[-1] + 1))
    assert "ordinary" not in table.columns


def test_every_table_has_rows(rows):
    for table in (
        benchmarks.text_table,
        benchmarks.memory_table,
        benchmarks.error_table,
        benchmarks.peers_table,
    ):
        assert len(table(rows))
    one = rows.iloc[-1]
    assert f"{one['cores']} cores" in benchmarks.machine(rows)


def test_growth_is_fitted_on_logarithms():
    growth = {"part": "growth", "method": "purify"}
    points = [{**growth, "examples": n, "seconds": 0.1 * n, "parameters": None} for n in (32, 64, 128)]
    points += [{**growth, "examples": 64, "seconds": 1e-9 * p**2, "parameters": p} for p in (1e6, 2e6, 4e6)]
    slopes = benchmarks.growth_slopes(pd.DataFrame(points))
    assert slopes == {"examples": pytest.approx(1), "parameters": pytest.approx(2)}


def test_figures_show_every_method_and_point(rows):
    figure = benchmarks.speed_figure(rows)
    speed = rows[(rows["part"] == "speed") & (rows["method"] != "ordinary")]
    assert len(figure.axes) == speed["model"].nunique()
    shown = sum(len(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_marker() != "None")
    assert shown == len(speed)
    assert len(benchmarks.growth_figure(rows).axes) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PurifyError, match=r"fisher\.csv: run benchmarks/fisher\.py"):
        benchmarks.read(tmp_path / "fisher.csv")
