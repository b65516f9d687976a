"""What a parameter-efficient method adds to an encoder: its own tensors, saved alone, loaded strictly, merged.

A saved adapter is a folder in peft's standard layout, ``adapter_config.json`` and ``adapter_model.safetensors``, in
which the regression head is one of the ``modules_to_save``. The regression model's ``config.json`` lies beside them; it
names the base checkpoint and the digest of the encoder that the adapter was trained on. A kernel head fitted after the
training is a file of its own, which other tools may leave aside.

peft takes seconds to import, so that is done where an adapter of it is made or loaded.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moltune.errors import CheckpointError, ConfigError
from moltune.models.digest import tensor_digest
from moltune.models.kernel import KERNEL_FILE, KernelHead
from moltune.models.regression import RegressionConfig, RegressionModel
from moltune.models.strict import misfit

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BITFIT = "BITFIT"
_PREFIX = "base_model.model."
_HEAD = f"{_PREFIX}head."


class Adapter(ABC):
    """The tensors that a method trains besides the head; a model that has one carries it as ``model.adapter``."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Content of ``adapter_config.json``."""

    @abstractmethod
    def tensors(self, model: RegressionModel) -> dict[str, Tensor]:
        """The adapter's own tensors by name, without the head."""

    @abstractmethod
    def load(self, model: RegressionModel, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors, whose names and shapes were checked, into the model."""

    @abstractmethod
    def merge(self, model: RegressionModel) -> RegressionModel:
        """Fold the adapter into plain weights; the model keeps its predictions."""


@dataclass
class PeftAdapter(Adapter):
    """An adapter of the peft library; the regression model inside ``wrapper`` is changed in place."""

    wrapper: PeftModel

    def config(self) -> dict[str, Any]:
        """peft's own configuration; the head counts as a module that is saved whole."""
        values: dict[str, Any] = self.wrapper.active_peft_config.to_dict()
        values = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
        return {**values, "inference_mode": True, "modules_to_save": ["head"]}

    def tensors(self, model: RegressionModel) -> dict[str, Tensor]:
        """As peft names them."""
        from peft import get_peft_model_state_dict

        # Asked about embeddings, peft would look the base model's name up on the hub.
        return dict(get_peft_model_state_dict(self.wrapper, save_embedding_layers=False))

    def load(self, model: RegressionModel, tensors: Mapping[str, Tensor]) -> None:
        """Through peft, which puts the adapter's name back in."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.wrapper, dict(tensors))

    def merge(self, model: RegressionModel) -> RegressionModel:
        """Raise ConfigError for a tuner that cannot be merged."""
        try:
            with warnings.catch_warnings(action="ignore"):
                return self.wrapper.merge_and_unload()
        except (NotImplementedError, AttributeError, ValueError) as error:
            raise ConfigError(f"{model.config.method} cannot be merged: {error}") from None


@dataclass
class BiasAdapter(Adapter):
    """BitFit's choice of biases (Ben Zaken et al. 2022, arXiv:2106.10199): trained in place, nothing is added."""

    layer_norm: bool

    def config(self) -> dict[str, Any]:
        """In the manner of peft, which has no such tuner."""
        return {"peft_type": BITFIT, "layer_norm_biases": self.layer_norm, "modules_to_save": ["head"]}

    def tensors(self, model: RegressionModel) -> dict[str, Tensor]:
        """The biases."""
        return {_PREFIX + name: parameter.detach() for name, parameter in biases(model, self.layer_norm).items()}

    @torch.no_grad()
    def load(self, model: RegressionModel, tensors: Mapping[str, Tensor]) -> None:
        """Copy the biases."""
        for name, parameter in biases(model, self.layer_norm).items():
            parameter.copy_(tensors[_PREFIX + name])

    def merge(self, model: RegressionModel) -> RegressionModel:
        """The model is plain as it is."""
        return model


def biases(model: RegressionModel, layer_norm: bool) -> dict[str, nn.Parameter]:
    """Biases of the encoder's linear layers, and with ``layer_norm`` those of its layer norms, by name."""
    kinds = (nn.Linear, nn.LayerNorm) if layer_norm else (nn.Linear,)
    return {
        f"encoder.{name}.bias": module.bias
        for name, module in model.encoder.named_modules()
        if isinstance(module, kinds) and module.bias is not None
    }


def attach(model: RegressionModel, config: PeftConfig) -> None:
    """Put a peft adapter on a regression model, in place; the head stays as it is.

    Raises:
        ConfigError: peft refuses the configuration on this encoder.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings(action="ignore"):
            model.adapter = PeftAdapter(PeftModel(model, config))
    # Some forty tuners refuse what does not fit them, each in its own way.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"peft cannot put {getattr(config.peft_type, 'value', config.peft_type)} on this encoder: {reason[:400]}"
        ) from None


def share_adapter(model: RegressionModel, other: RegressionModel) -> None:
    """Let another model on the same encoder know the adapter that a method put on it, in place."""
    other.adapter = model.adapter
    other.config.base_digest, other.config.method = model.config.base_digest, model.config.method


def save_adapter(model: RegressionModel, folder: Path) -> None:
    """Write adapter, head and configuration of a model that carries an adapter; no tensor of the base."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.adapter.config(), "base_model_name_or_path": model.config.base_model}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
    # Cloned, since some tuners share tensors between layers, which the format does not take.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _own_tensors(model).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    if model.kernel is not None:
        kernel = {name: tensor.detach().cpu().contiguous() for name, tensor in model.kernel.state_dict().items()}
        save_file(kernel, folder / KERNEL_FILE, metadata={"format": "pt"})
    model.config.save_pretrained(folder)


def load_adapter(model: RegressionModel, folder: Path) -> RegressionModel:
    """Put a saved adapter and its head on a model that has the untouched base encoder, strictly.

    Args:
        model: the base encoder with any head; its configuration is the saved one.
        folder: written by :func:`save_adapter`.

    Raises:
        CheckpointError: the encoder is not the one that the adapter was trained on, or a tensor is missing, surplus or
            misshapen.
    """
    expected, found = model.config.base_digest, tensor_digest(model.encoder)
    if expected is not None and expected != found:
        raise CheckpointError(
            f"the adapter in {folder} was trained on other weights than those of {model.config.base_model} here "
            f"(digest {expected[:12]}, here {str(found)[:12]}): load it with the base that it was trained on"
        )
    try:
        values = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        tuner = values.get("peft_type")
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the adapter in {folder} cannot be read ({error}): copy it again") from None
    if tuner == BITFIT:
        model.adapter = BiasAdapter(bool(values.get("layer_norm_biases")))
    else:
        attach(model, _peft_config(values, folder))
    wanted = _own_tensors(model)
    shared = tensors.keys() & wanted.keys()
    misshapen = {name for name in shared if tensors[name].shape != wanted[name].shape}
    if problem := misfit(wanted.keys() - shared, tensors.keys() - shared, misshapen):
        raise CheckpointError(f"the adapter in {folder} does not fit its base: tensors {problem}")
    head = {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
    model.head.load_state_dict(head, strict=True)
    model.adapter.load(model, {name: value for name, value in tensors.items() if not name.startswith(_HEAD)})
    if model.config.kernel_points:
        model.set_kernel(_read_kernel(folder / KERNEL_FILE, model.config))
    return model


def merge_adapter(model: RegressionModel) -> RegressionModel:
    """Fold the adapter of a model into plain weights, in place; predictions stay equal to rounding.

    Returns:
        The model, which can be saved with ``save_pretrained``; one without an adapter comes back as it is.

    Raises:
        ConfigError: peft cannot merge this tuner.
    """
    if model.adapter is not None:
        model = model.adapter.merge(model)
        model.adapter = None
        model.config.base_digest = model.config.method = None
    return model


def _own_tensors(model: RegressionModel) -> dict[str, Tensor]:
    head = {_HEAD + name: tensor for name, tensor in model.head.state_dict().items()}
    return {**model.adapter.tensors(model), **head}


def _read_kernel(path: Path, config: RegressionConfig) -> KernelHead:
    try:
        kernel = KernelHead.from_tensors(load_file(path))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again") from None
    wanted = (config.kernel_points, config.encoder.hidden_size)
    if tuple(kernel.points.shape) != wanted:
        raise CheckpointError(f"{path} holds points of shape {tuple(kernel.points.shape)}, not {wanted}: copy it again")
    return kernel


def _peft_config(values: dict[str, Any], folder: Path) -> PeftConfig:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if values.get("peft_type") not in kinds:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} names the tuner {values.get('peft_type')!r}, unknown to peft")
    # The head is loaded beside the adapter, so peft is not to wrap it.
    values = {**values, "modules_to_save": None, "inference_mode": False}
    return kinds[values["peft_type"]].from_peft_type(**values)
