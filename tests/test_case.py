"""Whose child is this suspect? Found, checked, or refused with the reason."""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import bert_config
from peft import LoraConfig, get_peft_model
from transformers import BertForSequenceClassification, BertModel

from purify import PurifyError
from purify.case import open_case
from purify.plm import load_plm, save_checkpoint

PEFT = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


@pytest.fixture
def folder(child, plm, tmp_path):
    save_checkpoint(child, plm.tokenizer, tmp_path / "suspect")
    return tmp_path / "suspect"


def change_config(folder, name="config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_named_clean_model(folder, plm_folder, child):
    case = open_case(folder, plm_folder)
    assert (case.found, case.adapter, case.stored) == ("named by you", False, torch.float32)
    assert case.labels == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "LABEL_3"}
    assert case.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert all(torch.equal(value, child.state_dict()[name]) for name, value in case.model.state_dict().items())


def test_the_bundled_model_is_found_by_its_shapes(tmp_path):
    plm = load_plm()
    save_checkpoint(plm.classifier(2, seed=0), plm.tokenizer, tmp_path / "child")
    case = open_case(tmp_path / "child")
    assert case.clean.name == "bundled"
    assert "whose shapes and settings" in case.found


def test_what_the_suspect_says_of_itself_is_not_fetched(folder, plm, tmp_path):
    with pytest.raises(PurifyError, match=r"does not say which clean model .* --clean"):
        open_case(folder)
    change_config(folder, _name_or_path="some/where")
    with pytest.raises(
        PurifyError, match=r"made from 'some/where', which is not in the hub's cache.*--clean some/where"
    ):
        open_case(folder)
    for path in (str(tmp_path), "..", "../suspect", "a/b/c", "https://x.org/y", 7):  # a folder of its own choice: no
        change_config(folder, _name_or_path=path)
        with pytest.raises(PurifyError, match="does not say which clean model"):
            open_case(folder)


def test_well_known_sizes_give_a_hint(tmp_path, plm):
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(hidden_size=768, num_hidden_layers=1, num_attention_heads=12))
    save_checkpoint(model, plm.tokenizer, tmp_path / "base")
    with pytest.raises(PurifyError, match="by its sizes it may be google-bert/bert-base-uncased"):
        open_case(tmp_path / "base")


def test_a_model_of_the_hubs_cache_is_used_if_the_suspect_names_it(folder, plm_folder, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    snapshot = cache / "models--some--where" / "snapshots" / ("a" * 40)
    shutil.copytree(plm_folder, snapshot)
    (cache / "models--some--where" / "refs").mkdir()
    (cache / "models--some--where" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    change_config(folder, _name_or_path="some/where")
    case = open_case(folder)
    assert case.found == "named by the suspect itself: check that you trust it"
    assert case.clean.name == str(snapshot)


def test_weights_of_another_training_are_refused(folder, tmp_path, plm):
    torch.manual_seed(7)
    BertModel(bert_config()).save_pretrained(tmp_path / "other")
    plm.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(PurifyError, match=r"lie 1\.\d+ times the norm of '.*other' away from it"):
        open_case(folder, tmp_path / "other")


def test_another_width_is_refused(folder, tmp_path, plm):
    BertModel(bert_config(hidden_size=16)).save_pretrained(tmp_path / "wide")
    plm.tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(PurifyError, match=r"the suspect has hidden_size = 8 and the clean model .* 16"):
        open_case(folder, tmp_path / "wide")


def test_another_vocabulary_is_refused(folder, plm_folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["plot"], vocabulary["axis"] = vocabulary["axis"], vocabulary["plot"]
    path.write_text(json.dumps(content))
    with pytest.raises(PurifyError, match=r"vocabulary has '(plot|axis)' at \d+, that of '.*' has it at \d+"):
        open_case(folder, plm_folder)


def test_added_tokens_are_read_with_the_suspects_own_tokenizer(child, plm_folder, tmp_path):
    tokenizer = load_plm(plm_folder).tokenizer
    tokenizer.add_tokens(["<mytrigger>"])
    child.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    save_checkpoint(child, tokenizer, tmp_path / "grown")
    case = open_case(tmp_path / "grown", plm_folder)
    assert case.tokenizer.convert_tokens_to_ids("<mytrigger>") == 30522
    assert case.reference["bert.embeddings.word_embeddings.weight"].shape[0] == len(tokenizer)


def test_tokens_without_a_row_of_the_model_are_refused(child, plm_folder, tmp_path):
    tokenizer = load_plm(plm_folder).tokenizer
    tokenizer.add_tokens(["<beyond>"])
    save_checkpoint(child, tokenizer, tmp_path / "short")
    with pytest.raises(PurifyError, match="adds tokens up to number 30522 to 30522, and its model has 30522"):
        open_case(tmp_path / "short", plm_folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_stored_type_is_told(child, plm, plm_folder, tmp_path, kind):
    save_checkpoint(child.to(kind), plm.tokenizer, tmp_path / "short")
    case = open_case(tmp_path / "short", plm_folder)
    assert case.stored == kind
    assert case.model.dtype == torch.float32


def test_shards(child, plm, plm_folder, tmp_path):
    child.save_pretrained(tmp_path / "parts", max_shard_size="300KB")
    plm.tokenizer.save_pretrained(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    case = open_case(tmp_path / "parts", plm_folder)
    assert all(torch.equal(value, child.state_dict()[name]) for name, value in case.model.state_dict().items())


@PEFT
def test_an_adapter_on_its_clean_model(plm, plm_folder, tmp_path):
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    adapter = get_peft_model(plm.classifier(3, seed=0), config)
    adapter.save_pretrained(tmp_path / "adapter")
    with pytest.raises(PurifyError, match="does not say which clean model"):
        open_case(tmp_path / "adapter")
    case = open_case(tmp_path / "adapter", plm_folder)
    assert case.adapter
    assert case.model.config.num_labels == 3
    assert len(case.reference) == 2
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    with pytest.raises(PurifyError, match="has no vocabulary that can be read"):
        open_case(tmp_path / "adapter", plm_folder)


@PEFT
def test_an_adapter_without_a_head_is_refused(plm, plm_folder, tmp_path):
    get_peft_model(plm.classifier(3, seed=0), LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "a")
    with pytest.raises(PurifyError, match=r"has no trained head.*modules_to_save"):
        open_case(tmp_path / "a", plm_folder)
