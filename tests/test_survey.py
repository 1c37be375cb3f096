"""The survey, block by block, against the same computed at once in float64."""

import numpy as np
import pytest
import torch

from purify import PurifyError, survey
from purify.anatomy import place_of
from purify.indicator import drift, indicator
from purify.memory import let_go
from purify.survey import TOP
from purify.survey import survey as look

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture
def fisher(suspect):
    """Random, zero in part, for all parameters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) * (torch.rand(value.shape, generator=generator) < 0.6)
        for name, value in suspect.named_parameters()
    }


@pytest.fixture
def whole(suspect, plm, fisher):
    """Drift and r of all parameters at once."""
    delta = drift(dict(suspect.named_parameters()), plm.weights_for(suspect))
    return delta, indicator(delta, {name: value.clone() for name, value in fisher.items()})


@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
def test_blocks_add_up_to_the_whole(suspect, plm, fisher, whole, block, monkeypatch):
    monkeypatch.setattr(survey, "BLOCK", block)
    monkeypatch.setattr(survey, "_places", lambda *_: ())  # many tiny blocks; it is tested below
    if block == 7:  # of the largest parameter that would be thirty thousand blocks
        reference = {name: value for name, value in plm.weights_for(suspect).items() if name != EMBEDDINGS}
    else:
        reference = plm.weights_for(suspect)
    delta, r = whole
    before = {name: value.clone() for name, value in fisher.items()}
    found = look(suspect, fisher, reference)
    names = list(reference)
    flat = torch.cat([delta[name].flatten() for name in names]).double()
    judged = torch.cat([before[name].flatten() for name in names]) > 0
    clean = torch.cat([reference[name].flatten() for name in names]).double()
    assert found.distance == pytest.approx(float(flat.norm() / clean.norm()))
    assert found.dimensions == len(flat)
    assert (found.moved, found.judged) == (int((flat != 0).sum()), int(judged.sum()))
    assert found.unvouched == int(((flat != 0) & ~judged).sum())
    assert fisher.keys() == set(names)
    assert all(torch.equal(fisher[name], r[name]) for name in names)
    values = torch.cat([r[name].flatten() for name in names])
    assert sum(found.histogram) == int((values.isfinite() & (values > 0)).sum())
    assert found.law is not None
    assert 0 <= found.ks <= 1
    if EMBEDDINGS in reference:
        assert torch.allclose(found.lengths, delta[EMBEDDINGS].norm(dim=1))


def test_places_tell_where_the_largest_r_sit(suspect, plm, fisher, whole):
    _, r = whole
    found = look(suspect, fisher, plm.weights_for(suspect))
    values = torch.cat([value.flatten() for value in r.values()])
    finite = values[values.isfinite() & (values > 0)].double().numpy()
    limit = np.quantile(finite, 1 - TOP)
    for place in found.places:
        own = torch.cat([value.flatten() for name, value in r.items() if place_of(name) == (place.where, place.kind)])
        assert place.moved == int((own.isfinite() & (own > 0)).sum())
        assert place.abnormal == pytest.approx(int((own.isfinite() & (own > limit)).sum()), abs=1)
    assert sum(place.abnormal for place in found.places) == pytest.approx(TOP * len(finite), abs=2)


def test_a_sample_of_many_values_has_their_law(suspect, plm, fisher, monkeypatch):
    copy = {name: value.clone() for name, value in fisher.items()}
    every = look(suspect, copy, plm.weights_for(suspect))
    monkeypatch.setattr(survey, "SAMPLE", 30_000)
    some = look(suspect, fisher, plm.weights_for(suspect))
    assert sum(some.histogram) < 0.2 * sum(every.histogram)
    shares = [np.array(one.histogram) / sum(one.histogram) for one in (some, every)]
    assert np.abs(np.cumsum(shares[0] - shares[1])).max() < 0.02


def test_without_drift_there_is_no_law(plm):
    model = plm.classifier(4, seed=0)
    found = look(
        model, {name: torch.ones_like(value) for name, value in model.named_parameters()}, plm.weights_for(model)
    )
    assert (found.distance, found.moved, found.law) == (0, 0, None)
    assert not any(place.moved for place in found.places)


def test_weights_that_are_not_finite_are_refused(suspect, plm, fisher):
    with torch.no_grad():
        suspect.bert.encoder.layer[1].output.dense.weight[0, 0] = float("nan")
    with pytest.raises(PurifyError, match=r"layer\.1\.output\.dense\.weight' of the suspect holds NaN"):
        look(suspect, fisher, plm.weights_for(suspect))


def test_memory_that_is_let_go_keeps_its_values(tmp_path):
    from safetensors.torch import load_file, save_file

    save_file({"a": torch.arange(100_000.0)}, tmp_path / "a.safetensors")
    for tensor in (
        torch.arange(100_000.0),
        load_file(tmp_path / "a.safetensors")["a"],
        torch.arange(3.0),
        torch.ones(()),
    ):
        before = tensor.clone()
        let_go(tensor)
        assert torch.equal(tensor, before)
