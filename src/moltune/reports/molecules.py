"""Molecules drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdkit.Chem.Draw import rdMolDraw2D

from moltune.data.chemistry import parse_all
from moltune.files import replacing


def draw_molecules(smiles: Sequence[str], legends: Sequence[str], path: Path, *, columns: int = 3) -> Path:
    """Draw molecules in a grid, each with its legend below, as PNG."""
    rows = -(-len(smiles) // columns)
    width, height = 260, 220
    canvas = rdMolDraw2D.MolDraw2DCairo(width * columns, height * rows, width, height)
    # Any: the stubs take its fields for something else.
    options: Any = canvas.drawOptions()
    options.legendFontSize = 18
    options.clearBackground = True
    canvas.DrawMolecules(parse_all(list(smiles)), legends=list(legends))
    canvas.FinishDrawing()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(canvas.GetDrawingText())
    return path
