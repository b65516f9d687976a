from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from safetensors.numpy import load, save

from moltune import datasets
from moltune.data.splitting.similarity import morgan_bits
from moltune.domain import nearest
from moltune.domain.applicability import FLAGS, IN, LEVELS, NEAR, OUT, Domain
from moltune.domain.nearest import mean_distance, nearest_by_tanimoto, packed_fingerprints
from moltune.domain.traits import amino_acids, describe, traits
from moltune.errors import CheckpointError, DataError, NumericsError

SMILES = [
    Chem.CanonSmiles(one) for one in datasets.load("lipophilicity")["smiles"].sample(600, random_state=0).tolist()
]
TRAIN, TEST = SMILES[:450], SMILES[450:]


def embed(smiles: list[str]) -> np.ndarray:
    """Some smooth numbers of a molecule."""
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    rows = [[mol.GetNumAtoms(), mol.GetNumBonds(), sum(atom.GetAtomicNum() for atom in mol.GetAtoms())] for mol in mols]
    return np.column_stack([np.array(rows, dtype=np.float64), np.ones(len(rows))])


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain.fit(TRAIN)


@pytest.fixture(scope="module")
def embedded() -> Domain:
    return Domain.fit(TRAIN, embed(TRAIN))


def test_nearest_are_those_of_rdkit(domain: Domain) -> None:
    report = domain.check(TEST)
    known, asked = morgan_bits(TRAIN), morgan_bits(TEST)
    for row, bits in enumerate(asked):
        similarity = np.array(DataStructs.BulkTanimotoSimilarity(bits, known))
        expected = np.argsort(-similarity, kind="stable")[:3]
        np.testing.assert_array_equal(report.nearest[row], expected)
        np.testing.assert_allclose(report.similarity[row], similarity[expected], atol=1e-12)
    np.testing.assert_allclose(report.distance, 1 - report.similarity.mean(axis=1))


def test_of_equally_similar_molecules_the_first_is_the_nearest() -> None:
    fingerprints = packed_fingerprints([Chem.MolFromSmiles(one) for one in ["CCO", "CCN", "CCO", "CCO"]])
    positions, similarity = nearest_by_tanimoto(fingerprints[:1], fingerprints, 2)
    assert positions.tolist() == [[0, 2]]
    assert similarity.tolist() == [[1.0, 1.0]]
    positions, _ = nearest_by_tanimoto(fingerprints, fingerprints, 1, leave_out_self=True)
    assert positions.ravel().tolist() == [2, 0, 0, 0]


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.3, 0.9]))
def test_the_nearest_are_the_same_block_by_block_and_for_crowded_fingerprints(k: int, seed: int, share: float) -> None:
    bits = np.random.default_rng(seed).random((23, 512)) < share
    packed = np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    shared = (bits[:, None] & bits).sum(axis=2)
    expected = shared / np.maximum((bits[:, None] | bits).sum(axis=2), 1)
    np.fill_diagonal(expected, -1)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", 5)
        positions, similarity = nearest_by_tanimoto(packed, packed, k, leave_out_self=True)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(similarity, np.take_along_axis(expected, order, axis=1))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_distances_are_those_of_all_pairs(k: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(12, 3))
    pairs = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = np.sort(pairs, axis=1)
    np.testing.assert_allclose(mean_distance(points, points, k), expected[:, :k].mean(axis=1), atol=1e-6)
    left_out = mean_distance(points, points, k, leave_out_self=True)
    np.testing.assert_allclose(left_out, expected[:, 1 : k + 1].mean(axis=1), atol=1e-6)


def test_training_molecules_lie_beyond_the_cutoffs_in_the_promised_share(embedded: Domain) -> None:
    """Left out in turn, by each measure that a domain has."""
    fingerprints = packed_fingerprints([Chem.MolFromSmiles(one) for one in TRAIN])
    _, similarity = nearest_by_tanimoto(fingerprints, fingerprints, 3, leave_out_self=True)
    mols = [Chem.MolFromSmiles(one) for one in TRAIN]
    size = np.array([mol.GetNumHeavyAtoms() for mol in mols])
    chain = np.array([amino_acids(mol) for mol in mols])
    points = embedded.coordinates
    measures = [1 - similarity.mean(axis=1), size, -size, chain, mean_distance(points, points, 5, leave_out_self=True)]
    for column, share in enumerate(LEVELS):
        cutoffs = embedded.cutoffs[:, column]
        beyond = np.any([one > cutoff + 1e-9 for one, cutoff in zip(measures, cutoffs, strict=True)], axis=0)
        # One more in every measure would be too many.
        assert share - 6 / len(TRAIN) < beyond.mean() <= share


