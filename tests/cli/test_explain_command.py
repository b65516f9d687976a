"""``moltune explain``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.cli.conftest import Invoke

from moltune.run import Run

SMILES = "CC(=O)Oc1ccccc1C(=O)O"


def test_every_atom_gets_a_contribution_and_neighbours_their_difference(moltune: Invoke, finished: Run) -> None:
    found = json.loads(moltune("explain", finished.path, SMILES, "--edits", 60, "--json").stdout)
    assert [atom["atom"] for atom in found["atoms"]] == list(range(13))
    total = sum(atom["contribution"] for atom in found["atoms"])
    assert found["prediction"] == pytest.approx(total + found["rest"])
    (predicted,) = json.loads(moltune("predict", finished.path, SMILES, "--full-precision", "--json").stdout)
    assert found["prediction"] == pytest.approx(predicted["hydration_free_energy"], abs=1e-5)
    measured = dict(zip(finished.splits["smiles"], finished.predictions["true"], strict=True))
    assert len(found["neighbours"]) == 3
    for one in found["neighbours"]:
        assert one["value"] == pytest.approx(measured[one["smiles"]])
        assert one["difference"].startswith(("has", "lacks", "shares"))


def test_files_hold_what_the_screen_shows(moltune: Invoke, finished: Run, tmp_path: Path) -> None:
    svg, csv, page = tmp_path / "a.svg", tmp_path / "a.csv", tmp_path / "a.html"
    done = moltune("explain", finished.path, SMILES, "--edits", 40, "--svg", svg, "-o", csv)
    moltune("explain", finished.path, SMILES, "--edits", 40, "-o", page)
    table = pd.read_csv(csv)
    assert list(table.columns) == ["atom", "element", "contribution", "standard error"]
    assert len(table) == 13
    assert "contribution to hydration_free_energy" in svg.read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/svg+xml") == 4
    assert "http" not in text.replace("http-equiv", "")
    assert "Nearest measured 3" in done.stdout


def test_the_answer_repeats(moltune: Invoke, finished: Run) -> None:
    first, again = (moltune("explain", finished.path, "CCOC(C)=O", "--edits", 40).stdout for _ in range(2))
    assert first == again


def test_atoms_are_those_of_the_molecule_as_predicted(moltune: Invoke, finished: Run) -> None:
    done = moltune("explain", finished.path, "OCC", "--edits", 20, "--neighbours", 0, "--json")
    found = json.loads(done.stdout)
    assert (found["input"], found["smiles"]) == ("OCC", "CCO")
    assert [atom["element"] for atom in found["atoms"]] == ["C", "C", "O"]
    assert found["neighbours"] == []


@pytest.mark.parametrize(("arguments", "reason"), [(["no molecule"], "no molecule"), (["CCO", "-o", "a.pdf"], "a.pdf")])
def test_what_cannot_be_explained_is_refused(moltune: Invoke, finished: Run, arguments: list[str], reason: str) -> None:
    done = moltune("explain", finished.path, *arguments)
    assert done.exit_code == 2
    assert reason in done.output + done.stderr


def test_a_classifier_is_explained_by_log_odds(moltune: Invoke, finished_classes: Run) -> None:
    done = moltune("explain", finished_classes.path, "CCCCO", "--edits", 40)
    assert done.exit_code == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "contributions to the log-odds of soluble" in shown
    assert "Nearest measured 1" in shown
    assert ": soluble, " in shown or ": insoluble, " in shown
