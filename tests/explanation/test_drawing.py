"""Drawings: valid SVG with the numbers and colours of the contributions."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from rdkit import Chem

from moltune.explanation.drawing import colour_of, draw_contributions, draw_pair
from moltune.explanation.neighbours import compare

TEXT = "{http://www.w3.org/2000/svg}text"


def texts(svg: str) -> list[str]:
    return [str(one.text) for one in ElementTree.fromstring(svg).iter(TEXT)]


def test_the_scale_has_the_largest_contribution_and_the_unit() -> None:
    svg = draw_contributions("CCO", np.array([0.25, 0.0, -0.5]), "contribution to logD (log units)", "logD < 1")
    found = texts(svg)
    assert {"−0.5", "0", "+0.5", "lowers", "raises", "contribution to logD (log units)", "logD < 1"} <= set(found)
    assert draw_contributions("CCO", np.array([0.25, 0.0, -0.5]), "contribution to logD (log units)", "logD < 1") == svg


def test_atoms_have_the_colours_of_their_contributions() -> None:
    svg = draw_contributions("CCO", np.array([0.5, 0.0, -0.5]), "x").upper()

    def painted(strength: float) -> int:
        return svg.count("FILL:#" + "".join(f"{int(255 * one):02X}" for one in colour_of(strength)))

    assert painted(1.0) == painted(-1.0) == 1


def test_trifles_stay_pale() -> None:
    assert "+2" in texts(draw_contributions("CCO", np.array([0.01, 0.0, -0.01]), "x", least=2.0))


def test_no_contribution_is_white() -> None:
    assert colour_of(0) == (1, 1, 1)
    assert texts(draw_contributions("C", np.zeros(1), "x"))


@pytest.mark.parametrize("other", ["OC(=O)c1ccccc1O", "[Na+].[Cl-]", "O=C1CCCCCCCCCCCO1"])
def test_pairs_are_drawn_whatever_they_share(other: str) -> None:
    smiles = "CC(=O)Oc1ccccc1C(=O)O"
    near = compare(Chem.MolFromSmiles(smiles), Chem.MolFromSmiles(other), other, 2.0, 0.4)
    assert {"this", "measured 2"} <= set(texts(draw_pair(smiles, near, "this", "measured 2")))
