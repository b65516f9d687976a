from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moltune.study.arms.agreement import OTHER, SAME, agreement, agreement_figure, agreement_words
from moltune.study.recipe.protocol import Block

LABELS = {"score": "influence", "variance": "uncertainty"}


def tables(blocks: list[Block]) -> dict[str, pd.DataFrame]:
    """Scores that belong to the split with little noise; variances that belong to the seed alone."""
    rows = np.arange(1, 201)
    made = {}
    for block in blocks:
        of_split = np.random.default_rng([1, block.split]).normal(size=200)
        of_seed = np.random.default_rng([2, block.seed]).normal(size=200)
        noise = np.random.default_rng([3, block.split, block.seed]).normal(size=200)
        table = pd.DataFrame({"row": rows, "score": of_split + 0.1 * noise, "variance": of_seed})
        made[block.name] = table.iloc[block.split :].sample(frac=1, random_state=block.seed)
    return made


def test_seeds_and_splits_are_told_apart_and_shared_noise_is_no_agreement(tmp_path: Path) -> None:
    blocks = [Block(split=split, seed=seed) for split in range(3) for seed in range(2)]
    by = agreement(tables(blocks), {block.name: block for block in blocks}, list(LABELS))
    assert {key: len(values) for key, values in by.items()} == {
        ("score", SAME): 3,
        ("score", OTHER): 12,
        ("variance", SAME): 3,
        # Of the twelve pairs, half have the same seed.
        ("variance", OTHER): 6,
    }
    assert min(by["score", SAME]) > 0.95
    assert np.abs(by["score", OTHER]).max() < 0.3
    assert np.abs(by["variance", OTHER]).max() < 0.3
    words = agreement_words(by, LABELS)
    assert f"influence, {SAME} {np.mean(by['score', SAME]):.2f}; influence, {OTHER}" in words
    paths = agreement_figure(by, LABELS, tmp_path / "agreement")
    assert {path.suffix for path in paths} == {".png", ".svg"}


def test_molecules_are_matched_by_row() -> None:
    blocks = [Block(split=0, seed=0), Block(split=0, seed=1)]
    one = pd.DataFrame({"row": [1, 2, 3, 4], "score": [0.1, 0.2, 0.3, 0.4]})
    two = pd.DataFrame({"row": [4, 9, 2, 3, 1], "score": [4.0, -9.0, 2.0, 3.0, 1.0]})
    found = agreement(
        dict(zip([block.name for block in blocks], [one, two], strict=True)), {b.name: b for b in blocks}, ["score"]
    )
    assert found == {("score", SAME): [pytest.approx(1.0)]}
    few = {blocks[0].name: one.head(2), blocks[1].name: two}
    assert agreement(few, {b.name: b for b in blocks}, ["score"]) == {}
