import json

import numpy as np
import pytest
from rdkit import DataStructs

from moltune.config import SplitSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.splitting.leakage import check_leakage
from moltune.data.splitting.similarity import morgan_bits, nearest_similarity
from moltune.data.splitting.split import Split, make_split


def split_of(train, validation, test):
    arrays = [np.array(part, dtype=np.int64) for part in (train, validation, test)]
    return Split(*arrays, method="column", seed=0)


def test_planted_leaks_are_found_and_put_in_words():
    smiles = ["C[C@H](N)C(=O)O", "CCO", "c1ccccc1", "C[C@@H](N)C(=O)O", "OCC", "CCCCCCN"]
    molecules = molecules_from_lists(smiles, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = check_leakage(molecules, split_of([0, 1, 2], [3], [4, 5]))
    assert found.same_inchikey == {"validation in train": 0, "test in train": 1, "test in validation": 0}
    assert found.same_connectivity == {"validation in train": 1, "test in train": 1, "test in validation": 0}
    assert found.nearest["validation->train"]["max"] == 1.0
    assert found.nearest["test->train"]["share_identical"] == 0.5
    assert any("1 test molecules are in the train part" in text for text in found.words)
    assert any("1 validation molecules differ" in text for text in found.words)
    assert json.loads(json.dumps(found.to_dict()))["words"] == found.words


def test_no_leak_no_words():
    molecules = molecules_from_lists(["CCO", "c1ccccc1", "FC(F)(F)S"], [1.0, 2.0, 3.0])
    found = check_leakage(molecules, split_of([0, 1], [], [2]))
    assert found.words == []
    assert list(found.nearest) == ["test->train"]


def test_nearest_similarity_is_the_largest_tanimoto():
    bits = morgan_bits(["CCO", "CCCO", "c1ccccc1", "CCN"])
    expected = [max(DataStructs.TanimotoSimilarity(bits[i], bits[j]) for j in (0, 2)) for i in (1, 3)]
    assert nearest_similarity(bits, np.array([1, 3]), np.array([0, 2])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["scaffold", "cluster"])
def test_group_splits_are_further_away_than_random_ones(method):
    molecules = load_molecules("esol")
    means = [
        check_leakage(molecules, make_split(molecules, SplitSettings(method=name), 0)).nearest["test->train"]["mean"]
        for name in ("random", method)
    ]
    assert means[1] < means[0]
