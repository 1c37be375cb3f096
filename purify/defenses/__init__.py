"""Defenses: how a suspicious model is cleaned, or watched."""

from purify.defenses.base import Defense, Guard, ReserveDefense
from purify.defenses.distillation import AttentionDistillation, KnowledgeDistillation
from purify.defenses.features import FeatureDistance
from purify.defenses.finetuning import FineTuning
from purify.defenses.heads import HeadPruning
from purify.defenses.mixing import FineMixing, FineMixingSelected, ModelMerging
from purify.defenses.onion import ONION
from purify.defenses.perturbing import RAP, STRIP
from purify.defenses.pruning import FinePruning, MagnitudePruning, Wanda
from purify.defenses.purifying import AutomaticPurifying, FinePurifying
from purify.defenses.resetting import EmbeddingPurification, LayerReset
from purify.defenses.retraining import ClusterFiltering, KeywordRemoval, LossFiltering, ModerateFitting
from purify.registry import Registry

FAMILIES: dict[str, tuple[type[Defense], ...]] = {
    "fine-tuning": (FineTuning,),
    "pruning": (FinePruning, MagnitudePruning, Wanda, HeadPruning),
    "mixing and resetting": (FineMixing, FineMixingSelected, ModelMerging, EmbeddingPurification, LayerReset),
    "purifying": (FinePurifying, AutomaticPurifying),
    "distillation": (AttentionDistillation, KnowledgeDistillation),
    "detection": (ONION, STRIP, RAP, FeatureDistance),
    "robust learning": (LossFiltering, KeywordRemoval, ClusterFiltering, ModerateFitting),
}
"""The classes of each family; every one can be built by its name through `DEFENSES`."""

DEFENSES: Registry[Defense] = Registry("defense", (cls for family in FAMILIES.values() for cls in family))

__all__ = [
    "DEFENSES",
    "FAMILIES",
    "ONION",
    "RAP",
    "STRIP",
    "AttentionDistillation",
    "AutomaticPurifying",
    "ClusterFiltering",
    "Defense",
    "EmbeddingPurification",
    "FeatureDistance",
    "FineMixing",
    "FineMixingSelected",
    "FinePruning",
    "FinePurifying",
    "FineTuning",
    "Guard",
    "HeadPruning",
    "KeywordRemoval",
    "KnowledgeDistillation",
    "LayerReset",
    "LossFiltering",
    "MagnitudePruning",
    "ModelMerging",
    "ModerateFitting",
    "ReserveDefense",
    "Wanda",
]
