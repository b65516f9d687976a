import json

import numpy as np
import pytest

from moltune.config import SplitSettings
from moltune.data.describe import describe
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.splitting.split import make_split


def test_counts_of_a_small_table():
    smiles = ["c1ccccc1C", "c1ccccc1O", "CC(N)C(=O)O", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "CC(=O)[O-]", "bad"]
    molecules = molecules_from_lists(smiles, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    found = describe(molecules)
    assert (found["rows_in"], found["kept"], found["rejected"]) == (7, 6, 1)
    assert found["rejected_by_reason"] == {"not a valid SMILES": 1}
    assert (found["scaffolds"], found["largest_scaffold"], found["acyclic"]) == (1, 2, 4)
    assert (found["stereo"], found["stereo_open"]) == (2, 1)
    assert (found["charged"], found["with_charged_atoms"], found["multi_fragment"]) == (1, 2, 1)
    assert found["elements"]["O"] == 4
    assert found["target"]["mean"] == 3.5
    assert found["target"]["sd"] == pytest.approx(np.std([1, 2, 3, 4, 5, 6], ddof=1))
    assert found["heavy_atoms"]["max"] == 7
    assert "parts" not in found


def test_bundled_set_with_a_split_is_ready_for_json():
    molecules = load_molecules("esol")
    found = json.loads(json.dumps(describe(molecules, make_split(molecules, SplitSettings(), 0)), allow_nan=False))
    assert found["duplicates"]["rows"] == 22
    assert {name: part["n"] for name, part in found["parts"].items()} == {"train": 782, "validation": 112, "test": 223}


def test_without_targets():
    assert describe(molecules_from_lists(["C"], None))["target"] is None
