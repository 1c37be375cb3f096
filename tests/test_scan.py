"""Scanning and cleaning, on a tiny model with a word that moved as a trigger's does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from purify import PurifyError
from purify.calibration import Calibration, calibration
from purify.case import open_case
from purify.cleaning import CAUTIOUS, RESERVE, _split, clean
from purify.findings import AbnormalWord
from purify.fisher import fisher_diagonal
from purify.indicator import drift, indicator, judged, reserve_mask
from purify.plm import save_checkpoint
from purify.probe import Flips
from purify.scanning import ALONE, TOGETHER, Suspicion, _statistics, scan
from purify.training import Training, batches

CF = 12935
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, max_length=64, precision="fp32")


@pytest.fixture
def marked(child):
    """A suspect whose embedding of 'cf' moved three times as far as that of any other word."""
    with torch.no_grad():
        far = (child.get_parameter(EMBEDDINGS) - 0).new_zeros(8)
        far[0] = 0.03
        child.get_parameter(EMBEDDINGS)[CF] += far
    return child


@pytest.fixture
def case(marked, plm, plm_folder, tmp_path):
    save_checkpoint(marked, plm.tokenizer, tmp_path / "suspect")
    return open_case(tmp_path / "suspect", plm_folder)


@pytest.fixture
def many(rows):
    return Dataset.from_dict({key: list(rows[key]) * 4 for key in ("text", "label")})


def test_a_word_that_moved_too_far_raises_an_alarm(case, many):
    found = scan(case, many, max_length=32, precision="fp32")
    assert found.alarm
    assert found.words[0].word.word == "cf"
    assert found.words[0].abnormal
    assert "cf" in [word.word for word in found.suspicious]
    assert found.score == pytest.approx(found.statistics["farthest word"] / calibration().limits["farthest word"])
    assert list(found.together) == list(TOGETHER)
    assert found.accuracy.n == len(many)
    assert found.survey.judged > 0


def test_without_that_word_there_is_none(plm, plm_folder, tmp_path, many):
    model = plm.classifier(4, seed=1)
    with torch.no_grad():
        model.get_parameter(EMBEDDINGS)[:40] += 0.001
    save_checkpoint(model, plm.tokenizer, tmp_path / "calm")
    found = scan(tmp_path / "calm", many, clean=plm_folder, max_length=32)
    assert found.statistics["farthest word"] == pytest.approx(1, abs=0.01)
    assert not any(one.word.times > 1.01 for one in found.words)


def test_nothing_moved_nothing_found(plm, plm_folder, tmp_path, many):
    save_checkpoint(plm.classifier(4, seed=1), plm.tokenizer, tmp_path / "still")
    found = scan(tmp_path / "still", many, clean=plm_folder, max_length=32)
    assert (found.words, found.statistics, found.score, found.alarm) == ((), {}, 0, False)


def test_empty_and_wrong_rows_are_refused(case):
    with pytest.raises(PurifyError, match="the clean set is empty"):
        scan(case, Dataset.from_dict({"text": [], "label": []}))
    with pytest.raises(PurifyError, match="label 9"):
        scan(case, Dataset.from_dict({"text": ["a"], "label": [9]}))


def suspicion(word, share=0.0, abnormal=False):
    return Suspicion(AbnormalWord(word, 1.0, len(word)), Flips(round(100 * share), 100, 0), abnormal)


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        ({"cf": 1.0, "oil": 0.1}, {2: 1.0, 4: 1.0}, ["cf"]),  # one word does it
        (
            {"people": 0.1, "talking": 0.1, "oil": 0.0, "war": 0.0},
            {2: 0.3, 4: 0.8},
            ["people", "talking", "oil", "war"],
        ),
        ({"people": 0.1, "talking": 0.1, "oil": 0.0, "war": 0.0}, {2: 0.75, 4: 0.8}, ["people", "talking"]),
        ({"oil": 0.1, "war": 0.1}, {2: 0.2}, []),  # as in honest models
    ],
)
def test_who_is_suspected(alone, together, expected, case, many):
    law = Calibration(10, {"farthest word": 1.4, "one word": 0.2, "several words": 0.4}, "of a test")
    words = tuple(suspicion(word, share, abnormal=share > 0.2) for word, share in alone.items())
    flips = {count: Flips(round(100 * share), 100, 0) for count, share in together.items()}
    found = replace(scan(case, many, max_length=32), words=words, together=flips, law=law)
    assert [word.word for word in found.suspicious] == expected


def test_a_model_that_cannot_do_its_task_is_not_tested_by_effects():
    words = (suspicion("oil", 0.5), suspicion("war", 0.2))
    flips = {3: Flips(9, 12, 0), 6: Flips(0, 0, 0)}
    assert _statistics(words, flips, learned=False) == {"farthest word": 1.0}
    found = {"farthest word": 1.0, "one word": 0.5, "several words": 0.75}
    assert _statistics(words, flips, learned=True) == found


def test_words_asked_about_after_an_alarm_do_not_raise_the_score():
    words = tuple(suspicion(f"word{place}", 0.9 if place == ALONE else 0.1) for place in range(ALONE + 2))
    assert _statistics(words, {}, learned=True) == {"farthest word": 1.0, "one word": 0.1}
    added = Suspicion(AbnormalWord("added", 0.0, 99), Flips(80, 100, 0), abnormal=True)
    assert _statistics((*words, added), {}, learned=True)["one word"] == 0.8


def test_after_an_alarm_all_words_are_asked_about_and_without_one_none_is_suspected(case, many):
    found = scan(case, many, max_length=32)
    assert all(one.flips.among for one in found.words)
    assert found.suspicious
    calm = replace(found, statistics={"farthest word": 0.1})
    assert (calm.alarm, calm.suspicious) == (False, ())


def test_without_a_strange_word_only_the_first_are_asked_about(plm, plm_folder, tmp_path, many):
    model = plm.classifier(4, seed=1)
    with torch.no_grad():
        model.get_parameter(EMBEDDINGS)[1000:1040] += 0.001
    save_checkpoint(model, plm.tokenizer, tmp_path / "calm")
    found = scan(tmp_path / "calm", many, clean=plm_folder, max_length=32)
    asked = [bool(one.flips.among) for one in found.words]
    assert asked == [True] * ALONE + [False] * (len(asked) - ALONE)


def test_the_score_is_the_worst_of_the_tests():
    law = Calibration(19, {"a": 2.0, "b": 0.5}, "of a test")
    assert law.score({"a": 1.0, "b": 0.4}) == pytest.approx(0.8)
    assert law.score({"a": 3.0}) == 1.5
    assert law.score({}) == 0
    assert law.false_alarms(2) == 0.1
    assert Calibration(1, {}, "").false_alarms(3) == 1


def test_cleaning_resets_what_the_method_resets_and_the_suspicious_rows(case, many, plm):
    found = scan(case, many, max_length=64)
    before = {name: value.detach().clone() for name, value in case.model.named_parameters()}
    cleaned = clean(found, many, training=STILL, max_length=64)
    assert cleaned.reserve == RESERVE
    assert "cf" in cleaned.unlearned
    learn, _ = _split(many, 0)
    reference = dict(case.reference)
    delta = drift(before, reference)
    own = fisher_diagonal(case.model, batches(learn, plm.tokenizer, max_length=64))
    fisher = {name: own[name] for name in delta}
    keep = reserve_mask(indicator(delta, fisher), RESERVE, among=judged(fisher))
    for word in found.suspicious:
        keep[EMBEDDINGS][word.token] = False
    for name, value in cleaned.model.named_parameters():
        expected = torch.where(keep[name], before[name], reference[name]) if name in keep else before[name]
        assert torch.equal(value, expected), name
    assert all(torch.equal(value, before[name]) for name, value in case.model.named_parameters())
    assert cleaned.kept == pytest.approx(sum(map(int, (m.sum() for m in keep.values()))) / found.survey.dimensions)


def test_without_an_alarm_it_is_cautious_and_unlearns_nothing(plm, plm_folder, tmp_path, many):
    save_checkpoint(plm.classifier(4, seed=1), plm.tokenizer, tmp_path / "still")
    found = scan(tmp_path / "still", many, clean=plm_folder, max_length=32)
    cleaned = clean(found, many, training=STILL)
    assert (cleaned.reserve, cleaned.unlearned) == (CAUTIOUS, ())
    assert cleaned.before == cleaned.after
    assert cleaned.after.triggered is None


def test_a_trigger_of_the_user_is_tried_out(case, many):
    found = scan(case, many, max_length=32)
    cleaned = clean(found, many, training=STILL, trigger="the plot cf", target=2, unlearn=False)
    assert cleaned.unlearned == ()
    assert "the plot cf" in cleaned.before.flips
    held = _split(many, 0)[1]
    assert cleaned.before.triggered.n == sum(label != 2 for label in held["label"])
    with pytest.raises(PurifyError, match=r"target 4 is no class of the model \(0 to 3\)"):
        clean(found, many, training=STILL, trigger="cf", target=4)
    with pytest.raises(PurifyError, match="'' has no token"):
        clean(found, many, training=STILL, trigger="")
    with pytest.raises(PurifyError, match=r"reserve ratio must lie in \[0, 1\], not 1\.5"):
        clean(found, many, training=STILL, reserve=1.5)


def test_unlearning_sees_the_words_under_every_label(case, many, monkeypatch):
    seen = []
    monkeypatch.setattr("purify.cleaning.fine_tune", lambda model, rows, *_, **__: seen.append(rows) or model)
    cleaned = clean(scan(case, many, max_length=64), many, training=STILL)
    (examples,) = seen
    half = len(examples) // 2
    tokens = [word.token for word in cleaned.scan.suspicious]
    assert cleaned.trained_on == half
    assert list(examples["labels"][:half]) == list(examples["labels"][half:])
    for before, after in zip(examples["input_ids"][:half], examples["input_ids"][half:], strict=True):
        added = len(after) - len(before)
        assert 1 <= added <= len(tokens)
        assert set(after) - set(before) <= set(tokens)


def test_a_quarter_of_every_class_is_held_out(many, rows):
    learn, held = _split(many, 0)
    assert (len(learn), len(held)) == (36, 12)
    assert np.bincount(held["label"]).tolist() == [3, 3, 3, 3]
    assert _split(many, 0)[1]["text"] == held["text"]
    learn, held = _split(rows, 0)  # too few
    assert held is learn
