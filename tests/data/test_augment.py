from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from moltune.data.augment import AugmentedDataset, AugmentedSampler, Speller
from moltune.models.molformer import MolformerTokenizer

SMILES = ["CC(=O)Nc1ccc(O)cc1", "OCC1OC(O)C(O)C(O)C1O", "CCN(CC)CCOC(=O)c1ccc(N)cc1", "C[C@H](N)C(=O)O", "CCO"] * 4
TOKENIZER = MolformerTokenizer()


def dataset(copies: int = 2, seed: int = 0) -> AugmentedDataset:
    return AugmentedDataset(TOKENIZER, SMILES, np.arange(len(SMILES), dtype=float), copies=copies, seed=seed)


def texts(data: AugmentedDataset) -> list[str]:
    decoded = TOKENIZER.batch_decode(data.input_ids, skip_special_tokens=True)
    return ["".join(text.split()) for text in decoded]


def test_each_molecule_comes_in_copies_with_its_target() -> None:
    data = dataset(copies=3)
    assert len(data) == 3 * len(SMILES)
    for at, text in enumerate(texts(data)):
        assert Chem.CanonSmiles(text) == Chem.CanonSmiles(SMILES[at % len(SMILES)])
        assert data[at]["labels"] == at % len(SMILES)
        assert data.lengths[at] == len(data[at]["input_ids"])


def test_spellings_are_fresh_in_each_epoch_and_depend_on_seed_and_epoch_alone() -> None:
    data = dataset()
    first = texts(data)
    data.set_epoch(1)
    second = texts(data)
    assert sum(a != b for a, b in zip(first, second, strict=True)) > len(first) / 2
    copies = np.array(first).reshape(2, -1)
    assert (copies[0] != copies[1]).mean() > 0.5
    data.set_epoch(0)
    assert texts(data) == first
    late = dataset()
    late.set_epoch(1)
    assert texts(late) == second
    assert texts(dataset(seed=1)) != first


@pytest.mark.parametrize("bucket", [True, False])
def test_sampler_moves_the_dataset_and_visits_every_item(bucket: bool) -> None:
    data = dataset()
    sampler = AugmentedSampler(data, 4, seed=0, bucket=bucket)
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(data)))
        assert data.epoch == epoch
        if bucket:
            lengths = np.array(data.lengths)[order].reshape(-1, 4)
            assert np.ptp(lengths, axis=1).mean() < np.ptp(np.array(data.lengths).reshape(-1, 4), axis=1).mean()


def test_what_the_model_cannot_read_keeps_its_own_smiles() -> None:
    longest = max(len(ids) for ids in TOKENIZER(SMILES)["input_ids"])
    for text, own in zip(Speller(TOKENIZER, SMILES, 0, longest).spell(1), SMILES, strict=True):
        assert len(TOKENIZER(text)["input_ids"]) <= longest
        assert Chem.CanonSmiles(text) == Chem.CanonSmiles(own)
    narrow = MolformerTokenizer.from_vocabulary(["<bos>", "<eos>", "<pad>", "<mask>", "C", "O", "N", "(", ")", "<unk>"])
    # Branches other than the canonical one need brackets that this vocabulary has, but never "=".
    spelled = Speller(narrow, ["CCO", "OC=C"], 0).spell(1)
    assert spelled[1] == "OC=C"
    assert spelled[0] in {"CCO", "OCC", "C(C)O", "C(O)C"}
