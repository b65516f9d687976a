"""Tables as people have them, through the commands: what is said first, and which columns come out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from moltune import datasets
from moltune.run import Run

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled molecules with a compound's ID and a column whose name we use ourselves; the last row is none."""
    path = tmp_path_factory.mktemp("external") / "external.csv"
    table = datasets.load("freesolv").iloc[110:150][["smiles", "hydration_free_energy"]]
    table = table.assign(compound=[f"ID-{i}" for i in range(len(table))], rank="mine")
    broken = pd.DataFrame({"smiles": ["C1CC"], "hydration_free_energy": [1.0], "compound": ["ID-x"], "rank": ["mine"]})
    pd.concat([table, broken]).to_csv(path, index=False)
    return path


def compounds(path: Path) -> set[str]:
    return set(pd.read_csv(path)["compound"])


def test_an_identifier_goes_through_every_command(
    moltune: Invoke, external: Path, small_csv: Path, tiny_model: Path, finished: Run, tmp_path: Path
) -> None:
    everyone = {f"ID-{i}" for i in range(40)}
    column = ("--target", "hydration_free_energy")
    assert moltune("data", "clean", external, *column, "-o", tmp_path / "cleaned", "-q").exit_code == 0
    assert compounds(tmp_path / "cleaned" / "clean.csv") == everyone
    assert compounds(tmp_path / "cleaned" / "rejects.csv") == {"ID-x"}
    assert moltune("data", "split", external, *column, "-o", tmp_path / "split.csv", "-q").exit_code == 0
    assert compounds(tmp_path / "split.csv") == everyone
    audit = ("audit", external, "--against", small_csv, "--model", tiny_model, "-o", tmp_path / "audit", "-q")
    assert moltune(*audit).exit_code == 0
    assert compounds(tmp_path / "audit" / "shared.csv") == {f"ID-{i}" for i in range(10)}
    influence = ("influence", finished.path, external, *column, "-o", tmp_path / "scores", "--solver", "exact", "-q")
    assert moltune(*influence).exit_code == 0
    assert compounds(tmp_path / "scores" / "scores.csv") == everyone
    scores = pd.read_csv(tmp_path / "scores" / "scores.csv")
    assert set(scores["source_rank"]) == {"mine"}
    assert scores["rank"].dtype == int
    spread = ("uncertainty", finished.path, external, *column, "-o", tmp_path / "spread", "--passes", 4, "-q")
    assert moltune(*spread).exit_code == 0
    assert compounds(tmp_path / "spread" / "uncertainty.csv") == everyone
    for table in (tmp_path / "scores" / "scores.csv", tmp_path / "spread" / "uncertainty.csv"):
        strategy = "influence" if table.name == "scores.csv" else "uncertainty"
        command = ("select", table, "-n", 7, "--strategy", strategy, "-o", tmp_path / f"{strategy}.csv", "-q")
        assert moltune(*command).exit_code == 0
        assert len(compounds(tmp_path / f"{strategy}.csv") & everyone) == 7
    assert (
        moltune("select", external, *column, "-n", 3, "--strategy", "random", "-o", tmp_path / "r.csv").exit_code == 0
    )
    assert len(compounds(tmp_path / "r.csv") & everyone) == 3


