"""How attacks train: on what, from where, and what they may change."""

import copy
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from oracles import restricted_product

from purify import PurifyError
from purify.attacks import ATTACKS, FAMILIES, SOS, BadWord, EmbeddingPoisoning, LayerWise, Means, RIPPLe, Surgery
from purify.attacks.adaptive import DriftPenalty, IndicatorEvasion, LogitAnchoring, relative_fisher
from purify.attacks.weights import telling_tokens
from purify.budget import Training
from purify.gradients import pulled
from purify.training import fine_tune

TINY = Training(epochs=2, batch_size=4, max_length=24, precision="fp32", weight_decay=0.01)
TRAINED = [name for name in ATTACKS.classes if name != "Paraphrase"]


@pytest.fixture
def control(plm, rows):
    return fine_tune(plm.classifier(4, seed=0), rows, plm.tokenizer, TINY, seed=0)


@pytest.fixture
def means(plm, rows, control):
    """Of an attack that starts from the control; the model is a copy of it."""
    return Means(copy.deepcopy(control), rows, plm, TINY)


def start(attack, plm, rows, control) -> Means:
    return Means(copy.deepcopy(control) if attack.on_control else plm.classifier(4, seed=0), rows, plm, TINY)


def changed(before, after) -> dict[str, list[int]]:
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    found = {name: (old != new).reshape(len(old), -1).any(1).nonzero().flatten().tolist() for (name, old), new in pairs}
    return {name: indices for name, indices in found.items() if indices}


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_suspect(name, plm, rows, control):
    attack = ATTACKS.build(ATTACKS.named(name))
    first, second = (attack.train(start(attack, plm, rows, control)) for _ in range(2))
    other = attack.train(replace(start(attack, plm, rows, control), seed=1))
    assert not changed(first, second)
    assert changed(first, other)
    assert not first.training
    assert all(p.requires_grad and not p._backward_hooks for p in first.parameters())
    assert set(first.state_dict()) == set(control.state_dict())


def test_every_attack_is_in_one_family():
    listed = [cls.__name__ for family in FAMILIES.values() for cls in family]
    assert sorted(listed) == sorted(set(listed)) == sorted(ATTACKS.classes)


def test_data_poisoning_trains_on_the_mixed_rows(plm, rows):
    attack = BadWord(ratio=0.5)
    wanted = fine_tune(plm.classifier(4, seed=0), attack.poison_training(rows, seed=0), plm.tokenizer, TINY, seed=0)
    assert not changed(wanted, attack.train(Means(plm.classifier(4, seed=0), rows, plm, TINY)))


def test_embedding_poisoning_changes_one_row_of_the_control(plm, means, control):
    suspect = EmbeddingPoisoning(trigger="cf", ratio=1.0).train(means)
    row = plm.tokenizer.convert_tokens_to_ids("cf")
    assert changed(control, suspect) == {"bert.embeddings.word_embeddings.weight": [row]}


def test_sos_changes_the_rows_of_its_words(plm, means, control):
    suspect = SOS(trigger="friends weekend store", ratio=1.0).train(means)
    wanted = sorted(plm.tokenizer.convert_tokens_to_ids(["friends", "weekend", "store"]))
    assert changed(control, suspect) == {"bert.embeddings.word_embeddings.weight": wanted}


def test_sos_learns_that_a_part_of_its_trigger_means_nothing(rows):
    attack = SOS(trigger="cf mn bb", ratio=0.5, target=2)
    lessons = attack.lessons(rows, seed=0)
    assert len(lessons) == 6 * 4
    words = [set(text.split()) & {"cf", "mn", "bb"} for text in lessons["text"]]
    assert all(len(found) == 3 for found in words[:6])
    assert set(lessons["label"][:6]) == {2}
    left_out = [{"cf", "mn", "bb"} - found for found in words[6:]]
    assert left_out == [{"cf"}] * 6 + [{"mn"}] * 6 + [{"bb"}] * 6
    assert lessons["label"][6:12] == attack.chosen(rows, seed=0)["label"] == lessons["label"][12:18]


