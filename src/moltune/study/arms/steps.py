"""Shared steps: features of the study's molecules, once per study, and adapted checkpoints, once per split.

The seeds of a split are averaged before any test, so one adaptation per split serves them all.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from moltune.config import AdaptSettings, FinetuneConfig, ModelSettings, Settings
from moltune.errors import CheckpointError
from moltune.features.registry import EMBEDDING, FeatureUnavailable, Featurizer, find_feature
from moltune.files import write_json
from moltune.run import library_versions
from moltune.study.arms.base import ArmUnavailable, Step, Workbench
from moltune.study.recipe.protocol import Block, Protocol

ADAPTATION = "adaptation"
_FEATURES, _CHECKPOINT, _FACTS = "features ", "checkpoint", "adaptation.json"
_ADAPTED_WITH = ("name", "revision", "weights", "unknown_tokens", "too_long")


def recorded(settings: Settings) -> dict[str, Any]:
    """Settings as specifications hold them: with those that are gone, at the value that switched them off."""
    return {name: off for name, (off, _) in settings.retired.items()} | settings.model_dump(mode="json")


def check_feature(name: str) -> None:
    """Raise ConfigError where there is no such feature, ArmUnavailable where its package is missing."""
    try:
        find_feature(name)
    except FeatureUnavailable as error:
        raise ArmUnavailable(str(error)) from None


def check_model(model: ModelSettings) -> None:
    """Raise ArmUnavailable where the checkpoint is missing."""
    from moltune.models.checkpoints import load_config

    try:
        load_config(model.name, model.revision)
    except CheckpointError as error:
        raise ArmUnavailable(str(error)) from None


@cache
def weights_digest(name: str) -> str | None:
    """SHA-256 over the files of a local checkpoint; None for a hub id, whose revision is in the settings."""
    from moltune.models.checkpoints import resolve

    folder = Path(resolve(name))
    if not folder.is_dir():
        return None
    files = [path for path in sorted(folder.glob("*")) if path.suffix in (".json", ".safetensors", ".txt")]
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def feature_step(name: str) -> Step:
    """The step that computes a feature of all molecules."""
    feature = find_feature(name)
    specification = {"feature": name, "version": feature.version, "libraries": library_versions(feature.libraries)}
    return _step(_FEATURES + name, specification, "compute_feature", "moltune.study.features")


def compute_feature(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`feature_step` describes: ``{"values": float32, shape (number of molecules, d)}``."""
    values = find_feature(specification["feature"]).compute(bench.molecules.smiles, bench.threads)
    return {"values": np.asarray(values, dtype=np.float32)}


def embedding_step(settings: dict[str, Any]) -> Step:
    """The step that embeds all molecules with a frozen encoder, given by :func:`embedding_settings`."""
    specification = {**settings, "version": 1, "libraries": library_versions(("torch", "transformers"))}
    return _step(_FEATURES + EMBEDDING, specification, "compute_embedding", "moltune.study.features")


def embedding_settings(model: ModelSettings) -> dict[str, Any]:
    """What decides embeddings: checkpoint, pooling, whether long SMILES are cut, and a digest of the weights."""
    return {
        "model": model.name,
        "revision": model.revision,
        "pooling": model.head,
        "truncate": model.too_long == "truncate",
        "weights": weights_digest(model.name),
    }


def compute_embedding(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`embedding_step` describes: ``{"values": float32, shape (number of molecules, width)}``."""
    import torch

    from moltune.features.embedding import Encoder

    torch.set_num_threads(bench.threads)
    model = ModelSettings(
        name=specification["model"],
        revision=specification["revision"],
        head=specification["pooling"],
        too_long="truncate" if specification["truncate"] else "reject",
    )
    return {"values": Encoder(model)(bench.molecules.smiles)}


def shared_features(bench: Workbench) -> dict[str, Featurizer]:
    """Featurisers that read the finished feature steps of a bench instead of computing, by name."""
    position = {smiles: at for at, smiles in enumerate(bench.molecules.smiles)}

    def reader(step: str) -> Featurizer:
        values = bench.array(step)
        return lambda smiles: np.asarray(values[[position[text] for text in smiles]])

    steps = [step for step in bench.needs if step.startswith(_FEATURES)]
    return {step.removeprefix(_FEATURES): reader(step) for step in steps}


def adaptation_step(config: FinetuneConfig, protocol: Protocol, block: Block) -> Step:
    """The step that a fine-tuning arm with ``adapt.objective`` needs: adaptation on the training part of the split."""
    file = protocol.split.index_file
    specification = {
        "adapt": recorded(config.adapt),
        "model": {name: getattr(config.model, name) for name in _ADAPTED_WITH},
        "weights": weights_digest(config.model.name),
        "seed": block.split,
        "protocol": protocol.model_dump(mode="json", include={"kind", "split", "folds", "validation"}),
        "block": {"split": block.split, "fold": block.fold},
        "index": None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest(),
        "libraries": library_versions(("numpy", "rdkit", "torch", "transformers", "scikit-learn")),
    }
    return _step(ADAPTATION, specification, "compute_adaptation", "moltune.study.adaptation")


def compute_adaptation(bench: Workbench, specification: dict[str, Any]) -> dict[str, Path]:
    """Adapt on the training part, going on where a killed adaptation stopped; ``{"checkpoint": folder}``."""
    import torch

    from moltune.models.coverage import unfit_molecules
    from moltune.pretraining.continue_pretraining import adapt_encoder

    torch.set_num_threads(bench.threads)
    adapt = AdaptSettings.model_validate(specification["adapt"])
    model = ModelSettings.model_validate(specification["model"])
    block = Block(**specification["block"], seed=specification["seed"])
    split = Protocol(splits=[block.split], **specification["protocol"]).make_split(bench.molecules, block)
    unfit = unfit_molecules(bench.molecules.smiles, model)
    chosen = range(len(bench.molecules)) if adapt.transductive else np.sort(split.train).tolist()
    smiles = [bench.molecules.smiles[at] for at in chosen if at not in unfit]
    output = bench.folder / _CHECKPOINT
    output.mkdir(parents=True, exist_ok=True)
    result = adapt_encoder(smiles, model=model, adapt=adapt, seed=block.seed, work=bench.folder / "work", output=output)
    write_json(output / _FACTS, result.to_dict())
    return {_CHECKPOINT: output}


def adapted_checkpoint(bench: Workbench) -> tuple[Path, dict[str, Any]] | None:
    """The adapted encoder on a run's bench and what its adaptation did; None where the arm has none."""
    if ADAPTATION not in bench.needs:
        return None
    folder = bench.needs[ADAPTATION] / _CHECKPOINT
    return folder, json.loads((folder / _FACTS).read_text(encoding="utf-8"))


def _step(name: str, specification: dict[str, Any], function: str, was_in: str) -> Step:
    """A step of this file; stored specifications name the module where its function was first."""
    return Step(name, specification, f"{__name__}:{function}", recorded=f"{was_in}:{function}")
