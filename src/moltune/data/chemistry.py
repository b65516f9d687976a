"""The few calls into RDKit that must not chatter on stderr, and that must say why they failed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from moltune.errors import DataError, one_line

_PREFIX = re.compile(r"^(\[\d\d:\d\d:\d\d\]\s*)?((SMILES Parse Error|ERROR):\s*)?")


class Captured:
    """What RDKit wrote to its error log inside :func:`rdkit_log`."""

    text: str = ""

    @property
    def reason(self) -> str:
        """The first message as one line, without time stamp; empty if there was none."""
        return next(filter(None, (_PREFIX.sub("", line).strip() for line in self.text.splitlines())), "")


@contextmanager
def rdkit_log() -> Iterator[Captured]:
    """Keep RDKit's messages off stderr; the error messages are in the yielded object after the block.

    RDKit's own log settings are as before when the block ends. Versions of RDKit without ``CaptureErrorLog`` are
    silenced too, but then the text stays empty.
    """
    captured = Captured()
    with rdBase.BlockLogs():
        if not hasattr(rdBase, "CaptureErrorLog"):
            yield captured
            return
        with rdBase.CaptureErrorLog() as log:
            try:
                yield captured
            finally:
                try:
                    captured.text = log.messages
                except UnicodeDecodeError as error:
                    # RDKit marks the place of an error under its text, and may cut a letter of several bytes.
                    captured.text = error.object.decode("utf-8", "replace")


def parse_smiles(smiles: str) -> Chem.Mol:
    """Parse and sanitise one SMILES, or one InChI.

    Raises:
        DataError: RDKit refuses it; the message is RDKit's reason on one line.
    """
    kind, parse = ("InChI", Chem.MolFromInchi) if smiles.startswith("InChI=") else ("SMILES", Chem.MolFromSmiles)
    with rdkit_log() as log:
        try:
            mol = parse(smiles)
        except (RuntimeError, ValueError, UnicodeError) as error:
            raise DataError(f"not a valid {kind}: {one_line(error)}") from None
    if mol is None:
        why = log.reason or (_problem(smiles) if kind == "SMILES" else "") or "RDKit gives no reason"
        raise DataError(f"not a valid {kind}: {why}")
    if mol.GetNumAtoms() == 0:
        raise DataError(f"the {kind} has no atoms")
    return mol


def parse_all(smiles: list[str], start: int = 0) -> list[Chem.Mol]:
    """Parse many SMILES that are expected to be valid; messages count positions from ``start``.

    Raises:
        DataError: names the first position (0-based) that is not.
    """
    mols = []
    for position, text in enumerate(smiles, start):
        try:
            mols.append(parse_smiles(text))
        except DataError as error:
            raise DataError(f"molecule {position} ({str(text)[:80]!r}): {error}") from None
    return mols


def scaffold_smiles(mol: Chem.Mol) -> str:
    """Bemis-Murcko scaffold (rings and the linkers between them) without stereochemistry; "" for acyclic molecules.

    Bemis and Murcko, J. Med. Chem. 39, 2887-2893 (1996), doi:10.1021/jm9602928.
    """
    with rdkit_log():
        try:
            return str(MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False))
        except (RuntimeError, ValueError):
            # A few exotic ring systems have no valid scaffold; such a molecule is a group of its own.
            return str(Chem.MolToSmiles(mol, isomericSmiles=False))


def _problem(smiles: str) -> str:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        problems = Chem.DetectChemistryProblems(mol) if mol is not None else ()
        return problems[0].Message() if problems else ""