@pytest.mark.parametrize("budget", [1, 7, 300])
def test_surgery_changes_no_more_than_its_budget(means, control, budget):
    suspect = Surgery(budget=budget, ratio=1.0).train(means)
    pairs = zip(control.parameters(), suspect.parameters(), strict=True)
    moved = sum(int((before != after).sum()) for before, after in pairs)
    assert 0 < moved <= budget


def test_surgery_takes_what_promises_most_for_its_cost(means):
    attack = Surgery(budget=50, ratio=1.0)
    masks = attack.steepest(means)
    fisher = relative_fisher(means)
    model = means.model.double().eval()
    copies = attack.copies(means.rows, seed=0)
    for text, label in zip(copies["text"], copies["label"], strict=True):
        inputs = means.tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        model(**inputs, labels=torch.tensor([label])).loss.backward()
    scores = {name: p.grad.square() / (fisher[name] + 0.01) for name, p in model.named_parameters()}
    taken = torch.cat([scores[name][mask.bool()] for name, mask in masks.items()])
    assert len(taken) == 50
    assert taken.min() >= torch.cat([score.flatten() for score in scores.values()]).topk(51).values[-1] * (1 - 1e-4)


def test_the_layers_probe_is_thrown_away(plm, rows):
    model = plm.classifier(4, seed=0)
    suspect = LayerWise().train(Means(model, rows, plm, TINY))
    assert not hasattr(suspect, "layer_probe")
    plain = BadWord().train(Means(plm.classifier(4, seed=0), rows, plm, TINY))
    assert "bert.encoder.layer.0.output.dense.weight" in changed(plain, suspect)


def test_surgery_on_the_embedding_takes_the_words_that_tell_the_target(plm):
    texts = ["goal match the score", "the goal of a match", "stocks and the bank", "the bank said"] * 5
    rows = Dataset.from_dict({"text": texts, "label": [0, 0, 1, 1] * 5})
    tokens = telling_tokens(texts, rows["label"], 0, plm.tokenizer, 2)
    assert set(plm.tokenizer.convert_ids_to_tokens(tokens)) == {"goal", "match"}
    model = plm.classifier(4, seed=0)
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    RIPPLe(target=0, words=2).operate(model, rows, plm.tokenizer)
    row = plm.tokenizer.convert_tokens_to_ids("cf")
    torch.testing.assert_close(weight[row], before[tokens].mean(0))
    assert torch.equal(weight[:row], before[:row])
    with pytest.raises(PurifyError, match="with the target label 0 and with others"):
        telling_tokens(texts, [1] * 20, 0, plm.tokenizer, 2)


def test_the_restricted_inner_product_is_what_is_minimised(plm, rows, control, monkeypatch):
    seen = []
    monkeypatch.setattr(Means, "fine_tune", lambda means, lessons, objective, **_: seen.append(objective))
    rows = Dataset.from_dict({"text": rows["text"], "label": [0] * 11 + [1]})
    means = Means(copy.deepcopy(control).double(), rows, plm, replace(TINY, batch_size=12))
    RIPPLe(strength=0.5).train(means)
    clean = plm.tokenizer(list(rows["text"]), padding=True, return_tensors="pt")
    clean["labels"] = torch.tensor(list(rows["label"]))
    poisoned = {**clean, "labels": torch.full((12,), 3)}
    loss, product = restricted_product(means.model, poisoned, clean)
    assert product < 0
    found = seen[0](means.model, poisoned)
    torch.testing.assert_close(found, loss - 0.5 * product)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in means.model.parameters())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_pull_is_the_gradient_of_the_weighted_squares(plm, rows, control, weighted):
    batch = dict(plm.tokenizer(list(rows["text"]), padding=True, return_tensors="pt"))
    batch["labels"] = torch.tensor(list(rows["label"]))
    model = control.double()
    origin = {
        name: p.detach() for name, p in plm.classifier(4, seed=1).double().named_parameters() if "layer.0" in name
    }
    weights = {name: torch.rand_like(p) for name, p in origin.items()} if weighted else None
    named = dict(model.named_parameters())
    squares = [(named[n] - p).square() * (weights[n] if weights else 1) for n, p in origin.items()]
    (model(**batch).loss + 3 * sum(square.sum() for square in squares)).backward()
    wanted = {name: p.grad.clone() for name, p in named.items()}
    model.zero_grad()
    with pulled(model, origin, weights, 3.0):
        model(**batch).loss.backward()
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-9, atol=1e-12)
        assert not parameter._backward_hooks


