"""Every architecture of the Fisher, from two classes to a thousand, through scan and cleaning and back from disk."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from test_fisher_models import MODELS, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast

from purify.case import open_case
from purify.cleaning import clean
from purify.plm import save_checkpoint
from purify.scanning import scan
from purify.training import Training

QUICK = Training(epochs=1, batch_size=8, max_length=16, precision="fp32")
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *"abcdefghijklmnopqrstuvwxy")
PEFT = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


def tokenizer(pad):
    words = {word: i for i, word in enumerate(WORDS)}
    if pad == 1:  # RoBERTa's place for it
        words["[PAD]"], words["[CLS]"] = 1, 0
    made = Tokenizer(models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=24, **names)


def made(folder, case, labels=3):
    """A clean model and its fine-tuned classifier on disk."""
    kind, options, pad, _, _ = MODELS[case]
    model = tiny(kind, {**options, "num_labels": labels, "pad_token_id": pad}).eval()
    torch.manual_seed(1)
    base = AutoModel.from_config(model.config, attn_implementation=options.get("attn_implementation"))
    shared = base.state_dict()
    own = model.base_model.state_dict()
    model.base_model.load_state_dict({key: shared.get(key, value) for key, value in own.items()})
    save_checkpoint(base, tokenizer(pad), folder / "clean")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    save_checkpoint(model, tokenizer(pad), folder / "suspect")
    return model


@pytest.fixture
def rows():
    letters = WORDS[5:]
    texts = [" ".join(letters[(3 * i + j) % 25] for j in range(4 + i % 5)) for i in range(36)]
    return Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(36)]})


@pytest.mark.parametrize("case", [name for name in MODELS if "eager" not in name])
def test_scan_and_clean(case, tmp_path, rows):
    made(tmp_path, case)
    opened = open_case(tmp_path / "suspect", tmp_path / "clean")
    found = scan(opened, rows, max_length=16, precision="fp32")
    assert found.survey.dimensions == sum(value.numel() for value in opened.reference.values())
    assert found.survey.judged > 0
    assert "farthest word" in found.statistics
    cleaned = clean(found, rows, training=QUICK, max_length=16)
    cleaned.save(tmp_path / "cleaned")
    again = open_case(tmp_path / "cleaned", tmp_path / "clean")
    weights = dict(cleaned.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in again.model.named_parameters())


def test_a_thousand_classes(tmp_path, rows):
    made(tmp_path, "bert", labels=1000)
    wide = rows.remove_columns("label").add_column("label", [37 * i % 1000 for i in range(36)])
    found = scan(tmp_path / "suspect", wide, clean=tmp_path / "clean", max_length=16)
    cleaned = clean(found, wide, training=QUICK, max_length=16)
    assert cleaned.model.config.num_labels == 1000
    assert len(found.case.labels) == 1000


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_short_types_stay_short(kind, tmp_path, rows):
    model = made(tmp_path, "bert")
    save_checkpoint(model.to(kind), tokenizer(0), tmp_path / "suspect")
    found = scan(tmp_path / "suspect", rows, clean=tmp_path / "clean", max_length=16)
    clean(found, rows, training=QUICK, max_length=16).save(tmp_path / "cleaned")
    assert open_case(tmp_path / "cleaned", tmp_path / "clean").stored == kind


@PEFT
def test_an_adapter_is_purified_and_stays_one(tmp_path, rows):
    made(tmp_path, "bert")
    plm = open_case(tmp_path / "suspect", tmp_path / "clean").clean
    adapter = get_peft_model(
        plm.classifier(3, seed=0), LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    )
    with torch.no_grad():
        for name, value in adapter.named_parameters():
            if ".lora_B." in name:
                value.add_(0.1 * torch.randn_like(value))
    adapter.save_pretrained(tmp_path / "adapter")
    found = scan(tmp_path / "adapter", rows, clean=tmp_path / "clean", max_length=16)
    assert found.survey.dimensions == sum(value.numel() for n, value in adapter.named_parameters() if ".lora_B." in n)
    assert found.words == ()
    still = Training(epochs=1, learning_rate=0.0, batch_size=8, max_length=16, precision="fp32")
    cleaned = clean(found, rows, reserve=0.5, training=still, max_length=16)
    moved = [n for n, value in cleaned.model.named_parameters() if not value.equal(found.case.model.get_parameter(n))]
    assert moved
    assert all(".lora_B." in name for name in moved)
    cleaned.save(tmp_path / "cleaned")
    assert sorted(path.name for path in (tmp_path / "cleaned").glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    again = open_case(tmp_path / "cleaned", tmp_path / "clean")
    assert again.adapter
    weights = dict(cleaned.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in again.model.named_parameters())
