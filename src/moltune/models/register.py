"""Make our architectures known to transformers' Auto classes."""

from __future__ import annotations

from functools import cache


@cache
def register() -> None:
    """Register MoLFormer and the regression model, once; ``import moltune`` calls this."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    from moltune.models import molformer, regression

    AutoConfig.register("molformer", molformer.MolformerConfig, exist_ok=True)
    AutoModel.register(molformer.MolformerConfig, molformer.MolformerModel, exist_ok=True)
    AutoModelForMaskedLM.register(molformer.MolformerConfig, molformer.MolformerForMaskedLM, exist_ok=True)
    AutoModelForSequenceClassification.register(
        molformer.MolformerConfig, molformer.MolformerForSequenceClassification, exist_ok=True
    )
    AutoTokenizer.register(molformer.MolformerConfig, tokenizer_class=molformer.MolformerTokenizer, exist_ok=True)

    AutoConfig.register(regression.RegressionConfig.model_type, regression.RegressionConfig, exist_ok=True)
    AutoModel.register(regression.RegressionConfig, regression.RegressionModel, exist_ok=True)
    AutoModelForSequenceClassification.register(regression.RegressionConfig, regression.RegressionModel, exist_ok=True)