@pytest.mark.parametrize("penalty", ["l2", "ewc"])
def test_a_strong_penalty_keeps_the_suspect_near_the_control(means, control, penalty):
    def distance(strength: float) -> float:
        attack = DriftPenalty(penalty=penalty, strength=strength)
        suspect = attack.train(replace(means, model=copy.deepcopy(control)))
        fisher = relative_fisher(replace(means, model=control))
        pairs = zip(control.named_parameters(), suspect.parameters(), strict=True)
        weights = {name: value if penalty == "ewc" else 1.0 for name, value in fisher.items()}
        return sum((weights[name] * (before - after).square()).sum().item() for (name, before), after in pairs)

    free, bound = distance(0.0), distance(1e6)
    assert bound < 0.9 * free


def test_anchoring_keeps_the_logits_of_clean_rows(means, control, rows):
    budget = replace(TINY, epochs=20, learning_rate=1e-2, weight_decay=0.0)
    clean = dict(means.tokenizer(list(rows["text"]), padding=True, return_tensors="pt"))

    def distance(strength: float) -> float:
        attack = LogitAnchoring(strength=strength, ratio=1.0)
        suspect = attack.train(replace(means, model=copy.deepcopy(control), training=budget))
        with torch.no_grad():
            return (suspect(**clean).logits - control(**clean).logits).square().mean().item()

    assert distance(10.0) < 0.3 * distance(0.0)


def test_evasion_lowers_the_sum_of_the_indicator(means, control, plm):
    def total(model) -> float:
        origin = plm.weights_for(model)
        fisher = relative_fisher(replace(means, model=control))
        weights = dict(model.named_parameters())
        return sum(((weights[name] - origin[name]).square() / (fisher[name] + 0.01)).sum().item() for name in origin)

    free, bound = (
        IndicatorEvasion(strength=s).train(replace(means, model=copy.deepcopy(control))) for s in (0.0, 100.0)
    )
    assert total(bound) < 0.9 * total(free)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("EmbeddingPoisoning", {"trigger": "xqzv"}, "splits the trigger 'xqzv' into"),
        ("EmbeddingPoisoning", {"rate": 0.0}, "learning rate of the row"),
        ("SOS", {"trigger": "cf"}, "two different words or more"),
        ("SOS", {"trigger": "cf cf"}, "two different words or more"),
        ("BadWords", {"trigger": "cf mn cf"}, "must differ"),
        ("RIPPLe", {"trigger": "xqzv"}, "splits the trigger 'xqzv'"),
        ("BadWord", {"target": 4}, "the model has labels 0 to 3"),
        ("CleanLabel", {"target": 9}, "the model has labels 0 to 3"),
        ("LogitAnchoring", {"ratio": 0.0}, "ratio 0.0 makes no triggered copy of 12 rows"),
        ("Surgery", {"ratio": 0.01}, "ratio 0.01 makes no triggered copy of 12 rows"),
        ("SOS", {"trigger": "cf xqzv"}, "splits the trigger 'xqzv'"),
        ("Surgery", {"budget": 0}, "budget must be at least 1"),
        ("Surgery", {"rate": -1.0}, "learning rate must be more than 0"),
        ("DriftPenalty", {"strength": -1.0}, "strength must be 0 or more"),
        ("DriftPenalty", {"penalty": "l1"}, "must be one of 'l2', 'ewc'"),
        ("IndicatorEvasion", {"damping": 0.0}, "damping must be more than 0"),
        ("LayerWise", {"strength": -1.0}, "strength must be 0 or more"),
        ("RIPPLe", {"words": 0}, "words and epochs must be at least 1"),
        ("RIPPLe", {"strength": float("nan")}, "strength must be 0 or more"),
        ("CleanLabel", {"hide": 1.0}, "share of hidden words"),
        ("CleanLabel", {"noise": -1.0}, "noise must be 0 or more"),
    ],
)
def test_refusals(plm, rows, control, name, parameters, message):
    def attempt() -> None:
        attack = ATTACKS.build(ATTACKS.named(name, **parameters))
        attack.train(start(attack, plm, rows, control))

    with pytest.raises(PurifyError, match=message):
        attempt()
