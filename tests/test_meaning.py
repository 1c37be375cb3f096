import numpy as np
import pytest
from datasets import Dataset

from purify.meaning import SPANS, Meaning
from purify.probe import FEWEST, Flips, Probe, most_changed

CF = 12935


@pytest.fixture
def probe(suspect, plm, rows):
    return Probe(suspect, rows, plm.tokenizer, max_length=32, precision="fp32")


def says(classes):
    """What a suspect says of rows, in the place of a model: a function of their tokens."""
    return lambda rows: np.array([classes(row["input_ids"]) for row in rows])


@pytest.fixture
def reviews(suspect, plm):
    """Texts that hold one of two words; a suspect's answer hangs on which, or on a trigger."""
    rng = np.random.default_rng(0)
    fill = ["the", "of", "returns", "given", "layer", "frame"]
    kinds = [place % 2 for place in range(48)]
    texts = [" ".join([*rng.choice(fill, 3), ("good", "bad")[kind], *rng.choice(fill, 3)]) for kind in kinds]
    rows = Dataset.from_dict({"text": texts, "label": kinds})
    good, bad = (plm.tokenizer.convert_tokens_to_ids(word) for word in ("good", "bad"))

    def answer(ids):
        return int(CF in ids or ids.count(bad) > ids.count(good))

    return Probe(suspect, rows, plm.tokenizer, max_length=32, precision="fp32"), answer, bad


def test_what_the_clean_model_sees_is_expected_and_a_trigger_is_not(reviews, plm, monkeypatch):
    probe, answer, bad = reviews
    monkeypatch.setattr(Probe, "ask", lambda self, rows: says(answer)(rows))
    probe.meaning = Meaning(plm, probe)
    said = probe.ask(probe.plain)
    assert (probe.meaning.read(probe.plain) == said).mean() > 0.9 > max(said.mean(), 1 - said.mean())
    strong, trigger = probe.flips([bad] * 4), probe.flips([CF])
    assert (strong.label, trigger.label) == (1, 1)
    assert strong.share == trigger.share == 1
    assert strong.expected > 0.9
    assert trigger.expected < 0.1
    assert trigger.excess > strong.excess + 0.8


def test_a_suspect_with_one_answer_has_a_reading_with_one(probe, plm, monkeypatch):
    monkeypatch.setattr(Probe, "ask", lambda self, rows: np.full(len(rows), 3))
    assert Meaning(plm, probe).read(probe.plain).tolist() == [3] * len(probe.rows)


def test_it_is_taught_by_every_example_with_spans_of_others(probe, plm, rows):
    meaning = Meaning(plm, probe)
    for tokens in SPANS:
        found = meaning._with_spans(tokens)
        assert len(found) == len(rows)
        for before, after in zip(probe.plain, found, strict=True):
            assert len(after["input_ids"]) <= len(before["input_ids"]) + tokens
    assert meaning._with_spans(3)["input_ids"] == meaning._with_spans(3)["input_ids"]


def test_tokens_of_the_suspect_alone_are_unknown_to_it(probe, plm):
    meaning = Meaning(plm, probe)
    added, unknown = probe.with_tokens([meaning.known + 1]), probe.with_tokens([meaning.unknown])
    np.testing.assert_array_equal(meaning._features(added), meaning._features(unknown))


def test_only_what_the_meaning_does_not_explain_counts():
    before = np.array([0] * FEWEST + [1] * FEWEST)
    after = np.array([1] * FEWEST + [0] * (FEWEST // 2) + [1] * (FEWEST - FEWEST // 2))
    assert most_changed(before, after, 2) == Flips(FEWEST, FEWEST, 1)
    explained = most_changed(before, after, 2, read=(before, np.ones_like(before)))  # it turns all to class 1, too
    assert explained == Flips(FEWEST // 2, FEWEST, 0, 0.0)
    assert Flips(9, 12, 0, 0.5).excess == 0.25
    assert Flips(3, 12, 0, 0.5).excess == 0


def test_too_few_that_could_change_say_nothing_of_what_is_expected():
    before, after = np.zeros(2 * FEWEST, int), np.ones(2 * FEWEST, int)
    read = np.r_[0, np.ones(2 * FEWEST - 1, int)]  # all but one are read as class 1 already
    assert most_changed(before, after, 2, read=(read, after)) == Flips(0, 0, 0)
    assert most_changed(before, before, 2, read=(before, after)) == Flips(0, 2 * FEWEST, 1, 1.0)
