"""How much of one part of a split is known from another part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moltune.data.molecules import Molecules
from moltune.data.overlap import connectivity
from moltune.data.splitting.similarity import morgan_bits, nearest_similarity
from moltune.data.splitting.split import Split

_PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))
_NEAR = 0.85
_WORTH_A_WARNING = 0.1


@dataclass(frozen=True)
class Leakage:
    """What the parts of a split share.

    Attributes:
        same_inchikey: ``"test in train"`` etc. -> number of molecules of the first part that are in the second, too.
        same_connectivity: the same for the first block of the InChIKey: the skeleton without stereochemistry and
            isotopes.
        nearest: ``"test->train"`` and ``"validation->train"`` -> summary of the Tanimoto similarity (Morgan, radius 2,
            2048 bits) of each molecule to its nearest training molecule: n, mean, median, q10, q90, max, and the
            shares that are at least 0.85 and exactly 1.
        words: warnings in words; empty when there is nothing to warn about.
    """

    same_inchikey: dict[str, int]
    same_connectivity: dict[str, int]
    nearest: dict[str, dict[str, float]]
    words: list[str]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def check_leakage(molecules: Molecules, split: Split) -> Leakage:
    """Compare the parts of a split; takes a few seconds for some thousand molecules."""
    keys, parts = molecules.table["inchikey"], split.parts()
    same_inchikey, same_connectivity = (
        {f"{b} in {a}": int(names.iloc[parts[b]].isin(names.iloc[parts[a]]).sum()) for a, b in _PAIRS}
        for names in (keys, connectivity(keys))
    )
    bits = morgan_bits(molecules.smiles)
    nearest = {
        f"{name}->train": _summary(nearest_similarity(bits, parts[name], parts["train"]))
        for name in ("test", "validation")
        if len(parts[name])
    }
    words = _words(same_inchikey, same_connectivity, nearest)
    return Leakage(same_inchikey, same_connectivity, nearest, words)


def _summary(similarity: np.ndarray) -> dict[str, float]:
    q10, median, q90 = np.quantile(similarity, [0.1, 0.5, 0.9]).tolist()
    return {
        "n": len(similarity),
        "mean": float(similarity.mean()),
        "median": median,
        "q10": q10,
        "q90": q90,
        "max": float(similarity.max()),
        "share_near": float(np.mean(similarity >= _NEAR)),
        "share_identical": float(np.mean(similarity == 1.0)),
    }


def _words(
    same_inchikey: dict[str, int], same_connectivity: dict[str, int], nearest: dict[str, dict[str, float]]
) -> list[str]:
    words = []
    for pair, count in same_inchikey.items():
        part, other = pair.split(" in ")
        if count:
            words.append(f"{count} {part} molecules are in the {other} part, too (same InChIKey).")
        stereo = same_connectivity[pair] - count
        if stereo:
            words.append(
                f"{stereo} {part} molecules differ from one in the {other} part in stereochemistry or isotopes only."
            )
    for pair, summary in nearest.items():
        if summary["share_near"] >= _WORTH_A_WARNING:
            words.append(
                f"{summary['share_near']:.0%} of the {pair.split('->')[0]} molecules have a training molecule at "
                f"Tanimoto similarity {_NEAR} or more; errors on new chemistry will be larger."
            )
    return words
