"""The tokenised corpus and its batches by token budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltune.errors import DataError
from moltune.models.molformer import MolformerTokenizer
from moltune.pretraining.corpus.tokens import TokenCorpus, token_batches, write_tokens

SMILES = ["CCO", "c1ccccc1", "C", "CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_round_trip(tmp_path: Path, chunk: int) -> None:
    tokenizer = MolformerTokenizer()
    corpus = write_tokens(SMILES, tokenizer, tmp_path / "corpus", chunk=chunk)
    again = TokenCorpus(tmp_path / "corpus")
    expected = tokenizer(SMILES)["input_ids"]
    assert len(corpus) == len(again) == 6
    assert again.lengths.tolist() == [len(ids) for ids in expected]
    assert again.tokens.dtype == np.uint16
    rows = np.array([3, 0, 0, 5])
    padded = again.padded(rows, pad_id=2)
    assert padded.dtype == np.int64
    assert padded.shape == (4, max(len(expected[row]) for row in rows))
    for line, row in zip(padded, rows, strict=True):
        assert line[: len(expected[row])].tolist() == expected[row]
        assert (line[len(expected[row]) :] == 2).all()
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["offsets.npy", "tokens.npy"]


def test_missing_corpus_and_large_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"offsets\.npy is missing"):
        TokenCorpus(tmp_path)

    class Large:
        def __len__(self) -> int:
            return 70_000

    with pytest.raises(DataError, match="70000 tokens"):
        write_tokens(SMILES, Large(), tmp_path)


@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=200), st.integers(1, 500), st.integers(0, 99), st.integers(1, 9)
)
def test_batches_cover_every_row_once_within_the_budget(lengths: list[int], budget: int, seed: int, pool: int) -> None:
    known = np.array(lengths)
    rows = np.flatnonzero(np.arange(len(lengths)) % 3 != 1)
    batches = list(token_batches(rows, known, budget, np.random.default_rng(seed), pool))
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    for batch in batches:
        assert len(batch) > 0
        assert len(batch) == 1 or known[batch].max() * len(batch) <= budget


def test_batches_use_the_budget_and_depend_on_the_generator() -> None:
    lengths = np.random.default_rng(0).integers(10, 80, 5000)
    rows = np.arange(5000)
    batches = list(token_batches(rows, lengths, 2000, np.random.default_rng(1)))
    real = sum(int(lengths[batch].sum()) for batch in batches)
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert real / padded > 0.95
    assert real / (2000 * len(batches)) > 0.9
    same = list(token_batches(rows, lengths, 2000, np.random.default_rng(1)))
    other = list(token_batches(rows, lengths, 2000, np.random.default_rng(2)))
    assert all(np.array_equal(one, two) for one, two in zip(batches, same, strict=True))
    assert not {frozenset(batch.tolist()) for batch in batches} & {frozenset(batch.tolist()) for batch in other}
    # The order of the batches says nothing about their length.
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)