def test_few_molecules_of_the_same_kind_are_flagged(domain: Domain, embedded: Domain) -> None:
    for report in (domain.check(TEST), embedded.check(TEST, embed(TEST))):
        assert (report.flag > 0).mean() <= 0.1
        assert all(bool(reason) == (flag > 0) for reason, flag in zip(report.reasons, report.flag, strict=True))
        assert report.names == [FLAGS[value] for value in report.flag]


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CCO", "is small (3 heavy atoms"),
        ("[Na+].[Cl-]", "is a salt or mixture"),
        ("CC(C)NCC(O)COc1cccc2ccccc12.Cl", "is a salt or mixture"),
        ("N[Pt](N)(Cl)Cl", "contains platinum, a metal, never seen in training"),
        ("CC[Hg]Sc1ccccc1C(=O)O", "contains mercury, a metal, never seen"),
        ("c1ccc([Se]c2ccccc2)cc1", "contains selenium, never seen in training"),
        ("C[N+](C)(C)CC[N+](C)(C)C", "has the net charge +2, never seen"),
        ("O=C([O-])c1ccc(-c2ccccc2)cc1", "has the net charge −1, never seen"),
        ("[CH2]c1ccc(-c2ccccc2)cc1", "has unpaired electrons, never seen"),
        (
            Chem.MolToSmiles(Chem.MolFromSequence("ACDEFGHIK")),
            "is like a peptide (8 amides of amino acids; usual are at most ",
        ),
        ("C" * 90, "is large (90 heavy atoms"),
        ("C1CC2(C1)CC1(C2)OCCOCCOCCOO1", "its nearest training molecules are not similar"),
    ],
)
def test_what_is_strange_is_said(domain: Domain, smiles: str, reason: str) -> None:
    report = domain.check([smiles])
    assert any(one.startswith(reason) for one in report.reasons[0]), report.reasons
    assert report.flag[0] > 0


def test_the_most_telling_reason_comes_first(domain: Domain) -> None:
    starts = ["is a salt or mixture", "contains sodium, a metal", "has the charged atom Cl", "has the charged atom Na"]
    reasons = domain.check(["[Na+].[Cl-]"]).reasons[0]
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=False)), reasons


def test_a_trait_is_rare_before_it_is_unseen() -> None:
    plain = [one for one in SMILES if "Br" not in one]
    with_bromine = [one for one in SMILES if "Br" in one]
    molecule = with_bromine[-1]
    for count, expected in ((0, OUT), (1, NEAR), (5, IN)):
        train = plain[: 400 - count] + with_bromine[:count]
        report = Domain.fit(train).check([molecule])
        words = [one for one in report.reasons[0] if "bromine" in one]
        assert report.flag[0] >= expected
        assert bool(words) == (expected > IN)
        if count == 1:
            assert words == ["contains bromine, seen in 1 of 400 training molecules"]


def test_charges_of_a_nitro_group_are_no_charges() -> None:
    nitro, ion = Chem.MolFromSmiles("O=[N+]([O-])c1ccccc1"), Chem.MolFromSmiles("C[N+](C)(C)CC(=O)[O-]")
    assert not any(one.startswith("charged") for one in traits(nitro))
    assert {"charged N+1", "charged O-1", "net charge +0"} <= traits(ion)
    assert describe("charged O-1") == "has the charged atom O−1"


