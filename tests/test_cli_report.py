"""``purify report``: tables and verdicts from the shipped records."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from purify import PurifyError
from purify.cli import app
from purify.report.protocol import at_drops, main_table, tables_frame

PART = ["--only", "task=ag_news", "--only", "attack=BadWord"]


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_latex_table_holds_the_numbers_of_the_book(tmp_path):
    result = report("latex", *PART, "--drop", 5, "-o", tmp_path / "new" / "table.tex")
    assert result.exit_code == 0
    text = (tmp_path / "new" / "table.tex").read_text(encoding="utf-8")
    frame = tables_frame(conditions=["task=ag_news", "attack=BadWord"])
    table = main_table(at_drops(frame[frame["clean"] == 64], [5.0]))
    for value in table.loc["ag_news"]:
        assert value in text
    assert r"\toprule" in text
    assert r"ag\_news" in text
    assert "5 points with 64 clean examples" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.tex"]


def test_every_choice_names_its_record(tmp_path):
    assert report("csv", *PART, "-o", tmp_path / "choices.csv").exit_code == 0
    frame = pd.read_csv(tmp_path / "choices.csv")
    assert {"attack", "clean", "defense", "ΔACC", "reserve", "asr", "hash"} <= set(frame.columns)
    assert set(frame["ΔACC"]) == {1, 2, 5, 10}
    assert not frame.duplicated(["attack", "seed", "clean", "defense", "ΔACC"]).any()
    assert report("csv", *PART).output.startswith("task,plm,train,seed,attack,clean")


def test_verdicts_stand_with_all_their_rivals():
    output = report("claims").output
    assert "lowest-at-5: " in output
    assert output.count("ASR against FineMixing") >= 4
    assert "AUROC of δ²: " in output
    assert "KS distance less 0.05: " in output


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output, message in ((tmp_path, "it is a folder"), (tmp_path / "file" / "x", "cannot write to")):
        result = report("csv", *PART, "-o", output)
        assert isinstance(result.exception, PurifyError)
        assert message in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["latex", "--score", "f1"], "the score must be asr, acc or bacc, not 'f1'"),
        (["latex", "--clean", 7], "no suspect has records of all defenses with 7 clean rows"),
        (["latex", "--only", "task=nothing"], "no cell of the grid has task=nothing"),
        (["csv", "--grid", "nothing"], "cannot read the grid file"),
        (["claims", "--ledger", "/nowhere.yml"], "cannot read the ledger /nowhere.yml"),
    ],
)
def test_bad_input_is_one_sentence(words, message, tmp_path):
    output = [] if words[0] == "claims" else ["-o", tmp_path / "out"]
    result = report(*words, *output)
    assert isinstance(result.exception, PurifyError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())
