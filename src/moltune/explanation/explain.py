"""One prediction explained: contributions of atoms, nearest measured molecules, ionisable sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moltune.calibration.platt import score_of
from moltune.config import PH
from moltune.data.chemistry import parse_smiles
from moltune.data.load import molecules_from_lists
from moltune.errors import DataError
from moltune.explanation.contributions import EDITS, Contributions, contributions
from moltune.explanation.drawing import draw_contributions, draw_pair
from moltune.explanation.neighbours import Neighbour, nearest_measured
from moltune.features.ionisation import Site, draw_svg, predict_pka
from moltune.predictors.names import is_logd
from moltune.reports.page import render

if TYPE_CHECKING:
    from moltune.predictors.predictor import Predictor

FAITHFUL = 0.5
"""With a fidelity below it, contributions of atoms are no good description of a prediction."""
PALE = 0.25
"""A drawing's scale reaches at least this share of the predictor's error."""


@dataclass(frozen=True)
class Explanation:
    """Why a molecule is predicted as it is.

    Attributes:
        given: the molecule as it came in.
        smiles: as it was predicted; atoms are numbered from 0 in its order.
        symbols: elements of the n atoms.
        target: the property, with its unit where that is known.
        prediction: in the property's unit, or the probability of the positive class.
        note: what the predictor remarks about the molecule; mostly empty.
        contributions: of the n atoms, to the prediction, or to the log-odds log(p/(1 - p)) of the positive class: atoms
            add up there, while a probability can but approach 0 and 1.
        neighbours: the nearest measured molecules, the most similar first.
        error: RMSE of the predictor; None: not known.
        sites: ionisable sites with their pKa; None where the prediction does not depend on them.
        classes: negative and positive class; None: the property is a number.
    """

    given: str
    smiles: str
    symbols: tuple[str, ...]
    target: str
    prediction: float
    note: str
    contributions: Contributions
    neighbours: tuple[Neighbour, ...]
    error: float | None
    sites: tuple[Site, ...] | None
    classes: tuple[str, str] | None = None

    @property
    def explained(self) -> float:
        """What atoms contribute to: the prediction, or the log-odds of the positive class."""
        return self.prediction if self.classes is None else float(log_odds(np.array([self.prediction]))[0])

    @property
    def scale(self) -> str:
        """What that is called; empty: the property itself."""
        return "" if self.classes is None else f"log-odds of {self.classes[1]}"

    @property
    def predicted(self) -> str:
        """The prediction in words."""
        value = short(self.prediction)
        return value if self.classes is None else f"probability of {self.classes[1]} {value}"

    def measured(self, neighbour: Neighbour) -> str:
        """What was measured of a neighbour: a number, or a class."""
        return short(neighbour.value) if self.classes is None else self.classes[int(neighbour.value > 0.5)]

    @property
    def rest(self) -> float:
        """What is explained minus the sum of the contributions: what belongs to no atom."""
        return self.explained - float(self.contributions.values.sum())

    @property
    def is_faithful(self) -> bool:
        """Whether the contributions foretell at least half of how the prediction answers edits."""
        return self.contributions.fidelity >= FAITHFUL

    def table(self) -> pd.DataFrame:
        """One line per atom: its number, element, contribution and standard error."""
        return pd.DataFrame(
            {
                "atom": range(len(self.symbols)),
                "element": self.symbols,
                "contribution": self.contributions.values,
                "standard error": self.contributions.errors,
            }
        )

    def share(self, neighbour: Neighbour) -> float:
        """Sum of the contributions of the atoms that a neighbour lacks."""
        return float(self.contributions.values[list(neighbour.own_atoms)].sum())

    def compared(self, neighbour: Neighbour) -> str:
        """What differs from a neighbour, and what it contributes, in sentences."""
        limit = "" if neighbour.in_time else " (the search for what both share was stopped by its time limit)"
        text = f"this molecule {neighbour.difference}{limit}."
        if not neighbour.has or text.startswith("this molecule shares only"):
            return text
        share = signed(self.share(neighbour), decimals(self.contributions.values))
        scale = f" to the {self.scale}" if self.scale else ""
        return f"{text} The atoms that only this molecule has contribute {share}{scale}."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        table = self.table().rename(columns={"standard error": "standard_error"})
        return {
            "input": self.given,
            "smiles": self.smiles,
            "property": self.target,
            "prediction": self.prediction,
            **({} if self.classes is None else {"classes": list(self.classes), "contributions_to": self.scale}),
            "note": self.note,
            "atoms": table.to_dict("records"),
            "rest": self.rest,
            "fidelity": self.contributions.fidelity,
            "edits": self.contributions.edits,
            "neighbours": [
                {
                    **asdict(one),
                    **({} if self.classes is None else {"class": self.measured(one)}),
                    "difference": one.difference,
                    "contribution": self.share(one),
                }
                for one in self.neighbours
            ],
            **({} if self.sites is None else {"sites": [asdict(site) for site in self.sites]}),
        }

    def summary(self) -> str:
        """The result in two sentences."""
        found, total = self.contributions, short(float(self.contributions.values.sum()))
        text = f"Predicted {self.target}: {self.predicted}. "
        whole = f" to the {self.scale} ({short(self.explained)})" if self.scale else ""
        if not found.edits:
            return text + "Nothing of the molecule can be edited, so that its atoms have no contributions."
        text += (
            f"The contributions of the atoms{whole} sum to {total}, and {short(self.rest)} belongs to no atom; they "
            f"foretell {max(found.fidelity, 0):.0%} of how {'it' if whole else 'the prediction'} changes under "
            f"{found.edits} edits."
        )
        return text if self.is_faithful else text + " That is little: do not read much into them."

    def drawing(self) -> str:
        """The molecule with its contributions, as SVG."""
        caption = f"predicted {self.target}: {self.predicted}"
        title, least = f"contribution to {self.scale or self.target}", (self.error or 0.0) * PALE
        return draw_contributions(self.smiles, self.contributions.values, title, caption, least)

    def pair(self, neighbour: Neighbour) -> str:
        """The molecule beside a neighbour with what differs highlighted, as SVG."""
        measured = f"measured {self.measured(neighbour)} (similarity {neighbour.similarity:.2f})"
        return draw_pair(self.smiles, neighbour, f"this molecule: predicted {self.predicted}", measured)

    def page(self) -> str:
        """Everything as one HTML page that loads nothing from elsewhere."""
        digits = decimals(self.contributions.values)
        table = self.table().sort_values("contribution", key=np.abs, ascending=False, kind="stable")
        rows = [
            (f"{atom}", element, signed(value, digits), f"{error:.{digits}f}")
            for atom, element, value, error in table.itertuples(index=False, name=None)
        ]
        sites = None
        if self.sites is not None:
            listed = [(f"{self.symbols[one.atom]} {one.atom}", one.kind, f"{one.pka:.1f}") for one in self.sites]
            sites = pd.DataFrame(listed, columns=["atom", "kind", "pKa"])
        near = [(f"{one.smiles}: {self.compared(one)}", self.pair(one)) for one in self.neighbours]
        return render(
            "explanation.html",
            title=f"A prediction explained: {self.smiles}",
            summary=self.summary(),
            note=self.note,
            drawing=self.drawing(),
            atoms=pd.DataFrame(rows, columns=["atom", "element", "contribution", "standard error"]),
            scale=self.scale,
            neighbours=near,
            sites=sites,
            form=draw_svg(self.smiles, PH) if self.sites is not None else "",
            ph=PH,
        )


def explain(
    predictor: Predictor,
    smiles: str,
    *,
    known: pd.DataFrame | None = None,
    neighbours: int = 3,
    edits: int = EDITS,
    seed: int = 0,
) -> Explanation:
    """Explain one prediction, whatever predicts.

    Args:
        predictor: its prediction is explained: that of the blend where it has one. Of a classifier the log-odds of the
            positive class are, as calibrated.
        smiles: the molecule, which is cleaned as the training data were.
        known: measured molecules, columns ``smiles`` and ``value`` in the property's unit, 0 or 1 for classes; unset:
            those that the predictor was trained on, where it knows them.
        neighbours: how many of them to compare with.
        edits: how many edited molecules to predict at most.
        seed: of what is random about edits.

    Raises:
        DataError: the molecule cannot be predicted; the message says why.
    """
    molecules = molecules_from_lists([smiles], None, predictor.cleaning)
    row = predictor.predict_molecules(molecules).iloc[0]
    if not np.isfinite(row["predicted"]):
        raise DataError(f"{smiles} cannot be predicted: {row['note']}")
    used = str(row["smiles"])
    mol = parse_smiles(used)
    fingerprints = None
    if known is None and predictor.confidence is not None:
        domain = predictor.confidence.domain
        known = pd.DataFrame({"smiles": domain.smiles, "value": predictor.confidence.measured})
        fingerprints = domain.fingerprints
    near = [] if known is None else nearest_measured(mol, known, neighbours, fingerprints=fingerprints)
    return Explanation(
        given=smiles,
        smiles=used,
        symbols=tuple(atom.GetSymbol() for atom in mol.GetAtoms()),
        target=_named(predictor.target_name, predictor.unit),
        prediction=float(row["predicted"]),
        note=str(row["note"]),
        contributions=contributions(_asks(predictor), used, edits, seed),
        neighbours=tuple(near),
        error=predictor.error,
        sites=tuple((predict_pka([used])[0]) or ()) if _depends_on_charge(predictor) else None,
        classes=predictor.model.class_names,
    )


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(p/(1 - p)), shape (n,); within ±16 where a probability is 0 or 1."""
    return score_of(probabilities, (1.0, 0.0))


