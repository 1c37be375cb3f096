"""Running a sequence-to-sequence model over texts."""

from functools import lru_cache
from typing import Any

import torch

from purify.errors import PurifyError
from purify.hardware import device
from purify.progress import bar

BATCH = 16


@lru_cache(maxsize=1)
def paraphraser(name: str) -> tuple[Any, Any]:
    """Load a model and its tokenizer, from safetensors and without any code of its own.

    Raises:
        PurifyError: it cannot be had, or is of another kind.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the library fails in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PurifyError(
            f"cannot load the paraphrase model '{name}': it must be a sequence-to-sequence model, a folder with "
            f"config.json, safetensors weights and a tokenizer, or a hub id that is reachable or cached ({reason})"
        ) from error
    return model.eval().to(device()), tokenizer


def paraphrased(texts: list[str], name: str, *, prompt: str, max_length: int) -> list[str]:
    """Return what the model makes of each text, greedily; a text for which it says nothing stays as it is."""
    model, tokenizer = paraphraser(name)
    length = min(max_length, getattr(model.config, "max_position_embeddings", max_length + 1) - 1)
    said: list[str] = []
    for start in bar(range(0, len(texts), BATCH), desc="paraphrasing", unit="batch"):
        part = [prompt + text for text in texts[start : start + BATCH]]
        inputs = tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False, num_beams=1)
        said += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [after.strip() or before for before, after in zip(texts, said, strict=True)]
