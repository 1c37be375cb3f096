"""What the libraries get to see of a hostile folder, and what an adapter may hold."""

import json
import os

import pytest
import torch
from conftest import WORDS
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from purify import PurifyError
from purify.case import open_case
from purify.gate import INDEX, WEIGHTS, inspect
from purify.plm import load_plm, load_suspect, save_checkpoint
from purify.staging import staged, vocabulary

PEFT = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


@pytest.fixture
def folder(child, plm, tmp_path):
    save_checkpoint(child, plm.tokenizer, tmp_path / "suspect")
    return tmp_path / "suspect"


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_only_vetted_files_are_there_and_they_are_gone_afterwards(folder):
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"other")
    with staged(folder) as safe:
        names = {path.name for path in safe.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not {"evil.py", "pytorch_model.bin"} & names
        assert not any(name.startswith("shard") for name in names)
    assert not safe.exists()
    load_suspect(folder)


@pytest.mark.parametrize("key", ["transformers_weights", "_attn_implementation", "_name_or_path", "auto_mapping"])
def test_settings_that_lead_elsewhere_are_left_out(folder, key):
    change(folder / "config.json", **{key: "adapter_model.bin", "inner": {key: "x", "kept": 1}})
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["../../tokenizer.5.0.json"])
    with staged(folder) as safe:
        config = json.loads((safe / "config.json").read_text())
        assert key not in config
        assert config["inner"] == {"kept": 1}
        assert "fast_tokenizer_files" not in json.loads((safe / "tokenizer_config.json").read_text())
    load_suspect(folder)


def test_quantised_models_are_refused(folder):
    change(folder / "config.json", quantization_config={"bits": 4})
    with pytest.raises(PurifyError, match="has 'quantization_config', which is not supported"):
        load_suspect(folder)


def test_with_an_index_beside_the_weights_the_weights_are_what_is_vetted_and_loaded(folder, child):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    assert "bert.embeddings.word_embeddings.weight" in inspect(folder)
    model, _ = load_suspect(folder)
    assert torch.equal(model.classifier.weight, child.classifier.weight)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../secret"])
def test_links_that_lead_out_are_refused(folder, name, target):
    (folder.parent / "secret").write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(PurifyError, match="is a link that leads out of the checkpoint"):
        load_suspect(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_what_is_no_regular_file_is_refused(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(PurifyError, match="is no regular file"):
        load_suspect(folder)


def test_the_suspects_tokenizer_is_never_used(folder, plm_folder):
    """Its normaliser could rewrite every text, and its special tokens could hide a trigger."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "plot"}, "content": "axis"}
    content["added_tokens"].append(
        {
            "id": 30522,
            "content": "<new>",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    )
    path.write_text(json.dumps(content))
    weights = load_file(folder / WEIGHTS)
    words = weights["bert.embeddings.word_embeddings.weight"]
    weights["bert.embeddings.word_embeddings.weight"] = torch.cat([words, words[:1]])
    save_file(weights, folder / WEIGHTS)
    change(folder / "config.json", vocab_size=30523)
    case = open_case(folder, plm_folder)
    plain = load_plm(plm_folder).tokenizer
    text = " ".join(WORDS)
    assert case.tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    assert case.tokenizer.convert_tokens_to_ids("<new>") == 30522
    assert "<new>" not in case.tokenizer.all_special_tokens


def test_vocabularies_are_read_without_building_a_tokenizer(folder):
    assert vocabulary(folder)["plot"] == load_plm().tokenizer.get_vocab()["plot"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\nplot\n")
    assert vocabulary(folder) == {"[PAD]": 0, "plot": 1}
    (folder / "vocab.txt").unlink()
    assert vocabulary(folder) is None
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}))
    assert vocabulary(folder) == {"a": 0, "b": 1}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a"], 3]}}))
    with pytest.raises(PurifyError, match="no vocabulary that can be read"):
        vocabulary(folder)


@pytest.fixture
def adapter(plm, tmp_path):
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    get_peft_model(plm.classifier(3, seed=0), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@PEFT
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "XLORA", "adapters": {"a": "evil/repo"}}, "an adapter of the kind XLORA: only LoRA"),
        ({"bias": "all"}, "has bias = all"),
        ({"modules_to_save": ["classifier", "word_embeddings"]}, "has modules_to_save = "),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights = pissa"),
        ({"trainable_token_indices": [12935]}, "has trainable_token_indices = "),
        ({"use_dora": True}, "has use_dora = True"),
        ({"r": 10**7}, "has r = 10000000"),
        ({"r": "2"}, "has r = 2"),
    ],
)
def test_what_plain_lora_has_not_is_refused(adapter, plm_folder, changes, message):
    change(adapter / "adapter_config.json", **changes)
    with pytest.raises(PurifyError, match=message):
        open_case(adapter, plm_folder)


@PEFT
def test_an_adapter_that_changes_more_is_refused(adapter, plm_folder):
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.bert.embeddings.word_embeddings.weight"] = torch.zeros(30522, 8)
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(PurifyError, match=r"also changes 'base_model.model.bert.embeddings"):
        open_case(adapter, plm_folder)
