"""A suspect that is a LoRA adapter on a clean model."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from purify.errors import PurifyError
from purify.gate import Stored, read_json, shown
from purify.plm import CleanPLM, reason, silence
from purify.staging import staged

_HEAD = re.compile(r"(^|\.)(classifier|score|out_proj)\.weight$")

_HEADS = {"classifier", "score", "pre_classifier"}
"""What an adapter may save beside its matrices: the head, which has no clean counterpart."""

_PLAIN = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "fan_in_fan_out"),
    *("use_rslora", "task_type", "inference_mode", "base_model_name_or_path", "revision", "bias", "init_lora_weights"),
    *("peft_version", "rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform", "layers_pattern"),
    "auto_mapping",
}
"""Settings of LoRA that may have any value: they say what is trained, not how it must be purified."""


def load_adapter(folder: Path, tensors: Mapping[str, Stored], clean: CleanPLM) -> PreTrainedModel:
    """Load a LoRA adapter with its own head on a clean model, in evaluation mode; its parameters can be trained.

    Args:
        folder: Of the adapter.
        tensors: In its file, as `purify.gate.inspect` found them.
        clean: What it was trained on.

    Raises:
        PurifyError: it is of another kind than plain LoRA, changes more than the matrices and the head, has no head,
            or does not fit the clean model.
    """
    from peft import PeftModel  # noqa: PLC0415

    _refuse_other(read_json(folder, "adapter_config.json"), folder)
    width = clean.model.config.hidden_size
    heads = [one.shape for name, one in tensors.items() if _HEAD.search(name) and len(one.shape) == 2]
    if not heads or heads[-1][1] != width or heads[-1][0] < 2:
        raise PurifyError(
            f"'{folder}' has no trained head for '{clean.name}': save it with the adapter (modules_to_save)"
        )
    strange = [name for name in tensors if not (".lora_" in name or _HEADS & set(name.split(".")))]
    if strange:
        raise PurifyError(
            f"the adapter '{folder}' also changes '{shown(strange[0])}', which cannot be purified as LoRA: merge it "
            "into the model and scan that"
        )
    model = clean.classifier(heads[-1][0], seed=0)
    with staged(folder) as safe:
        try:
            with silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of how the one library asks the other
                loaded = PeftModel.from_pretrained(model, str(safe), is_trainable=True).eval()
        except Exception as error:  # a hostile config can make the library fail in any way
            why = reason(error, safe, folder)
            raise PurifyError(f"cannot load the adapter '{folder}' on '{clean.name}' ({why})") from error
    for config in loaded.peft_config.values():
        config.base_model_name_or_path = None  # else the library would ask the hub about it when it saves
    return loaded


def save_adapter(model: PreTrainedModel, folder: Path, clean: CleanPLM) -> None:
    """Write an adapter alone, naming the clean model; nobody is asked about it."""
    with silence():
        model.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": clean.name}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _refuse_other(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise PurifyError(f"'{folder}' is an adapter of the kind {shown(config.get('peft_type'))}: only LoRA is known")
    from peft import LoraConfig  # noqa: PLC0415

    usual = LoraConfig().to_dict()
    saved = config.get("modules_to_save") or []
    wrong = (
        next((key for key, v in config.items() if v and key not in _PLAIN and v != usual.get(key)), None)
        or ("bias" if config.get("bias", "none") != "none" else None)
        or ("modules_to_save" if not isinstance(saved, list) or set(map(str, saved)) - _HEADS else None)
        or ("init_lora_weights" if config.get("init_lora_weights", True) not in (True, "gaussian") else None)
        or ("r" if type(config.get("r")) is not int or not 0 < config["r"] <= 1024 else None)
    )
    if wrong:
        raise PurifyError(
            f"the adapter '{folder}' has {shown(wrong)} = {shown(config.get(wrong))}, which plain LoRA has not: merge "
            "it into the model and scan that"
        )
