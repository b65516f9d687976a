"""From SMILES to padded batches, for any tokenizer that is handed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler


class SmilesDataset(Dataset[dict[str, Any]]):
    """Tokenised molecules, with targets in their own unit if there are any: (n,), or (n, properties) with NaN for gaps.

    ``side`` says of each target whether the measurement is above it (1), below it (-1) or it (0); ``None``: 0 for all.
    Inputs are cut to ``max_length`` tokens (the end token stays); ``None``: never.
    """

    def __init__(
        self,
        tokenizer: Any,
        smiles: Sequence[str],
        target: np.ndarray | None = None,
        max_length: int | None = None,
        side: np.ndarray | None = None,
    ) -> None:
        cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
        self.input_ids: list[list[int]] = tokenizer(list(smiles), **cut)["input_ids"] if len(smiles) else []
        self.target = None if target is None else np.asarray(target, dtype=np.float32)
        self.side = side
        self.lengths = [len(ids) for ids in self.input_ids]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = {} if self.target is None else {"labels": self.target[index].tolist()}
        side = {} if self.side is None else {"side": int(self.side[index])}
        return {"input_ids": self.input_ids[index], **labels, **side}


class PadCollator:
    """Pad a list of items to the longest of them."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``attention_mask`` (batch, length) and, where given, ``labels`` and ``side``."""
        ids = [torch.tensor(item["input_ids"], dtype=torch.long) for item in items]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        }
        if "labels" in items[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in items], dtype=torch.float32)
        if "side" in items[0]:
            batch["side"] = torch.tensor([item["side"] for item in items], dtype=torch.long)
        return batch


MOST_BATCHES_IN_POOL = 32


class LengthBucketSampler(Sampler[int]):
    """A fresh order for each epoch in which every run of ``batch_size`` molecules is of similar length.

    Molecules are shuffled, sorted by length within pools of ``pool`` batches, cut into batches, and the batches
    are shuffled. The order depends on seed and epoch alone, so a resumed run sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, pool: int | None = None) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        # One pool of everything would put the same molecules together in every epoch.
        self.pool = min(MOST_BATCHES_IN_POOL, -(-len(self.lengths) // (2 * batch_size))) if pool is None else pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        step = self.batch_size * self.pool
        pools = [order[start : start + step] for start in range(0, len(order), step)]
        ordered = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        full = len(ordered) // self.batch_size * self.batch_size
        batches = ordered[:full].reshape(-1, self.batch_size)
        # An incomplete batch goes last, or it would shift the cuts of all that follow.
        return iter(np.concatenate([batches[rng.permutation(len(batches))].ravel(), ordered[full:]]).tolist())


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut positions into batches of similar length, longest first, for inference."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
