"""Defenses: how a suspicious model is cleaned, or watched."""

from collections.abc import Mapping

from purify.defenses.base import Defense, Guard, ReserveDefense
from purify.registry import Registry

DEFENSES: Registry[Defense] = Registry(
    "defense",
    "purify.defenses",
    {
        "fine-tuning": {"finetuning": ("FineTuning",)},
        "pruning": {"pruning": ("FinePruning", "MagnitudePruning", "Wanda"), "heads": ("HeadPruning",)},
        "mixing and resetting": {
            "mixing": ("FineMixing", "FineMixingSelected", "ModelMerging"),
            "resetting": ("EmbeddingPurification", "LayerReset"),
        },
        "purifying": {"purifying": ("FinePurifying", "AutomaticPurifying")},
        "distillation": {"distillation": ("AttentionDistillation", "KnowledgeDistillation")},
        "detection": {"onion": ("ONION",), "perturbing": ("STRIP", "RAP"), "features": ("FeatureDistance",)},
        "robust learning": {"retraining": ("LossFiltering", "KeywordRemoval", "ClusterFiltering", "ModerateFitting")},
    },
)
"""All defenses by their names."""

FAMILIES: Mapping[str, tuple[type[Defense], ...]] = DEFENSES.families
"""The classes of each family; every one can be built by its name through `DEFENSES`."""

__all__ = ["DEFENSES", "FAMILIES", "Defense", "Guard", "ReserveDefense"]
__getattr__ = DEFENSES.attribute
