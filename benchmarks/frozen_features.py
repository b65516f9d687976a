"""Features of a bundled table that several benchmarks share, computed once and kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moltune.config import ModelSettings
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable

NAMES = (EMBEDDING, "rdkit-fast", "ionisation")
CACHE = Path(__file__).parents[1] / "runs" / "features"


def frozen_features(name: str, cache: Path = CACHE) -> tuple[Molecules, dict[str, np.ndarray]]:
    """The molecules of a table and their features, each of shape (n, d), with the bundled checkpoint as it is.

    Args:
        name: of a bundled table.
        cache: folder of the file; delete it when the checkpoint or a feature changes.
    """
    molecules, path = load_molecules(name), Path(cache) / f"{name}.npz"
    if path.is_file():
        with np.load(path) as stored:
            return molecules, {one: stored[one] for one in NAMES}
    table = FeatureTable({EMBEDDING: Encoder(ModelSettings())}, threads=1)
    found = {one: table.get(one, molecules.smiles) for one in NAMES}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return molecules, found
