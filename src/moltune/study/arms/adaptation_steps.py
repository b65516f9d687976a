"""Adaptation without labels as a shared step: once per split and settings, for all arms and seeds on top of it.

The seeds of a split are averaged before any test, so the split, with its one adaptation, is what counts as evidence.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from moltune.config import AdaptSettings, FinetuneConfig, ModelSettings
from moltune.run import library_versions
from moltune.study.arms.base import Step, Workbench
from moltune.study.recipe.protocol import Block, Protocol
from moltune.study.recipe.recipe import Recipe

STEP, CHECKPOINT, FACTS = "adaptation", "checkpoint", "adaptation.json"


def adaptation_step(config: FinetuneConfig, recipe: Recipe, block: Block, weights: str | None) -> Step:
    """The step that a fine-tuning arm with ``adapt.objective`` needs.

    Args:
        config: of the arm.
        recipe: of the study.
        block: split and seed.
        weights: digest of the checkpoint that the adaptation starts from.
    """
    protocol = recipe.protocol
    names = ("name", "revision", "weights", "unknown_tokens", "too_long")
    specification = {
        "adapt": config.adapt.model_dump(mode="json"),
        "model": {name: getattr(config.model, name) for name in names},
        "weights": weights,
        "seed": block.split,
        "protocol": protocol.model_dump(mode="json", include={"kind", "split", "folds", "validation"}),
        "block": {"split": block.split, "fold": block.fold},
        "index": _digest(protocol.split.index_file),
        "libraries": library_versions(("numpy", "rdkit", "torch", "transformers", "scikit-learn")),
    }
    return Step(STEP, specification, "moltune.study.arms.adaptation_steps:compute_adaptation")


def compute_adaptation(bench: Workbench, specification: dict[str, Any]) -> dict[str, Path]:
    """Adapt on the training part of the block's split; an interrupted one goes on where it stopped.

    Returns:
        ``{"checkpoint": folder}``, in the bench's scratch.
    """
    import torch

    from moltune.pretraining.unlabelled import adapt_encoder
    from moltune.tuning.train import unfit_molecules

    torch.set_num_threads(bench.threads)
    adapt = AdaptSettings.model_validate(specification["adapt"])
    model = ModelSettings.model_validate(specification["model"])
    block = Block(**specification["block"], seed=specification["seed"])
    protocol = Protocol(splits=[block.split], seeds=[block.seed], **specification["protocol"])
    molecules = bench.molecules
    split = protocol.make_split(molecules, block)
    unfit = unfit_molecules(molecules.smiles, model)
    chosen = set(range(len(molecules))) if adapt.transductive else set(split.train.tolist())
    smiles = [text for at, text in enumerate(molecules.smiles) if at in chosen and at not in unfit]
    output = bench.folder / CHECKPOINT
    output.mkdir(parents=True, exist_ok=True)
    result = adapt_encoder(smiles, model=model, adapt=adapt, seed=block.seed, work=bench.folder / "work", output=output)
    (output / FACTS).write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return {CHECKPOINT: output}


def adapted_checkpoint(bench: Workbench) -> tuple[Path, dict[str, Any]] | None:
    """The adapted encoder on a run's bench and what its adaptation did; None where the arm has none."""
    if STEP not in bench.steps:
        return None
    folder = bench.steps[STEP] / CHECKPOINT
    return folder, json.loads((folder / FACTS).read_text(encoding="utf-8"))


def _digest(path: str | None) -> str | None:
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