def test_a_report_does_not_depend_on_the_company(embedded: Domain) -> None:
    together = embedded.check(TEST, embed(TEST))
    order = np.random.default_rng(0).permutation(len(TEST))
    shuffled = embedded.check([TEST[i] for i in order], embed(TEST)[order])
    np.testing.assert_array_equal(shuffled.flag, together.flag[order])
    assert shuffled.reasons == [together.reasons[i] for i in order]
    alone = embedded.check(TEST[7:8], embed(TEST)[7:8])
    assert alone.reasons[0] == together.reasons[7]
    assert embedded.check([], np.empty((0, 4))).flag.shape == (0,)


def test_molecules_of_rdkit_are_taken_as_they_are(domain: Domain) -> None:
    read = domain.check([Chem.MolFromSmiles(one) for one in TEST])
    np.testing.assert_array_equal(read.flag, domain.check(TEST).flag)


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_training_molecules_does_not_matter(random: object) -> None:
    order = np.random.default_rng(random.randrange(2**32)).permutation(len(TRAIN))  # type: ignore[attr-defined]
    shuffled, plain = Domain.fit([TRAIN[i] for i in order]), Domain.fit(TRAIN)
    np.testing.assert_allclose(shuffled.cutoffs, plain.cutoffs)
    assert shuffled.counts == plain.counts
    np.testing.assert_array_equal(shuffled.check(TEST[:20]).flag, plain.check(TEST[:20]).flag)


@pytest.mark.parametrize("with_embeddings", [False, True])
def test_arrays_bring_it_back_exactly(domain: Domain, embedded: Domain, with_embeddings: bool) -> None:
    own, embeddings = (embedded, embed(TEST)) if with_embeddings else (domain, None)
    file = io.BytesIO()
    np.savez_compressed(file, **own.to_arrays())
    file.seek(0)
    for arrays in (dict(np.load(file, allow_pickle=False)), load(save(own.to_arrays()))):
        back = Domain.from_arrays(arrays)
        assert (back.smiles, back.counts) == (own.smiles, own.counts)
        before, after = own.check(TEST, embeddings), back.check(TEST, embeddings)
        assert (before.reasons, before.flag.tolist()) == (after.reasons, after.flag.tolist())
        np.testing.assert_array_equal(before.distance, after.distance)
        if with_embeddings:
            np.testing.assert_array_equal(before.embedding_distance, after.embedding_distance)


def test_arrays_that_do_not_fit_are_refused(domain: Domain) -> None:
    arrays = domain.to_arrays()
    with pytest.raises(CheckpointError, match="lacks cutoffs"):
        Domain.from_arrays({name: value for name, value in arrays.items() if name != "cutoffs"})
    with pytest.raises(CheckpointError, match="do not fit"):
        Domain.from_arrays({**arrays, "fingerprints": arrays["fingerprints"][:-1]})
    with pytest.raises(CheckpointError, match="later version"):
        Domain.from_arrays({**arrays, "version": np.array([99])})


def test_bad_input_is_named(domain: Domain, embedded: Domain) -> None:
    with pytest.raises(DataError, match=r"molecule 1 \('not'\)"):
        domain.check(["CCO", "not"])
    with pytest.raises(DataError, match="at least 5 training molecules"):
        Domain.fit(TRAIN[:4])
    with pytest.raises(DataError, match="needs those of new molecules"):
        embedded.check(TEST)
    with pytest.raises(DataError, match=r"shape \(2, 4\)"):
        embedded.check(TEST[:2], np.zeros((2, 3)))
    with pytest.raises(NumericsError, match="molecule 1 is not finite"):
        embedded.check(TEST[:2], np.array([[0.0] * 4, [np.nan] * 4]))


def test_a_tiny_training_set_works() -> None:
    domain = Domain.fit(TRAIN[:5], embed(TRAIN[:5]))
    report = domain.check(["CCO", "[Na+].[Cl-]"], embed(["CCO", "[Na+].[Cl-]"]))
    assert report.flag.tolist() == [OUT, OUT]


def test_checking_imports_neither_torch_nor_sklearn_nor_pandas() -> None:
    code = (
        "import sys, json; from moltune.domain.applicability import Domain; "
        "Domain.fit(['C' * i + 'O' for i in range(1, 9)]).check(['CCN']); "
        "print(json.dumps([name for name in ('torch', 'transformers', 'sklearn', 'pandas') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
