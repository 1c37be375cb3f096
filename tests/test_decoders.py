"""Every defense on a decoder, whose classifier reads the last token that is no padding."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from purify import PurifyError, load_plm
from purify.defenses import DEFENSES
from purify.defenses.base import Detector
from purify.indicator import drift
from purify.resources import Resources
from purify.training import Training, read_states

QUICK = Training(epochs=1, batch_size=4, max_length=16, precision="fp32")
ENCODERS_ONLY = {
    "FinePruning": "there are no feed-forward neurons to be found in a 'llama' model",
    "HeadPruning": "needs a model whose first token sees the others, and in 'llama' it does not",
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, plm_folder):
    """A tiny random Llama with the bundled words."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plm_folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_plm(folder)


@pytest.fixture
def resources(decoder, rows):
    model = decoder.classifier(4, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    few = rows.select(range(12))
    return Resources(model, decoder, few, QUICK, validation=few, training_source=lambda: rows, retraining=QUICK)


@pytest.mark.parametrize("name", sorted(DEFENSES.classes))
def test_every_defense_runs_on_a_decoder_or_says_why_not(name, resources, rows):
    before = {key: value.clone() for key, value in resources.suspect.state_dict().items()}
    defense = DEFENSES.build(DEFENSES.named(name))
    if name in ENCODERS_ONLY:
        with pytest.raises(PurifyError, match=ENCODERS_ONLY[name]):
            defense.apply(resources)
        return
    result = defense.apply(resources)
    if isinstance(defense, Detector):
        suspicion = result.suspicion(rows)
        assert suspicion.shape == (len(rows),)
        assert np.isfinite(suspicion).all()
        assert len(result.answers(rows, suspicion, np.median(suspicion))) == len(rows)
    else:
        moved = drift(dict(result.named_parameters()), resources.reference)
        assert all(value.isfinite().all() for value in moved.values())
    after = resources.suspect.state_dict()
    assert all(value.equal(before[key]) for key, value in after.items())


def test_the_states_are_those_of_the_last_token_that_is_no_padding(resources, rows):
    """Those of a text alone, where nothing is padded, stand at its end."""
    states = read_states(resources.suspect, rows, resources.tokenizer, max_length=16, precision="fp32")
    for n in (0, 5):
        tokens = resources.tokenizer(rows["text"][n], truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            alone = resources.suspect(**tokens, output_hidden_states=True).hidden_states
        for layer, state in zip(states, alone[-len(states) :], strict=True):
            assert layer[n] == pytest.approx(state[0, -1].numpy(), abs=1e-5)
