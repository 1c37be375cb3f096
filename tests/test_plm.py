import json
import shutil

import pytest
import torch
from conftest import bert_config
from transformers import BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from purify import PurifyError, load_plm, load_suspect
from purify.indicator import drift
from purify.plm import BUNDLED_SHA256, check_sha256, save_checkpoint


def test_the_bundled_model_is_the_one_that_was_checked():
    plm = load_plm()
    assert plm.model.num_parameters() == 22_713_216
    assert not plm.absent


def test_a_replaced_model_file_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"something else")
    with pytest.raises(PurifyError, match=r"model\.safetensors has sha256 .* not 53aa.* reinstall"):
        check_sha256(file, BUNDLED_SHA256)


def test_a_local_folder(plm):
    assert plm.model.config.hidden_size == 8
    weights = plm.weights_for(plm.classifier(4, seed=0))
    assert "bert.encoder.layer.1.output.dense.weight" in weights
    assert not any("classifier" in name for name in weights)


def test_a_fresh_classifier_has_the_clean_weights_and_a_head_drawn_from_the_seed(plm):
    one, same, other = (plm.classifier(4, seed=seed) for seed in (0, 0, 1))
    assert all((value == 0).all() for value in drift(dict(one.named_parameters()), plm.weights_for(one)).values())
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_weights_that_the_checkpoint_lacks_are_no_reference(plm_folder, tmp_path):
    folder = shutil.copytree(plm_folder, tmp_path / "plm")
    model = load_plm(plm_folder).model
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler")}
    model.save_pretrained(folder, state_dict=state)
    plm = load_plm(folder)
    assert plm.absent == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not any("pooler" in name for name in plm.weights_for(plm.classifier(2, seed=0)))


def test_checkpoints_round_trip(suspect, plm, tmp_path):
    save_checkpoint(suspect, plm.tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, tokenizer = load_suspect(tmp_path)
    assert tokenizer("a plot")["input_ids"] == plm.tokenizer("a plot")["input_ids"]
    for name, value in suspect.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("name", ["no/such-model", "nowhere"])
def test_a_name_that_leads_nowhere(name):
    with pytest.raises(PurifyError, match=f"cannot load the model '{name}'"):
        load_plm(name)


def test_pickled_weights_are_never_opened(plm_folder, tmp_path):
    folder = shutil.copytree(plm_folder, tmp_path / "plm")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04\x95would run code")
    with pytest.raises(PurifyError, match=r"'pytorch_model\.bin', which can run code"):
        load_plm(folder)


def test_a_damaged_file_is_refused(plm_folder, tmp_path):
    folder = shutil.copytree(plm_folder, tmp_path / "plm")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(PurifyError, match="no sound safetensors file"):
        load_plm(folder)


def test_a_model_that_brings_code_does_not_run_it(plm_folder, tmp_path):
    folder = shutil.copytree(plm_folder, tmp_path / "plm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(PurifyError, match="asks for code of its own"):
        load_plm(folder)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_trained_head_is_no_suspect(plm_folder):
    with pytest.raises(PurifyError, match=r"not a fine-tuned classifier.*classifier\.bias"):
        load_suspect(plm_folder)


def test_another_architecture_is_refused(plm):
    other = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    )
    with pytest.raises(PurifyError, match=r"'roberta' model and the clean model .* a 'bert' model"):
        plm.weights_for(other)


def test_another_size_is_refused(plm):
    other = BertForSequenceClassification(bert_config(hidden_size=16))
    with pytest.raises(PurifyError, match="shape"):
        drift(dict(other.named_parameters()), plm.weights_for(other))
