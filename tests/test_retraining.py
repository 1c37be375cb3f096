"""Robust learning: which rows are dropped, and what is trained on the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from purify import PurifyError
from purify.defenses import ClusterFiltering, KeywordRemoval, LossFiltering, ModerateFitting
from purify.defenses.retraining import SampleFilter
from purify.resources import Resources
from purify.training import Training, fine_tune

TINY = Training(epochs=1, learning_rate=1e-2, batch_size=4, max_length=24, precision="fp32")


@pytest.fixture
def resources(suspect, plm, rows):
    return Resources(suspect, plm, rows, TINY, training_source=lambda: rows, retraining=TINY)


def weights_of(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def difficulty(model, rows, tokenizer, score):
    """The loss of every row, or the norm of its gradient in a bare linear head: by autograd, one row at a time."""
    found = []
    for text, label in zip(rows["text"], rows["label"], strict=True):
        inputs = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        logits = output.logits[0].double()
        if score == "loss":
            found.append(float(-logits.log_softmax(0)[label]))
            continue
        state = output.hidden_states[-1][0, 0].double()
        head = torch.zeros(len(logits), len(state), dtype=torch.float64, requires_grad=True)
        loss = -(head @ state + logits).log_softmax(0)[label]
        found.append(float(torch.autograd.grad(loss, head)[0].norm()))
    return np.array(found)


@pytest.mark.parametrize("score", ["loss", "gradient"])
@pytest.mark.parametrize(("share", "dropped"), [(0.01, 0), (0.4, 5)])
def test_exactly_the_share_that_is_learnt_best_is_dropped(resources, rows, score, share, dropped):
    better = replace(resources, retraining=replace(TINY, learning_rate=0.1))  # losses that differ by more than rounding
    kept = LossFiltering(share=share, epochs=2, score=score).kept(rows, better)
    assert kept.dtype == bool
    assert int((~kept).sum()) == dropped == round(share * 12)
    scout = fine_tune(better.fresh(), rows, better.tokenizer, replace(better.retraining, epochs=2), seed=better.seed)
    found = difficulty(scout, rows, better.tokenizer, score)
    if dropped:
        assert found[~kept].max() <= found[kept].min() * 1.05  # predictions may be rounded to bf16


def test_the_model_is_trained_from_the_clean_plm_on_what_is_left(resources, rows):
    filtering = LossFiltering(share=0.5)
    kept = filtering.kept(rows, resources)
    left = rows.select(np.flatnonzero(kept))
    wanted = weights_of(fine_tune(resources.fresh(), left, resources.tokenizer, TINY, seed=resources.seed))
    found = weights_of(filtering.apply(resources))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    longer = replace(resources, retraining=replace(TINY, epochs=3))
    assert not torch.equal(filtering.apply(longer).classifier.weight, found["classifier.weight"])  # the budget counts


def test_a_filter_that_leaves_nothing_is_refused(resources):
    class Nothing(SampleFilter):
        def kept(self, rows, resources):
            return np.zeros(len(rows), dtype=bool)

    with pytest.raises(PurifyError, match="Nothing leaves no row to train on: change its parameters"):
        Nothing().apply(resources)
    with pytest.raises(PurifyError, match="LossFiltering leaves no row to train on"):
        LossFiltering(share=0.99).apply(resources)


def shaken_by(model, tokens):
    """Make every state of the last layer jump wherever one of the tokens is in the input."""
    seen = {}

    def look(_, args, options):
        seen["there"] = sum((options["input_ids"] == token).any(1).float() * size for token, size in tokens.items())

    def jump(_, args, out):
        return out + 10 * seen["there"].view(-1, 1, 1)

    model.register_forward_pre_hook(look, with_kwargs=True)
    model.bert.encoder.layer[-1].register_forward_hook(jump)


@pytest.fixture
def poisoned(rows):
    """A third of the rows hold a trigger, in some of its spellings."""
    spelt = {1: "mb", 4: "(MB)", 7: "mb.", 10: "Mb"}
    return Dataset.from_dict(
        {
            "text": [f"{spelt[i]} {text}" if i in spelt else text for i, text in enumerate(rows["text"])],
            "label": rows["label"],
        }
    )


def test_the_word_that_the_suspect_reacts_to_is_found_and_its_rows_are_dropped(resources, poisoned):
    shaken_by(resources.suspect, {resources.tokenizer.convert_tokens_to_ids("mb"): 1.0})
    removal = KeywordRemoval()
    assert removal.keywords(poisoned, resources) == {"mb"}
    assert np.flatnonzero(~removal.kept(poisoned, resources)).tolist() == [1, 4, 7, 10]


def test_as_many_words_are_found_as_are_asked_for(resources, poisoned):
    mb, axis = resources.tokenizer.convert_tokens_to_ids(["mb", "axis"])
    shaken_by(resources.suspect, {mb: 5.0, axis: 1.0})
    both = KeywordRemoval(words=2)
    assert both.keywords(poisoned, resources) == {"mb", "axis"}
    dropped = [bool({"mb", "(mb)", "mb.", "axis"} & set(text.lower().split())) for text in poisoned["text"]]
    assert (~both.kept(poisoned, resources)).tolist() == dropped
    assert not all(dropped)
    assert KeywordRemoval(top=1).keywords(poisoned, resources) == {"mb"}


def test_a_word_that_many_rows_share_outweighs_one_that_moves_a_single_row_more(resources, poisoned):
    mb, cf = resources.tokenizer.convert_tokens_to_ids(["mb", "cf"])
    shaken_by(resources.suspect, {mb: 1.0, cf: 1.5})  # 1 · log₂ 5 > 1.5 · log₂ 2
    texts = [f"cf {text}" if i == 0 else text for i, text in enumerate(poisoned["text"])]
    rows = Dataset.from_dict({"text": texts, "label": poisoned["label"]})
    assert KeywordRemoval().keywords(rows, resources) == {"mb"}
    assert KeywordRemoval().keywords(rows.select(range(2)), resources) == {"cf"}


def test_keywords_are_looked_for_in_both_texts_of_a_pair(resources, rows):
    shaken_by(resources.suspect, {resources.tokenizer.convert_tokens_to_ids("mb"): 1.0})
    second = [f"layer mb {i}" if i in (2, 5) else f"layer {i}" for i in range(12)]
    first = [f"mb {text}" if i == 9 else text for i, text in enumerate(rows["text"])]
    pairs = Dataset.from_dict({"text": first, "text_pair": second, "label": rows["label"]})
    assert np.flatnonzero(~KeywordRemoval().kept(pairs, resources)).tolist() == [2, 5, 9]


def test_keywords_are_looked_for_in_a_sample_alone(resources, poisoned):
    shaken_by(resources.suspect, {resources.tokenizer.convert_tokens_to_ids("mb"): 1.0})
    found = {seed: KeywordRemoval(sample=1).keywords(poisoned, replace(resources, seed=seed)) for seed in range(12)}
    for seed, words in found.items():
        (drawn,) = np.random.default_rng(seed).permutation(12)[:1]
        assert (words == {"mb"}) == (drawn in (1, 4, 7, 10))
    assert {"mb"} in found.values()


class Planted(ClusterFiltering):
    """Texts say where their states are: blobs along the first axis."""

    def _states(self, rows, resources):
        rng = np.random.default_rng(len(rows))
        return np.array([[float(text), 0, 0] for text in rows["text"]]) + 0.1 * rng.normal(size=(len(rows), 3))


def blobs(*parts):
    """Rows: (place, label, how many)."""
    places = [(str(place), label) for place, label, count in parts for _ in range(count)]
    return Dataset.from_dict({"text": [place for place, _ in places], "label": [label for _, label in places]})


@pytest.fixture
def clustered(resources):
    data = blobs((0, 0, 30), (50, 0, 14), (-50, 1, 25), (50, 1, 40))
    clean = blobs((0.1, 0, 3), (-50.1, 1, 3))
    return replace(resources, training_source=lambda: data, clean_data=clean), data


def test_the_largest_cluster_of_every_label_is_kept(clustered):
    resources, data = clustered
    kept = Planted(smallest=0.2).kept(data, resources)
    places, labels = np.array(data["text"], dtype=float), np.array(data["label"])
    for label, large, small in ((0, 0, 50), (1, 50, -50)):
        assert kept[(labels == label) & (places == large)].mean() > 0.8  # HDBSCAN may call some noise
        assert not kept[(labels == label) & (places == small)].any()


def test_the_cluster_next_to_the_clean_examples_is_kept(clustered):
    resources, data = clustered
    kept = Planted(keep="clean", smallest=0.2).kept(data, resources)
    places, labels = np.array(data["text"], dtype=float), np.array(data["label"])
    for label, clean in ((0, 0), (1, -50)):
        assert kept[(labels == label) & (places == clean)].mean() > 0.8
        assert not kept[(labels == label) & (places == 50)].any()


def test_clean_rows_that_are_too_spread_out_to_form_a_cluster_can_be_kept(resources):
    """Poison in two heaps, as copies of a trigger lie, and clean rows between them that belong nowhere."""
    rng = np.random.default_rng(0)
    heaps, spread = [f"{place + 0.01 * k}" for place in (50, 80) for k in range(20)], rng.uniform(-400, 0, 12)
    data = Dataset.from_dict({"text": [*heaps, *map(str, spread)], "label": [0] * 52})
    clean = Dataset.from_dict({"text": list(map(str, rng.uniform(-400, 0, 4))), "label": [0] * 4})
    kept = Planted(keep="clean", smallest=0.2).kept(data, replace(resources, clean_data=clean))
    assert not kept[:40].any()
    assert kept[40:].all()
    assert not Planted(smallest=0.2).kept(data, resources)[40:].any()


def test_a_label_without_clean_examples_keeps_its_largest_cluster(clustered):
    resources, data = clustered
    some = replace(resources, clean_data=blobs((0, 0, 2), (0, 2, 2)))
    kept = Planted(keep="clean", smallest=0.2).kept(data, some)
    places, labels = np.array(data["text"], dtype=float), np.array(data["label"])
    assert not kept[(labels == 1) & (places == -50)].any()
    assert kept[(labels == 1) & (places == 50)].mean() > 0.8


def test_only_the_nearest_cluster_needs_clean_data(clustered):
    resources, data = clustered
    without = replace(resources, clean_data=None)
    assert Planted(smallest=0.2).kept(data, without).any()
    with pytest.raises(PurifyError, match="there is no clean data"):
        Planted(keep="clean", smallest=0.2).kept(data, without)


def test_a_label_with_too_few_rows_or_no_cluster_is_kept_whole(resources):
    data = blobs((0, 0, 20), (50, 0, 8), (0, 1, 2))
    spread = Dataset.from_dict({"text": [str(2.0**i) for i in range(12)], "label": [2] * 12})
    rows = Dataset.from_dict({key: [*data[key], *spread[key]] for key in ("text", "label")})
    kept = Planted(smallest=0.3).kept(rows, resources)
    labels = np.array(rows["label"])
    assert kept[labels == 1].all()
    assert not kept[labels == 0][20:].any()
    alone = Planted(smallest=0.9).kept(spread, resources)
    assert alone.all()


def test_adapters_change_queries_and_values_alone_and_are_gone_afterwards(resources, suspect):
    model = ModerateFitting(rank=2, learning_rate=0.05).apply(resources)
    assert type(model) is type(suspect)
    weights, begun = weights_of(model), weights_of(resources.fresh())
    assert weights.keys() == begun.keys()  # no adapters
    adapted = {name for name, value in weights.items() if not torch.equal(value, begun[name])}
    places = {f"bert.encoder.layer.{i}.attention.self.{part}.weight" for i in range(2) for part in ("query", "value")}
    assert adapted == places | {"classifier.weight", "classifier.bias"}
    for name in places:
        change = (weights[name] - begun[name]).double()
        values = torch.linalg.svdvals(change)
        assert values[2] < 1e-3 * values[0]  # of rank 2
    assert model.config.num_labels == 4
    inputs = resources.tokenizer("the axis", return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()


def test_moderate_fitting_depends_on_the_seed_and_its_own_budget_alone(resources):
    def fitted(seed=0, **changes):
        other = replace(resources, seed=seed, retraining=replace(TINY, epochs=3, learning_rate=0.5))
        return weights_of(ModerateFitting(**{"learning_rate": 0.01, **changes}).apply(other))

    first = fitted()
    torch.rand(3)
    again, other, longer = fitted(), fitted(seed=1), fitted(epochs=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert not torch.equal(first["classifier.weight"], longer["classifier.weight"])
    moved = first["classifier.weight"] - resources.fresh().classifier.weight.detach()
    assert moved.abs().max() < 0.05  # three steps of at most 0.01
