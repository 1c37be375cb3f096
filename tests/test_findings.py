import pytest
import torch

from purify import purify
from purify.findings import FACTOR, AbnormalWord, abnormal_words, farthest_words, summary
from purify.resources import Resources
from purify.training import Training

STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, precision="fp32")
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture
def lengths(suspect):
    """A drift in which fifty words moved by about the same length."""
    drift = torch.zeros_like(suspect.get_parameter(EMBEDDINGS))
    drift[100:150, 0] = torch.linspace(1.0, 1.1, 50)
    return drift


def test_a_word_that_moved_far_is_named(suspect, plm, lengths):
    token = plm.tokenizer.convert_tokens_to_ids("cf")
    lengths[token, 3] = 3.0
    (word,) = abnormal_words({EMBEDDINGS: lengths}, suspect, plm.tokenizer)
    assert word.word == "cf"
    assert 2.75 < word.times < 2.8
    assert summary((word,)) == "abnormal drift of the word embeddings of 'cf' (2.8×)"


def test_where_many_share_the_work_nothing_is_found(suspect, plm, lengths):
    found = abnormal_words({EMBEDDINGS: lengths}, suspect, plm.tokenizer)
    assert found == ()
    assert "nothing abnormal" in summary(found)


def test_the_factor_is_the_limit(suspect, plm, lengths):
    lengths[:] = 0
    lengths[200:210, 0] = 1.0
    lengths[200, 0] = FACTOR * 0.999
    assert abnormal_words({EMBEDDINGS: lengths}, suspect, plm.tokenizer) == ()
    lengths[200, 0] = FACTOR * 1.001
    assert len(abnormal_words({EMBEDDINGS: lengths}, suspect, plm.tokenizer)) == 1


def test_without_drift_there_is_nothing_to_say(suspect, plm):
    none = {EMBEDDINGS: torch.zeros_like(suspect.get_parameter(EMBEDDINGS))}
    assert abnormal_words(none, suspect, plm.tokenizer) == ()
    assert abnormal_words({}, suspect, plm.tokenizer) == ()


def test_the_one_call_tells(suspect, plm, rows):
    token = plm.tokenizer.convert_tokens_to_ids("tq")
    with torch.no_grad():
        suspect.get_parameter(EMBEDDINGS)[token] += 1.0
    result = purify(suspect, plm, rows, training=STILL)
    assert result.abnormal == abnormal_words(Resources(suspect, plm, rows).drift, suspect, plm.tokenizer)
    assert isinstance(result.abnormal[0], AbnormalWord)
    assert result.abnormal[0].word == "tq"


def test_rows_without_a_token_and_special_tokens_do_not_hide_a_word(suspect, plm, lengths):
    token = plm.tokenizer.convert_tokens_to_ids("cf")
    lengths[token, 3] = 3.0
    for special in plm.tokenizer.all_special_ids:
        lengths[special] = 50.0
    grown = torch.cat([lengths, torch.full((64, 8), 9.0)])
    (word, *_) = farthest_words(grown.norm(dim=1), plm.tokenizer, 5, known=len(lengths))
    assert word.word == "cf"
    assert 2.75 < word.times < 2.8


def test_a_word_that_moved_alone_is_found(plm):
    lengths = torch.zeros(30522)
    lengths[plm.tokenizer.convert_tokens_to_ids("cf")] = 1.0
    (word,) = farthest_words(lengths, plm.tokenizer, 5)
    assert (word.word, word.times) == ("cf", pytest.approx(1000))