def decimals(values: np.ndarray) -> int:
    """Digits behind the point with which the largest of the values has two or three that count."""
    most = float(np.abs(values).max(initial=0.0))
    return min(max(2 - math.ceil(math.log10(most) - 0.5), 0), 9) if most else 2


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def short(value: float) -> str:
    """A number with three digits that count."""
    return f"{value:.3g}".replace("-", "−")


def _asks(predictor: Predictor) -> Any:
    """The predictor as a function of SMILES, without what else it says of a molecule; log-odds of a classifier."""

    def predict(smiles: Sequence[str]) -> np.ndarray:
        # Of an edit that the model cannot read whole, the molecule itself excepted.
        issues = predictor.model.issues(smiles)
        read = [at for at in range(len(smiles)) if at == 0 or at not in issues]
        texts = [smiles[at] for at in read]
        values = predictor.model.predict(texts)
        values = values if predictor.blend is None else predictor.blend.predict(texts, values)
        found = np.full(len(smiles), np.nan)
        found[read] = values if predictor.model.class_names is None else log_odds(values)
        return found

    return predict


def _depends_on_charge(predictor: Predictor) -> bool:
    return predictor.ionisation_ph is not None or is_logd(predictor.target_name)


def _named(target: str, unit: str) -> str:
    return f"{target} ({unit})" if unit and unit not in target else target
