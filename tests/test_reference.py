"""What a suspect is compared with: padded vocabularies, short types, adapters; and what is too far away."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from purify import PurifyError
from purify.indicator import drift
from purify.reference import Reference, distance

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


PEFT = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_the_head_has_no_counterpart_and_the_rest_has(plm):
    model = plm.classifier(4, seed=0)
    reference = Reference(plm, model)
    assert set(weights(model)) - set(reference) == {"classifier.weight", "classifier.bias"}
    assert len(list(reference)) == len(reference)
    assert all(torch.equal(value, weights(model)[name]) for name, value in reference.items())


def test_added_tokens_start_from_the_mean_of_the_clean_rows(plm):
    model = plm.classifier(4, seed=0)
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(before) + 3, mean_resizing=False)
    clean = Reference(plm, model)[EMBEDDINGS]
    assert clean.shape == model.get_input_embeddings().weight.shape
    assert torch.equal(clean[: len(before)], before)
    assert torch.allclose(clean[len(before) :], before.mean(0).expand(3, -1))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_rounding_of_a_short_type_is_no_drift(plm, kind):
    model = plm.classifier(4, seed=0).to(kind).float()
    reference = Reference(plm, model)
    assert all(not delta.any() for delta in drift(weights(model), reference).values())
    exact = plm.classifier(4, seed=0)
    assert any(not torch.equal(reference[name], value) for name, value in Reference(plm, exact).items()), (
        "nothing was rounded, and the test shows nothing"
    )


@PEFT
def test_of_an_adapter_the_matrices_b_are_compared_with_zero(plm):
    base = plm.classifier(4, seed=0)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]))
    reference = Reference(plm, model)
    assert len(reference) == 2  # one per layer
    assert all(".lora_B." in name for name in reference)
    assert all(not value.any() for value in reference.values())


@PEFT
def test_another_kind_of_adapter_is_refused(plm):
    config = IA3Config(target_modules=["query"], feedforward_modules=[])
    model = get_peft_model(plm.classifier(4, seed=0), config)
    with pytest.raises(PurifyError, match="kind IA3: only LoRA"):
        Reference(plm, model)


def test_distance_is_that_of_all_weights_together():
    clean = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    suspect = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[6.0]]), "c": torch.ones(1)}
    assert distance(suspect, clean) == pytest.approx(5**0.5 / 5)
    assert distance(clean, clean) == 0
    assert distance({"a": torch.ones(1)}, {"a": torch.zeros(1)}) == float("inf")
