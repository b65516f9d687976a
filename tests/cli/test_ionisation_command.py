"""``moltune ionisation``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Invoke


def test_an_acid_is_charged_at_physiological_ph(moltune: Invoke, tmp_path: Path) -> None:
    drawing = tmp_path / "aspirin.svg"
    done = moltune("ionisation", "CC(=O)Oc1ccccc1C(=O)O", "--svg", drawing)
    assert done.exit_code == 0
    assert "acid" in done.output
    assert "CC(=O)Oc1ccccc1C(=O)[O-]" in done.output
    assert drawing.read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_json_holds_sites_and_charges_at_the_ph_asked_for(moltune: Invoke) -> None:
    low, high = (json.loads(moltune("ionisation", "CCCCN", "--ph", ph, "--json").stdout) for ph in (3, 14))
    assert [site["kind"] for site in low["sites"]] == ["base"]
    assert low["sites"] == high["sites"]
    assert (low["main_charge"], high["main_charge"]) == (1, 0)
    assert low["positive"] == pytest.approx(1, abs=1e-3)
    assert high["positive"] < 0.05


def test_a_molecule_that_cannot_be_read_is_an_error(moltune: Invoke) -> None:
    done = moltune("ionisation", "no molecule")
    assert done.exit_code == 2
    assert "no molecule" in done.output + done.stderr
