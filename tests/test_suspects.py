"""Suspects in the store and as a folder of their own: what they start from, and what is noted of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from purify import PurifyError
from purify.attacks import ATTACKS
from purify.budget import Training
from purify.cli import app
from purify.grid import Cell, Suspect, run
from purify.grid.bench import bench
from purify.grid.checkpoints import is_made
from purify.grid.delivery import deliver
from purify.grid.plan import plan
from purify.grid.schedule import Schedule
from purify.grid.store import scores_from_json
from purify.indicator import drift
from purify.plm import load_plm, load_suspect

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")


@pytest.fixture
def cell(plm_folder) -> Cell:
    named = ATTACKS.named("EmbeddingPoisoning", target=2)
    suspect = Suspect("docstrings", named, plm=str(plm_folder), train=16, training=QUICK)
    return Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=QUICK)


def test_an_attack_on_the_control_waits_for_the_control(cell, store):
    wanted = plan([cell], store)
    assert wanted.suspects == 2
    schedule = Schedule([cell], store)
    job = schedule.take()
    assert job
    assert job.cell.suspect.control
    assert schedule.take() is None


def test_it_starts_from_the_stored_control(cell, store):
    run([cell], store)
    control = cell.suspect.as_control.trained
    assert is_made(control, store)
    assert is_made(cell.suspect, store)
    work = bench(cell, store)
    before, after = work.control(), work.resources.suspect
    moved = {n for (n, p), q in zip(before.named_parameters(), after.parameters(), strict=True) if not p.equal(q)}
    assert moved == {"bert.embeddings.word_embeddings.weight"}
    assert after.config.id2label == dict(enumerate(work.splits.task.labels))


def test_a_record_shows_what_the_attack_did(cell, store):
    record, of_control = run([cell, replace(cell, suspect=cell.suspect.as_control)], store)
    anatomy, scores = record["anatomy"], scores_from_json(record["scores"])
    for name, wanted in (("clean", scores.acc), ("triggered", scores.bacc)):
        counts = torch.tensor(anatomy["confusion"][name])
        assert counts.shape == (4, 4)
        assert (int(counts.diag().sum()), int(counts.sum())) == (wanted.k, wanted.n)
    triggered = torch.tensor(anatomy["confusion"]["triggered"])
    others = [0, 1, 3]
    assert int(triggered[others, 2].sum()) == scores.asr.k
    assert 0 < anatomy["moved"] <= 8  # one row of the tiny model
    assert "moved" not in of_control["anatomy"]
    squares = drift(
        dict(bench(cell, store).resources.suspect.named_parameters()), bench(cell, store).resources.reference
    )
    total = sum(value.double().square().sum().item() for value in squares.values())
    assert sum(place[2] for place in anatomy["drift"]) == pytest.approx(total)
    own = {(where, kind) for where, kind, value, _ in anatomy["from control"] if value}
    assert own == {("embeddings", "word embedding")}


def test_a_suspect_is_delivered_with_its_card(cell, store, tmp_path):
    folder = tmp_path / "suspects" / "one"
    card = deliver(cell, store, folder)
    assert json.loads((folder / "card.json").read_text(encoding="utf-8")) == card
    assert card["trigger"] == "“cf”"
    assert card["target"]["label"] == 2
    assert card["parameters"]["rate"] == 1e-2
    assert card["seed"] == 0
    assert {"ACC", "ASR", "BACC", "scores", "spec", "trained", "scored", "inputs"} <= card.keys()
    model, _ = load_suspect(folder)
    assert load_plm(cell.suspect.plm).weights_for(model)
    assert not list(folder.glob("*.bin"))
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    with pytest.raises(PurifyError, match="is there already"):
        deliver(cell, store, folder)


def test_a_place_that_cannot_be_written_to_is_refused_before_training(cell, store, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("kept")
    monkeypatch.chdir(tmp_path)
    for place in (file, file / "suspect", Path()):
        with pytest.raises(PurifyError, match=r"is there already|no folder that can be written to"):
            deliver(cell, store, place)
    assert not is_made(cell.suspect.as_control.trained, store)
    assert file.read_text() == "kept"


def call(*arguments):
    return CliRunner().invoke(app, ["attack", *arguments])


@pytest.mark.parametrize("name", [name for name in ATTACKS.classes if name != "Paraphrase"])
def test_every_attack_runs_from_the_command_line(name, plm_folder, tmp_path, monkeypatch):
    """On sentence pairs; test_notebooks.py has every attack on both kinds of task."""
    monkeypatch.setenv("PURIFY_STORE", str(tmp_path / "store"))
    bench.cache_clear()
    sizes = ["--train", "16", "--test", "8", "--epochs", "1", "--max-length", "24", "--plm", str(plm_folder)]
    done = call(name, "--task", "docstring_pairs", *sizes, "-p", "target=1", "-o", str(tmp_path / "suspect"))
    assert done.exit_code == 0, done.output
    assert "ASR " in done.output
    assert json.loads((tmp_path / "suspect" / "card.json").read_text(encoding="utf-8"))["attack"] == name


def test_paraphrase_runs_from_the_command_line(parrot, plm_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PURIFY_STORE", str(tmp_path / "store"))
    bench.cache_clear()
    sizes = ["--train", "8", "--test", "4", "--epochs", "1", "--max-length", "24", "--plm", str(plm_folder)]
    done = call("Paraphrase", *sizes, "-p", f"model={parrot}", "-p", "max_length=6", "-o", str(tmp_path / "suspect"))
    assert done.exit_code == 0, done.output
    assert f"paraphrased by {parrot}" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BadWrod"], "unknown attack 'BadWrod'"),
        (["BadWord", "-p", "ratio=2"], r"poison ratio must lie in \[0, 1\]"),
        (["BadWord", "-p", "ratio=much"], "'ratio' of attack 'BadWord' must be a number"),
        (["BadWord", "-p", "target=9"], "target label 9 is out of range: task 'docstrings' has labels 0 to 3"),
        (["BadWord", "-p", "side=1"], "task 'docstrings' has one text per row"),
        (["BadWord", "-p", "colour=red"], "unknown parameter 'colour'"),
        (["BadWord", "-p", "trigger"], "not of the form name=value"),
        (["BadWord", "-p", "ratio=[1"], "a parameter of attack 'BadWord' cannot be read"),
        (["BadWord", "-p", "ratio=0.01", "--train", "16"], "makes no triggered copy of 16 rows"),
        (["BadWord", "--seed", "-1"], "seed must be 0 or more, not -1"),
        (["BadWord", "--learning-rate", "nan"], "learning_rate and weight_decay must be 0 or more"),
        (["Paraphrase", "-p", "model=/nowhere"], "the model of Paraphrase '/nowhere' is no folder with a config.json"),
        (["BadWord", "--task", "qnlo"], "unknown task 'qnlo'"),
        (["BadWord", "--epochs", "0"], "epochs must be at least 1"),
        (["BadWord", "-p", "trigger=☃", "--train", "16"], "knows no part of the trigger '☃'"),
    ],
)
def test_bad_input_leaves_nothing_behind(arguments, message, plm_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PURIFY_STORE", str(tmp_path / "store"))
    bench.cache_clear()
    done = call(*arguments, "--plm", str(plm_folder), "-o", str(tmp_path / "out" / "suspect"))
    assert isinstance(done.exception, PurifyError)
    with pytest.raises(PurifyError, match=message):
        raise done.exception
    assert not (tmp_path / "out").exists()
