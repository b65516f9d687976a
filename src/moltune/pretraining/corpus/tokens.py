"""A tokenised corpus in memory-mapped arrays, and batches of it by token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moltune.errors import DataError
from moltune.files import replacing

_TOKENS, _OFFSETS = "tokens.npy", "offsets.npy"


class TokenCorpus:
    """Token ids of n molecules, special tokens included, in one flat uint16 array that is never read whole."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not self.is_in(folder):
            raise DataError(f"{folder} holds no tokenised corpus ({_OFFSETS} is missing)")
        self.tokens = np.load(folder / _TOKENS, mmap_mode="r")
        self.offsets = np.load(folder / _OFFSETS)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder holds a tokenised corpus; the offsets are written last."""
        return (folder / _OFFSETS).is_file()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each molecule, int64, shape (n,)."""
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray, pad_id: int) -> np.ndarray:
        """Token ids of some molecules, int64, shape (len(rows), longest of them)."""
        lengths = self.lengths[rows]
        batch = np.full((len(rows), int(lengths.max())), pad_id, dtype=np.int64)
        for line, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self.offsets[row]
            batch[line, :length] = self.tokens[start : start + length]
        return batch


def write_tokens(smiles: Sequence[str], tokenizer: Any, folder: str | Path, chunk: int = 20_000) -> TokenCorpus:
    """Tokenise a corpus and write it, atomically.

    Raises:
        DataError: the vocabulary does not fit into 16 bits.
    """
    if len(tokenizer) > 2**16:
        raise DataError(f"a vocabulary of {len(tokenizer)} tokens does not fit into 16 bits")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pieces, lengths = [], [0]
    for start in range(0, len(smiles), chunk):
        ids = tokenizer(list(smiles[start : start + chunk]))["input_ids"]
        pieces.append(np.concatenate([np.asarray(one, dtype=np.uint16) for one in ids]))
        lengths += map(len, ids)
    for name, values in ((_TOKENS, np.concatenate(pieces)), (_OFFSETS, np.cumsum(lengths, dtype=np.int64))):
        with replacing(folder / name) as temporary:
            np.save(temporary, values)
    return TokenCorpus(folder)


def token_batches(
    rows: np.ndarray, lengths: np.ndarray, budget: int, rng: np.random.Generator, pool: int = 64
) -> Iterator[np.ndarray]:
    """Cut shuffled molecules into batches of similar length with at most ``budget`` tokens, padding included.

    Args:
        rows: molecules to use, in any order.
        lengths: tokens of every molecule of the corpus.
        budget: tokens of a batch; a molecule longer than this makes a batch of its own.
        rng: source of the order.
        pool: molecules are sorted by length within pools of about this many batches.
    """
    rows = rng.permutation(rows)
    step = max(1, int(pool * budget / max(1.0, float(lengths[rows].mean()))))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        cuts, first = [], 0
        for last in range(len(chunk)):
            if last > first and int(lengths[chunk[last]]) * (last - first + 1) > budget:
                cuts.append(last)
                first = last
        batches = np.split(chunk, cuts)
        for index in rng.permutation(len(batches)):
            yield batches[index]
