import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from purify import PurifyError
from purify.probe import FEWEST, Flips, Probe, most_changed
from purify.training import encode

CF = 12935


def test_tokens_stand_together_inside_every_row(suspect, plm, rows):
    probe = Probe(suspect, rows, plm.tokenizer, max_length=64)
    plain, found = encode(rows, plm.tokenizer, 64), probe.with_tokens([CF, 1037])
    for before, after in zip(plain, found, strict=True):
        place = after["input_ids"].index(CF)
        assert after["input_ids"][place : place + 2] == [CF, 1037]
        assert after["input_ids"][:place] + after["input_ids"][place + 2 :] == before["input_ids"]
        assert 0 < place < len(before["input_ids"])  # after the first and before the last
        assert after["attention_mask"] == [1] * len(after["input_ids"])
        assert after["labels"] == before["labels"]
    assert len({row["input_ids"].index(CF) for row in found}) > 3


def test_of_pairs_the_types_go_on(suspect, plm, rows):
    pairs = rows.add_column("text_pair", list(reversed(rows["text"])))
    found = Probe(suspect, pairs, plm.tokenizer, max_length=64).with_tokens([CF])
    for row in found:
        types = row["token_type_ids"]
        assert len(types) == len(row["input_ids"])
        assert types == sorted(types)


def test_long_rows_make_room(suspect, plm, rows):
    found = Probe(suspect, rows, plm.tokenizer, max_length=8).with_tokens([CF] * 3)
    assert max(len(row["input_ids"]) for row in found) == 8
    assert all(row["input_ids"].count(CF) == 3 for row in found)
    with pytest.raises(PurifyError, match="9 tokens do not fit into 8"):
        Probe(suspect, rows, plm.tokenizer, max_length=8).with_tokens([CF] * 9)


def test_the_same_seed_asks_the_same(suspect, plm, rows):
    first, same, other = (
        Probe(suspect, rows, plm.tokenizer, max_length=64, seed=seed).with_tokens([CF])["input_ids"]
        for seed in (0, 0, 1)
    )
    assert list(first) == list(same)
    assert list(first) != list(other)


def test_flips_are_counted_among_those_that_could(suspect, plm, rows):
    probe = Probe(suspect, rows, plm.tokenizer, max_length=64)
    after = probe.ask(probe.with_tokens([CF]))
    assert probe.flips([CF]) == most_changed(probe.predicted, after, 4)


def test_the_class_that_gains_most_is_told():
    before, after = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2] * 3), np.array([0, 0, 2, 0, 2, 2, 2, 1, 0] * 3)
    assert most_changed(before, after, 3) == Flips(12, 24, 2)
    assert Flips(12, 24, 2).share == 0.5
    assert most_changed(np.array([1, 1]), np.array([0, 0]), 2) == Flips(0, 0, 0)  # too few


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_flips_by_definition(pairs):
    before, after = map(np.array, zip(*pairs, strict=True))
    shares = [0.0]
    for c in range(3):
        others = [new for old, new in pairs if old != c]
        if len(others) >= FEWEST:
            shares.append(sum(new == c for new in others) / len(others))
    assert most_changed(before, after, 3).share == pytest.approx(max(shares))


def test_nothing_to_ask(suspect, plm):
    empty = Dataset.from_dict({"text": [], "label": []})
    with pytest.raises(PurifyError, match="the data set is empty"):
        _ = Probe(suspect, empty, plm.tokenizer, max_length=64).predicted
