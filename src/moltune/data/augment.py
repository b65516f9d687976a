"""Fresh spellings of the training molecules in every epoch (Bjerrum 2017, arXiv:1703.07076)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moltune.data.randomize import random_smiles
from moltune.models.batches import LengthBucketSampler, SmilesDataset


class Speller:
    """Random spellings of a list of molecules that a tokenizer can take.

    A spelling that is longer than the model takes, or that has a token outside the vocabulary, is replaced by the
    molecule's own SMILES.

    Args:
        tokenizer: called with lists of SMILES.
        smiles: n molecules.
        seed: the same seed and number give the same spellings.
        max_length: longest input in tokens; None: unbounded.
    """

    def __init__(self, tokenizer: Any, smiles: Sequence[str], seed: int, max_length: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.smiles = list(smiles)
        self.seed = seed
        self.max_length = max_length

    def spell(self, number: int) -> list[str]:
        """One spelling of each molecule, in their order; another one for each ``number``."""
        rng = np.random.default_rng([self.seed, number])
        spelled = [random_smiles(text, rng)[0] for text in self.smiles]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        encoded = self.tokenizer(spelled)["input_ids"] if spelled else []
        return [
            own if unknown in ids or (self.max_length is not None and len(ids) > self.max_length) else other
            for own, other, ids in zip(self.smiles, spelled, encoded, strict=True)
        ]


class AugmentedDataset(SmilesDataset):
    """Training molecules, each ``copies`` times, under spellings that depend on seed and epoch alone.

    Item ``i`` is molecule ``i % n``. A molecule that cannot be spelled otherwise keeps its own SMILES.

    Args:
        tokenizer, smiles, target, max_length: as for :class:`SmilesDataset`; shape of ``target`` (n,).
        copies: spellings of each molecule per epoch.
        seed: of the spellings.
        limit: longest input that the model takes.
    """

    def __init__(
        self,
        tokenizer: Any,
        smiles: Sequence[str],
        target: np.ndarray,
        max_length: int | None = None,
        *,
        copies: int,
        seed: int,
        limit: int | None = None,
    ) -> None:
        self.speller = Speller(tokenizer, smiles, seed, limit)
        self.copies = copies
        self.max_length = max_length
        self.epoch = -1
        super().__init__(tokenizer, smiles, None, max_length)
        self.target = np.tile(np.asarray(target, dtype=np.float32), copies)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Spell every molecule anew, unless that epoch is in memory."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        texts = [text for copy in range(self.copies) for text in self.speller.spell(epoch * self.copies + copy)]
        cut = {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}
        self.input_ids = self.speller.tokenizer(texts, **cut)["input_ids"]
        self.lengths = [len(ids) for ids in self.input_ids]


class AugmentedSampler(LengthBucketSampler):
    """Moves an :class:`AugmentedDataset` to the epoch whose order it gives.

    Args:
        dataset: what is drawn from.
        batch_size: of the batches.
        seed: of the order.
        bucket: batches of similar length; otherwise a plain permutation.
    """

    def __init__(self, dataset: AugmentedDataset, batch_size: int, seed: int, *, bucket: bool = True) -> None:
        super().__init__(dataset.lengths, batch_size, seed)
        self.dataset = dataset
        self.bucket = bucket

    def __iter__(self) -> Iterator[int]:
        self.dataset.set_epoch(self.epoch)
        self.lengths = np.asarray(self.dataset.lengths)
        if self.bucket:
            return super().__iter__()
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths)).tolist())
