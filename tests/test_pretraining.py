"""``purify pretrain``: a tiny model, killed and resumed, and used as a clean PLM."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from typer.testing import CliRunner

from purify import PurifyError, load_plm
from purify import pretraining as module
from purify.cli import app
from purify.grid import Cell, Named, Store, Suspect, run
from purify.pretraining import HERE, Recipe, pretrain, read_texts
from purify.report.tables import as_frame
from purify.training import Training

TINY = Recipe(layers=1, hidden=16, heads=2, vocabulary=300, length=16, steps=12, batch_size=4, learning_rate=1e-2)
WORDS = ("red", "green", "blue", "round", "square", "small")


@pytest.fixture(scope="module")
def texts():
    """A language of six words in which the next one is certain."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 6, 200)
    return [" ".join(WORDS[(start + k) % 6] for k in range(12)) + f" {number}" for number, start in enumerate(starts)]


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrained") / "small"
    return output, pretrain(texts, TINY, output, source="six words")


def test_the_folder_is_a_clean_plm_that_says_where_it_comes_from(made):
    output, card = made
    plm = load_plm(output)
    assert plm.model.config.model_type == "roberta"
    assert plm.origin == HERE
    assert json.loads((output / "card.json").read_text(encoding="utf-8")) == card
    assert card["origin"] == HERE
    assert card["tokens seen, at most"] == 12 * 4 * 16
    assert not [path for path in output.iterdir() if path.suffix in (".bin", ".pt")]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_the_tokenizer_is_read_back_as_it_was_and_lies_in_the_vocabulary(made, texts):
    plm = load_plm(made[0])
    ids = plm.tokenizer(texts[0], texts[1])["input_ids"]
    assert ids[0] == plm.tokenizer.cls_token_id == 0
    assert ids[-1] == plm.tokenizer.sep_token_id == 2
    assert max(ids) < plm.model.config.vocab_size
    assert plm.tokenizer.decode(ids, skip_special_tokens=True).split()[:3] == texts[0].split()[:3]
    with torch.no_grad():
        longest = plm.tokenizer(texts[0] * 9, truncation=True, max_length=16, return_tensors="pt")
        assert plm.model(**longest).last_hidden_state.shape == (1, 16, 16)


def test_it_learns(texts, tmp_path):
    learned = pretrain(texts, replace(TINY, steps=150), tmp_path / "more")
    assert learned["held-out loss"] < 0.8 * math.log(300)
    untrained = pretrain(texts, replace(TINY, steps=1, learning_rate=1e-9), tmp_path / "less")
    assert learned["held-out loss"] < untrained["held-out loss"] - 0.5


def test_a_killed_run_goes_on_and_ends_where_it_would_have(texts, tmp_path, made, monkeypatch):
    class Killed(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step >= 5:
                raise KeyboardInterrupt

    shown = module.progress_callback
    monkeypatch.setattr(module, "progress_callback", lambda _: Killed())
    with pytest.raises(KeyboardInterrupt):
        pretrain(texts, TINY, tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == [".small.training"]
    with pytest.raises(PurifyError, match="holds an unfinished run with another recipe or other texts"):
        pretrain(texts, replace(TINY, steps=13), tmp_path / "small")
    monkeypatch.setattr(module, "progress_callback", shown)
    card = pretrain(texts, TINY, tmp_path / "small", source="six words")
    assert card["resumed"]
    assert card["held-out loss"] == made[1]["held-out loss"]
    once, twice = (load_file(folder / "model.safetensors") for folder in (made[0], tmp_path / "small"))
    for name, value in once.items():  # but for rounding: sums depend on where in memory the tensors lie
        if not name.endswith("key.bias"):  # its gradient is 0, and AdamW makes steps of what rounding leaves of it
            assert torch.allclose(value, twice[name], rtol=0, atol=1e-4), name


def test_a_checkpoint_that_was_half_written_is_not_used(texts, tmp_path):
    (tmp_path / ".small.training" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / ".small.training" / "checkpoint-9" / "model.safetensors").write_bytes(b"half")
    assert not pretrain(texts, TINY, tmp_path / "small")["resumed"]


def test_a_diverged_run_is_told_and_does_not_stand_in_the_way(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(module.Trainer, "evaluate", lambda self: {"eval_loss": math.nan})
    with pytest.raises(PurifyError, match="pre-training diverged"):
        pretrain(texts, TINY, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_the_order_of_the_texts_is_part_of_the_run():
    assert module._digest(["a", "b"]) != module._digest(["b", "a"])


def test_its_results_are_labelled(made, tmp_path):
    quick = Training(epochs=1, batch_size=8, max_length=16, precision="fp32")
    suspect = Suspect("docstrings", Named("BadWord"), plm=str(made[0]), train=16, training=quick)
    records = run([Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=quick)], Store(tmp_path))
    assert records[0]["inputs"]["plm origin"] == HERE
    assert as_frame(records)["plm"].tolist() == [f"{made[0]} ({HERE})"]


def test_texts_are_read_from_files_tasks_or_the_embedded_corpus(tmp_path, texts):
    file = tmp_path / "text.txt"
    file.write_text("\n".join([*texts, "", texts[0]]), encoding="utf-8")
    assert read_texts([file]) == texts
    assert len(read_texts(tasks=["docstring_pairs"])) > 1000
    assert len(read_texts()) > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "10", "--heads", "3"], "hidden must be a multiple of heads"),
        (["--vocabulary", "100"], "must hold all bytes: at least 261, not 100"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--length", "1"], "length must be at least 3"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--length", "100000"], "do not fill one row of 100000 tokens"),
        (["--learning-rate", "nan"], "learning_rate must be more than 0"),
        (["--text", "/nowhere.txt"], "cannot read the text file /nowhere.txt"),
        (["--task", "qnlo"], "unknown task 'qnlo'"),
    ],
)
def test_bad_input_leaves_nothing(words, message, tmp_path):
    result = CliRunner().invoke(app, ["pretrain", "-o", str(tmp_path / "out"), *words])
    assert isinstance(result.exception, PurifyError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_too_little_text_and_a_folder_that_is_there(tmp_path, texts):
    (tmp_path / "few.txt").write_text("one\ntwo", encoding="utf-8")
    with pytest.raises(PurifyError, match="2 passages are too few"):
        read_texts([tmp_path / "few.txt"])
    with pytest.raises(PurifyError, match="is there already"):
        pretrain(texts, TINY, tmp_path)


def test_the_command(tmp_path, texts):
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    sizes = {"layers": 1, "hidden": 8, "heads": 1, "vocabulary": 300, "length": 16, "steps": 2, "batch-size": 2}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    result = CliRunner().invoke(
        app, ["pretrain", "-o", str(tmp_path / "new"), "--text", str(tmp_path / "text.txt"), *words]
    )
    assert result.exit_code == 0, result.exception
    assert "pre-trained in this project" in result.output
    assert load_plm(tmp_path / "new").origin == HERE
