"""Probes: a head fitted once on features of a frozen encoder, of RDKit or of MiniMol. The strongest cheap opponent.

A saved probe is ``config.json`` (settings, target statistics, the encoder by name and digest) and ``probe.safetensors``
(scaler and head as arrays).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.config import ModelSettings, ProbeSettings, TrainingSettings, explain
from moltune.errors import CheckpointError, ConfigError, DataError, NumericsError
from moltune.features.registry import EMBEDDING, ComputedFeatures, Encoder, FeatureSource, check_feature
from moltune.models.checkpoints import load_tokenizer, make_regression, max_length, resolve
from moltune.models.coverage import Issue, check_smiles
from moltune.models.digest import tensor_digest
from moltune.models.methods.base import ParameterCount
from moltune.predictors.base import Progress, Tuned, TunedModel
from moltune.predictors.kernels import ProbeHead, Scaler, make_probe_head
from moltune.predictors.spellings import Averaged
from moltune.tuning.cost import Meter
from moltune.tuning.loop import HISTORY_COLUMNS

logger = logging.getLogger(__name__)

MODEL_TYPE = "moltune-probe"
CONFIG, ARRAYS = "config.json", "probe.safetensors"
_CHUNK = 512


@dataclass(frozen=True)
class Probe(TunedModel):
    """A fitted probe, ready to predict.

    Attributes:
        settings: head and features.
        scaler: of the features.
        head: fitted on standardised targets.
        features: where features come from.
        target: ``mean``, ``std`` and ``name`` of the training targets.
        base: ``model``, ``revision``, ``pooling`` and ``digest`` of the encoder; empty where none is used.
        encoder: the encoder itself; None where none is used.
    """

    settings: ProbeSettings
    scaler: Scaler
    head: ProbeHead
    features: FeatureSource
    target: dict[str, Any]
    base: dict[str, Any]
    encoder: Encoder | None = None

    @property
    def target_name(self) -> str:
        """Of the training targets."""
        return str(self.target["name"])

    def predict_spellings(
        self, smiles: Sequence[str], k: int = 1, batch_size: int = 32, progress: Progress | None = None
    ) -> Averaged:
        """Predict n molecules under their own SMILES.

        Raises:
            ConfigError: k is above one.
            NumericsError: a prediction is not finite; the molecule is named.
        """
        self.check_spellings(k)
        result = np.empty(len(smiles), dtype=np.float64)
        for start in range(0, len(smiles), _CHUNK):
            part = smiles[start : start + _CHUNK]
            standardised = self.head.predict(self.scaler.transform(stack(self.features, self.settings, part)))
            result[start : start + len(part)] = standardised * self.target["std"] + self.target["mean"]
            if progress is not None:
                progress(len(part))
        bad = np.flatnonzero(~np.isfinite(result))
        if len(bad):
            raise NumericsError(f"the prediction for {smiles[bad[0]]} is {result[bad[0]]}")
        return Averaged(result, None)

    def check_spellings(self, k: int) -> None:
        """One is all that a probe reads."""
        if k > 1:
            raise ConfigError("a probe reads one SMILES of each molecule; leave tta at 1")

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """What the encoder's tokenizer cannot read, by position; nothing where no encoder is used."""
        if self.encoder is None:
            return {}
        limit = max_length(self.encoder.model.encoder, self.encoder.tokenizer)
        return check_smiles(self.encoder.tokenizer, smiles, limit)

    def save(self, folder: str | Path) -> None:
        """Write settings and arrays."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"scaler.{name}": value for name, value in self.scaler.arrays().items()}
        arrays |= {f"head.{name}": value for name, value in self.head.arrays().items()}
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / ARRAYS)
        values = {
            "model_type": MODEL_TYPE,
            "probe": self.settings.model_dump(mode="json"),
            "target": self.target,
            "base": self.base,
        }
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def stack(source: FeatureSource, settings: ProbeSettings, smiles: Sequence[str]) -> np.ndarray:
    """The chosen features side by side, shape (n, d)."""
    return np.hstack([source(name, smiles) for name in settings.features])


def fit_probe(
    train: tuple[Sequence[str], np.ndarray],
    settings: ProbeSettings,
    features: FeatureSource,
    *,
    seed: int = 0,
    target_name: str = "target",
    base: dict[str, Any] | None = None,
    encoder: Encoder | None = None,
) -> Probe:
    """Fit scaler and head on the training part.

    Raises:
        DataError: fewer than two training molecules, or a constant target.
        NumericsError: a feature is infinite.
    """
    smiles, target = train[0], np.asarray(train[1], dtype=np.float64)
    if len(target) < 2 or not target.std() > 0:
        raise DataError("training needs at least two molecules with different targets")
    values = stack(features, settings, smiles)
    scaler = Scaler().fit(values)
    mean, std = float(target.mean()), float(target.std())
    head = make_probe_head(settings).fit(scaler.transform(values), (target - mean) / std, seed)
    statistics = {"mean": mean, "std": std, "name": target_name}
    return Probe(settings, scaler, head, features, statistics, base or {}, encoder)


def load_probe(folder: str | Path, base: str | Path | None = None) -> Probe:
    """Load a probe, and its encoder where it uses one.

    Args:
        folder: probe or run folder.
        base: where the encoder's checkpoint is now; unset: where it was.

    Raises:
        CheckpointError: a file is missing or damaged, or the encoder is another one than the probe was fitted on.
    """
    place = Path(resolve(folder))
    try:
        values = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        arrays = load_file(place / ARRAYS)
        settings = ProbeSettings.model_validate(values["probe"])
        parts = {
            group: {k.removeprefix(group): v for k, v in arrays.items() if k.startswith(group)}
            for group in ("scaler.", "head.")
        }
        scaler = Scaler.from_arrays(parts["scaler."])
        head = make_probe_head(settings).restore(parts["head."])
        target, named = values["target"], values["base"]
    except ValidationError as error:
        raise CheckpointError(f"the probe in {place} is damaged: {explain(error)}") from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the probe in {place} cannot be read ({error}): copy it again") from None
    encoder = None
    if EMBEDDING in settings.features:
        encoder = frozen_encoder(
            ModelSettings(name=str(base or named["model"]), revision=None if base else named["revision"]),
            pooling=named["pooling"],
            truncate=named["truncate"],
        )
        digest = tensor_digest(encoder.model.encoder)
        if digest != named["digest"]:
            raise CheckpointError(
                f"the probe in {place} was fitted on other weights than those of {base or named['model']} here: "
                "load it with the checkpoint that it was fitted on"
            )
    return Probe(settings, scaler, head, ComputedFeatures(encoder, remember=False), target, named, encoder)


def is_probe(folder: str | Path) -> bool:
    """Whether a model or run folder holds a probe."""
    try:
        place = Path(resolve(folder))
        return bool(json.loads((place / CONFIG).read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE)
    except (OSError, ValueError, AttributeError):
        return False


def frozen_encoder(model: ModelSettings, *, pooling: str, truncate: bool, batch_size: int = 32) -> Encoder:
    """Load an encoder for its embeddings."""
    tokenizer = load_tokenizer(model.name, model.revision)
    network = make_regression(model.name, head=pooling, revision=model.revision, weights=model.weights)
    network.eval().requires_grad_(False)
    limit = max_length(network.encoder, tokenizer) if truncate else None
    return Encoder(network, tokenizer, limit, batch_size)


def base_of(model: ModelSettings, encoder: Encoder | None) -> dict[str, Any]:
    """What a probe notes of its encoder."""
    if encoder is None:
        return {}
    return {
        "model": model.name,
        "revision": model.revision,
        "pooling": model.head,
        "truncate": model.too_long == "truncate",
        "digest": tensor_digest(encoder.model.encoder),
    }


def tune_probe(
    train: tuple[Sequence[str], np.ndarray],
    settings: ProbeSettings,
    *,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    target_name: str = "target",
) -> Tuned:
    """Featurise and fit; the validation part is not used.

    Raises:
        ConfigError: a feature's package is missing.
        DataError: too few molecules, or too many for a Gaussian process.
    """
    for feature in settings.features:
        check_feature(feature)
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    threads = training.threads or os.cpu_count() or 1
    with Meter() as meter:
        encoder = None
        if EMBEDDING in settings.features:
            encoder = frozen_encoder(
                model,
                pooling=model.head,
                truncate=model.too_long == "truncate",
                batch_size=training.eval_batch_size,
            )
        features = ComputedFeatures(encoder, threads)
        base = base_of(model, encoder)
        probe = fit_probe(train, settings, features, seed=seed, target_name=target_name, base=base, encoder=encoder)
    frozen = 0 if encoder is None else sum(p.numel() for p in encoder.model.encoder.parameters())
    fitted = probe.head.fitted
    return Tuned(
        model=probe,
        history=pd.DataFrame(columns=HISTORY_COLUMNS),
        best_epoch=0,
        parameters=ParameterCount("probe", 0, fitted, fitted, fitted + frozen),
        seconds=meter.seconds,
        cost=meter.cost(round(len(train[1]) / meter.seconds, 1)),
    )
