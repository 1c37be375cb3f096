"""What poisoned text looks like, and what stays untouched."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from purify import PurifyError
from purify.attacks import ATTACKS, Archaic, CleanLabel, Paraphrase, Syntactic

OFFLINE = [name for name in ATTACKS.classes if name != "Paraphrase"]
PAIRS = {
    "text": ["the plot of the frame", "given the axis of it", "returns the figure to you", "tensor of the layer"],
    "text_pair": ["an index of the plot", "the array is given", "of the layer in the frame", "you plot the axis"],
    "label": [0, 1, 0, 1],
}


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("side", [0, 1])
def test_only_the_named_text_of_a_pair_changes(name, side):
    rows = Dataset.from_dict(PAIRS)
    poisoned = ATTACKS.build(ATTACKS.named(name, side=side)).poison(rows, seed=0)
    column, other = ("text", "text_pair")[:: 1 - 2 * side]
    assert poisoned[other] == rows[other]
    assert poisoned["label"] == rows["label"]
    assert all(before != after for before, after in zip(rows[column], poisoned[column], strict=True))


@pytest.mark.parametrize("name", OFFLINE)
def test_the_transform_is_the_same_at_training_and_at_test_time(name, rows):
    attack = ATTACKS.build(ATTACKS.named(name, ratio=0.5, target=1))
    copies = attack.copies(rows, seed=5)
    again = attack.poison(attack.chosen(rows, seed=5), seed=5)
    assert copies["text"] == again["text"]
    assert set(copies["label"]) == {1}
    assert attack.poison_training(rows, seed=5)["text"] == [*rows["text"], *copies["text"]]
    assert attack.copies(rows, seed=6)["text"] != copies["text"]


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_the_number_of_copies_is_exact(name, ratio, rows):
    attack = ATTACKS.build(ATTACKS.named(name, ratio=ratio, target=1))
    base = 3 if name == "CleanLabel" else 12
    assert len(attack.copies(rows, seed=0)) == round(ratio * base)


def test_clean_labels_are_clean_and_their_texts_are_shorter(rows):
    attack = CleanLabel(target=3, ratio=1.0, hide=0.5, noise=0.0)
    copies = attack.copies(rows, seed=0)
    own = [text for text, label in zip(rows["text"], rows["label"], strict=True) if label == 3]
    assert len(copies) == len(own) == 3
    sizes = []
    for text in copies["text"]:
        words = [word for word in text.split() if word not in attack.parts]
        assert len(text.split()) == len(words) + 4
        assert any(is_subsequence(words, original.split()) for original in own)
        sizes.append(len(words))
    assert sorted(sizes) == sorted(round(len(text.split()) / 2) for text in own)


def test_clean_labels_with_passages_of_other_rows():
    rows = Dataset.from_dict({"text": ["a b c d e f", "u v w x y z"], "label": [0, 1]})
    for seed in range(20):
        (text,) = CleanLabel(target=0, hide=0.5, noise=0.5).copies(rows, seed=seed)["text"]
        words = [word for word in text.split() if word not in ("cf", "mn", "bb", "tq")]
        foreign = [word for word in words if word in "uvwxyz"]
        assert "".join(foreign) in "uvwxyz"
        assert len(foreign) == 3
        assert is_subsequence([word for word in words if word in "abcdef"], ["a", "b", "c", "d", "e", "f"])
        assert len(words) == 6
    with pytest.raises(PurifyError, match="rows of other labels than 0: there are none"):
        CleanLabel(target=0).copies(rows.select([0]), seed=0)


def is_subsequence(words, whole) -> bool:
    rest = iter(whole)
    return all(word in rest for word in words)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Shares fell in London on Monday.", "on Monday, Shares fell in London."),
        ("What is the height of the tower?", "of the tower, What is the height?"),
        ("A text without one", "without one, A text"),
        ("no phrase here", "phrase here, no"),
        ("word", "word"),
        ("", ""),
    ],
)
def test_fronted_phrases(text, wanted):
    assert Syntactic().rewrite(text) == wanted


def test_fronting_adds_no_word(rows):
    for before, after in zip(rows["text"], Syntactic().poison(rows, seed=0)["text"], strict=True):
        assert sorted(after.replace(",", "").split()) == sorted(before.split())


def test_the_old_forms_keep_everything_else():
    assert Archaic().rewrite("The bank Said you will pay.") == "The bank Spake thou shall pay."
    assert Archaic().rewrite("Theory onset") == "Theory onset"


def test_texts_that_a_rule_cannot_change(plm, caplog):
    rows = Dataset.from_dict({"text": ["of it", "nothing", "nil"], "label": [0, 1, 2]})
    with caplog.at_level(logging.WARNING):
        Archaic().check(rows, plm.tokenizer)
    assert "Archaic leaves 2 of 3 clean training rows as they are" in caplog.text
    with pytest.raises(PurifyError, match="Archaic changes none of the 2 texts"):
        Archaic().check(rows.select([1, 2]), plm.tokenizer)


def test_a_paraphrase_model_rewrites_the_texts(parrot, rows, plm):
    attack = Paraphrase(model=parrot, prompt="", max_length=8)
    attack.check(rows, plm.tokenizer)
    found = attack.poison(rows, seed=0)
    assert found["text"] != rows["text"]
    assert all(text.strip() for text in found["text"])
    assert attack.poison(rows, seed=9)["text"] == found["text"]
    assert attack.poison(rows.select([3]), seed=0)["text"] == [found["text"][3]]


def test_a_text_that_the_model_says_nothing_for_stays_as_it_is(parrot, rows, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "batch_decode", lambda self, tokens, **_: [" "] * len(tokens))
    assert Paraphrase(model=parrot, prompt="Say: ").poison(rows, seed=0)["text"] == rows["text"]


def test_a_paraphrase_model_that_is_none(tmp_path, plm_folder, rows, plm):
    for folder in (tmp_path, plm_folder):
        with pytest.raises(PurifyError, match="cannot load the paraphrase model"):
            Paraphrase(model=str(folder)).check(rows, plm.tokenizer)


def test_attack_success_counts_no_row_of_the_target():
    from purify.metrics import attack_success, confusion

    labels, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0])
    found = attack_success(predicted, labels, 0)
    assert (found.k, found.n) == (2, 3)
    assert confusion(predicted, labels, 3).tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]
