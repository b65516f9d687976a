"""Load and save checkpoints: encoders, tokenizers, tuned regression models, adapters."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from moltune.errors import CheckpointError
from moltune.files import check_free
from moltune.models.methods.adapters import ADAPTER_CONFIG, load_adapter, merge_adapter, save_adapter
from moltune.models.names import resolve
from moltune.models.regression import RegressionConfig, RegressionModel, build_encoder, encoder_arguments
from moltune.models.strict import KNOWN_HEADS, misfit, mismatched, quiet_transformers


def load_config(name: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Load a checkpoint's configuration.

    Raises:
        CheckpointError: it is not there, or of an architecture that transformers does not know.
    """
    with _explained(name):
        return AutoConfig.from_pretrained(resolve(name), trust_remote_code=False, revision=revision or "main")


def load_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a checkpoint's fast tokenizer.

    Raises:
        CheckpointError: there is none, or it is no fast tokenizer.
    """
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=False, revision=revision or "main")
    if not tokenizer.is_fast:
        raise CheckpointError(f"the tokenizer of {name} has no tokenizer.json, which moltune needs to check coverage")
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"the tokenizer of {name} has no padding token")
    return tokenizer


def load_encoder(name: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load the encoder of any checkpoint, without its head; float32, in evaluation mode.

    Raises:
        CheckpointError: a tensor of the encoder is missing, misshapen or surplus, or the file is no safetensors.
    """
    config = load_config(name, revision)
    with _explained(name):
        if isinstance(config, RegressionConfig):
            return merge_adapter(load_regression(name)).encoder.eval()
        return load_strictly(AutoModel, name, config, revision, **encoder_arguments(config))


def load_strictly(
    kind: Any, name: str | Path, config: PreTrainedConfig, revision: str | None = None, **options: Any
) -> PreTrainedModel:
    """Load a checkpoint with one of transformers' Auto classes, in evaluation mode and float32.

    Heads of other tasks, and a pooling layer that is not built here, may be left over.

    Raises:
        CheckpointError: a tensor is missing or misshapen, or the encoder has no place for one.
    """
    with _explained(name):
        model, info = kind.from_pretrained(
            resolve(name),
            config=config,
            dtype="float32",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            # A misshapen tensor must reach our check, which names it.
            ignore_mismatched_sizes=True,
            revision=revision or "main",
            **options,
        )
    encoder = model.base_model
    parts = {part for part, _ in encoder.named_children()}
    heads = {tensor for tensors in KNOWN_HEADS.values() for tensor in tensors}
    prefix = f"{encoder.base_model_prefix}."
    unexpected = {key for key in info["unexpected_keys"] if key not in heads}
    surplus = {key for key in unexpected if key.removeprefix(prefix).split(".")[0] in parts}
    if problem := misfit(info["missing_keys"], surplus, mismatched(info)):
        raise CheckpointError(f"{name} does not fit its own architecture: tensors {problem}")
    return model.eval()


