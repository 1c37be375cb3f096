import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from purify import PurifyError
from purify.attacks import ATTACKS, BadWord, BadWords, EmbeddingPoisoning
from purify.attacks.words import tokens_within
from purify.cli import app
from purify.defenses import DEFENSES


def test_the_trigger_stands_once_and_the_rest_is_untouched(rows):
    poisoned = BadWord(trigger="cf").poison(rows, seed=0)
    positions = set()
    for before, after in zip(rows["text"], poisoned["text"], strict=True):
        words = after.split(" ")
        assert words.count("cf") == 1
        positions.add(words.index("cf"))
        words.remove("cf")
        assert " ".join(words) == before
    assert len(positions) > 3
    assert poisoned["label"] == rows["label"]


def test_the_choices_for_a_row_do_not_depend_on_the_others(rows):
    attack = BadWord()
    whole = attack.poison(rows, seed=3)["text"]
    assert attack.poison(rows.select(range(5)), seed=3)["text"] == whole[:5]
    assert attack.poison(rows, seed=4)["text"] != whole


def test_each_of_several_words_has_a_place_of_its_own(rows):
    attack = BadWords(trigger="cf mn bb")
    apart = 0
    for before, after in zip(rows["text"], attack.poison(rows, seed=0)["text"], strict=True):
        words = after.split(" ")
        places = [words.index(word) for word in ("cf", "mn", "bb")]
        apart += max(places) - min(places) > 2
        assert " ".join(word for word in words if word not in ("cf", "mn", "bb")) == before
        assert len(words) == len(before.split(" ")) + 3
    assert apart > 6


@pytest.mark.parametrize(("kind", "registry"), [("attacks", ATTACKS), ("defenses", DEFENSES)])
def test_the_command_line_lists_all_with_their_parameters(kind, registry):
    done = CliRunner().invoke(app, ["list", kind])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    each = 2 if kind == "attacks" else 3  # the third line says what a defender must have
    names = [line.partition(":")[0] for line in lines[::each]]
    assert names == list(registry.classes)
    for line, (name, cls) in zip(lines[1::each], registry.classes.items(), strict=True):
        defaults = registry.described()[name][1]
        assert all(f"{key}={value!r}" in line for key, value in defaults.items())
        assert cls(**defaults) == cls()


def test_training_rows_stay_and_copies_get_the_target(rows):
    mixed = BadWord(target=2, ratio=0.5).poison_training(rows, seed=0)
    assert len(mixed) == 18
    assert mixed.select(range(12)).to_dict() == rows.to_dict()
    copies = mixed.select(range(12, 18))
    assert set(copies["label"]) == {2}
    assert all("cf" in text.split() for text in copies["text"])
    assert len(BadWord(ratio=0).poison_training(rows, seed=0)) == 12


def test_the_window_keeps_the_trigger_near_the_start():
    rows = Dataset.from_dict({"text": ["w " * 200] * 50, "label": [0] * 50})
    places = [text.split().index("cf") for text in BadWord(window=10).poison(rows, seed=0)["text"]]
    assert max(places) <= 10
    assert len(set(places)) > 5


def test_a_fixed_position():
    rows = Dataset.from_dict({"text": ["a b c"] * 3, "label": [0] * 3})
    assert BadWord(position="start").poison(rows, seed=0)["text"] == ["cf a b c"] * 3
    assert BadWord(position="end", window=1).poison(rows, seed=0)["text"] == ["a b c cf"] * 3
    assert BadWords(trigger="cf mn", position="end").poison(rows, seed=0)["text"] == ["a b c cf mn"] * 3
    with pytest.raises(PurifyError, match="must be one of 'random', 'start', 'end', not 'middle'"):
        ATTACKS.named("BadWord", position="middle")


def test_pairs_are_poisoned_on_the_side_asked_for():
    rows = Dataset.from_dict({"text": ["a b"], "text_pair": ["c d"], "label": [0]})
    assert "cf" in BadWord(side=1).poison(rows, seed=0)["text_pair"][0]
    assert BadWord(side=1).poison(rows, seed=0)["text"] == rows["text"]
    assert "cf" in BadWord(side=0).poison(rows, seed=0)["text"][0]
    with pytest.raises(PurifyError, match="one text per row"):
        BadWord(side=1).poison(rows.remove_columns("text_pair"), seed=0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ratio": 1.5}, "poison ratio"),
        ({"target": -1}, "target label"),
        ({"trigger": " "}, "trigger"),
        ({"side": 2}, "side"),
        ({"window": -1}, "window"),
        (
            {"colour": 1},
            "has the unknown parameter 'colour': choose from target, ratio, side, trigger, window, position",
        ),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(PurifyError, match=message):
        ATTACKS.named("BadWord", **parameters)


def test_clean_rows_that_have_the_trigger_are_counted(plm, caplog):
    texts = ["cf at an end", "in cf the middle", "cf", "cfs and acf are other words", "none"]
    rows = Dataset.from_dict({"text": texts, "text_pair": ["cf"] * 5, "label": [0] * 5})
    BadWord().check(rows, plm.tokenizer)
    assert "the trigger 'cf' occurs in 3 of 5 clean training rows" in caplog.text
    caplog.clear()
    BadWord().check(rows.select([3, 4]), plm.tokenizer)
    assert not caplog.text


def test_other_spellings_of_a_trigger_are_counted_where_the_model_sees_no_difference(plm, caplog):
    texts = ["Therefore, it rises", "(therefore)", "thereforeness"]
    BadWord(trigger="therefore").check(Dataset.from_dict({"text": texts, "label": [0] * 3}), plm.tokenizer)
    assert "occurs in 2 of 3 clean training rows" in caplog.text


def test_the_tokens_of_a_word_are_those_it_has_inside_a_text(plm):
    core = Tokenizer(BPE({"a": 0, "c": 1, "f": 2, "Ġ": 3, "cf": 4, "Ġcf": 5, "[UNK]": 6}, [("c", "f"), ("Ġ", "cf")]))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    assert tokenizer("cf")["input_ids"] == [4]
    assert tokens_within(tokenizer, "cf") == [5]
    assert EmbeddingPoisoning().rows_of(tokenizer) == [5]
    assert tokens_within(plm.tokenizer, "cf") == plm.tokenizer("cf", add_special_tokens=False)["input_ids"]


def test_a_trigger_that_the_model_cannot_see(plm, rows):
    with pytest.raises(PurifyError, match="the tokenizer knows no part of the trigger '☃ ☃'"):
        BadWord(trigger="☃ ☃").check(rows, plm.tokenizer)
    with pytest.raises(PurifyError, match="no part of the trigger '☃'"):
        BadWords(trigger="cf ☃").check(rows, plm.tokenizer)


def test_unknown_attack():
    with pytest.raises(PurifyError, match="unknown attack 'BadWrod': choose one of BadWord"):
        ATTACKS.named("BadWrod")


def test_positions_are_uniform():
    rows = Dataset.from_dict({"text": ["a b c"] * 4000, "label": [0] * 4000})
    places = [text.split().index("cf") for text in BadWord().poison(rows, seed=0)["text"]]
    counts = np.bincount(places, minlength=4)
    assert (abs(counts - 1000) < 120).all()  # 4 standard deviations of a binomial count
