"""Embeddings of files: those of the encoder, in the order of the rows, with a gap where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moltune.bulk.embed import embed_file
from moltune.config import ModelSettings
from moltune.data.cleaning.clean import clean_smiles
from moltune.errors import CheckpointError, DataError
from moltune.features.embedding import Encoder
from moltune.run import Run

SMILES = ["CCO", "xx", "Oc1ccccc1", "C" * 300, "C[Og]C", "CCN", ""]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    pd.DataFrame({"id": [f"a{i}" for i in range(7)], "smiles": SMILES}).to_csv(path, index=False)
    return path


def test_embeddings_of_a_checkpoint(tiny_model: Path, given: Path, tmp_path: Path) -> None:
    assert embed_file(tiny_model, given, tmp_path / "out.npy", piece=3) == (7, 4, 32)
    assert embed_file(tiny_model, given, tmp_path / "out.parquet", piece=3) == (7, 4, 32)
    values = np.load(tmp_path / "out.npy")
    assert (values.shape, values.dtype) == ((7, 32), np.float32)
    good = [0, 2, 4, 5]
    expected = Encoder(ModelSettings(name=str(tiny_model)))([clean_smiles(SMILES[at]).smiles for at in good])
    np.testing.assert_allclose(values[good], expected, atol=1e-5)
    assert np.isnan(values).all(axis=1).tolist() == [at not in good for at in range(7)]
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table) == ["id", "smiles", "embedding", "note"]
    assert table["id"].tolist() == [f"a{i}" for i in range(7)]
    np.testing.assert_array_equal(np.stack(table["embedding"][good]), values[good])
    assert table["embedding"].isna().tolist() == [at not in good for at in range(7)]
    assert "not a valid SMILES" in table["note"][1]
    assert "302 tokens" in table["note"][3]
    assert "[Og]" in table["note"][4]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.csv", "out.npy", "out.parquet"]


def test_embeddings_of_a_run_are_those_after_tuning(
    finished: Run, tiny_model: Path, given: Path, tmp_path: Path
) -> None:
    embed_file(tiny_model, given, tmp_path / "before.npy")
    embed_file(finished.path, given, tmp_path / "after.npy")
    before, after = (np.load(tmp_path / name) for name in ("before.npy", "after.npy"))
    assert before.shape == after.shape
    assert np.abs(before[0] - after[0]).max() > 1e-4


def test_what_cannot_be_embedded(tiny_model: Path, given: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"use \.npy or \.parquet"):
        embed_file(tiny_model, given, tmp_path / "out.csv")
    with pytest.raises(CheckpointError, match="there is no model"):
        embed_file("./nope", given, tmp_path / "out.npy")
    with pytest.raises(DataError, match="not one molecule"):
        embed_file(tiny_model, pd.DataFrame({"smiles": ["xx"]}), tmp_path / "out.npy")
    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]
