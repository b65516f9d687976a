"""Parameter counts of a model under a method, with or without its weights."""

from __future__ import annotations

import torch

from moltune.config import MethodSettings, ModelSettings
from moltune.errors import ConfigError
from moltune.models.checkpoints import load_config
from moltune.models.methods.registry import ParameterCount, make_method
from moltune.models.molformer import CONFIGURATIONS, MolformerConfig
from moltune.models.register import register
from moltune.models.regression import RegressionConfig, RegressionModel


def count_parameters(model: ModelSettings, method: MethodSettings, config_only: str | None = None) -> ParameterCount:
    """Count without loading a single weight: the model is built without memory for its tensors.

    Args:
        model: the checkpoint, of which only the configuration is read, and the head.
        method: what is trained.
        config_only: a named size in place of a checkpoint; see :data:`CONFIGURATIONS`.

    Raises:
        ConfigError: there is no such size or method.
        CheckpointError: the checkpoint has no configuration.
    """
    register()
    if config_only is None:
        config = load_config(model.name, model.revision)
        encoder = config.encoder if isinstance(config, RegressionConfig) else config
    elif config_only in CONFIGURATIONS:
        encoder = MolformerConfig(**CONFIGURATIONS[config_only])
    else:
        raise ConfigError(f"there is no size {config_only!r}; choose one of: {', '.join(CONFIGURATIONS)}")
    way = make_method(method)
    with torch.device("meta"):
        network = RegressionModel(RegressionConfig(encoder=encoder, head=model.head, head_dropout=model.head_dropout))
    return way.count(way.switch_on(network))
