"""Defenses that return weights: what each one resets or learns, against plain computations."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from purify import PurifyError
from purify.defenses import (
    DEFENSES,
    AttentionDistillation,
    AutomaticPurifying,
    EmbeddingPurification,
    FineMixingSelected,
    FinePruning,
    HeadPruning,
    KnowledgeDistillation,
    LayerReset,
    MagnitudePruning,
    ModelMerging,
    Wanda,
)
from purify.defenses.base import Detector
from purify.defenses.distillation import attention_maps
from purify.defenses.heads import attention_outputs, attention_variance
from purify.defenses.mixing import slerp
from purify.defenses.pruning import feed_forward_blocks, layer_matrices
from purify.findings import token_counts
from purify.gamma import fit_mixture
from purify.resources import Resources
from purify.training import Training

STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, precision="fp32")
"""A fine-tuning that moves nothing, so that the step before it can be seen."""

TINY = replace(STILL, learning_rate=1e-2, max_length=24)
"""One that moves what it may."""

WORDS = "bert.embeddings.word_embeddings.weight"

WEIGHTS = [name for name, cls in DEFENSES.classes.items() if not issubclass(cls, Detector)]


@pytest.fixture
def resources(suspect, plm, rows):
    return Resources(suspect, plm, rows, STILL)


@pytest.fixture
def moving(suspect, plm, rows):
    return Resources(suspect, plm, rows, TINY, validation=rows, training_source=lambda: rows, retraining=TINY)


def weights_of(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def single_inputs(resources, rows):
    """Every row alone, so that there is no padding."""
    for text in rows["text"]:
        yield resources.tokenizer(text, truncation=True, max_length=96, return_tensors="pt")


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_suspect_is_spared_and_what_comes_back_is_finite(name, moving):
    before = {key: value.clone() for key, value in moving.suspect.state_dict().items()}
    used = moving.suspect.config._attn_implementation
    model = DEFENSES.build(DEFENSES.named(name)).apply(moving)
    assert model is not moving.suspect
    assert model.state_dict().keys() == before.keys()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(before[key], value) for key, value in moving.suspect.state_dict().items())
    assert all(p.requires_grad for p in moving.suspect.parameters())
    assert moving.suspect.config._attn_implementation == used
    assert not model.training


LACKING = {
    "clean PLM": {"clean": None},
    "clean data": {"clean_data": None},
    "Fisher": {"clean_data": None},
    "training data": {"training_source": None},
    "validation data": {"validation": None},
}


@pytest.mark.parametrize(("name", "need"), [(n, need) for n, cls in DEFENSES.classes.items() for need in cls.needs])
def test_a_defense_says_what_it_lacks(name, need, moving, plm):
    poor = replace(moving, own_tokenizer=plm.tokenizer, **LACKING[need])
    with pytest.raises(PurifyError, match=f"^{name} needs .*{need}.*, and there is none"):
        DEFENSES.build(DEFENSES.named(name)).apply(poor)


def test_without_a_clean_plm_the_own_tokenizer_is_enough_to_prune(suspect, plm, rows):
    poor = Resources(suspect, None, rows, STILL, own_tokenizer=plm.tokenizer)
    rich = Resources(suspect, plm, rows, STILL)
    found, wanted = (weights_of(Wanda(reserve=0.4).apply(one)) for one in (poor, rich))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    with pytest.raises(PurifyError, match="there is no tokenizer"):
        Wanda().apply(Resources(suspect, None, rows, STILL))


def test_clean_data_of_one_class_is_warned_of(suspect, plm, rows, caplog):
    Resources(suspect, plm, rows, STILL)
    assert not caplog.records
    Resources(suspect, plm, rows.select([1, 5, 9]), STILL)
    assert "all clean examples have the label 1: expect the other 3 classes to suffer" in caplog.text


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        *((name, {"reserve": 1.01}, r"\[0, 1\], not 1\.01") for name in ("Wanda", "HeadPruning", "LayerReset")),
        ("FinePruning", {"reserve": -0.1}, r"\[0, 1\], not -0\.1"),
        ("EmbeddingPurification", {"reserve": math.nan}, r"\[0, 1\], not nan"),
        ("HeadPruning", {"strength": -1}, "strength must be 0 or more, not -1"),
        ("AttentionDistillation", {"strength": math.inf}, "strength must be 0 or more, not inf"),
        ("KnowledgeDistillation", {"temperature": 0}, "temperature must be more than 0"),
        ("FinePurifying", {"exponent": -1}, "exponent must be 0 or more"),
        ("FinePurifying", {"damping": math.nan}, "damping must be 0 or more"),
        ("FinePurifying", {"softness": math.inf}, "softness must be 0 or more"),
        ("FinePurifying", {"structure": "layer"}, "'structure' of defense 'FinePurifying' must be one of 'dimension'"),
        ("AutomaticPurifying", {"damping": -0.5}, "damping must be 0 or more"),
        ("ModelMerging", {"method": "cubic"}, "must be one of 'linear', 'slerp'"),
        ("LayerReset", {"to": "zero"}, "must be one of 'clean', 'random'"),
        ("LossFiltering", {"share": 1}, "share must lie between 0 and 1"),
        ("LossFiltering", {"epochs": 0}, "epochs must be at least 1"),
        ("KeywordRemoval", {"words": 0}, "words must be at least 1"),
        ("ClusterFiltering", {"smallest": 0}, "smallest lie between 0 and 1"),
        ("ModerateFitting", {"rank": 0}, "rank and epochs must be at least 1"),
        ("ONION", {"frr": 1}, r"rate must lie in \[0, 1\), not 1"),
        ("STRIP", {"copies": 0}, "copies must be at least 1"),
        ("STRIP", {"share": 0}, "share must lie between 0 and 1"),
        ("RAP", {"low": 0.3, "high": 0.3}, "low and high must rise"),
        ("RAP", {"learning_rate": 0}, "learning_rate more than 0"),
        ("FeatureDistance", {"frr": -0.1}, r"rate must lie in \[0, 1\), not -0\.1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(name, parameters, message):
    with pytest.raises(PurifyError, match=message):
        DEFENSES.named(name, **parameters)


@pytest.mark.parametrize("reserve", [0.0, 0.3, 1.0])
def test_magnitude_pruning_keeps_the_largest_weights_of_every_matrix(resources, reserve):
    model = MagnitudePruning(reserve=reserve).apply(resources)
    original, matrices = weights_of(resources.suspect), layer_matrices(model)
    assert len(matrices) == 12  # two layers of query, key, value, output and two of the feed-forward block
    for name, weight in weights_of(model).items():
        if name.removesuffix(".weight") not in matrices:
            assert torch.equal(weight, original[name])
            continue
        kept = weight != 0
        assert int(kept.sum()) == round(reserve * weight.numel())
        assert torch.equal(weight[kept], original[name][kept])
        if kept.any() and not kept.all():
            assert original[name][kept].abs().min() >= original[name][~kept].abs().max()


def test_wanda_keeps_the_largest_products_of_every_output(resources, rows):
    matrices = layer_matrices(resources.suspect)
    squares = {name: np.zeros(module.in_features) for name, module in matrices.items()}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: squares.__setitem__(
                name, squares[name] + sum(token.double().numpy() ** 2 for token in args[0][0])
            )
        )
        for name, module in matrices.items()
    ]
    with torch.no_grad():
        for inputs in single_inputs(resources, rows):
            resources.suspect(**inputs)
    for handle in handles:
        handle.remove()
    model = Wanda(reserve=0.3).apply(resources)
    for name, module in layer_matrices(model).items():
        for weight, original in zip(module.weight, matrices[name].weight, strict=True):
            score = original.detach().double().abs().numpy() * np.sqrt(squares[name])
            best = set(np.argsort(score)[-round(0.3 * len(score)) :].tolist())
            assert set(weight.nonzero().flatten().tolist()) == best
            assert all(weight[i] == original[i] for i in best)


def test_fine_pruning_that_is_frozen_stays_pruned_while_the_rest_learns(moving):
    cut = FinePruning(reserve=0.5, frozen=True).apply(replace(moving, training=STILL))
    model = FinePruning(reserve=0.5, frozen=True).apply(moving)
    silent = 0
    for (enter, leave), (enter_cut, leave_cut) in zip(
        feed_forward_blocks(model), feed_forward_blocks(cut), strict=True
    ):
        gone = (leave_cut.weight == 0).all(0)
        silent += int(gone.sum())
        assert (leave.weight[:, gone] == 0).all()
        assert (enter.weight[gone] == 0).all()
        assert (enter.bias[gone] == 0).all()
        assert not torch.equal(enter.weight[~gone], enter_cut.weight[~gone])
        assert not torch.equal(leave.weight[:, ~gone], leave_cut.weight[:, ~gone])
    assert silent == 12
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("cls", [MagnitudePruning, Wanda])
def test_pruned_weights_come_back_unless_they_are_frozen(cls, moving):
    cut = weights_of(cls(reserve=0.5).apply(replace(moving, training=STILL)))
    free, frozen = (weights_of(cls(reserve=0.5, frozen=frozen).apply(moving)) for frozen in (False, True))
    for name in layer_matrices(moving.suspect):
        gone = cut[f"{name}.weight"] == 0
        assert (frozen[f"{name}.weight"][gone] == 0).all()
        assert (free[f"{name}.weight"][gone] != 0).any()
        assert not torch.equal(frozen[f"{name}.weight"][~gone], cut[f"{name}.weight"][~gone])


def test_the_variance_of_attention_is_that_of_a_plain_loop(resources, rows):
    model = copy.deepcopy(resources.suspect)
    model.set_attn_implementation("eager")
    firsts = np.zeros((len(rows), 2, 2, 96))
    with torch.no_grad():
        for n, inputs in enumerate(single_inputs(resources, rows)):
            for layer, weights in enumerate(model(**inputs, output_attentions=True).attentions):
                for head in range(2):
                    first = weights[0, head, 0].double().numpy()
                    firsts[n, layer, head, : len(first)] = first
    assert attention_variance(model, resources).numpy() == pytest.approx(firsts.var(axis=0).mean(axis=-1), rel=1e-4)


@pytest.mark.parametrize(("reserve", "heads"), [(0.0, 0), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_head_pruning_cuts_heads_off_for_good(moving, reserve, heads):
    model = HeadPruning(reserve=reserve).apply(moving)
    watched = copy.deepcopy(moving.suspect)
    watched.set_attn_implementation("eager")
    scores = attention_variance(watched, moving).flatten()
    wanted = set(scores.argsort(descending=True)[:heads].tolist())
    found, weights = set(), weights_of(model)
    for layer, name in enumerate(attention_outputs(model)):
        for head, columns in enumerate(weights[name].split(4, dim=1)):
            assert (columns != 0).all() or not columns.any()
            if columns.any():
                found.add(2 * layer + head)
    assert found == wanted
    assert model.config._attn_implementation == moving.suspect.config._attn_implementation


def test_the_penalty_of_head_pruning_is_on_the_squared_attention_of_the_first_token(resources):
    model = resources.with_weights()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".query.weight" in name or ".key.weight" in name:
                weight.mul_(30)  # else all attention is alike
    (batch,) = resources.clean_batches(labels=True)
    paid = []
    with torch.no_grad():
        for inputs in single_inputs(resources, resources.examples):  # padding draws no attention
            attentions = model(**inputs, output_attentions=True).attentions
            paid += [sum(float(a) ** 2 for a in weights[0, head, 0]) for weights in attentions for head in range(2)]
        loss = float(model(**batch).loss)
        found = [float(HeadPruning(strength=strength)._objective(model, batch)) for strength in (0.0, 3.0)]
    assert found == pytest.approx([loss, loss + 3 * np.mean(paid)], rel=1e-5)


@pytest.mark.parametrize("reserve", [0.0, 0.5, 0.9, 1.0])
def test_selected_mixing_keeps_the_smallest_drifts(resources, reserve):
    weights = weights_of(FineMixingSelected(reserve=reserve).apply(resources))
    original = weights_of(resources.suspect)
    moved = {name: delta != 0 for name, delta in resources.drift.items()}
    size = sum(delta.numel() for delta in resources.drift.values())
    at_rest = size - sum(int(mask.sum()) for mask in moved.values())
    kept = torch.cat([resources.drift[n][moved[n] & (weights[n] == original[n])].abs() for n in moved])
    gone = torch.cat([resources.drift[n][moved[n] & (weights[n] != original[n])].abs() for n in moved])
    assert all(
        torch.equal(weights[n][weights[n] != original[n]], resources.reference[n][weights[n] != original[n]])
        for n in moved
    )
    assert len(kept) == max(0, round(reserve * size) - at_rest)
    assert len(kept) + len(gone) == size - at_rest
    if len(kept) and len(gone):
        assert kept.max() <= gone.min()
    assert all(torch.equal(weights[name], original[name]) for name in original.keys() - moved.keys())


@pytest.mark.parametrize("reserve", [0.0, 0.3, 1.0])
def test_a_linear_merge_is_the_weighted_mean(resources, reserve):
    weights, original = weights_of(ModelMerging(reserve=reserve).apply(resources)), weights_of(resources.suspect)
    for name, weight in weights.items():
        wanted = original[name]
        if name in resources.reference:
            wanted = (1 - reserve) * resources.reference[name].double() + reserve * original[name].double()
        torch.testing.assert_close(weight.double(), wanted.double(), rtol=0, atol=1e-6)


def test_a_spherical_merge_follows_the_arc():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 4, generator=generator).double(), dim=(0, 1)) for _ in "ab")
    angle = math.acos(float((a * b).sum()))
    for share in (0.0, 0.2, 0.5, 1.0):
        point = slerp(a, b, share)
        assert float(point.norm()) == pytest.approx(1)
        assert math.acos(min(1.0, float((a * point).sum()))) == pytest.approx(share * angle, abs=1e-7)
        assert math.acos(min(1.0, float((b * point).sum()))) == pytest.approx((1 - share) * angle, abs=1e-7)
    torch.testing.assert_close(slerp(3 * a, 2 * b, 0.0), 3 * a)
    torch.testing.assert_close(slerp(3 * a, 2 * b, 1.0), 2 * b)


@pytest.mark.parametrize("factor", [2.0, 0.0, 1 + 1e-6])
def test_a_spherical_merge_of_parallel_weights_is_the_straight_line(factor):
    a = torch.randn(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, factor * a, 0.3), a.lerp(factor * a, 0.3))
    torch.testing.assert_close(slerp(torch.zeros(50), a, 0.3), 0.3 * a)


def test_a_second_model_is_merged_with_its_head(resources, plm, tmp_path):
    other = plm.classifier(4, seed=7)
    other.save_pretrained(tmp_path)
    own, second = weights_of(resources.suspect), weights_of(other)
    assert not torch.equal(own["classifier.weight"], second["classifier.weight"])
    for method in ("linear", "slerp"):
        weights = weights_of(ModelMerging(reserve=0.25, method=method, other=str(tmp_path)).apply(resources))
        for name, weight in weights.items():
            merged = second[name].lerp(own[name], 0.25) if method == "linear" else slerp(second[name], own[name], 0.25)
            torch.testing.assert_close(weight, merged, rtol=0, atol=1e-6)
    assert not torch.equal(weights["classifier.weight"], own["classifier.weight"])


def test_a_second_model_of_another_shape_is_refused(resources, plm, tmp_path):
    plm.classifier(3, seed=0).save_pretrained(tmp_path)
    with pytest.raises(
        PurifyError, match=r"cannot be merged with the suspect: .* 'classifier\.bias'; give a classifier"
    ):
        ModelMerging(other=str(tmp_path)).apply(resources)
    with pytest.raises(PurifyError, match="cannot load the model"):
        ModelMerging(other=str(tmp_path / "nothing")).apply(resources)


@pytest.mark.parametrize("reserve", [0.0, 0.9, 1.0])
def test_embedding_purification_resets_rows_of_the_word_embeddings_alone(resources, reserve):
    name, original = WORDS, weights_of(resources.suspect)
    weights = weights_of(EmbeddingPurification(reserve=reserve).apply(resources))
    assert all(torch.equal(weights[other], value) for other, value in original.items() if other != name)
    clean, delta = resources.reference[name], resources.drift[name]
    size = len(clean)
    gone = (weights[name] != original[name]).any(1)
    assert torch.equal(weights[name][gone], clean[gone])
    drifted = delta.any(1)  # of a row that did not drift it cannot be seen whether it was reset
    assert size - round(reserve * size) - int((~drifted).sum()) <= int(gone.sum()) <= size - round(reserve * size)
    counts = token_counts(resources.tokenizer)
    score = delta.double().norm(dim=1) / torch.tensor([math.log(max(counts[i], 20)) for i in range(size)])
    if gone.any() and not gone[drifted].all():
        assert score[gone].min() >= score[~gone].max() - 1e-6


def test_the_row_that_drifted_most_for_how_rare_it_is_is_reset(resources, suspect, rows):
    name, (rare, common) = WORDS, resources.tokenizer.convert_tokens_to_ids(["mb", "the"])
    counts = token_counts(resources.tokenizer)
    assert counts[rare] < 20
    assert counts[common] > 2000
    clean = resources.reference[name]
    with torch.no_grad():
        embeddings = dict(suspect.named_parameters())[name]
        embeddings[rare] = clean[rare] + 1
        embeddings[common] = clean[common] - 1.5  # farther, but not for so common a word
        wanted = embeddings.clone()
    wanted[rare] = clean[rare]
    model = EmbeddingPurification(reserve=1 - 1 / len(clean)).apply(Resources(suspect, resources.clean, rows, STILL))
    assert torch.equal(weights_of(model)[name], wanted)


@pytest.mark.parametrize("to", ["clean", "random"])
@pytest.mark.parametrize(("reserve", "kept"), [(0.0, 0), (0.5, 1), (1.0, 2)])
def test_only_the_top_layers_are_reset(resources, to, reserve, kept):
    weights, original = weights_of(LayerReset(reserve=reserve, to=to).apply(resources)), weights_of(resources.suspect)
    for name, weight in weights.items():
        above = any(f"encoder.layer.{layer}." in name for layer in range(kept, 2))
        if not above:
            assert torch.equal(weight, original[name])
        elif to == "clean":
            assert torch.equal(weight, resources.reference[name])
        elif weight.ndim == 1:
            assert (weight == (1 if name.endswith("LayerNorm.weight") else 0)).all()
        else:
            assert not torch.isin(weight, torch.cat([original[name], resources.reference[name]])).any()
            assert 0.01 < float(weight.std()) < 0.03


def test_random_layers_depend_on_the_seed_alone(resources):
    reset = LayerReset(reserve=0.0, to="random")
    first, again, other = (weights_of(reset.apply(replace(resources, seed=seed))) for seed in (0, 0, 1))
    matrices = [name for name, value in first.items() if ".layer." in name and value.ndim == 2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    square = [first[name].flatten() for name in matrices if first[name].shape == (8, 8)]
    assert len(torch.stack(square).unique(dim=0)) == len(square)  # no two are the same draw


def test_attention_maps_are_unit_vectors_over_the_real_tokens():
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(2, 5, 3, generator=generator).double() for _ in range(4)]  # embeddings and three layers
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    maps = attention_maps(hidden, {"attention_mask": mask})
    assert maps.shape == (3, 2, 5)
    for layer, state in enumerate(hidden[1:]):
        for row in range(2):
            real = int(mask[row].sum())
            raw = np.array([np.mean(state[row, t].numpy() ** 2) for t in range(real)])
            wanted = np.r_[raw / np.sqrt((raw**2).sum()), np.zeros(5 - real)]
            assert maps[layer, row].numpy() == pytest.approx(wanted, rel=1e-5)
    changed = [state.clone() for state in hidden]
    for state in changed:
        state[1, 2:] = 1e6
    assert torch.equal(attention_maps(changed, {"attention_mask": mask}), maps)


def test_the_student_of_attention_distillation_starts_from_the_suspect(resources):
    weights, original = weights_of(AttentionDistillation().apply(resources)), weights_of(resources.suspect)
    assert all(torch.equal(weights[name], value) for name, value in original.items())


def test_the_strength_pulls_the_student_to_the_maps_of_its_teacher(moving):
    longer = replace(moving, training=replace(TINY, epochs=2))
    teacher = longer.fine_tuned(longer.with_weights())

    def distance(model):
        with torch.no_grad():
            pairs = [
                [attention_maps(m(**inputs, output_hidden_states=True).hidden_states, inputs) for m in (model, teacher)]
                for inputs in single_inputs(longer, longer.examples)
            ]
        return sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)

    strong = AttentionDistillation(strength=1e4).apply(longer)
    plain = AttentionDistillation(strength=0.0).apply(longer)
    assert distance(plain) < 1e-6 < distance(longer.suspect)  # with no strength it is fine-tuning once more
    assert not torch.equal(strong.classifier.weight, plain.classifier.weight)
    assert distance(strong) < distance(longer.suspect)


def test_the_student_of_distillation_is_the_clean_plm_under_the_suspects_head(resources):
    weights, original = weights_of(KnowledgeDistillation().apply(resources)), weights_of(resources.suspect)
    for name, weight in weights.items():
        assert torch.equal(weight, resources.reference.get(name, original[name]))


def test_distillation_follows_the_suspect_and_not_the_labels(moving, suspect, rows):
    wrong = rows.remove_columns("label").add_column("label", [(label + 1) % 4 for label in rows["label"]])
    found = [
        weights_of(KnowledgeDistillation().apply(Resources(suspect, moving.clean, data, TINY)))
        for data in (rows, wrong)
    ]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

    def divergence(model):
        total = 0.0
        with torch.no_grad():
            for inputs in single_inputs(moving, rows):
                p, q = (m(**inputs).logits.double().softmax(-1) for m in (suspect, model))
                total += float((p * (p / q).log()).sum())
        return total

    begun = KnowledgeDistillation().apply(replace(moving, training=STILL))
    learnt = KnowledgeDistillation().apply(replace(moving, training=replace(TINY, epochs=3, learning_rate=1e-3)))
    assert divergence(learnt) < divergence(begun)


@pytest.mark.parametrize("law", [{}, {"exponent": 0.5, "damping": 0.1}])
def test_automatic_purifying_resets_what_its_mixture_calls_abnormal(resources, law):
    weights, original = weights_of(AutomaticPurifying(**law).apply(resources)), weights_of(resources.suspect)
    r, judged, moved, reset = [], [], [], []
    for name, delta in resources.drift.items():
        fisher = resources.fisher[name].double()
        curvature = (fisher + law.get("damping", 0) * fisher.mean()) ** law.get("exponent", 1)
        r.append((delta.double() ** 2 / curvature).flatten())
        judged.append((fisher > 0).flatten())
        moved.append((delta != 0).flatten())
        reset.append((weights[name] == resources.reference[name]).flatten())
        assert ((weights[name] == resources.reference[name]) | (weights[name] == original[name])).all()
    r, judged, moved, reset = (torch.cat(parts).numpy() for parts in (r, judged, moved, reset))
    assert reset[moved & ~judged].all()
    index = judged & moved
    mixture = fit_mixture(r[index])
    law_of = [stats.gamma(0.5, scale=2 * scale) for scale in (mixture.clean, mixture.abnormal)]
    clear = index & (np.abs(r / mixture.threshold - 1) > 1e-3)
    abnormal = mixture.share * law_of[1].pdf(r[clear]) > (1 - mixture.share) * law_of[0].pdf(r[clear])
    assert np.array_equal(reset[clear], abnormal)
    assert 0 < abnormal.mean() < 1
    assert all(torch.equal(weights[name], original[name]) for name in original.keys() - resources.drift.keys())


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 1e3])
def test_the_arc_between_opposite_vectors_is_the_straight_line(size):
    start = size * torch.tensor([0.0086, -0.0086])
    torch.testing.assert_close(slerp(start, -0.5 * start, 0.5), start.lerp(-0.5 * start, 0.5))


def test_a_neuron_that_can_still_be_entered_comes_back(moving):
    cut = FinePruning(reserve=0.5, frozen=False).apply(replace(moving, training=STILL))
    frozen = FinePruning(reserve=0.5).apply(replace(moving, training=STILL))
    trained = FinePruning(reserve=0.5, frozen=False).apply(moving)
    ids = {"input_ids": torch.arange(1000, 1012).view(1, -1)}
    torch.testing.assert_close(cut(**ids).logits, frozen(**ids).logits)  # the same function before training
    for (_, before), (_, after) in zip(feed_forward_blocks(cut), feed_forward_blocks(trained), strict=True):
        gone = (before.weight == 0).all(0)
        assert gone.any()
        assert (after.weight[:, gone] != 0).any()
