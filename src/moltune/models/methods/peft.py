"""Tuning methods from the peft library, and BitFit, which behaves like one."""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from moltune.config import MethodSettings
from moltune.errors import ConfigError
from moltune.models.digest import tensor_digest
from moltune.models.methods.adapters import BiasAdapter, attach, biases
from moltune.models.methods.base import Method
from moltune.models.regression import RegressionModel

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.getLogger(__name__)

# Names of the attention projections, by what transformers' encoders call them.
_PROJECTIONS: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "query_proj", "Wqkv", "c_attn"),
    "key": ("key", "k_proj", "k_lin", "key_proj", "Wqkv", "c_attn"),
    "value": ("value", "v_proj", "v_lin", "value_proj", "Wqkv", "c_attn"),
}
# They change the input or need calls of their own at every step, which the training loop does not make.
_UNFIT = {
    *("ADAPTION_PROMPT", "ADALORA", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING"),
    *("PROMPT_TUNING", "P_TUNING", "SHADOW", "TRAINABLE_TOKENS", "XLORA"),
}
_SAME = 1e-4


class AdapterMethod(Method):
    """Freeze the encoder, add an adapter or choose some of its parameters, and train those and the head."""

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Note which encoder this is, then freeze it and put the adapter on."""
        digest = tensor_digest(model.encoder)
        before = _look(model)
        model.requires_grad_(False)
        self.put_on(model)
        model.head.requires_grad_(True)
        model.config.base_digest, model.config.method = digest, self.name
        after = _look(model)
        if before is not None and after is not None and (before - after).abs().max() > _SAME:
            logger.warning(
                "%s changes the encoder before any training: it does not start from the base model", self.name
            )
        return model

    @abstractmethod
    def put_on(self, model: RegressionModel) -> None:
        """Add to a frozen model what is to be trained besides the head."""


class PeftMethod(AdapterMethod):
    """Any tuner of peft that works on the layers of an encoder.

    Raises:
        ConfigError: a field of ``settings.peft`` is unknown to the tuner or wrong.
    """

    takes_peft = True
    kind: ClassVar[str]
    defaults: ClassVar[dict[str, Any]] = {}
    targets: ClassVar[tuple[str, ...]] = ("query", "value")

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        # A wrong field is found before anything is loaded.
        self.config(["query"])

    def config(self, targets: list[str]) -> PeftConfig:
        """peft's configuration on the given layers, unless the settings name others."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

        config_class = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}[self.kind]
        fields = {field.name for field in dataclasses.fields(config_class)}
        fields -= {"auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "peft_type"}
        unknown = sorted(self.settings.peft.keys() - fields)
        if unknown:
            own = sorted(fields - {field.name for field in dataclasses.fields(PeftConfig)})
            raise ConfigError(f"{self.name} has no setting peft.{unknown[0]}; it has {', '.join(own)}")
        # The head is trained whole.
        usual = {"target_modules": targets, "exclude_modules": r"head\..*"}
        values = {name: value for name, value in usual.items() if name in fields}
        try:
            return config_class(**{**self.defaults, **values, **self.settings.peft})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.name}: peft refuses its settings: {error}") from None

    def put_on(self, model: RegressionModel) -> None:
        """Wrap the target layers."""
        targets = [] if "target_modules" in self.settings.peft else self.find_targets(model.encoder)
        attach(model, self.config(targets))

    def find_targets(self, encoder: nn.Module) -> list[str]:
        """Names of the layers to adapt; an encoder that has none of the known names is a ConfigError."""
        present = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
        try:
            found = [next(name for name in _PROJECTIONS[kind] if name in present) for kind in self.targets]
        except StopIteration:
            raise ConfigError(
                f"the layers that {self.name} adapts are not known for {type(encoder).__name__}: "
                "name them with peft.target_modules=[...]"
            ) from None
        return list(dict.fromkeys(found))


class Lora(PeftMethod):
    """LoRA (Hu et al. 2022, arXiv:2106.09685) on the query and value projections."""

    name = "lora"
    kind = "LORA"
    defaults: ClassVar[dict[str, Any]] = {"r": 8, "lora_alpha": 16}


class Dora(Lora):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): LoRA of the direction, and a magnitude per output."""

    name = "dora"
    defaults: ClassVar[dict[str, Any]] = {**Lora.defaults, "use_dora": True}


class Ia3(PeftMethod):
    """(IA)³ (Liu et al. 2022, arXiv:2205.05638) on the key and value projections."""

    name = "ia3"
    kind = "IA3"
    targets = ("key", "value")
    defaults: ClassVar[dict[str, Any]] = {"feedforward_modules": []}

    def put_on(self, model: RegressionModel) -> None:
        """Set the vectors to their first value; with one other than 1 the start is not the base model."""
        super().put_on(model)
        for name, parameter in model.named_parameters():
            if ".ia3_l." in name:
                parameter.data.fill_(self.settings.ia3_start)


class LayerNormTuning(PeftMethod):
    """Train weight and bias of every layer norm (Zhao et al. 2024, arXiv:2312.11420)."""

    name = "ln"
    kind = "LN_TUNING"

    def find_targets(self, encoder: nn.Module) -> list[str]:
        """The names of all layer norms."""
        layers = [name for name, module in encoder.named_modules() if isinstance(module, nn.LayerNorm)]
        if not layers:
            raise ConfigError(
                f"{type(encoder).__name__} has no LayerNorm: name its norms with peft.target_modules=[...]"
            )
        return sorted({name.rpartition(".")[2] for name in layers})


class BitFit(AdapterMethod):
    """BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): the biases of linear layers; of layer norms on request."""

    name = "bitfit"

    def put_on(self, model: RegressionModel) -> None:
        """Unfreeze the biases; an encoder without any is a ConfigError."""
        model.adapter = BiasAdapter(self.settings.layer_norm_biases)
        chosen = biases(model, self.settings.layer_norm_biases)
        if not chosen:
            raise ConfigError("the encoder's linear layers have no biases, so bitfit has nothing to train")
        for parameter in chosen.values():
            parameter.requires_grad_(True)


def peft_method(name: str) -> type[PeftMethod] | None:
    """The method for a tuner that peft has under this name, such as ``vera``; None if there is none that fits."""
    if name.upper() not in peft_tuners():
        return None
    kind = name.upper()
    # These two start from random weights unless told not to.
    defaults = {"init_weights": True} if kind in ("C3A", "FOURIERFT") else {}
    own = {"name": name.lower(), "kind": kind, "defaults": defaults}
    return type("PeftMethod", (LayerNormTuning if kind == "LN_TUNING" else PeftMethod,), own)


def peft_tuners() -> list[str]:
    """peft's tuners that work on the layers of an encoder, by peft's own names."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value not in _UNFIT)


@torch.no_grad()
def _look(model: RegressionModel) -> torch.Tensor | None:
    """Embeddings of two short random inputs; None for a model without memory."""
    if next(model.parameters()).is_meta:
        return None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.encoder.vocab_size, (2, 8), generator=generator).to(model.device)
    was_training = model.training
    model.eval()
    pooled = model.embed(ids, torch.ones_like(ids))
    model.train(was_training)
    return pooled
