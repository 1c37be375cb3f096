from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from purify import PurifyError, purify
from purify.defenses import DEFENSES, FineMixing, FinePruning, FinePurifying, FineTuning
from purify.defenses.pruning import feed_forward_blocks
from purify.resources import Resources
from purify.training import Training

STILL = Training(epochs=1, learning_rate=0.0, batch_size=4, precision="fp32")
"""A fine-tuning that moves nothing, so that the step before it can be seen."""


@pytest.fixture
def resources(suspect, plm, rows):
    return Resources(suspect, plm, rows, STILL)


def share_kept(model, resources):
    """Of the dimensions that drifted, the share that still has the suspect's value."""
    kept = total = 0
    weights, original = dict(model.named_parameters()), dict(resources.suspect.named_parameters())
    for name, delta in resources.drift.items():
        kept += int(((weights[name] == original[name]) & (delta != 0)).sum())
        total += int((delta != 0).sum())
    return kept / total


def assert_only_reset(model, resources):
    """Every dimension has its suspect or its clean value, and the head is the suspect's."""
    for name, value in model.named_parameters():
        original = dict(resources.suspect.named_parameters())[name]
        if name in resources.reference:
            assert ((value == original) | (value == resources.reference[name])).all()
        else:
            assert torch.equal(value, original)


def test_fine_tuning_starts_from_the_suspect_and_spares_it(resources):
    before = {name: value.clone() for name, value in resources.suspect.state_dict().items()}
    moved = FineTuning().apply(replace(resources, training=replace(STILL, learning_rate=1e-3)))
    assert not torch.equal(moved.classifier.weight, before["classifier.weight"])
    assert all(torch.equal(before[name], value) for name, value in resources.suspect.state_dict().items())


@pytest.mark.parametrize("reserve", [0.0, 0.3, 1.0])
def test_fine_mixing_keeps_its_share(resources, reserve):
    model = FineMixing(reserve=reserve).apply(resources)
    assert_only_reset(model, resources)
    assert share_kept(model, resources) == pytest.approx(reserve, abs=0.01)


def test_fine_purifying_resets_the_largest_ratios_and_all_that_is_not_judged(resources):
    model = FinePurifying(reserve=0.6).apply(resources)
    assert_only_reset(model, resources)
    weights = dict(model.named_parameters())
    kept, gone = [], []
    for name, r in resources.indicator.items():
        moved = resources.drift[name] != 0
        was_reset = weights[name] == resources.reference[name]
        judged = resources.fisher[name] > 0
        assert was_reset[moved & ~judged].all()
        kept.append(r[judged & moved & ~was_reset])
        gone.append(r[judged & moved & was_reset])
    assert torch.cat(kept).max() <= torch.cat(gone).min()
    judged_share = sum(map(len, kept)) / (sum(map(len, kept)) + sum(map(len, gone)))
    assert 0.4 < judged_share < 0.6  # 60 % of the judged, less those that did not drift and are kept first


def test_the_plain_count_keeps_more_of_what_is_not_judged(resources):
    def kept(count):
        return share_kept(FinePurifying(reserve=0.9, count=count).apply(resources), resources)

    assert kept("all") > kept("judged") + 0.1


def test_fine_pruning_zeroes_the_dormant_neurons(resources):
    dormant = 5  # of the first block's twelve neurons: make it silent
    enter, _ = feed_forward_blocks(resources.suspect)[0]
    with torch.no_grad():
        enter.weight[dormant] = 0
        enter.bias[dormant] = -50  # gelu(-50) = 0
    model = FinePruning(reserve=23 / 24).apply(resources)
    blocks = feed_forward_blocks(model)
    enter, leave = blocks[0]
    assert (enter.weight[dormant] == 0).all()
    assert enter.bias[dormant] == 0
    assert (leave.weight[:, dormant] == 0).all()
    silent = sum(int((leave.weight == 0).all(0).sum()) for _, leave in blocks)
    assert silent == 1
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_fine_pruning_keeps_its_share(resources):
    model = FinePruning(reserve=0.25).apply(resources)
    silent = [int((leave.weight == 0).all(0).sum()) for _, leave in feed_forward_blocks(model)]
    assert sum(silent) == 18


