"""Ionisable sites with their pKa, and the form that a molecule takes at a pH."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from moltune.config import PH
from moltune.errors import DataError
from moltune.features.ionisation.graphs import site_graphs
from moltune.features.ionisation.molecules import Kind, Prepared, move_proton, prepare
from moltune.features.ionisation.network import networks

KINDS: tuple[Kind, Kind] = ("acid", "base")
_COLOURS: dict[Kind, tuple[float, float, float]] = {"acid": (0.95, 0.55, 0.5), "base": (0.55, 0.7, 0.95)}
_BATCH = _MOST_REMEMBERED = 4_000
_ATOM = "moltune_atom"
_remembered: dict[str, tuple[Prepared | None, list[Site] | None]] = {}


@dataclass(frozen=True, slots=True)
class Site:
    """An atom that can lose (acid) or take up (base) a proton.

    Attributes:
        atom: index of the atom that bears the proton, in the molecule as RDKit parses the given SMILES.
        kind: "acid" or "base".
        pka: pKa of the acid, or of the base's conjugate acid, in water.
    """

    atom: int
    kind: Kind
    pka: float

    def is_charged(self, ph: float) -> bool:
        """Whether more than half of these sites are charged at a pH."""
        return self.pka < ph if self.kind == "acid" else self.pka > ph


@dataclass(frozen=True, slots=True)
class Ionisation:
    """A molecule in water of one pH, each site by itself.

    Attributes:
        smiles: as given.
        ph: pH of the water.
        sites: acids before bases, each kind in the order of its atoms.
        positive: positive charges expected; those that no proton can remove (quaternary ammonium) count in full.
        negative: negative charges expected, not below 0.
        main_form: SMILES of the largest fragment with every site as more than half of them are; the nitrogen of a
            pyrrole is never protonated, though the networks may list it as a base.
        main_charge: net charge of that form.
    """

    smiles: str
    ph: float
    sites: tuple[Site, ...]
    positive: float
    negative: float
    main_form: str
    main_charge: int

    @property
    def net(self) -> float:
        """Net charge expected."""
        return self.positive - self.negative

    def strongest(self, kind: Kind) -> float:
        """pKa of the strongest acid or base; NaN where there is none."""
        values = [site.pka for site in self.sites if site.kind == kind]
        return float("nan") if not values else min(values) if kind == "acid" else max(values)


def predict_pka(smiles: Sequence[str]) -> list[list[Site] | None]:
    """Predict the pKa of every ionisable site with MolGpKa's networks.

    Each molecule is reduced to its largest fragment and made neutral first, because the networks were trained on
    neutral molecules. Every pKa is for one site with all others neutral: two nearby amines are both predicted as if
    the other carried no charge.

    Args:
        smiles: n SMILES.

    Returns:
        n lists of sites, acids before bases, each kind in the order of its atoms; an empty list for a molecule that
        has none, None where RDKit cannot read the SMILES.

    References:
        Pan et al. 2021, J. Chem. Inf. Model. 61, 3159, doi:10.1021/acs.jcim.1c00075.
    """
    found: list[list[Site] | None] = [None] * len(smiles)
    # Batch by batch, so that no more molecules than those of one are held ready at a time.
    for rows in similar_together(smiles):
        for row, (_, sites) in zip(rows, prepared_sites([smiles[row] for row in rows]), strict=True):
            found[row] = sites
    return found


def prepared_sites(smiles: Sequence[str]) -> list[tuple[Prepared | None, list[Site] | None]]:
    """n SMILES, ready, with their sites; None and None where RDKit cannot read one.

    The last few thousand molecules are remembered: features and what is said beside a prediction both need them.
    """
    wanted = [text for text in dict.fromkeys(smiles) if text not in _remembered]
    own = {text: _remembered[text] for text in smiles if text in _remembered}
    for rows in similar_together(wanted):
        with rdBase.BlockLogs():
            molecules = [prepare(wanted[row]) for row in rows]
        for row, molecule, sites in zip(rows, molecules, predict_sites(molecules), strict=True):
            own[wanted[row]] = molecule, sites
    if len(_remembered) + len(wanted) > _MOST_REMEMBERED:
        _remembered.clear()
    _remembered.update((text, own[text]) for text in wanted[-_MOST_REMEMBERED:])
    return [own[text] for text in smiles]


def ionise(smiles: Sequence[str], ph: float = PH) -> list[Ionisation | None]:
    """Sites, expected charges and main form of n molecules; None where RDKit cannot read one."""
    return [
        None if molecule is None or sites is None else _at(text, molecule, sites, ph)
        for text, (molecule, sites) in zip(smiles, prepared_sites(smiles), strict=True)
    ]


def ionisation(smiles: str, ph: float = PH) -> Ionisation:
    """Sites, expected charges and main form of one molecule.

    Args:
        smiles: the molecule.
        ph: pH of the water.

    Raises:
        DataError: RDKit cannot read the SMILES.
    """
    return _at(smiles, *_prepare_one(smiles), ph)


def _at(smiles: str, molecule: Prepared, sites: Sequence[Site], ph: float) -> Ionisation:
    positive, negative = expected_charges(molecule, sites, ph)
    form = _main_form(molecule, sites, ph)
    plain = Chem.MolToSmiles(form)
    return Ionisation(smiles, ph, tuple(sites), positive, negative, plain, Chem.GetFormalCharge(form))


def draw_svg(smiles: str, ph: float = PH, *, size: tuple[int, int] = (480, 320)) -> str:
    """Draw the main form at a pH: acids red, bases blue, each labelled by its pKa.

    Args:
        smiles: the molecule.
        ph: pH of the water.
        size: width and height in pixels.

    Returns:
        An SVG document.

    Raises:
        DataError: RDKit cannot read the SMILES.
    """
    molecule, sites = _prepare_one(smiles)
    form = _main_form(molecule, sites, ph)
    position = {atom.GetIntProp(_ATOM): atom.GetIdx() for atom in form.GetAtoms()}
    labels: dict[int, list[str]] = {}
    colours: dict[int, tuple[float, float, float]] = {}
    for site in sites:
        labels.setdefault(position[site.atom], []).append(f"{site.pka:.1f}")
        colours.setdefault(position[site.atom], _COLOURS[site.kind])
    for atom, texts in labels.items():
        form.GetAtomWithIdx(atom).SetProp("atomNote", " / ".join(texts))
    drawer = rdMolDraw2D.MolDraw2DSVG(*size)
    legend = f"pH {ph:g}: charge {Chem.GetFormalCharge(form):+d}"
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, form, legend, list(colours), highlightAtomColors=colours)
    drawer.FinishDrawing()
    return str(drawer.GetDrawingText())


def predict_sites(molecules: Sequence[Prepared | None]) -> list[list[Site] | None]:
    """Sites of molecules that are ready; None stays None."""
    found: list[list[Site] | None] = [None if molecule is None else [] for molecule in molecules]
    for kind in KINDS:
        graphs = (site_graphs(molecule, kind) for molecule in molecules if molecule is not None)
        values = iter(networks()[kind](graph for graph in graphs if graph is not None).tolist())
        for molecule, sites in zip(molecules, found, strict=True):
            if molecule is not None and sites is not None:
                atoms = [atom for atom, _ in molecule.acids] if kind == "acid" else molecule.bases
                sites += [Site(molecule.source[atom], kind, next(values)) for atom in atoms]
    return found


def similar_together(smiles: Sequence[str]) -> list[list[int]]:
    """Cut rows into batches in the order of their SMILES: similar molecules share work."""
    order = sorted(range(len(smiles)), key=smiles.__getitem__)
    return [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]


def charged_shares(sites: Sequence[Site], kind: Kind, ph: float) -> np.ndarray:
    """Share of each site of one kind that is charged (Henderson and Hasselbalch), shape (sites of the kind,)."""
    pka = np.array([site.pka for site in sites if site.kind == kind])
    return 1 / (1 + 10.0 ** np.clip(pka - ph if kind == "acid" else ph - pka, -30, 30))


def fixed_charges(molecule: Prepared) -> tuple[int, int]:
    """Positive and negative charges of a neutral form; a group of bonded charged atoms (nitro) counts as one."""
    charges = {index: one.charge for index, one in enumerate(molecule.types) if one.charge}
    positive, negative = 0, 0
    while charges:
        index, total = charges.popitem()
        waiting = [index]
        while waiting:
            for other in molecule.mol.GetAtomWithIdx(waiting.pop()).GetNeighbors():
                if other.GetIdx() in charges:
                    total += charges.pop(other.GetIdx())
                    waiting.append(other.GetIdx())
        positive, negative = positive + max(total, 0), negative + max(-total, 0)
    return positive, negative


def expected_charges(molecule: Prepared, sites: Sequence[Site], ph: float) -> tuple[float, float]:
    """Positive and negative charges of a molecule at a pH, neither below 0."""
    positive, negative = fixed_charges(molecule)
    negative_sites, positive_sites = (float(charged_shares(sites, kind, ph).sum()) for kind in KINDS)
    return positive + positive_sites, negative + negative_sites


def _prepare_one(smiles: str) -> tuple[Prepared, list[Site]]:
    ((molecule, sites),) = prepared_sites([smiles])
    if molecule is None:
        raise DataError(f"RDKit cannot read the SMILES {smiles!r}")
    return molecule, sites or []


def _main_form(molecule: Prepared, sites: Sequence[Site], ph: float) -> Chem.Mol:
    """The main form; each atom keeps the index that it has in the given molecule as a property."""
    form = Chem.Mol(molecule.mol)
    for atom, index in zip(form.GetAtoms(), molecule.source, strict=True):
        atom.SetIntProp(_ATOM, index)
    done = set()
    for site in sorted(sites, key=lambda one: -abs(one.pka - ph)):
        if site.atom in done or not site.is_charged(ph):
            continue
        changed = Chem.RWMol(form)
        atom = next(one for one in changed.GetAtoms() if one.GetIntProp(_ATOM) == site.atom)
        if site.kind == "base" and atom.GetIsAromatic() and atom.GetTotalDegree() == 3:
            # The networks give a pKa to the nitrogen of pyrrole, too; its protonated form would not be aromatic.
            continue
        drawn = [one.GetIdx() for one in atom.GetNeighbors() if one.GetAtomicNum() == 1]
        spare = atom.GetTotalNumHs()
        move_proton(atom, -1 if site.kind == "acid" else 1)
        if site.kind == "acid" and not spare:
            # The only proton is an atom of its own: deuterium.
            changed.RemoveAtom(drawn[0])
        with rdBase.BlockLogs():
            failed = Chem.SanitizeMol(changed, catchErrors=True)
        if not failed:
            form = changed.GetMol()
            done.add(site.atom)
    return form
