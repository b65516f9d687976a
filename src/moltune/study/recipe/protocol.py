"""Protocols: on which splits, with which seeds, every arm of a study runs.

A :class:`Block` is one split with one seed. All arms of a study run on the same blocks, so that comparisons are
paired. Blocks that share a split differ in the seed alone and are not independent, which is why
:mod:`moltune.study.analysis.verdicts` averages them before any test.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator

from moltune.config import Settings, SplitSettings
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split, make_split
from moltune.errors import ConfigError


class Block(Settings):
    """One split (or one fold of a repetition) with one seed."""

    split: NonNegativeInt
    fold: NonNegativeInt | None = None
    seed: NonNegativeInt

    @property
    def name(self) -> str:
        """``split2-seed0`` or ``split2-fold4-seed2``."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"split{self.split}{fold}-seed{self.seed}"

    @property
    def unit(self) -> str:
        """The split alone: blocks of one unit share their test molecules."""
        return self.name.rsplit("-", 1)[0]


def _numbers(value: Any) -> Any:
    """``3`` means 0, 1, 2."""
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


Numbers = Annotated[list[NonNegativeInt], BeforeValidator(_numbers), Field(min_length=1)]


class Protocol(Settings):
    """Splits x seeds, or repeated cross-validation.

    With ``folds``, each entry of ``splits`` is one repetition of a cross-validation, its folds are random (of two
    classes each fold gets its share), a share
    ``validation`` of all molecules is taken out of the training part, and the repetition's number is the seed.
    """

    name: str = Field("custom", description="P, P5, ash5x5, or a name of your own")
    kind: Literal["splits", "cross-validation"] = "splits"
    splits: Numbers = Field(default_factory=lambda: list(range(5)), description="split seeds; 5 means 0 to 4")
    seeds: Numbers = Field(default_factory=lambda: [0], description="training seeds on each split; 3 means 0 to 2")
    split: SplitSettings = SplitSettings()
    folds: int | None = Field(None, ge=2, description="of a cross-validation")
    validation: float = Field(0.1, ge=0, lt=1, description="share of all molecules that validate in a fold")
    note: str = Field("", description="what a reader must know about it")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == "cross-validation") != (self.folds is not None):
            raise ValueError("a cross-validation has kind: cross-validation and a number of folds; splits have neither")
        if self.split.seed is not None:
            raise ValueError("split.seed is what splits list; leave it out")
        for name in ("splits", "seeds"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} names a number twice")
        given = self.kind == "splits" and self.split.method in ("column", "index")
        if given and len(self.splits) > 1:
            raise ValueError(f"a split given by {self.split.method} is one split; say splits: 1")
        if self.folds is not None and self.validation >= 1 - 1 / self.folds:
            raise ValueError("the validation share leaves no training molecules")
        return self

    def blocks(self) -> list[Block]:
        """Every block, in a fixed order."""
        if self.folds is None:
            return [Block(split=split, seed=seed) for split in self.splits for seed in self.seeds]
        return [Block(split=split, fold=fold, seed=split) for split in self.splits for fold in range(self.folds)]

    def make_split(self, molecules: Molecules, block: Block) -> Split:
        """Divide the molecules as the block says.

        Raises:
            DataError: see :func:`moltune.data.splitting.split.make_split`.
            ConfigError: more folds than molecules.
        """
        if self.folds is None:
            return make_split(molecules, self.split, block.split)
        assert block.fold is not None
        n = len(molecules)
        if self.folds > n:
            raise ConfigError(f"{n} molecules cannot be divided into {self.folds} folds")
        from sklearn.model_selection import KFold, StratifiedKFold

        deal = KFold if molecules.classes is None else StratifiedKFold
        folds = list(deal(self.folds, shuffle=True, random_state=block.split).split(np.arange(n), molecules.target))
        rest, test = folds[block.fold]
        shuffled = np.random.default_rng([block.split, block.fold]).permutation(rest)
        cut = round(self.validation * n)
        validation, train = np.sort(shuffled[:cut]), np.sort(shuffled[cut:])
        record = {"method": "cross-validation", "folds": self.folds, "repetition": block.split, "fold": block.fold}
        return Split(train, validation, np.sort(test), "cross-validation", block.split, record)


PROTOCOLS: dict[str, dict[str, Any]] = {
    "P": {
        "splits": 5,
        "seeds": 3,
        "note": "Protocol P: five stratified 70/10/20 splits, three seeds each (15 blocks); for headline comparisons.",
    },
    "P5": {
        "splits": 5,
        "seeds": 1,
        "note": "Protocol P5: five stratified 70/10/20 splits, one seed each (5 blocks); for tables of many arms. "
        "Seed-to-seed noise is seen only through the splits.",
    },
    "ash5x5": {
        "kind": "cross-validation",
        "splits": 5,
        "folds": 5,
        "note": "Five repetitions of a five-fold cross-validation (25 blocks), the protocol of Ash et al., J. Chem. "
        "Inf. Model. 2025, 65, 9398. A tenth of the molecules, taken from each training part, validates.",
    },
}


def named_protocol(value: Any) -> Any:
    """Turn a protocol's name into its settings; anything else is returned as it is.

    Raises:
        ValueError: there is no protocol of this name.
    """
    if not isinstance(value, str):
        return value
    if value not in PROTOCOLS:
        raise ValueError(f"there is no protocol {value!r}; choose {', '.join(PROTOCOLS)}, or give splits and seeds")
    return {"name": value, **PROTOCOLS[value]}