def test_clean_keeps_the_name_of_the_target_and_takes_a_file_or_a_folder(
    moltune: Invoke, external: Path, tmp_path: Path
) -> None:
    column = ("--target", "hydration_free_energy", "-q")
    assert moltune("data", "clean", external, *column, "-o", tmp_path / "folder").exit_code == 0
    assert moltune("data", "clean", external, *column, "-o", tmp_path / "file.csv").exit_code == 0
    assert (tmp_path / "folder" / "clean.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    assert (tmp_path / "folder" / "rejects.csv").read_bytes() == (tmp_path / "rejects.csv").read_bytes()
    table = pd.read_csv(tmp_path / "file.csv")
    expected = datasets.load("freesolv").iloc[110:150]["hydration_free_energy"].tolist()
    assert table["hydration_free_energy"].tolist() == expected
    assert "target" not in table
    assert moltune("data", "clean", tmp_path / "none.csv", "-o", tmp_path / "no").exit_code == 2
    assert not (tmp_path / "no").exists()


def test_the_first_line_says_how_the_table_is_read(moltune: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id;SMILES;IC50\n1;CCO;4,69 uM\n2;CCN;500 nM\n3;CCC;> 10 uM\n4;bad(;1 uM\n")
    result = moltune("data", "clean", path, "-o", tmp_path / "out.csv", "--transform", "neg-log10-molar")
    first, *others = result.stderr.splitlines()
    assert "structure 'SMILES', target 'IC50' as -log10 IC50 (M), in -log10 M; 4 rows, 2 kept, 2 left out" in first
    assert any("decimal comma: '4,69' is read as 4.69" in line for line in others)
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["-log10 IC50 (M)"].tolist() == pytest.approx([5.328827, 6.30103])
    # Read again it is what it is.
    again = moltune("data", "describe", tmp_path / "out.csv", "--target", "-log10 IC50 (M)", "--json")
    assert json.loads(again.stdout)["columns"]["unit"] == "-log10 M"


def test_describe_needs_no_target(moltune: Invoke, tmp_path: Path) -> None:
    (tmp_path / "molecules.smi").write_text("CCO\nCCN first\nc1ccccc1\n")
    result = moltune("data", "describe", tmp_path / "molecules.smi", "--json")
    summary = json.loads(result.stdout)
    assert (summary["kept"], summary["target"], summary["columns"]["structure"]) == (3, None, "smiles")
    assert "structure 'smiles', no target; 3 rows, 3 kept" in result.stderr.splitlines()[0]


def test_what_is_ambiguous_names_the_option_and_the_option_decides(moltune: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('smiles,y\nC,"1,234"\nCC,"2,345"\n')
    result = moltune("data", "describe", tmp_path / "a.csv")
    assert result.exit_code == 2
    assert "'1,234' is 1234.0 with a decimal point and 1.234 with a decimal comma" in result.stderr
    for option, largest in (("point", 2345.0), ("comma", 2.345)):
        shown = moltune("data", "describe", tmp_path / "a.csv", "--decimal", option, "--json")
        assert json.loads(shown.stdout)["target"]["max"] == largest


def test_evaluate_reads_measurements_in_the_unit_of_the_model(
    moltune: Invoke, tiny_model: Path, small_table: pd.DataFrame, quick: list[str], tmp_path: Path
) -> None:
    table = small_table[["smiles", "hydration_free_energy"]].set_axis(["smiles", "energy (kcal/mol)"], axis=1)
    table.to_csv(tmp_path / "own.csv", index=False)
    joules = table.assign(**{"energy (kJ/mol)": table["energy (kcal/mol)"] * 4.184}).drop(columns="energy (kcal/mol)")
    joules.to_csv(tmp_path / "joules.csv", index=False)
    assert moltune("finetune", tmp_path / "own.csv", *quick, "-o", tmp_path / "run", "-q").exit_code == 0
    errors = [
        json.loads(moltune("evaluate", tmp_path / "run", tmp_path / name, "--json", "-q").stdout)["rmse"]["value"]
        for name in ("own.csv", "joules.csv")
    ]
    assert errors[0] == pytest.approx(errors[1])
    scored = moltune(
        "uncertainty", tmp_path / "run", tmp_path / "joules.csv", "-o", tmp_path / "u", "--passes", 3, "-q"
    )
    assert scored.exit_code == 0
    found = pd.read_csv(tmp_path / "u" / "uncertainty.csv")
    assert found["label"].tolist() == pytest.approx(table["energy (kcal/mol)"].tolist(), abs=1e-9)
    assert set(found["label_unit"]) == {"kcal/mol"}


def test_tune_does_not_search_what_is_set(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    common = ("tune", small_csv, *quick, "--method", "probe", "--trials", 2, "--json", "-q", "-o")
    fixed = ("--set", "method.probe.features=rdkit", "--set", "method.probe.C=7", "--set", "evaluation.bootstrap=10")
    result = moltune(*common, tmp_path / "search", *fixed)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert not {"method.probe.C", "method.probe.features"} & set(found["best"])
    assert "method.probe.head" in found["best"]
    both = moltune(*common, tmp_path / "both", *fixed, "--space", "method.probe.C=1:10")
    assert both.exit_code == 2
    assert "method.probe.C is given by --set and searched by --space" in both.stderr
