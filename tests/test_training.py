import numpy as np
import pytest
import torch
from datasets import Dataset

from purify import PurifyError, hardware
from purify.hardware import has_bf16, resolve_precision
from purify.training import Training, batches, encode, fine_tune, predict

QUICK = Training(epochs=2, learning_rate=1e-3, batch_size=4, precision="fp32")


def test_prediction_keeps_the_order_of_the_rows(suspect, plm, rows):
    together = predict(suspect, rows, plm.tokenizer, batch_size=5, precision="fp32")
    alone = np.concatenate(
        [predict(suspect, rows.select([i]), plm.tokenizer, precision="fp32") for i in range(len(rows))]
    )
    assert together.shape == (12, 4)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_batches_hold_every_row_once_the_longest_first(plm, rows):
    found = list(batches(rows, plm.tokenizer, batch_size=5))
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in found])
    assert (lengths.diff() <= 0).all()
    assert [batch["input_ids"].shape[1] for batch in found] == [int(b["attention_mask"].sum(1).max()) for b in found]
    assert sorted(torch.cat([batch["labels"] for batch in found]).tolist()) == sorted(rows["label"])


def test_pairs_are_encoded_together_and_cut(plm):
    rows = Dataset.from_dict({"text": ["a plot of " * 30], "text_pair": ["the axis"], "label": [1]})
    (ids,) = encode(rows, plm.tokenizer, 20)["input_ids"]
    assert len(ids) == 20
    assert ids.count(plm.tokenizer.sep_token_id) == 2


def test_fine_tuning_learns_and_repeats(plm, rows):
    def trained(seed):
        model = fine_tune(plm.classifier(4, seed=0), rows, plm.tokenizer, QUICK, seed=seed)
        assert not model.training
        return model.state_dict()

    start, one, same, other = plm.classifier(4, seed=0).state_dict(), trained(0), trained(0), trained(1)
    assert not torch.equal(start["classifier.weight"], one["classifier.weight"])
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_fine_tuning_lowers_the_loss(plm):
    rows = Dataset.from_dict({"text": ["array", "plot", "tensor", "frame"] * 2, "label": [0, 1, 2, 3] * 2})

    def loss(model):
        logits = torch.tensor(predict(model, rows, plm.tokenizer, precision="fp32"))
        return torch.nn.functional.cross_entropy(logits, torch.tensor(rows["label"][:])).item()

    model = plm.classifier(4, seed=0)
    before = loss(model)
    fine_tune(model, rows, plm.tokenizer, Training(epochs=40, learning_rate=3e-2, batch_size=8), seed=0)
    assert loss(model) < 0.9 * before


def test_a_loss_that_is_not_finite_is_reported(plm, rows):
    model = plm.classifier(4, seed=0)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(PurifyError, match="training diverged"):
        fine_tune(model, rows, plm.tokenizer, QUICK, seed=0)


def test_no_rows(plm):
    with pytest.raises(PurifyError, match="no example"):
        encode(Dataset.from_dict({"text": [], "label": []}), plm.tokenizer, 16)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1}, {"precision": "fp16"}])
def test_bad_training(options):
    with pytest.raises(PurifyError, match=next(iter(options))):
        Training(**options)


def test_precision():
    assert resolve_precision("auto") == ("bf16" if has_bf16() else "fp32")
    assert resolve_precision("fp32") == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is not timed")
@pytest.mark.parametrize(("seconds", "taken"), [(2.0, False), (1.0, False), (0.5, True)])
def test_bf16_is_taken_where_the_processor_has_it_and_is_faster_in_it(seconds, taken, monkeypatch):
    monkeypatch.setattr(hardware, "_seconds", lambda kind: seconds if kind is torch.bfloat16 else 1.0)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(hardware, "_processor_has_bf16", hardware._processor_has_bf16.__wrapped__)
    assert hardware.has_bf16() is taken
