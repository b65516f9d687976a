"""MoLFormer for current transformers, without remote code."""

from moltune.models.molformer.configuration import CONFIGURATIONS, MolformerConfig
from moltune.models.molformer.modeling import (
    MolformerForMaskedLM,
    MolformerForSequenceClassification,
    MolformerModel,
    MolformerPreTrainedModel,
)
from moltune.models.molformer.tokenization import MolformerTokenizer

__all__ = [
    "CONFIGURATIONS",
    "MolformerConfig",
    "MolformerForMaskedLM",
    "MolformerForSequenceClassification",
    "MolformerModel",
    "MolformerPreTrainedModel",
    "MolformerTokenizer",
]
