"""``purify defend``: every defense by name on a suspect that ``purify attack`` delivered."""

import json
import logging

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from purify import PurifyError
from purify.attacks import ATTACKS
from purify.budget import Training
from purify.cli import app
from purify.defenses import DEFENSES
from purify.defenses.base import Detector
from purify.grid import Cell, Store, Suspect, load_grid, run, variants
from purify.grid.bench import bench
from purify.grid.delivery import defend, deliver, suspect_of
from purify.plm import load_suspect
from purify.selection import choose_reserve

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")
SIZES = ["--clean-per-class", "1", "--validation", "8", "--test", "12", "--epochs", "1"]
FEW = {"AttentionDistillation": ["strength=1"], "RAP": ["epochs=1"], "KeywordRemoval": ["sample=4"]}


@pytest.fixture(scope="module")
def delivered(plm_folder, tmp_path_factory):
    """A tiny suspect of BadWord, and one of an attack on the weights."""
    root = tmp_path_factory.mktemp("suspects")
    bench.cache_clear()
    for name in ("BadWord", "EmbeddingPoisoning"):
        suspect = Suspect("docstrings", ATTACKS.named(name), plm=str(plm_folder), train=16, training=QUICK)
        deliver(Cell(suspect, validation=8, test=12, tuning=QUICK), Store(root / "store"), root / name)
    return root


def command(*words, monkeypatch, root):
    monkeypatch.setenv("PURIFY_STORE", str(root / "store"))
    return CliRunner().invoke(app, ["defend", *map(str, words)])


@pytest.mark.parametrize("name", list(DEFENSES.classes))
def test_every_defense_runs_by_name(name, delivered, tmp_path, monkeypatch):
    output = tmp_path / "result"
    parameters = [word for assignment in FEW.get(name, []) for word in ("-p", assignment)]
    result = command(
        name, delivered / "BadWord", "-o", output, *SIZES, *parameters, monkeypatch=monkeypatch, root=delivered
    )
    assert result.exit_code == 0, result.exception
    card = json.loads((output / "card.json").read_text())
    assert card["defense"] == name
    assert card["scores"].keys() == {"before", "after"}
    assert card["findings"] in " ".join(result.output.split("\n"))
    detects = issubclass(DEFENSES.classes[name], Detector)
    assert ("detection" in card) == detects
    assert (output / "model.safetensors").exists() != detects
    if not detects:
        load_suspect(output)


@pytest.mark.parametrize(("drop", "tried"), [("100", 1), ("0", None)])
def test_the_reserve_ratio_is_chosen_by_clean_accuracy(drop, tried, delivered, tmp_path, monkeypatch):
    output = tmp_path / "result"
    ratios = ["-p", "reserve=[0.9,0.2]", "--drop", drop]
    words = ["FineMixing", delivered / "BadWord", "-o", output, *SIZES, *ratios]
    result = command(*words, monkeypatch=monkeypatch, root=delivered)
    assert result.exit_code == 0, result.exception
    card = json.loads((output / "card.json").read_text())
    chosen = card["chosen"]
    assert card["parameters"]["reserve"] == chosen["reserve"]
    assert f"ρ = {chosen['reserve']:g}" in result.output
    found = {float(reserve): accuracy for reserve, accuracy in chosen["tried"].items()}
    received = 100 * card["scores"]["before"]["validation"]["k"] / card["scores"]["before"]["validation"]["n"]
    assert chosen["reserve"] == choose_reserve(found, received, float(drop)).reserve
    after = card["scores"]["after"]["validation"]
    assert 100 * after["k"] / after["n"] == pytest.approx(found[chosen["reserve"]])  # of the model that is delivered
    if tried:
        assert list(found) == [0.2]


def test_the_weights_of_the_folder_are_used(delivered, tmp_path):
    """Whatever the store has: here nothing."""
    folder = delivered / "BadWord"
    cell = Cell(suspect_of(folder), DEFENSES.named("LayerReset", reserve=1.0), 1, 8, 12, Training(1, 0.0))
    defend(folder, cell, Store(tmp_path / "empty"), tmp_path / "kept")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "kept"))
    assert all(before[name].equal(after[name]) for name in before)
    assert not list((tmp_path / "empty").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FineMix", "BadWord"], "unknown defense 'FineMix'"),
        (["FineMixing", "BadWord", "-p", "rho=1"], "unknown parameter 'rho'"),
        (["FineMixing", "BadWord", "-p", "reserve=2"], "reserve ratio must lie in"),
        (["STRIP", "BadWord", "-p", "frr=1"], "false rejection rate must lie in"),
        (["ModelMerging", "BadWord", "-p", "other=/nowhere"], "'/nowhere' is no folder with a config.json"),
        (["ONION", "BadWord", "-p", "lm=/nowhere"], "'/nowhere' is no folder with a config.json"),
        (["FineMixing", "BadWord", "-p", "reserve=[0.2, x]"], "is no list of reserve ratios"),
        (["FineMixing", "BadWord", "-p", "reserve=[]"], "no reserve ratio to choose from"),
        (["FineMixing", "BadWord", "-p", "reserve=[0.2,1.2]"], "reserve ratio must lie in"),
        (["FineMixing", "BadWord", "-p", "reserve=[0.2]", "--drop", "-1"], "drop must be 0 or more"),
        (["FineTuning", "BadWord", "-p", "reserve=[0.2]"], "unknown parameter 'reserve'"),
        (["FineMixing", "store"], "give the folder of a suspect"),
        (["LossFiltering", "EmbeddingPoisoning"], "there is no training data to give"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, message, delivered, tmp_path, monkeypatch):
    name, folder, *rest = words
    output = tmp_path / "result"
    result = command(name, delivered / folder, "-o", output, *SIZES, *rest, monkeypatch=monkeypatch, root=delivered)
    assert isinstance(result.exception, PurifyError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(delivered, tmp_path, monkeypatch):
    (tmp_path / "result").mkdir()
    words = ["FineTuning", delivered / "BadWord", "-o", tmp_path / "result", *SIZES]
    result = command(*words, monkeypatch=monkeypatch, root=delivered)
    assert "is there already" in str(result.exception)
    assert not list((tmp_path / "result").iterdir())


def test_the_list_tells_what_a_defender_must_have():
    output = CliRunner().invoke(app, ["list", "defenses"]).output
    assert "FinePurifying" in output
    assert "needs clean data, clean PLM\n" in output
    assert "needs training data, clean PLM\n" in output
    assert "needs clean data, validation data, access at inference\n" in output


def test_a_record_of_a_detector_keeps_its_curve(grid_file, store):
    cell = next(cell for cell in load_grid(grid_file) if not cell.suspect.control)
    received, guarded = run(variants(cell, {"FeatureDistance": {"frr": [0.25]}}), store)
    found, scores = guarded["detection"], guarded["scores"]
    assert found["set"]["frr"] == 0.25
    assert found["set"]["asr"] == scores["asr"]
    assert 0 <= found["auroc"] <= 1
    rejected = [point["rejected clean"]["k"] for point in found["curve"]]
    assert rejected == sorted(rejected)
    assert scores["acc"]["k"] <= received["scores"]["acc"]["k"]  # what is rejected counts as wrong
    assert "detection" not in received


def test_clean_data_of_one_class_is_said(suspect, plm, rows, caplog):
    from purify.resources import Resources

    with caplog.at_level(logging.WARNING):
        Resources(suspect, plm, rows.filter(lambda row: row["label"] == 2, load_from_cache_file=False))
    assert "all clean examples have the label 2" in caplog.text
