"""Probes: a head fitted once on features of a frozen encoder, of RDKit or of MiniMol. The strongest cheap opponent.

A saved probe is ``config.json`` (settings, target statistics, the encoder by name and digest) and ``probe.safetensors``
(scaler and head as arrays).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.config import ModelSettings, ProbeSettings, explain
from moltune.errors import CheckpointError, DataError, NumericsError
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable, Featurizer
from moltune.models.checkpoints import resolve
from moltune.models.coverage import Issue
from moltune.predictors.base import PROBE_TYPE, Progress, TunedModel
from moltune.predictors.probe_heads import ProbeHead, Scaler, make_probe_head

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
    """

    settings: ProbeSettings
    scaler: Scaler
    head: ProbeHead
    features: FeatureTable
    target: dict[str, Any]

    @property
    def target_name(self) -> str:
        """Of the training targets."""
        return str(self.target["name"])

    @property
    def encoder(self) -> Encoder | None:
        """The frozen language model among its features; None where there is none, or a study embedded with it."""
        source = self.features.given.get(EMBEDDING) if EMBEDDING in self.settings.features else None
        return source if isinstance(source, Encoder) else None

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules, some hundred at a time; float64, shape (n,).

        Raises:
            NumericsError: a prediction is not finite; the molecule is named.
        """
        result = np.empty(len(smiles), dtype=np.float64)
        for start in range(0, len(smiles), _CHUNK):
            part = smiles[start : start + _CHUNK]
            values = self.features.get("+".join(self.settings.features), part)
            standardised = self.head.predict(self.scaler.transform(values))
            result[start : start + len(part)] = standardised * self.target["std"] + self.target["mean"]
            if progress is not None:
                progress(len(part))
        bad = np.flatnonzero(~np.isfinite(result))
        if len(bad):
            raise NumericsError(f"the prediction for {smiles[bad[0]]} is {result[bad[0]]}")
        return result

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """What the encoder's tokenizer cannot read; nothing where no encoder is used."""
        return {} if self.encoder is None else self.encoder.issues(smiles)

    def save(self, folder: str | Path) -> None:
        """Write settings and arrays."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"scaler.{name}": value for name, value in self.scaler.arrays().items()}
        arrays |= {f"head.{name}": value for name, value in self.head.arrays().items()}
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / ARRAYS)
        values = {
            "model_type": PROBE_TYPE,
            "probe": self.settings.model_dump(mode="json"),
            "target": self.target,
            "base": {} if self.encoder is None else self.encoder.facts,
        }
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def fit_probe(
    train: tuple[Sequence[str], np.ndarray],
    settings: ProbeSettings,
    features: FeatureTable,
    *,
    seed: int = 0,
    target_name: str = "target",
) -> Probe:
    """Fit scaler and head on the training part.

    Args:
        train: n SMILES and their targets, shape (n,).
        settings: head and features.
        features: where they come from; ``embedding`` must be among the given ones where it is asked for.
        seed: of a Gaussian process, which chooses its kernel on a sample.
        target_name: stored with the probe.

    Raises:
        DataError: fewer than two training molecules, a constant target, or too many for a Gaussian process.
        NumericsError: a feature is infinite.
    """
    smiles, target = train[0], np.asarray(train[1], dtype=np.float64)
    if len(target) < 2 or not target.std() > 0:
        raise DataError("training needs at least two molecules with different targets")
    mean, std = float(target.mean()), float(target.std())
    values = features.get("+".join(settings.features), smiles)
    scaler = Scaler().fit(values)
    head = make_probe_head(settings).fit(scaler.transform(values), (target - mean) / std, seed)
    return Probe(settings, scaler, head, features, {"mean": mean, "std": std, "name": target_name})


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
        scaler, head = (
            {name.removeprefix(group): value for name, value in arrays.items() if name.startswith(group)}
            for group in ("scaler.", "head.")
        )
        parts = Scaler.from_arrays(scaler), make_probe_head(settings).restore(head)
        target, named = values["target"], values["base"]
    except ValidationError as error:
        raise CheckpointError(f"the probe in {place} is damaged: {explain(error)}") from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the probe in {place} cannot be read ({error}): copy it again") from None
    given: dict[str, Featurizer] = {}
    if EMBEDDING in settings.features:
        encoder = Encoder(
            ModelSettings(
                name=str(base or named["model"]),
                revision=None if base else named["revision"],
                head=named["pooling"],
                too_long="truncate" if named["truncate"] else "reject",
            )
        )
        if encoder.facts["digest"] != named["digest"]:
            raise CheckpointError(
                f"the probe in {place} was fitted on other weights than those of {base or named['model']} here: "
                "load it with the checkpoint that it was fitted on"
            )
        given[EMBEDDING] = encoder
    return Probe(settings, *parts, FeatureTable(given, remember=False), target)
