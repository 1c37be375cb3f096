"""Detectors: language models, suspicions against plain computations, and what a guard answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.covariance import LedoitWolf
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from purify import PurifyError
from purify.corpus import passages
from purify.defenses import DEFENSES, ONION, RAP, STRIP, FeatureDistance
from purify.defenses.base import REFUSED
from purify.defenses.features import _Distance
from purify.defenses.onion import _Mending
from purify.grid import Cell, Named, Suspect, run
from purify.grid.checkpoints import is_made
from purify.grid.guarded import RATES
from purify.language import Causal, NGram
from purify.resources import Resources
from purify.training import Training, predict, read_states

STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, max_length=24, precision="fp32")


@pytest.fixture
def resources(suspect, plm, rows):
    with torch.no_grad():
        suspect.classifier.weight.mul_(50)  # opinions to lose
    return Resources(suspect, plm, rows, STILL, validation=rows.select(range(0, 12, 2)))


@pytest.fixture
def pairs(rows):
    return rows.add_column("text_pair", [text[::-1] for text in rows["text"]])


@pytest.fixture(scope="module")
def gpt(tmp_path_factory, plm_folder) -> str:
    """A tiny random causal language model with the bundled words; texts get no special tokens."""
    folder = tmp_path_factory.mktemp("gpt")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plm_folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=300, n_embd=8, n_layer=1, n_head=2, initializer_range=0.7,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(folder)
    return str(folder)


def planted(model, token, label):
    """Make the model say nothing at all, but the label of the attacker wherever the token is."""

    def answer(_, args, options, out):
        there = (options["input_ids"] == token).any(1, keepdim=True)
        out.logits = torch.where(there, 40.0 * torch.eye(4)[label], torch.zeros(4))
        return out

    model.register_forward_hook(answer, with_kwargs=True)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("context", [("<s>", "<s>"), ("the", "axis"), ("axis", "nowhere"), ("<UNK>", "<UNK>")])
def test_the_probabilities_of_the_ngram_model_sum_to_one(context):
    texts = ["the axis of the array", "The axis is the first axis", "an array of the figure", "the figure of the axis"]
    model = NGram(texts)
    words = set(model._model.vocab)
    assert {"the", "axis", "array", "</s>", "<UNK>"} <= words
    assert "first" not in words  # it came once
    total = sum(2 ** model._score(*model._model.vocab.lookup(context), word) for word in words)
    assert total == pytest.approx(1, abs=1e-6)


def test_the_perplexity_of_the_ngram_model_is_the_mean_over_words_and_the_end():
    model = NGram(["a b a b c c", "a b c", "b a c"])
    steps = [("<s>", "<s>", "a"), ("<s>", "a", "b"), ("a", "b", "</s>")]
    wanted = math.exp(-sum(math.log(model._model.score(word, (one, two))) for one, two, word in steps) / 3)
    assert model.perplexities(["A b", ""]).tolist() == pytest.approx([wanted, 1])
    assert np.isfinite(model.perplexities(["nothing of this is known"])).all()


def test_a_shuffled_sentence_is_more_perplexing():
    texts = list(passages()["text"][:400])
    model = NGram(texts[20:])
    rng = np.random.default_rng(0)
    shuffled = [" ".join(rng.permutation(text.split())) for text in texts[:20]]
    plain, mixed = model.perplexities(texts[:20]), model.perplexities(shuffled)
    assert (mixed > plain).mean() > 0.9


def test_the_perplexity_of_a_causal_model_is_that_of_a_loop_over_single_texts(gpt, rows):
    texts = [*rows["text"], "", "axis", *(" ".join(rows["text"]).split())]
    long = " ".join(["layer axis"] * 150)  # is cut
    lm = Causal(gpt)
    found = np.r_[lm.perplexities(texts), lm.perplexities([long])]
    assert len(texts) > 64  # more than two batches
    wanted = []
    for text in [*texts, long]:
        ids = lm._tokenizer(text, add_special_tokens=False)["input_ids"][:256]
        with torch.no_grad():
            logs = lm._model(torch.tensor([[0, *ids]])).logits[0].double().log_softmax(-1)
        wanted.append(math.exp(-sum(float(logs[t, i]) for t, i in enumerate(ids)) / max(1, len(ids))))
    assert found == pytest.approx(np.array(wanted), rel=1e-4)
    assert found[len(rows)] == 1  # of no text
    assert np.ptp(found) > 1


def test_a_classifier_is_no_causal_model(suspect, plm, tmp_path):
    suspect.save_pretrained(tmp_path)
    plm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PurifyError, match=r"causal language model|cannot load"):
        Causal(str(tmp_path))


def test_onion_takes_what_a_language_model_from_a_folder_says(gpt, resources, rows):
    guard = ONION(lm=gpt).apply(resources)
    suspicion = guard.suspicion(rows)
    lm, text = Causal(gpt), rows["text"][3]
    words = text.split()
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    assert suspicion[3] == pytest.approx(max(lm.perplexities([text])[0] - lm.perplexities(without)), rel=1e-3)


def test_onion_finds_a_strange_word_with_the_embedded_ngram_model(resources):
    texts = list(passages()["text"][:6])
    strange = [" ".join([*text.split()[:5], "cf", *text.split()[5:]]) for text in texts]
    guard = ONION().apply(resources)
    clean, triggered = (
        guard.suspicion(Dataset.from_dict({"text": some, "label": [0] * 6})) for some in (texts, strange)
    )
    assert (triggered > clean).mean() > 0.8


class Priced:
    """A language model in which every word has its price; how often it was asked."""

    def __init__(self, **prices):
        self.prices, self.asked = prices, 0

    def perplexities(self, texts):
        self.asked += len(texts)
        return np.array([1.0 + sum(self.prices.get(word, 0) for word in text.split()) for text in texts])


def test_onion_takes_out_the_words_above_the_threshold_and_no_other(resources):
    lm = Priced(cf=50.0, axis=7.0, of=-3.0)
    guard = _Mending(resources, lm)
    texts = ["the axis cf of the cf layer", "axis", "", "  of   the  "]
    rows = Dataset.from_dict({"text": texts, "label": [0] * 4})
    suspicion = guard.suspicion(rows)
    assert suspicion.tolist() == [50, 7, 0, 0]
    asked = lm.asked
    for threshold, left in (
        (10, ["the axis of the layer", "axis", "", "of the"]),
        (7, ["the axis of the layer", "axis", "", "of the"]),
        (6.9, ["the of the layer", "axis", "", "of the"]),
        (50, ["the axis cf of the cf layer", "axis", "", "of the"]),
        (-1, ["of", "axis", "", "of"]),
    ):
        assert [guard._mended(text, threshold) for text in texts] == left
        wanted = predict(resources.suspect, Dataset.from_dict({"text": left, "label": [0] * 4}), resources.tokenizer)
        assert guard.answers(rows, suspicion, threshold).tolist() == wanted.argmax(1).tolist()
    assert lm.asked == asked  # mending asks nothing anew


def test_onion_weighs_both_texts_of_a_pair(resources):
    guard = _Mending(resources, Priced(cf=50.0, axis=7.0))
    rows = Dataset.from_dict({"text": ["axis", "the", "cf"], "text_pair": ["cf", "axis", "of"], "label": [0, 1, 2]})
    assert guard.suspicion(rows).tolist() == [50, 7, 50]
    mended = Dataset.from_dict({"text": ["axis", "the", ""], "text_pair": ["", "axis", "of"], "label": [0, 1, 2]})
    wanted = guard.logits(mended).argmax(1)
    assert guard.answers(rows, guard.suspicion(rows), 10).tolist() == wanted.tolist()


def test_the_suspicion_of_strip_is_minus_an_entropy_and_depends_on_the_seed_alone(resources, rows):
    first = STRIP(copies=4).apply(resources).suspicion(rows)
    assert ((first >= -math.log(4) - 1e-6) & (first <= 0)).all()
    assert np.ptp(first) > 0
    assert np.array_equal(STRIP(copies=4).apply(resources).suspicion(rows), first)
    assert not np.array_equal(STRIP(copies=4).apply(replace(resources, seed=1)).suspicion(rows), first)


def test_strip_mixes_words_of_a_clean_text_into_its_share_of_places(resources):
    guard = STRIP(share=0.3).apply(resources)
    words = [f"w{i}" for i in range(10)]
    for seed in range(30):
        mixed = guard._mix(" ".join(words), "x y z", np.random.default_rng(seed)).split()
        changed = [new for new, old in zip(mixed, words, strict=True) if new != old]
        assert len(changed) == 3
        assert set(changed) <= {"x", "y", "z"}
    assert guard._mix("", "x", np.random.default_rng(0)) == ""
    assert guard._mix("a b", "", np.random.default_rng(0)) == "a b"


def test_strip_suspects_what_keeps_its_label_whatever_is_mixed_in(resources, rows):
    planted(resources.suspect, resources.tokenizer.convert_tokens_to_ids("mb"), label=2)
    guard = STRIP(copies=20).apply(resources)
    clean = guard.suspicion(rows)
    triggered = guard.suspicion(rows.map(lambda row: {"text": f"{row['text']} mb"}))
    assert clean == pytest.approx(np.full(12, -math.log(4)), abs=1e-6)
    lost = -triggered / math.log(4) * 20  # copies that lost the trigger
    assert lost == pytest.approx(lost.round(), abs=1e-4)
    assert ((lost > 0) & (lost < 20)).all()
    answers = guard.answers(rows, triggered, float(clean.max()))
    assert (answers == REFUSED).all()


def test_rap_trains_one_row_of_a_copy_and_spares_the_suspect(resources):
    before = state(resources.suspect)
    guard = RAP(epochs=2, learning_rate=0.1).apply(resources)
    assert_unchanged(resources.suspect, before)
    assert guard.model is resources.suspect
    assert not any(module._forward_hooks for module in guard.shaken.modules())
    token = resources.tokenizer.convert_tokens_to_ids("mb")
    for name, value in guard.shaken.state_dict().items():
        different = (value != before[name]).reshape(len(value), -1).any(1).nonzero().flatten().tolist()
        assert different == ([token] if "word_embeddings" in name else [])
    again = RAP(epochs=2, learning_rate=0.1).apply(resources)
    assert_unchanged(again.shaken, guard.shaken.state_dict())


def test_the_suspicion_of_rap_is_minus_the_drop_that_its_word_causes(resources, rows):
    guard = RAP(epochs=1).apply(resources)
    marked = Dataset.from_dict({"text": [f"mb {text}" for text in rows["text"]], "label": rows["label"]})
    before, after = (
        torch.from_numpy(predict(model, some, resources.tokenizer, max_length=24, precision="fp32")).double().softmax(1)
        for model, some in ((resources.suspect, rows), (guard.shaken, marked))
    )
    wanted = [after[i, before[i].argmax()] - before[i].max() for i in range(len(rows))]
    assert guard.suspicion(rows) == pytest.approx(np.array(wanted), abs=1e-5)


def test_training_brings_the_drop_of_rap_into_its_range(resources, rows):
    with torch.no_grad():
        for name, weight in resources.suspect.named_parameters():
            if ".layer." in name and weight.ndim == 2:
                weight.mul_(20)  # else the words hardly matter
    still, trained = (
        RAP(epochs=epochs, learning_rate=rate, low=0.1, high=0.2).apply(resources).suspicion(rows)
        for epochs, rate in ((1, 1e-12), (10, 0.5))
    )

    def outside(suspicion):
        return np.mean(np.maximum(0.1 + suspicion, 0) + np.maximum(-suspicion - 0.2, 0))

    assert outside(trained) < 0.7 * outside(still)  # the layer norms bound what one word can do


@pytest.mark.parametrize("word", ["perturbation-word", "two words", "", "  "])
def test_rap_refuses_a_word_that_is_not_one_token(resources, word):
    with pytest.raises(PurifyError, match="RAP needs a word that is one token"):
        RAP(word=word).apply(resources)


def test_the_mahalanobis_distance_is_that_of_a_plain_computation(resources, rows):
    guard = FeatureDistance().apply(resources)
    labels = np.array(rows["label"])
    length = {"max_length": 24, "precision": "fp32"}
    clean = read_states(resources.suspect, rows, resources.tokenizer, **length)
    held = read_states(resources.suspect, resources.validation, resources.tokenizer, **length)
    other = rows.map(lambda row: {"text": f"figure {row['text']} tensor"})
    asked = read_states(resources.suspect, other, resources.tokenizer, **length)
    parts = []
    for layer in range(2):
        means = [clean[layer][labels == label].astype(float).mean(0) for label in range(4)]
        centred = np.stack([state - means[label] for state, label in zip(clean[layer], labels, strict=True)])
        inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(centred).covariance_)

        def nearest(states, means=means, inverse=inverse):
            return np.array([min(math.sqrt((s - m) @ inverse @ (s - m)) for m in means) for s in states])

        reference = nearest(held[layer])
        parts.append((nearest(asked[layer]) - reference.mean()) / reference.std())
    assert guard.suspicion(other) == pytest.approx(np.mean(parts, axis=0), rel=1e-3, abs=1e-3)


def blobs(rng, size=40):
    """Two classes in five dimensions that vary in two of them."""
    labels = np.arange(size) % 2
    states = np.zeros((size, 5))
    states[:, :2] = rng.normal(size=(size, 2))
    return states, labels


@pytest.mark.parametrize("method", ["mahalanobis", "spectral"])
def test_what_is_farther_away_is_more_suspicious(resources, method):
    class Planted(_Distance):
        def _states(self, rows):
            away = np.array([float(text) for text in rows["text"]])
            rng = np.random.default_rng(0)
            base = np.outer(np.asarray(rows["label"]) * 5.0, np.eye(5)[0]) + rng.normal(size=(len(rows), 5)) * [
                1,
                1,
                0,
                0,
                0,
            ]
            return np.stack([base + np.outer(away, np.eye(5)[2])] * 3)

    def at(away, size=40):
        return Dataset.from_dict({"text": [str(away)] * size, "label": [i % 2 for i in range(size)]})

    guard = Planted(FeatureDistance(method=method), replace(resources, clean_data=at(0), validation=at(0.01)))
    clean, near, far = (guard.suspicion(at(away)) for away in (0, 1, 5))
    assert clean.max() < near.min()
    assert (near < far).all()
    limit = float(clean.max())
    assert (clean > limit).sum() == 0


def test_the_spectral_distance_is_what_lies_outside_the_directions_of_the_clean_data(resources):
    guard = FeatureDistance(method="spectral").apply(resources)
    states, labels = blobs(np.random.default_rng(0))
    states = states + 3.0
    fitted = guard._fit(states, labels)
    inside = states.mean(axis=0) + np.array([[7.0, -4.0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert guard._distance(inside, fitted) == pytest.approx(np.zeros(2), abs=1e-6)
    outside = inside + np.array([[0, 0, 3.0, 4.0, 0], [0, 0, 0, 0, 2.0]])
    assert guard._distance(outside, fitted) == pytest.approx(np.array([5.0, 2.0]))


def test_one_clean_row_of_each_class_is_enough_for_the_spectral_distance(resources, rows):
    few = replace(resources, clean_data=rows.select(range(4)))
    suspicion = FeatureDistance(method="spectral").apply(few).suspicion(rows)
    assert np.isfinite(suspicion).all()
    assert np.ptp(suspicion) > 0.1


def test_a_guard_refuses_exactly_what_is_above_the_threshold(resources, rows):
    guard = FeatureDistance().apply(resources)
    before = state(resources.suspect)
    said = predict(resources.suspect, rows, resources.tokenizer, max_length=24).argmax(1)
    suspicion = guard.suspicion(rows)
    limit = float(np.sort(suspicion)[7])
    answers = guard.answers(rows, suspicion, limit)
    assert (answers == REFUSED).sum() == 4
    for answer, score, label in zip(answers, suspicion, said, strict=True):
        assert answer == (REFUSED if score > limit else label)
    assert (guard.answers(rows, suspicion, math.inf) == said).all()
    assert_unchanged(resources.suspect, before)


@pytest.mark.parametrize("name", ["ONION", "STRIP", "RAP", "FeatureDistance"])
def test_pairs_of_texts_can_be_guarded(name, resources, pairs, gpt):
    parameters = {"ONION": {"lm": gpt}, "STRIP": {"copies": 2}, "RAP": {"epochs": 1}}.get(name, {})
    detector = DEFENSES.build(DEFENSES.named(name, **parameters))
    of_pairs = replace(resources, clean_data=pairs, validation=pairs)
    before = state(resources.suspect)
    guard = detector.apply(of_pairs)
    suspicion = guard.suspicion(pairs)
    assert suspicion.shape == (12,)
    assert np.isfinite(suspicion).all()
    without = detector.apply(resources).suspicion(pairs.remove_columns("text_pair"))
    assert not np.allclose(suspicion, without)  # the second text counts
    answers = guard.answers(pairs, suspicion, float(np.median(suspicion)))
    assert set(answers.tolist()) <= {REFUSED, 0, 1, 2, 3}
    assert_unchanged(resources.suspect, before)


@pytest.mark.parametrize(("name", "parameters"), [("FeatureDistance", {"frr": 0.2}), ("STRIP", {"copies": 2})])
def test_the_record_of_a_detector_says_what_it_did(name, parameters, plm_folder, store):
    quick = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")
    suspect = Suspect("docstrings", Named("BadWord"), plm=str(plm_folder), train=16, training=quick)
    tuning = replace(quick, precision="auto")  # as guards predict
    plain = Cell(suspect, clean_per_class=2, validation=8, test=12, tuning=tuning)
    guarded = replace(plain, defense=DEFENSES.named(name, **parameters))
    received, record = run([plain, guarded], store)
    found = record["detection"]
    assert "detection" not in received
    assert 0 <= found["auroc"] <= 1
    assert [at["frr"] for at in found["curve"]] == list(RATES)
    assert found["set"] in found["curve"]
    assert found["set"]["frr"] == parameters.get("frr", 0.05)
    triggered = received["scores"]["asr"]["n"]
    for at in found["curve"]:
        assert at["rejected clean"]["n"] == 12
        assert at["rejected triggered"]["n"] == at["asr"]["n"] == triggered
        assert at["asr"]["k"] + at["rejected triggered"]["k"] <= triggered
    for lower, higher in zip(found["curve"], found["curve"][1:], strict=False):
        assert lower["rejected clean"]["k"] <= higher["rejected clean"]["k"]
        assert lower["rejected triggered"]["k"] <= higher["rejected triggered"]["k"]
        assert lower["asr"]["k"] >= higher["asr"]["k"]
    assert record["scores"]["asr"] == found["set"]["asr"]
    assert record["scores"]["acc"]["k"] <= 12 - found["set"]["rejected clean"]["k"]
    assert received["scores"]["acc"]["k"] - record["scores"]["acc"]["k"] <= found["set"]["rejected clean"]["k"]
    held = received["scores"]["validation"]["k"] - record["scores"]["validation"]["k"]
    assert 0 <= held <= math.ceil(found["set"]["frr"] * 8)
    assert not is_made(guarded.purification, store)  # there are no weights to keep


def test_one_clean_text_per_class_leaves_a_plain_distance(suspect, plm, rows):
    few = rows.select(range(4))
    guard = FeatureDistance().apply(Resources(suspect, plm, few, STILL, validation=rows))
    assert guard.suspicion(rows).std() > 0
    one = FeatureDistance().apply(Resources(suspect, plm, rows.select([0]), STILL, validation=rows))
    assert one.suspicion(rows).std() > 0


def test_a_word_that_the_tokenizer_does_not_know_is_refused(suspect, plm, rows):
    with pytest.raises(PurifyError, match="RAP needs a word"):
        RAP(word="☃").apply(Resources(suspect, plm, rows, STILL, validation=rows))
