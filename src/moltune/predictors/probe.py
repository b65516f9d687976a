"""Probes: a head fitted once on features of a frozen encoder, of RDKit or of MiniMol. The strongest cheap opponent.

A saved probe is ``config.json`` (settings, target statistics, the encoder by name and digest) and ``probe.safetensors``
(scaler and head as arrays).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.baselines.classical import Baseline, Part
from moltune.calibration.folds import FOLDS, out_of_fold
from moltune.calibration.platt import AnswerScale, answer_probability, fit_answer_scale, tells
from moltune.config import ModelSettings, ProbeSettings, explain
from moltune.errors import CheckpointError, DataError, NumericsError
from moltune.features.embedding import Encoder, OnnxEncoder
from moltune.features.registry import EMBEDDING, FeatureTable, Featurizer, column_blocks
from moltune.models.coverage import Issue
from moltune.models.names import resolve
from moltune.predictors.base import PROBE_TYPE, Progress, TunedModel
from moltune.predictors.gaussian_process import GpHead
from moltune.predictors.probe_heads import ProbeHead, RidgeHead, Scaler, SvrHead

CONFIG, ARRAYS = "config.json", "probe.safetensors"
_CHUNK = 2048
_ENOUGH = 1000  # molecules of a validation part that can make probabilities by themselves


def make_probe_head(settings: ProbeSettings, blocks: Sequence[int] = ()) -> ProbeHead:
    """Build the head that the settings name, for columns of these blocks."""
    if settings.head == SvrHead.name:
        return SvrHead(settings.C, settings.epsilon, settings.gamma)
    return GpHead(blocks) if settings.head == GpHead.name else RidgeHead()


class Probe(TunedModel, Baseline):
    """A head on fixed features: a run's model, or a baseline called ``svr:embedding+rdkit`` and the like.

    Args:
        settings: head and features.
        features: where features come from; ``embedding`` must be given where it is asked for.
        target_name: stored with the probe.
        class_names: negative and positive class of a target that is 0 and 1; unset: it is a number.

    Attributes:
        scaler: of the features.
        head: fitted on standardised targets.
        target: ``mean``, ``std`` and ``name`` of the training targets; of classes also their names, and the ``scale``
            that makes probabilities of answers.
    """

    scaler: Scaler
    head: ProbeHead

    def __init__(
        self,
        settings: ProbeSettings,
        features: FeatureTable | None = None,
        target_name: str = "target",
        class_names: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(features)
        self.settings, self.columns = settings, "+".join(settings.features)
        self.name = f"{settings.head}:{self.columns}"
        self.target: dict[str, Any] = {"name": target_name}
        if class_names is not None:
            self.classes, self.target["classes"] = True, list(class_names)

    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Fit scaler and head on the training part.

        With classes the head is fitted to 0 and 1 as numbers (least-squares classification, Rasmussen & Williams 2006,
        section 6.5), and Platt's scaling makes probabilities of what it answers, on the validation part. Where that has
        fewer than 1,000 molecules, five folds of the training part, each answered by a head that did not see it, stand
        beside it. Without classes the validation part is not used.

        Raises:
            DataError: fewer than two training molecules, a constant target, or too many for a Gaussian process.
            NumericsError: a feature is infinite.
        """
        target = np.asarray(train[1], dtype=np.float64)
        if len(target) < 2 or not target.std() > 0:
            raise DataError("training needs at least two molecules with different targets")
        mean, std = float(target.mean()), float(target.std())
        blocks = [self.features.get(name, train[0]) for name in self.settings.features]
        values = np.hstack(blocks)
        self.scaler = Scaler().fit(values)
        self.head = make_probe_head(self.settings, column_blocks(self.settings.features, blocks))
        self.head.fit(self.scaler.transform(values), (target - mean) / std, seed)
        self.target = {**self.target, "mean": mean, "std": std}
        if self.classes:
            self.target["scale"] = list(self._scale(train, validation, seed))
        return self

    def _scale(self, train: Part, validation: Part | None, seed: int) -> AnswerScale:
        texts, labels = np.array(train[0], dtype=object), np.asarray(train[1], dtype=np.float64)

        def answer(learn: np.ndarray, rest: np.ndarray) -> np.ndarray:
            part = Probe(self.settings, self.features).fit((list(texts[learn]), labels[learn]), seed=seed)
            return part.predict(list(texts[rest]))

        answers, known = np.empty(0), np.empty(0)
        if validation is not None and tells(validation[1]):
            answers, known = self.answers(validation[0]), np.asarray(validation[1], dtype=np.float64)
        if len(known) < _ENOUGH and min(labels.sum(), (1 - labels).sum()) >= FOLDS:
            # Each class is dealt out by itself, so that no fold lacks one.
            order = np.argsort(labels + np.random.default_rng(seed).random(len(labels)), kind="stable")
            folds = np.empty(len(labels), dtype=np.int64)
            folds[order] = np.arange(len(labels)) % FOLDS
            answers, known = np.append(answers, out_of_fold(folds, answer)), np.append(known, labels)
        return fit_answer_scale(answers, known)

    def answers(self, smiles: Sequence[str]) -> np.ndarray:
        """What the head says, in the target's unit, shape (n,); of classes before it is made a probability."""
        features = self.scaler.transform(self.features.get(self.columns, smiles))
        return np.asarray(self.head.predict(features) * self.target["std"] + self.target["mean"], dtype=np.float64)

    @property
    def target_name(self) -> str:
        """Of the training targets."""
        return str(self.target["name"])

    @property
    def class_names(self) -> tuple[str, str] | None:
        """As they were given."""
        found = self.target.get("classes")
        return None if found is None else (str(found[0]), str(found[1]))

    @property
    def encoder(self) -> Encoder | None:
        """The frozen language model among its features; None where there is none, or a study embedded with it."""
        source = self.features.given.get(EMBEDDING) if EMBEDDING in self.settings.features else None
        return source if isinstance(source, Encoder) else None

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules, some thousand at a time; float64, shape (n,).

        Raises:
            NumericsError: a prediction is not finite; the molecule is named.
        """
        result = np.empty(len(smiles), dtype=np.float64)
        for start in range(0, len(smiles), _CHUNK):
            part = smiles[start : start + _CHUNK]
            found = self.answers(part)
            if "scale" in self.target:
                found = answer_probability(found, tuple(self.target["scale"]))
            result[start : start + len(part)] = found
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
        arrays = {f"scaler.{name}": value for name, value in self.scaler.arrays.items()}
        arrays |= {f"head.{name}": value for name, value in self.head.arrays.items()}
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, folder / ARRAYS)
        values = {
            "model_type": PROBE_TYPE,
            "probe": self.settings.model_dump(mode="json"),
            "target": self.target,
            "base": {} if self.encoder is None else self.encoder.facts,
        }
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, base: str | Path | None = None) -> Self:
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
            settings, named = ProbeSettings.model_validate(values["probe"]), values["base"]
            given: dict[str, Featurizer] = {EMBEDDING: _encoder(named, base)} if named else {}
            probe = cls(settings, FeatureTable(given, remember=False))
            arrays = load_file(place / ARRAYS)
            probe.scaler, probe.head, probe.target = Scaler(), make_probe_head(settings), values["target"]
            probe.scaler.arrays = {name: arrays[f"scaler.{name}"] for name in ("median", "mean", "std")}
            probe.head.arrays = {
                name.removeprefix("head."): a for name, a in arrays.items() if name.startswith("head.")
            }
            if missing := set(probe.head.stored) - set(probe.head.arrays):
                raise KeyError(f"no head.{min(missing)}")
        except ValidationError as error:
            raise CheckpointError(f"the probe in {place} is damaged: {explain(error)}") from None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"the probe in {place} cannot be read ({error}): copy it again") from None
        if probe.encoder is not None and probe.encoder.digest != named["digest"]:
            raise CheckpointError(
                f"the probe in {place} was fitted on other weights than those of {base or named['model']} here: "
                "load it with the checkpoint that it was fitted on"
            )
        return probe


def _encoder(named: dict[str, Any], base: str | Path | None) -> Encoder:
    settings = ModelSettings(
        name=str(base or named["model"]),
        revision=None if base else named["revision"],
        head=named["pooling"],
        too_long="truncate" if named["truncate"] else "reject",
    )
    return OnnxEncoder.find(settings, named["digest"]) or Encoder(settings)
