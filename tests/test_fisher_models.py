"""Every architecture that people bring, with all its parameters trainable, against the loop over examples."""

import logging

import peft
import pytest
import torch
import transformers
from oracles import assert_same, per_example_fisher, token_batch
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from purify import fisher_diagonal

BERT_LIKE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = {**BERT_LIKE, **TOKENS, "num_key_value_heads": 1}
DEBERTA = {
    **BERT_LIKE,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_buckets": 4,
    "max_relative_positions": 8,
    "type_vocab_size": 0,
}
ATTENTION = {"attn_implementation": "eager"}

# name -> configuration class, its options, the padding token, what is computed example by example (a part of the
# name) through the module itself, and through the whole model
MODELS = {
    "bert": ("Bert", BERT_LIKE, 0, [], []),
    "bert, eager attention": ("Bert", BERT_LIKE | ATTENTION, 0, [], []),
    "roberta": ("Roberta", BERT_LIKE, 1, [], []),
    "xlm-r": ("XLMRoberta", BERT_LIKE, 1, [], []),
    "distilbert": ("DistilBert", {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}, 0, [], []),
    "electra": ("Electra", BERT_LIKE | {"embedding_size": 6}, 0, [], []),
    "albert": ("Albert", BERT_LIKE | {"embedding_size": 6, "num_hidden_layers": 3}, 0, [], []),
    "deberta-v2": ("DebertaV2", DEBERTA, 0, [], ["rel_embeddings", "encoder.LayerNorm", "query_proj", "key_proj"]),
    "mpnet": ("MPNet", BERT_LIKE, 1, [], ["relative_attention_bias"]),
    "modernbert": ("ModernBert", BERT_LIKE | TOKENS | {"cls_token_id": 1, "sep_token_id": 2}, 0, [], []),
    "gpt2": ("GPT2", {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32} | TOKENS, 0, [], []),
    "llama": ("Llama", LLAMA_LIKE, 0, [], []),
    "mistral, eager attention": ("Mistral", LLAMA_LIKE | ATTENTION, 0, [], []),
    "qwen3": ("Qwen3", LLAMA_LIKE | {"head_dim": 4}, 0, [], []),
    "gemma": ("Gemma", LLAMA_LIKE | {"head_dim": 4}, 0, ["embed_tokens"], []),
}


def tiny(kind, options):
    torch.manual_seed(0)
    config: PretrainedConfig = getattr(transformers, f"{kind}Config")(
        **{"vocab_size": 30, "num_labels": 3, "max_position_embeddings": 32, **options}
    )
    return AutoModelForSequenceClassification.from_config(
        config, attn_implementation=options.get("attn_implementation")
    )


@pytest.mark.parametrize("case", MODELS)
def test_is_exact(case, caplog):
    kind, options, pad, again, whole = MODELS[case]
    model = tiny(kind, options).double().eval()
    for name, p in model.named_parameters():  # so that no gradient is zero by initialisation
        torch.nn.init.normal_(p, mean=1.0 if p.dim() == 1 and "weight" in name else 0.0, std=0.2)
    data = [token_batch([6, 2, 4, 5], length=7, pad=pad), token_batch([3, 5], length=5, pad=pad, seed=1)]
    expected = per_example_fisher(model, data)
    with caplog.at_level(logging.INFO, logger="purify"):
        found = fisher_diagonal(model, data)
    assert_same(found, expected, 1e-6 if case == "gemma" else 1e-9)  # its norms return fp32
    silent = [name for name, value in expected.items() if not value.any()]
    assert not [name for name in silent if not any(part in name for part in ("padding", "mask_emb"))]
    note = " ".join(caplog.messages)
    for places, part in zip(
        (again, whole), (note.partition("by a backward")[0], note.partition("by a backward")[2]), strict=True
    ):
        named = [name for name in expected if name in part]
        assert bool(named) == bool(places)
        assert all(any(place in name for place in places) for name in named)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("kind", ["Bert", "GPT2", "Llama"])
def test_low_rank_adapters(kind, caplog):
    options = MODELS[kind.lower()][1]
    targets = {"Bert": ["query", "value"], "GPT2": ["c_attn"], "Llama": ["q_proj", "down_proj"]}[kind]
    config = peft.LoraConfig("SEQ_CLS", r=2, target_modules=targets, fan_in_fan_out=kind == "GPT2")
    model = peft.get_peft_model(tiny(kind, options), config).double().eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:  # zero at first, and with it the gradient of A
            torch.nn.init.normal_(p)
    data = [token_batch([6, 2, 4], length=6)]
    expected = per_example_fisher(model, data)
    with caplog.at_level(logging.INFO, logger="purify"):
        assert_same(fisher_diagonal(model, data), expected)
    assert not caplog.messages
    assert any("lora_A" in name for name in expected)
    assert all(value.any() for value in expected.values())
