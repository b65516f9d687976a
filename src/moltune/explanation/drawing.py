"""Molecules drawn with the contributions of their atoms, and two molecules side by side with what differs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdCoordGen, rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from moltune.data.chemistry import parse_smiles
from moltune.explanation.neighbours import Neighbour

Colour = tuple[float, float, float]

# Blue and vermilion of Okabe and Ito (2008), which colour-blind readers tell apart, paler: letters stay legible.
LOWERS: Colour = (0.25, 0.58, 0.85)
RAISES: Colour = (0.95, 0.50, 0.28)
DIFFERENT: Colour = (1.0, 0.80, 0.35)
_BOND, _LEAST, _FAINT = 34.0, (420, 150), 0.04
_MACROCYCLE = 9
_FONT = "font-family=\"system-ui, 'DejaVu Sans', sans-serif\""


def draw_contributions(smiles: str, values: np.ndarray, title: str, caption: str = "", least: float = 0.0) -> str:
    """Draw a molecule whose atoms are coloured by their contributions and numbered from 0, with a scale.

    Args:
        smiles: n atoms.
        values: contributions, shape (n,).
        title: of the scale, such as "contribution to logD (log units)".
        caption: a line above the molecule.
        least: end of the scale where all contributions are smaller, so that trifles stay pale.

    Returns:
        An SVG document on white.

    Raises:
        DataError: RDKit cannot read the SMILES.
    """
    mol = _laid_out(parse_smiles(smiles))
    most = max(float(np.abs(values).max(initial=0.0)), least)
    strength = values / most if most else values
    colours = {at: colour_of(one) for at, one in enumerate(strength.tolist()) if abs(one) >= _FAINT}
    for atom in mol.GetAtoms():
        atom.SetProp("atomNote", str(atom.GetIdx()))
    inner, width, height = _drawn(mol, colours)
    page = max(width, _LEAST[0])
    top = 34 if caption else 8
    parts = [_text(page / 2, 24, caption, 15)] if caption else []
    parts += [_placed(inner, (page - width) / 2, top, width, height), _scale(page / 2, top + height + 8, most, title)]
    return _document(page, top + height + 78, parts)


def draw_pair(smiles: str, neighbour: Neighbour, own: str, other: str) -> str:
    """Draw a molecule beside a measured one; atoms outside the common substructure are highlighted.

    Args:
        smiles: the molecule.
        neighbour: the measured one.
        own: caption of the molecule.
        other: caption of the measured one.

    Returns:
        An SVG document on white.
    """
    left, right = _laid_out(parse_smiles(smiles)), _laid_out(parse_smiles(neighbour.smiles))
    if neighbour.core:
        core = Chem.MolFromSmarts(neighbour.core)
        outside = [ring for ring in _macrocycles(right) if set(ring) & set(neighbour.other_atoms)]
        if core.GetNumAtoms() > 2 and not outside:
            rdDepictor.GenerateDepictionMatching2DStructure(right, left, refPatt=core, acceptFailure=True)
    drawn = [
        _drawn(mol, dict.fromkeys(atoms, DIFFERENT))
        for mol, atoms in ((left, neighbour.own_atoms), (right, neighbour.other_atoms))
    ]
    half = max(260, *(width for _, width, _ in drawn))
    tall = max(height for _, _, height in drawn)
    parts = []
    for at, ((inner, width, height), caption) in enumerate(zip(drawn, (own, other), strict=True)):
        parts.append(_placed(inner, at * half + (half - width) / 2, 8 + (tall - height) / 2, width, height))
        parts.append(_text((at + 0.5) * half, tall + 30, caption, 14))
    parts.append(f'<line x1="{half}" y1="16" x2="{half}" y2="{tall}" stroke="#cccccc"/>')
    return _document(2 * half, tall + 44, parts)


def colour_of(strength: float) -> Colour:
    """The colour of a contribution between -1 (lowers most) and 1 (raises most); white is 0."""
    end = RAISES if strength > 0 else LOWERS
    share = min(abs(strength), 1.0)
    red, green, blue = (1 - share * (1 - one) for one in end)
    return red, green, blue


def _laid_out(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with coordinates; RDKit draws large rings as circles that fold onto themselves."""
    if _macrocycles(mol):
        rdCoordGen.AddCoords(mol)
    else:
        rdDepictor.Compute2DCoords(mol, useRingTemplates=True)
    rdDepictor.NormalizeDepiction(mol)
    rdDepictor.StraightenDepiction(mol)
    return mol


def _macrocycles(mol: Chem.Mol) -> list[tuple[int, ...]]:
    return [ring for ring in mol.GetRingInfo().AtomRings() if len(ring) >= _MACROCYCLE]


def _drawn(mol: Chem.Mol, colours: Mapping[int, Colour]) -> tuple[str, int, int]:
    """The inside of an SVG drawing, its width and its height."""
    drawer = rdMolDraw2D.MolDraw2DSVG(-1, -1)
    # Any: the stubs of RDKit take its fields for options.
    options: Any = drawer.drawOptions()
    options.useBWAtomPalette()
    options.fixedBondLength = options.scalingFactor = _BOND
    options.padding = 0.06
    options.clearBackground = False
    options.annotationFontScale = 0.55
    options.highlightRadius = 0.42
    options.setHighlightColour((0.9, 0.9, 0.9))
    options.atomHighlightsAreCircles = True
    prepared = rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=True, addChiralHs=False)
    drawer.DrawMolecule(
        prepared,
        highlightAtoms=list(colours),
        highlightAtomColors=dict(colours),
        highlightBonds=[],
    )
    drawer.FinishDrawing()
    text = str(drawer.GetDrawingText())
    inner = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", text, flags=re.DOTALL)
    return inner, drawer.Width(), drawer.Height()


def _scale(middle: float, top: float, most: float, title: str) -> str:
    wide, stops = 280.0, []
    for at in np.linspace(-1, 1, 9).tolist():
        red, green, blue = (round(255 * one) for one in colour_of(at))
        stops.append(f'<stop offset="{(at + 1) / 2:.3f}" stop-color="rgb({red},{green},{blue})"/>')
    left = middle - wide / 2
    marks = [(left, -most), (middle, 0.0), (left + wide, most)] if most else [(middle, 0.0)]
    return "\n".join(
        [
            f'<defs><linearGradient id="scale">{"".join(stops)}</linearGradient></defs>',
            f'<rect x="{left}" y="{top + 18}" width="{wide}" height="14" fill="url(#scale)" stroke="#888888"/>',
            _text(middle, top + 12, title, 13),
            *(_text(x, top + 50, _signed(value), 13) for x, value in marks),
            _text(left + wide / 4, top + 50, "lowers", 12, "#555555"),
            _text(left + 3 * wide / 4, top + 50, "raises", 12, "#555555"),
        ]
    )


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if value else "0"


def _text(x: float, y: float, text: str, size: int, colour: str = "#111111") -> str:
    look = f'{_FONT} font-size="{size}" fill="{colour}" text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _placed(inner: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<svg x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{inner}</svg>'
    )


def _document(width: float, height: float, parts: list[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>\n"])
