"""The registry of tuning methods, and how many parameters each of them trains."""

from __future__ import annotations

import torch

from moltune.config import MethodSettings, ModelSettings
from moltune.errors import ConfigError
from moltune.models.checkpoints import load_config
from moltune.models.methods.base import Method, ParameterCount
from moltune.models.methods.peft import BitFit, Dora, Ia3, LayerNormTuning, Lora, peft_method, peft_tuners
from moltune.models.molformer import CONFIGURATIONS, MolformerConfig
from moltune.models.regression import RegressionConfig, RegressionModel


class FullFineTuning(Method):
    """Train every parameter of encoder and head."""

    name = "full"

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Leave everything trainable."""
        return model.requires_grad_(True)


class HeadOnly(Method):
    """Train the head on a frozen encoder (its dropout stays on)."""

    name = "head"

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Freeze the encoder."""
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        return model


class Probe(Method):
    """A head fitted on frozen features by :mod:`moltune.predictors.probe`; no step of the optimiser is taken."""

    name = "probe"

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Freeze everything; the count is that of a linear head on the embedding."""
        return model.requires_grad_(False)

    def count(self, model: RegressionModel) -> ParameterCount:
        """Count the weights of a ridge on the embedding; a run counts what its own head fitted."""
        fitted = int(model.config.encoder.hidden_size) + 1
        return ParameterCount(self.name, 0, fitted, fitted, model.encoder.num_parameters() + fitted)


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (FullFineTuning, HeadOnly, Probe, BitFit, Lora, Ia3, Dora, LayerNormTuning)
}


def make_method(settings: MethodSettings) -> Method:
    """Build the method that the settings name: one of ``METHODS``, or any tuner of peft by its own name.

    Raises:
        ConfigError: there is no such method, it has no such setting, or settings of another method are given.
    """
    kind = METHODS.get(settings.name) or peft_method(settings.name)
    if kind is None:
        others = ", ".join(name.lower() for name in peft_tuners())
        raise ConfigError(
            f"there is no method {settings.name!r}; choose one of: {', '.join(METHODS)}; or a tuner of peft: {others}"
        )
    return kind(settings)


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