def random_encoder(name: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Build the encoder of a checkpoint with fresh weights, drawn from torch's global generator, to evaluate."""
    config = load_config(name, revision)
    return build_encoder(config.encoder if isinstance(config, RegressionConfig) else config).float().eval()


def empty_encoder(name: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Build the encoder of a checkpoint without memory for its tensors, to ask for its structure."""
    with torch.device("meta"):
        return random_encoder(name, revision)


def load_regression(name: str | Path, base: str | Path | None = None) -> RegressionModel:
    """Load a tuned regression model in evaluation mode; ``base`` says where an adapter's checkpoint is now.

    Raises:
        CheckpointError: it is no such model, or incomplete, or an adapter whose base is not there or another one.
    """
    config = load_config(name)
    if not isinstance(config, RegressionConfig):
        raise CheckpointError(f"{name} is a {config.model_type} checkpoint, not a tuned regression model")
    folder = Path(resolve(name))
    if (folder / ADAPTER_CONFIG).is_file():
        return load_adapter(_on_base(config, folder, base), folder).eval()
    with _explained(name):
        return RegressionModel.from_pretrained(resolve(name), dtype="float32").eval()


def save_regression(model: RegressionModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a tuned model with its tokenizer: adapter and head alone where it carries an adapter, else everything."""
    with quiet_transformers():
        if model.adapter is not None:
            save_adapter(model, Path(folder))
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merge_checkpoint(name: str | Path, folder: str | Path, base: str | Path | None = None) -> Path:
    """Write a tuned model with its adapter merged, in ``save_pretrained`` layout.

    Raises:
        CheckpointError: there is no adapter, or its base is not there.
        ConfigError: the tuner cannot be merged.
        RunFolderError: the folder holds something already.
    """
    check_free(folder)
    model = load_regression(name, base)
    if model.adapter is None:
        raise CheckpointError(f"{name} is a whole model already: there is no adapter to merge")
    save_regression(merge_adapter(model), load_tokenizer(name), folder)
    return Path(folder)


def make_regression(
    name: str | Path,
    *,
    head: str = "mean",
    head_dropout: float = 0.1,
    revision: str | None = None,
    weights: str = "pretrained",
    encoder: PreTrainedModel | None = None,
    **settings: Any,
) -> RegressionModel:
    """Put a fresh head on the encoder of a checkpoint.

    Args:
        name: bundled name, folder, or hub id.
        head: its name; one of :data:`moltune.models.heads.HEADS`.
        head_dropout: dropout in the head.
        revision: branch, tag or commit of a hub id.
        weights: ``pretrained``, or ``random`` for fresh ones in the same architecture.
        encoder: of that checkpoint, where it is in memory already, and is to be shared.
        settings: further fields of :class:`RegressionConfig` (target statistics and name).
    """
    if encoder is None:
        encoder = load_encoder(name, revision) if weights == "pretrained" else random_encoder(name, revision)
    # transformers resets the attention implementation of a configuration that becomes part of another one.
    config = RegressionConfig(
        encoder=copy.deepcopy(encoder.config),
        head=head,
        head_dropout=head_dropout,
        base_model=str(name),
        base_revision=revision,
        **settings,
    )
    return RegressionModel(config, encoder=encoder)


def max_length(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Longest input in tokens, special tokens included; ``None`` when nothing bounds it."""
    limits = [tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None)]
    positions: Any = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if getattr(positions, "padding_idx", None) is not None:
        # RoBERTa counts positions from behind the padding index.
        limits.append(positions.num_embeddings - positions.padding_idx - 1)
    bounds = [int(limit) for limit in limits if limit is not None and 0 < limit < 10**9]
    return min(bounds, default=None)


def _on_base(config: RegressionConfig, folder: Path, base: str | Path | None) -> RegressionModel:
    """The base encoder of an adapter under a head that is still to be loaded."""
    named = config.base_model if base is None else str(base)
    if named is None:
        raise CheckpointError(f"the adapter in {folder} names no base checkpoint: say which one it was trained on")
    try:
        encoder = load_encoder(named, config.base_revision if base is None else None)
    except CheckpointError as error:
        raise CheckpointError(f"the adapter in {folder} needs the checkpoint that it was trained on: {error}") from None
    if hasattr(encoder.config, "redraw_features") and hasattr(config.encoder, "redraw_features"):
        encoder.config.redraw_features = config.encoder.redraw_features
    return RegressionModel(config, encoder=encoder)


@contextlib.contextmanager
def _explained(name: str | Path) -> Iterator[None]:
    """Load quietly, and turn the many ways in which loading fails into one error that says what to do."""
    try:
        with quiet_transformers():
            yield
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"the weights of {name} are damaged or cut short ({error}): copy them again") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        cure = ""
        if "safetensors" in reason:
            cure = " Only safetensors are loaded, never pickled weights: save the model again with save_pretrained."
        elif not Path(name).exists():
            cure = " It is not a folder here; a Hugging Face id needs a network, or a download in the local cache."
        raise CheckpointError(f"cannot load {name}: {reason[:400]}.{cure}") from error