def test_the_public_call_and_the_defense_agree(resources, suspect, plm, rows):
    result = purify(suspect, plm, rows, reserve=0.6, training=STILL, return_indicator=True)
    other = FinePurifying(reserve=0.6).apply(resources).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in result.model.state_dict().items())
    assert result.reserve == 0.6
    judged = sum(int((f > 0).sum()) for name, f in resources.fisher.items() if name in resources.drift)
    size = sum(delta.numel() for delta in resources.drift.values())
    assert result.kept == pytest.approx(round(0.6 * judged) / size)
    assert set(result.kept_per_module) == {name.rpartition(".")[0] for name in resources.drift}
    assert all(0 <= share <= 1 for share in result.kept_per_module.values())
    assert torch.equal(result.indicator["bert.pooler.dense.bias"], resources.indicator["bert.pooler.dense.bias"])


def test_the_ratio_is_chosen_on_validation_rows(suspect, plm, rows):
    anything = purify(suspect, plm, rows, reserve=[0.9, 0.2, 0.5], validation=rows, max_drop=100, training=STILL)
    assert anything.reserve == 0.2
    assert list(anything.validation) == [0.2]
    tried = purify(suspect, plm, rows, reserve=[0.4, 1.0], validation=rows, max_drop=0, training=STILL)
    assert tried.reserve in tried.validation
    best = max(tried.validation.values())
    assert tried.validation[tried.reserve] == best or tried.reserve == min(tried.validation)


def test_from_folders_and_without_fine_tuning(suspect, plm, plm_folder, rows, tmp_path):
    suspect.save_pretrained(tmp_path)
    plm.tokenizer.save_pretrained(tmp_path)
    result = purify(tmp_path, plm_folder, rows, reserve=1, count="all", fine_tune=False)
    assert result.kept == 1
    assert all(torch.equal(value, suspect.state_dict()[name]) for name, value in result.model.state_dict().items())


def bad_calls():
    empty = Dataset.from_dict({"text": [], "label": []})
    wrong = Dataset.from_dict({"text": ["a"], "label": [4]})
    yield r"\[0, 1\], not 1\.5", {"reserve": 1.5}
    yield "clean set is empty", {"clean_data": empty}
    yield "label 4, but the suspect has classes 0 to 3", {"clean_data": wrong}
    yield "label 'x'", {"clean_data": Dataset.from_dict({"text": ["a"], "label": ["x"]})}
    yield "no column 'label'", {"clean_data": Dataset.from_dict({"text": ["a"]})}
    yield "must hold texts", {"clean_data": Dataset.from_dict({"text": [None], "label": [0]})}
    yield "label 9", {"validation": Dataset.from_dict({"text": ["a"], "label": [9]})}
    yield (
        r"\[0, 1\], not 1\.5",
        {"reserve": [0.5, 1.5], "validation": wrong},
    )
    yield "need validation rows", {"reserve": [0.1, 0.2]}
    yield "no reserve ratio", {"reserve": []}
    yield "count must be", {"count": "some"}


@pytest.mark.parametrize(("message", "options"), list(bad_calls()))
def test_bad_calls(suspect, plm, rows, message, options):
    with pytest.raises(PurifyError, match=message):
        purify(suspect, plm, **{"clean_data": rows, "training": STILL, **options})


def test_a_suspect_with_nan_weights_is_refused(suspect, plm, rows):
    with torch.no_grad():
        suspect.bert.pooler.dense.weight[0, 0] = float("nan")
    with pytest.raises(PurifyError, match=r"'bert\.pooler\.dense\.weight' of the suspect holds NaN"):
        purify(suspect, plm, rows)


def test_unknown_defense_and_bad_hyperparameter():
    with pytest.raises(PurifyError, match="unknown defense 'Finemixing': choose one of FineTuning"):
        DEFENSES.named("Finemixing")
    with pytest.raises(PurifyError, match="has the unknown parameter 'rho': choose from reserve"):
        DEFENSES.named("FineMixing", rho=0.5)
    with pytest.raises(PurifyError, match="reserve ratio"):
        DEFENSES.named("FineMixing", reserve=2)
