"""Encoders with the head of a masked language model, for training that goes on from any checkpoint."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from moltune.errors import ConfigError
from moltune.models.checkpoints import load_config, load_encoder, load_strictly, random_encoder
from moltune.models.regression import RegressionConfig

logger = logging.getLogger(__name__)

# Names under which masked language models of transformers keep what maps hidden states to logits, in order.
_HEADS: tuple[tuple[str, ...], ...] = (("lm_head",), ("cls",), ("head", "decoder"))


def load_for_adaptation(
    name: str, *, revision: str | None = None, weights: str = "pretrained", need_head: bool
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """Load an encoder, and the masked language model around it if the checkpoint holds one or one is needed.

    Args as of :func:`moltune.models.checkpoints.make_regression`.

    Returns:
        The encoder, and the language model (which shares its tensors) or None; both in evaluation mode. Where a head
        is needed and the checkpoint has none, one with fresh weights is made, and a warning says so.

    Raises:
        CheckpointError: a tensor is missing or misshapen.
        ConfigError: a head is needed, but transformers knows no masked language model of this architecture.
    """
    config = load_config(name, revision)
    has_head = any("MaskedLM" in made_for for made_for in config.architectures or ())
    if has_head and weights == "pretrained":
        whole: Any = load_strictly(AutoModelForMaskedLM, name, config, revision)
        return whole.base_model, whole
    encoder = load_encoder(name, revision) if weights == "pretrained" else random_encoder(name, revision)
    if not need_head:
        return encoder, None
    if weights == "pretrained":
        logger.warning("%s holds no head for masked tokens: it starts from fresh weights", name)
    inner = config.encoder if isinstance(config, RegressionConfig) else config
    try:
        language = AutoModelForMaskedLM.from_config(inner)
    except ValueError:
        raise ConfigError(
            f"transformers knows no masked language model of the {inner.model_type} architecture; choose mtr"
        ) from None
    setattr(language, language.base_model_prefix, encoder)
    language.tie_weights()
    return encoder, language.float().eval()


def language_head(language: PreTrainedModel) -> nn.Module:
    """What maps the last hidden states of ``language``'s encoder to logits.

    Raises:
        ConfigError: the architecture keeps it where moltune does not know of.
    """
    for names in _HEADS:
        parts = [getattr(language, name, None) for name in names]
        if all(isinstance(part, nn.Module) for part in parts):
            return parts[0] if len(parts) == 1 else nn.Sequential(*parts)  # type: ignore[return-value,arg-type]
    raise ConfigError(
        f"moltune cannot train the masked-token head of {type(language).__name__}; choose the objective mtr"
    )
