"""What a worker process answers: predictions and explanations as plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rdkit import Chem

from moltune.config import PH
from moltune.data.chemistry import parse_smiles, rdkit_log
from moltune.data.cleaning.clean import clean
from moltune.data.reading.formats import from_frame
from moltune.errors import DataError, NumericsError
from moltune.predictors.names import NOTE
from moltune.predictors.predictor import Predictor
from moltune.predictors.several import Predictors
from moltune.service.models import Served, describe, finite
from moltune.service.settings import Limits

WARM_UP = "CC(=O)Oc1ccccc1C(=O)O"
_SMILES = "smiles"
_NUMBERS = {
    "": "value",
    **{f"_{name}": name for name in ("low", "high", "sd", "nearest_measured", "similarity", "measured")},
    **{f"_{name}": name for name in ("acid_pka", "base_pka", "charge")},
}
_TEXTS = {"_domain": "domain", "_nearest": "nearest", "_main_form": "main_form", "_class": "predicted_class"}


@dataclass(frozen=True)
class Answers:
    """Loaded models.

    Attributes:
        served: their names.
        predictors: as many.
        limits: of a molecule.
    """

    served: list[Served]
    predictors: Predictors
    limits: Limits

    @classmethod
    def load(cls, served: Sequence[Served], limits: Limits) -> Answers:
        """Load all models, and predict a first molecule, which takes longer than later ones."""
        found = cls(list(served), Predictors.load([one.place for one in served]), limits)
        found.predict([one.name for one in served], [WARM_UP])
        return found

    def describe(self) -> list[dict[str, Any]]:
        """What the list of models says."""
        return [describe(one, own) for one, own in zip(self.served, self.predictors.members, strict=True)]

    def predict(self, names: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Predict n molecules: SMILES, InChI or molblocks.

        Returns:
            Values of :class:`moltune.service.schemas.Result` for each.
        """
        results: list[dict[str, Any]] = [{"input": text, "predictions": []} for text in texts]
        smiles: dict[int, str] = {}
        for at, text in enumerate(texts):
            try:
                smiles[at] = read_molecule(text, self.limits.atoms)
            except DataError as error:
                results[at]["error"] = str(error)
        if not smiles:
            return results
        members = [self._member(name) for name in names]
        raw = from_frame(pd.DataFrame({_SMILES: list(smiles.values())}), "the request")
        molecules = clean(raw, members[0].cleaning, smiles=_SMILES, need_target=False)
        used = dict(zip(molecules.table["row"].tolist(), molecules.smiles, strict=True))
        subset = Predictors(members, self.predictors.tables)
        tables = [found.to_dict("records") for found in subset.predict_rows(raw, _SMILES, molecules=molecules)]
        for place, at in enumerate(smiles):
            rows = [table[place] for table in tables]
            results[at]["smiles"] = used.get(place + 1)
            if used.get(place + 1) is None:
                results[at]["error"] = rows[0][NOTE]
                continue
            results[at]["predictions"] = [
                _prediction(name, own, row) for name, own, row in zip(names, members, rows, strict=True)
            ]
        return results

    def explain(self, name: str, text: str) -> dict[str, Any]:
        """Explain one prediction; values of :class:`moltune.service.schemas.ExplainResponse`.

        Raises:
            DataError: the molecule cannot be predicted.
        """
        from moltune.explanation.explain import explain
        from moltune.features.ionisation import draw_svg

        found = explain(self._member(name), read_molecule(text, self.limits.atoms))
        shares = found.contributions
        atoms = zip(found.symbols, shares.values.tolist(), shares.errors.tolist(), strict=True)
        return {
            "model": name,
            "input": text,
            "smiles": found.smiles,
            "property": found.target,
            "prediction": found.prediction,
            "classes": found.classes,
            "contributions_to": found.scale or None,
            "note": found.note,
            "summary": found.summary(),
            "atoms": [
                {"atom": at, "element": symbol, "contribution": value, "standard_error": finite(error)}
                for at, (symbol, value, error) in enumerate(atoms)
            ],
            "rest": found.rest,
            "fidelity": finite(shares.fidelity),
            "faithful": found.is_faithful,
            "drawing": found.drawing(),
            "neighbours": [
                {
                    "smiles": one.smiles,
                    "value": one.value,
                    "similarity": one.similarity,
                    "difference": one.difference,
                    "compared": found.compared(one),
                }
                for one in found.neighbours
            ],
            "sites": None
            if found.sites is None
            else [
                {"atom": site.atom, "element": found.symbols[site.atom], "kind": site.kind, "pka": site.pka}
                for site in found.sites
            ],
            "form": draw_svg(found.smiles, PH) if found.sites else None,
        }

    def _member(self, name: str) -> Predictor:
        return self.predictors.members[[one.name for one in self.served].index(name)]


def read_molecule(text: str, atoms: int) -> str:
    """The SMILES of a molblock; a SMILES or InChI as it is.

    Raises:
        DataError: it cannot be read, or has more than so many heavy atoms.
    """
    if "\n" not in text:
        # A name or a ChemAxon extension after a blank is looked at later.
        mol, found = parse_smiles(text.strip()), text
    else:
        mol = _from_block(text)
        found = str(Chem.MolToSmiles(mol))
    if mol.GetNumHeavyAtoms() > atoms:
        raise DataError(f"the molecule has {mol.GetNumHeavyAtoms()} heavy atoms; this service takes at most {atoms}")
    return found


def _from_block(text: str) -> Chem.Mol:
    with rdkit_log() as log:
        try:
            mol = Chem.MolFromMolBlock(text)
        except (RuntimeError, ValueError, UnicodeError):
            mol = None
    if mol is None:
        raise DataError(f"not a valid molblock: {log.reason or 'RDKit gives no reason'}")
    if not mol.GetNumAtoms():
        raise DataError("the molblock has no atoms")
    return mol


def _prediction(name: str, predictor: Predictor, row: dict[Hashable, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": name,
        "property": predictor.target_name,
        "unit": predictor.unit,
        "level": predictor.level,
        "reason": str(row.get("_reason") or ""),
        "note": str(row.get(NOTE) or ""),
    }
    classes = predictor.model.class_names
    if classes is not None:
        found["classes"] = classes
        found["prediction_set"] = _listed(row.get("_set"), classes)
    found |= {own: finite(row[suffix]) for suffix, own in _NUMBERS.items() if suffix in row}
    return found | {own: row[suffix] or None for suffix, own in _TEXTS.items() if suffix in row}


def _listed(held: str | None, classes: tuple[str, str]) -> list[str] | None:
    """The classes in a set that a table of predictions has in words; None: there is none."""
    if not held:
        return None
    negative, positive = classes
    return {"none": [], negative: [negative], positive: [positive]}.get(held, [positive, negative])


NOT_PREDICTED = (DataError, NumericsError)
"""Errors that are the molecule's, not the service's."""
