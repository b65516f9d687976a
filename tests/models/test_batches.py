"""Orders, padding and batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moltune.models.batches import LengthBucketSampler, PadCollator, SmilesDataset, sorted_batches
from moltune.models.molformer import MolformerTokenizer

lengths = st.lists(st.integers(1, 200), min_size=1, max_size=300)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32)


def order_of(sampler: LengthBucketSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


@given(lengths, sizes, seeds, st.integers(0, 50), st.integers(1, 20))
def test_sampler_gives_every_molecule_once(lengths: list[int], size: int, seed: int, epoch: int, pool: int) -> None:
    sampler = LengthBucketSampler(lengths, size, seed, pool)
    order = order_of(sampler, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)
    assert all(type(position) is int for position in order)


@given(lengths, sizes, seeds)
def test_sampler_depends_on_seed_and_epoch_alone(lengths: list[int], size: int, seed: int) -> None:
    one, two = LengthBucketSampler(lengths, size, seed), LengthBucketSampler(lengths, size, seed)
    torch.manual_seed(1)
    first, second = order_of(one, 0), order_of(one, 1)
    torch.manual_seed(2)
    assert order_of(two, 1) == second
    assert order_of(two, 0) == first == order_of(one, 0)


def test_sampler_changes_with_epoch_and_seed() -> None:
    lengths = np.random.default_rng(0).integers(5, 80, 400)
    sampler = LengthBucketSampler(lengths, 16, seed=0)
    orders = [order_of(sampler, epoch) for epoch in range(4)] + [order_of(LengthBucketSampler(lengths, 16, 1), 0)]
    assert len({tuple(order) for order in orders}) == 5
    # Not only the order of the batches changes, but their members.
    batches = [{frozenset(order[start : start + 16]) for start in range(0, 400, 16)} for order in orders]
    assert not batches[0] & batches[1]


def test_batches_are_of_similar_length() -> None:
    """Padding falls to a third or less of what a random order needs."""
    lengths = np.random.default_rng(0).integers(5, 80, 2000)
    order = np.array(order_of(LengthBucketSampler(lengths, 32, seed=0), 3))

    def padding(order: np.ndarray) -> int:
        batches = np.split(lengths[order], range(32, len(order), 32))
        return sum(int(batch.max() * len(batch) - batch.sum()) for batch in batches)

    assert padding(order) < padding(np.random.default_rng(1).permutation(2000)) / 3


@given(lengths, sizes)
def test_incomplete_batch_comes_last(lengths: list[int], size: int) -> None:
    """Each full batch holds neighbours in length, which a shifted cut would mix."""
    order = order_of(LengthBucketSampler(lengths, size, 0, pool=1000), 0)
    full = len(order) // size * size
    spans = []
    for start in range(0, full, size):
        found = [lengths[position] for position in order[start : start + size]]
        spans.append((min(found), max(found)))
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@given(st.lists(st.integers(1, 200), max_size=200), sizes)
def test_sorted_batches_cover_everything_longest_first(lengths: list[int], size: int) -> None:
    batches = sorted_batches(lengths, size)
    flat = [position for batch in batches for position in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    ordered = [lengths[position] for position in flat]
    assert ordered == sorted(lengths, reverse=True)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=30), min_size=1, max_size=8), st.booleans())
def test_padding(ids: list[list[int]], labelled: bool) -> None:
    items = [{"input_ids": one, **({"labels": float(row)} if labelled else {})} for row, one in enumerate(ids)]
    batch = PadCollator(pad_token_id=2)(items)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(ids), max(map(len, ids)))
    for row, one in enumerate(ids):
        assert batch["input_ids"][row, : len(one)].tolist() == one
        assert (batch["input_ids"][row, len(one) :] == 2).all()
        assert batch["attention_mask"][row].sum() == len(one)
        assert batch["attention_mask"][row, : len(one)].all()
    assert ("labels" in batch) == labelled
    if labelled:
        assert batch["labels"].dtype == torch.float32
        assert batch["labels"].tolist() == list(range(len(ids)))


def test_dataset() -> None:
    tokenizer = MolformerTokenizer()
    data = SmilesDataset(tokenizer, ["CCO", "c1ccccc1"], np.array([1.5, -2.0]))
    assert len(data) == 2
    assert data.lengths == [5, 10]
    assert data[1]["labels"] == -2.0
    assert tokenizer.decode(data[0]["input_ids"]).replace(" ", "") == "<bos>CCO<eos>"
    assert "labels" not in SmilesDataset(tokenizer, ["CCO"])[0]
    assert len(SmilesDataset(tokenizer, [])) == 0


def test_dataset_cuts_but_keeps_the_end_token() -> None:
    tokenizer = MolformerTokenizer()
    data = SmilesDataset(tokenizer, ["C" * 50, "CC"], max_length=10)
    assert data.lengths == [10, 4]
    assert data[0]["input_ids"][0] == tokenizer.bos_token_id
    assert data[0]["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("size", [1, 7])
def test_one_molecule(size: int) -> None:
    assert order_of(LengthBucketSampler([5], size, 0), 0) == [0]
    assert sorted_batches([5], size) == [[0]]
