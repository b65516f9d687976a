"""Predictions of files of any length: every format in and out, on one process or two, and again after a kill."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny import RunSettings, said_of

from moltune import datasets
from moltune.bulk import predict as bulk
from moltune.bulk.predict import predict_file
from moltune.data.reading.read import read_table
from moltune.errors import DataError, MoltuneError, RunFolderError
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.tuning.finetune import finetune

PROPERTY = "hydration_free_energy"
ENDINGS = ["csv", "tsv", "jsonl", "csv.gz", "parquet", "xlsx", "smi", "sdf", "sdf.gz"]


@pytest.fixture(scope="module")
def probe(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A ridge on Morgan counts: cheap, and no language model."""
    changes = {"method.name": "probe", "method.probe.head": "ridge", "method.probe.features": "morgan"}
    return finetune(settings(output=tmp_path_factory.mktemp("probe") / "run", **changes))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Sixty molecules, some of them unreadable, with an identifier."""
    table = datasets.load("freesolv").iloc[200:260][["smiles"]].reset_index(drop=True)
    table.loc[[7, 33], "smiles"] = ["xx", "C1CC"]
    return table.assign(compound=[f"ID-{i}" for i in range(60)], n=range(60))


@pytest.fixture(scope="module")
def expected(probe: Run, table: pd.DataFrame) -> np.ndarray:
    return Predictor.load(probe.path).predict(table["smiles"].tolist())["predicted"].to_numpy()


def write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".xlsx":
        table.to_excel(path, index=False)
    elif path.name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict(orient="records")))
    elif path.suffix == ".smi":
        path.write_text("".join(f"{row.smiles} {row.compound}\n" for row in table.itertuples()))
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


@pytest.mark.parametrize("given", ["csv", "tsv", "jsonl", "csv.gz", "parquet", "xlsx", "smi"])
def test_every_format_in(probe: Run, table: pd.DataFrame, expected: np.ndarray, given: str, tmp_path: Path) -> None:
    write(table, tmp_path / f"in.{given}")
    done = predict_file(probe.path, tmp_path / f"in.{given}", tmp_path / "out.csv", piece=25, full_precision=True)
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["smiles"].tolist() == table["smiles"].tolist()
    assert found["name" if given == "smi" else "compound"].tolist() == table["compound"].tolist()
    np.testing.assert_allclose(found[PROPERTY], expected, rtol=1e-6)
    assert (done.rows, done.predicted, done.names[0][""]) == (60, 58, PROPERTY)
    assert done.failed is not None
    assert done.failed[:2] == (8, "xx")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([f"in.{given}", "out.csv"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_out(probe: Run, table: pd.DataFrame, expected: np.ndarray, ending: str, tmp_path: Path) -> None:
    write(table, tmp_path / "in.parquet")
    path = tmp_path / f"out.{ending}"
    predict_file(probe.path, tmp_path / "in.parquet", path, piece=25, full_precision=True)
    if ending == "smi":
        found = pd.read_csv(path, sep="\t")
    elif ending.startswith("sdf"):
        content = path.read_bytes()
        records = (gzip.decompress(content) if ending.endswith("gz") else content).decode().split("$$$$\n")[:-1]
        found = pd.DataFrame(
            [
                dict(zip(*[iter(part.replace("\n\n", "\n").split("\n")[:-1])] * 2, strict=False))
                for part in map(_properties, records)
            ]
        ).rename(columns=lambda name: name[len(">  <") : -1])
    else:
        found = read_table(path).frame
    assert found["smiles"].tolist() == table["smiles"].tolist()
    assert found["compound"].tolist() == table["compound"].tolist()
    assert found["n"].astype(int).tolist() == list(range(60))
    values = pd.to_numeric(found[PROPERTY].where(found[PROPERTY] != "", None)).to_numpy(dtype=float)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    again = tmp_path / f"again.{ending}"
    time.sleep(1.1 if ending.endswith(("gz", "xlsx")) else 0)
    predict_file(probe.path, tmp_path / "in.parquet", again, piece=25, full_precision=True)
    assert again.read_bytes() == path.read_bytes()


def _properties(record: str) -> str:
    return record[record.index(">  <") :]


def test_sdf_keeps_its_records(probe: Run, tmp_path: Path) -> None:
    """Coordinates and properties as they were, the new ones behind them; columns of all pieces in a CSV."""
    from rdkit import Chem

    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles("C" * (i + 1))) for i in range(5)]
    blocks = [block + (f">  <p{i}>\n{i}\n\n" if i else "") for i, block in enumerate(blocks)]
    (tmp_path / "in.sdf").write_text("$$$$\n".join([*blocks, ""]))
    predict_file(probe.path, tmp_path / "in.sdf", tmp_path / "out.sdf", piece=2)
    records = (tmp_path / "out.sdf").read_text().split("$$$$\n")
    assert all(record.startswith(block) for record, block in zip(records, blocks, strict=False))
    assert all(f">  <{PROPERTY}>\n" in record for record in records[:-1])
    assert len(read_table(tmp_path / "out.sdf").frame) == 5
    predict_file(probe.path, tmp_path / "in.sdf", tmp_path / "out.csv", piece=2)
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found) == ["smiles", "p1", "p2", "p3", "p4", *said_of(PROPERTY, "_low", "_high", "_sd")]
    assert found["p4"].tolist()[4] == 4


def test_parquet_keeps_types(probe: Run, table: pd.DataFrame, tmp_path: Path) -> None:
    given = table.assign(
        when=pd.Timestamp("2026-01-02"), gaps=pd.array([None, *range(59)], dtype="Int64"), half=0.5, empty=None
    )
    given.to_parquet(tmp_path / "in.parquet")
    predict_file(probe.path, tmp_path / "in.parquet", tmp_path / "out.parquet", piece=7)
    found = pd.read_parquet(tmp_path / "out.parquet", dtype_backend="pyarrow")
    for name, kind in {"n": "int64", "gaps": "int64", "half": "double", "when": "timestamp"}.items():
        assert str(found[name].dtype).startswith(kind), name
    assert found["gaps"].isna().tolist() == [True] + [False] * 59


@pytest.mark.slow
def test_two_processes_give_the_same(probe: Run, table: pd.DataFrame, tmp_path: Path) -> None:
    write(table, tmp_path / "in.csv")
    for workers in (1, 2):
        predict_file(probe.path, tmp_path / "in.csv", tmp_path / f"{workers}.csv", piece=7, workers=workers)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_known_molecules_are_found_without_the_inchikeys_of_all_others(
    probe: Run, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = probe.splits["smiles"].head(5).tolist()
    write(pd.concat([table, pd.DataFrame({"smiles": [*known, "[Na]", "*C"]})]), tmp_path / "in.csv")
    predict_file(probe.path, tmp_path / "in.csv", tmp_path / "quick.csv")
    monkeypatch.setattr(Predictor, "formulas", lambda self, rows: None)
    predict_file(probe.path, tmp_path / "in.csv", tmp_path / "thorough.csv")
    assert (tmp_path / "quick.csv").read_bytes() == (tmp_path / "thorough.csv").read_bytes()
    measured = pd.read_csv(tmp_path / "quick.csv").filter(like="_measured").filter(regex="^(?!.*nearest)").iloc[:, 0]
    assert measured.tail(7).notna().tolist() == [True] * 5 + [False] * 2


class _Stop(MoltuneError):
    pass


def test_finished_pieces_are_not_done_twice(
    probe: Run, finished: Run, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(table, tmp_path / "in.csv")
    options = {"source": tmp_path / "in.csv", "output": tmp_path / "out.csv", "piece": 10}
    predict_file(probe.path, tmp_path / "in.csv", tmp_path / "through.csv", piece=10)
    calls = 0
    original = Predictor.predict_rows

    def predict_rows(self: Predictor, *given: object) -> pd.DataFrame:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise _Stop("here")
        return original(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict_rows", predict_rows)
    folder = tmp_path / "out.csv.unfinished"
    with pytest.raises(_Stop):
        predict_file(probe.path, **options)
    assert len(list(folder.glob("*.parquet"))) == 3
    assert not (tmp_path / "out.csv").exists()
    predict_file(probe.path, **options)
    assert calls == 4 + 3
    assert not folder.exists()
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "through.csv").read_bytes()
    # Another input, model or setting begins again.
    for change in ("input", "model", "batch"):
        calls = 0
        with pytest.raises(_Stop):
            predict_file(probe.path, **options)
        calls = 10
        if change == "input":
            table.iloc[::-1].to_csv(tmp_path / "in.csv", index=False)
        more = {"batch_size": 7} if change == "batch" else {}
        predict_file(finished.path if change == "model" else probe.path, **options, **more)
        assert calls == 10 + 6, change
        assert not folder.exists()


def test_a_folder_in_the_way(probe: Run, table: pd.DataFrame, tmp_path: Path) -> None:
    write(table, tmp_path / "in.csv")
    (tmp_path / "out.csv.unfinished").mkdir()
    (tmp_path / "out.csv.unfinished" / "mine").touch()
    with pytest.raises(RunFolderError, match="holds something else"):
        predict_file(probe.path, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv.unfinished" / "mine").exists()


def test_too_many_rows_for_a_sheet(
    probe: Run, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltune.bulk.writers._SHEET_ROWS", 50)
    with pytest.raises(DataError, match="A sheet holds 50 rows"):
        predict_file(probe.path, table, tmp_path / "out.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments(
    probe: Run, table: pd.DataFrame, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done when the kill came, the same command ends with the same bytes and leaves nothing behind."""
    source = pd.concat([table] * 100, ignore_index=True)
    source.to_csv(tmp_path / "in.csv", index=False)
    code = (
        "import sys; from moltune.bulk.predict import predict_file\n"
        "if __name__ == '__main__':\n"
        f"    predict_file({str(probe.path)!r}, 'in.csv', sys.argv[1], piece=100, workers={workers})\n"
    )
    (tmp_path / "job.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(output: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "job.py", output], cwd=tmp_path, env=environment)

    assert start("through.csv").wait(300) == 0
    moments = random.Random(workers)
    folder = tmp_path / "out.csv.unfinished"
    kills = 0
    # Each start of two more processes takes seconds.
    for _ in range(5 if workers == 1 else 2):
        process = start("out.csv")
        before = len(list(folder.glob("0*.parquet")))
        while len(list(folder.glob("0*.parquet"))) <= before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "out.csv").exists():
            (tmp_path / "out.csv").unlink()
    assert kills
    assert start("out.csv").wait(300) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "through.csv").read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.csv", "job.py", "out.csv", "through.csv"]


def test_the_digest_of_a_model_is_of_its_files(probe: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"1")
    first = bulk.folder_digest(folder)
    (folder / "report.html").write_text("x")
    assert bulk.folder_digest(folder) == first
    (folder / "a.safetensors").write_bytes(b"2")
    assert bulk.folder_digest(folder) != first
