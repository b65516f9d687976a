"""Scores of the external molecules on one block, a step that all selection arms share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import DataSettings, InfluenceSettings, UncertaintySettings, make_config
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.study.arms.base import Step, Workbench
from moltune.study.arms.finetune import run_values
from moltune.study.recipe.protocol import Block, Protocol

COLUMNS = ("row", "score", "residual", "variance")


def score_step(
    tuned: Mapping[str, Any],
    influence: Mapping[str, Any],
    passes: int,
    protocol: Protocol,
    block: Block,
    external: dict[str, Any],
) -> Step:
    """The step that tunes a model without additions and scores every external molecule with it.

    Args:
        tuned: specification of the fine-tuning.
        influence: settings of the influence scores.
        passes: of Monte-Carlo dropout.
        protocol: of the study.
        block: split and seed.
        external: data settings of the external molecules.
    """
    specification = {
        "settings": tuned["settings"],
        "weights": tuned["weights"],
        "influence": dict(influence),
        "passes": passes,
        "protocol": protocol.model_dump(mode="json", exclude={"name", "note"}),
        "block": block.model_dump(mode="json"),
        "external": external_digest(external),
        "_external": external,
    }
    recorded = "moltune.study.kinds.selection:compute_scores"
    return Step(_name(block.name), specification, f"{__name__}:compute_scores", recorded)


def compute_scores(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`score_step` describes.

    Returns:
        ``row`` (of the external source), ``score``, ``residual`` and ``variance``, each of shape (n,).
    """
    from moltune.attribution.influence import influence
    from moltune.tuning.finetune import finetune
    from moltune.uncertainty.estimate import uncertainty

    block = Block.model_validate(specification["block"])
    split = Protocol.model_validate(specification["protocol"]).make_split(bench.molecules, block)
    output = bench.folder / "base"
    config = make_config(run_values(specification["settings"], bench, split, block.seed, output))
    run = finetune(config, molecules=bench.molecules, overwrite=(output / "config.yaml").is_file())
    external = external_molecules(specification["_external"])
    settings = InfluenceSettings.model_validate({**specification["influence"], "halves": False})
    scored = influence(run, external, settings)
    spread = uncertainty(run.path, external, UncertaintySettings(passes=specification["passes"], seed=block.seed))
    return {
        "row": scored.external.table["row"].to_numpy(dtype=np.int64),
        "score": scored.table["score"].to_numpy(),
        "residual": scored.table["residual"].to_numpy(),
        "variance": spread.table["variance"].to_numpy(),
    }


def block_scores(bench: Workbench, block: str) -> pd.DataFrame | None:
    """Scores of the molecules on a run's bench, columns ``COLUMNS``; None where the arm needs none."""
    if _name(block) not in bench.needs:
        return None
    return pd.DataFrame({name: np.array(bench.array(_name(block), name)) for name in COLUMNS})


def external_molecules(settings: Mapping[str, Any]) -> Molecules:
    """The recipe's external molecules, cleaned; read once per process."""
    return _load(json.dumps(settings, sort_keys=True))


def external_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 over SMILES and labels of the external molecules."""
    table = external_molecules(settings).table[["smiles", "target"]]
    return hashlib.sha256(table.to_csv(index=False, float_format="%.17g").encode()).hexdigest()


@lru_cache(maxsize=2)
def _load(settings: str) -> Molecules:
    return load_molecules(None, DataSettings.model_validate_json(settings))


def _name(block: str) -> str:
    return f"scores {block}"
