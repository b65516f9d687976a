"""The measurements of an audit, and the findings that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from moltune.config import AuditSettings
from moltune.data.load import reason_counts
from moltune.data.molecules import Molecules
from moltune.evaluation.shift import EmbeddingShift, NumberShift
from moltune.selection.noise import ClassNoise, LabelNoise

_CONTRADICTION, _SHIFT = 0.5, 0.25
_SAME_LABEL = 1e-3
_FEW = 0.3
ALPHA = 0.05
_SAME = {
    "smiles": "same canonical SMILES",
    "inchikey": "same InChIKey, tautomers included",
    "connectivity": "same connectivity, stereoisomers included",
}


class Finding(NamedTuple):
    """One sentence about what the audit found, and whether that is "good", "bad" or something to "note"."""

    level: Literal["good", "note", "bad"]
    text: str


@dataclass(frozen=True)
class Audit:
    """What an external file holds, against the training molecules.

    Attributes:
        external: the cleaned external molecules.
        known: the training molecules.
        shared: pairs of external and known molecules; see :func:`moltune.data.overlap.shared_molecules`, with a column
            ``part`` where the training molecules came from a run.
        overlap: level → what :func:`moltune.data.overlap.disagreement` says.
        similarity: Tanimoto similarity of each external molecule to its nearest training molecule, shape (n,).
        reference_similarity: of training molecules to their nearest other one, shape (m,).
        target: shift of the labels; None without external labels.
        descriptors: name → shift, external first; p-values as they are.
        adjusted: name → Holm-adjusted p-value.
        embeddings: shift of the embeddings.
        noise: estimate of the label noise; None without external labels.
        unit: of the target.
        descriptor_values: all descriptors of the external and of the training molecules, shapes (n, d) and (m, d).
    """

    external: Molecules
    known: Molecules
    shared: pd.DataFrame
    overlap: dict[str, dict[str, Any]]
    similarity: np.ndarray
    reference_similarity: np.ndarray
    target: NumberShift | None
    descriptors: dict[str, NumberShift]
    adjusted: dict[str, float]
    embeddings: EmbeddingShift
    noise: LabelNoise | ClassNoise | None
    settings: AuditSettings
    unit: str
    descriptor_values: tuple[np.ndarray, np.ndarray] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {
            "verdict": self.verdict,
            "findings": [one._asdict() for one in self.findings],
            "external": _rows(self.external),
            "against": _rows(self.known),
            "target_sd": self.target_sd,
            "shared": self.overlap,
            "shared_molecules": self.shown.astype(object).where(self.shown.notna(), None).to_dict(orient="records"),
            "similarity": {"external": _quantiles(self.similarity), "training": _quantiles(self.reference_similarity)},
            "target_shift": None if self.target is None else self.target.to_dict(),
            "descriptor_shift": {
                name: {**shift.to_dict(), "p_adjusted": self.adjusted[name]} for name, shift in self.descriptors.items()
            },
            "embedding_shift": self.embeddings.to_dict(),
            "label_noise": None if self.noise is None else self.noise.to_dict(),
            "settings": self.settings.model_dump(mode="json"),
        }

    @property
    def shown(self) -> pd.DataFrame:
        """The shared pairs as they are written."""
        return self.shared

    @property
    def verdict(self) -> str:
        """What the findings come to, and what to do, in a few sentences."""
        said = [self._on_labels()]
        if self._held_out:
            said.append(f"{self._held_out} molecules would leak into the evaluation of the run.")
        if any(one.level != "good" for one in self._chemistry()):
            said.append("The molecules differ from those of the training data.")
        if any(one.level == "bad" for one in self.findings):
            said.append(
                "Do not add them as they are: find out what was measured, or add only what helps in a comparison with "
                "control arms."
            )
        else:
            said.append("Whether they help must be measured, against random selection, all and none.")
        return " ".join(said)

    def _on_labels(self) -> str:
        """What is known of the labels, the gravest first."""
        if self._other_unit:
            return f"The labels are in {self.external.unit}, those of the training data in {self.known.unit}."
        if self.target is None:
            return "There are no labels to compare."
        # Stereoisomers may well have labels of their own, so they count only where nothing nearer is shared.
        levels = [self.overlap[level] for level in ("inchikey", "smiles", "connectivity")]
        shared = next((facts for facts in levels if facts["rmse"] is not None), None)
        if shared is not None and not self._agree(shared):
            verb = "contradict" if self._level(shared) == "bad" else "differ from"
            return f"The labels {verb} those of the training data: {self._contradiction(shared)}"
        if self.noise is not None and any(one.level == "bad" for one in self._noise()):
            return "The labels contradict what a model of the training labels expects."
        known = "No molecule is in both, so the labels could be compared with the expectation of a model alone."
        if shared is not None:
            known = f"The labels of the {shared['molecules']} molecules that both have are the same."
        doubts = [one for one in (*self._target(), *self._noise()) if one.level != "good"]
        return f"{known} The labels of the others are distributed in another way." if doubts else known

    def _contradiction(self, facts: dict[str, Any]) -> str:
        """How labels of shared molecules contradict each other, for the headline."""
        share = f"{self._share(facts['rmse']):.0%} of the standard deviation of the target"
        how = f"are shifted by {facts['mean']:+.3g} on average" if facts["shifted"] else "are others"
        return f"on the {facts['molecules']} molecules that both have, they {how} (RMSE {facts['rmse']:.3g}, {share})."

    def _differences(self, facts: dict[str, Any]) -> str:
        """The same, for a finding."""
        shifted = f" and shifted by {facts['mean']:+.3g} on average" if facts["shifted"] else ""
        return (
            f"their labels differ by an RMSE of {facts['rmse']:.3g}, {self._share(facts['rmse']):.0%} of the "
            f"target's standard deviation ({self.target_sd:.3g}), by at most {facts['largest']:.3g}{shifted}."
        )

    @property
    def _other_unit(self) -> bool:
        return bool(self.external.unit and self.known.unit and self.external.unit != self.known.unit)

    @property
    def _held_out(self) -> int:
        """External molecules that the run's validation or test part holds."""
        if "part" not in self.shared:
            return 0
        return int(self.shared.loc[self.shared["part"].isin(["validation", "test"]), "position"].nunique())

    def _share(self, size: float) -> float:
        """A difference of labels in standard deviations of the target."""
        return abs(size) / self.target_sd if self.target_sd else float("inf")

    def _agree(self, facts: dict[str, Any]) -> bool:
        """Whether the labels of shared molecules are the same, but for rounding."""
        return facts["rmse"] is not None and self._share(facts["largest"]) <= _SAME_LABEL

    def _level(self, facts: dict[str, Any]) -> Literal["good", "note", "bad"]:
        """How grave the differences of labels are."""
        if self._share(facts["rmse"]) > _CONTRADICTION:
            return "bad"
        return "bad" if facts["shifted"] and self._share(facts["mean"]) > _SHIFT else "note"

    @property
    def target_sd(self) -> float:
        """Standard deviation of the training labels."""
        return float(np.std(self.known.target, ddof=1))

    @cached_property
    def findings(self) -> list[Finding]:
        """What was found, in words, the worst first."""
        found = [*self._unusable(), *self._overlap(), *self._chemistry(), *self._target(), *self._noise()]
        return sorted(found, key=lambda one: ("bad", "note", "good").index(one.level))

    def _unusable(self) -> list[Finding]:
        rejected = len(self.external.rejected)
        if not rejected:
            return [Finding("good", f"All {len(self.external)} rows are valid molecules without duplicates.")]
        reasons = "; ".join(f"{count} {reason}" for reason, count in reason_counts(self.external).items())
        return [Finding("note", f"{rejected} of {self.external.rows_in} rows cannot be used: {reasons}.")]

    def _overlap(self) -> list[Finding]:
        found, seen = [], 0
        for level, words in _SAME.items():
            facts = self.overlap[level]
            if facts["molecules"] == seen:
                continue
            seen = facts["molecules"]
            text = f"{seen} of {len(self.external)} molecules are in the training data too ({words})"
            if facts["rmse"] is None:
                found.append(Finding("note", f"{text}."))
                continue
            if self._agree(facts):
                found.append(Finding("note", f"{text}, with the same labels; adding them tells the model nothing new."))
                continue
            found.append(Finding(self._level(facts), f"{text}; {self._differences(facts)}"))
        if self._held_out:
            text = f"{self._held_out} of them are in the run's validation or test part: adding them would leak."
            found.append(Finding("bad", text))
        return found or [Finding("good", "No molecule is in the training data already.")]

    def _chemistry(self) -> list[Finding]:
        ours, theirs = np.median(self.similarity), np.median(self.reference_similarity)
        text = (
            f"The nearest training molecule has a median Tanimoto similarity of {ours:.2f}; among training molecules "
            f"it is {theirs:.2f}. {np.mean(self.similarity < _FEW):.0%} have no training molecule at {_FEW} or more."
        )
        found = [Finding("note" if theirs - ours > 0.1 else "good", text)]
        moved = [name for name, p in self.adjusted.items() if p < ALPHA]
        if moved:
            text = f"The distributions of these descriptors differ (Kolmogorov-Smirnov, Holm): {', '.join(moved)}."
            found.append(Finding("note", text))
        p = self.embeddings.p
        if p >= ALPHA:
            return [*found, Finding("good", f"No shift of the embeddings is detected (MMD, p = {p:.2g}).")]
        text = f"The embeddings come from another distribution (MMD permutation test, p = {p:.3g})."
        return [*found, Finding("note", text)]

    def _target(self) -> list[Finding]:
        shift = self.target
        if shift is None:
            return [Finding("note", "There are no labels, so they could not be compared.")]
        if self._other_unit:
            text = f"The labels are in {self.external.unit}, those of the training data in {self.known.unit}."
            return [Finding("bad", f"{text} One cannot be converted to the other; what follows compares bare numbers.")]
        text = (
            f"The labels have mean {shift.means[0]:.3g} and standard deviation {shift.sds[0]:.3g}, against "
            f"{shift.means[1]:.3g} and {shift.sds[1]:.3g} (Kolmogorov-Smirnov p = {shift.p:.2g})."
        )
        # A test of distributions does not see a shift that the molecules in both tables show.
        shifted = any(facts["shifted"] for facts in self.overlap.values())
        return [Finding("note" if shift.p < ALPHA or shifted else "good", text)]

    def _noise(self) -> list[Finding]:
        noise = self.noise
        if noise is None:
            return []
        assert isinstance(noise, LabelNoise)
        text = (
            f"A model of the training labels has an RMSE of {noise.external_rmse:.3g} on the new molecules, where "
            f"{noise.expected_rmse:.3g} is expected at their similarity; the excess standard deviation of the labels "
            f"is {noise.excess:.3g} (95 % interval {noise.excess_lower:.3g} to {noise.excess_upper:.3g})"
        )
        if noise.correlation is not None:
            text += f", and their correlation with the predictions is {noise.correlation:.2f}"
        if noise.extrapolated > 0.1:
            text += f"; for {noise.extrapolated:.0%} of them the expected error is extrapolated"
        if noise.excess_lower > _CONTRADICTION * self.target_sd:
            return [Finding("bad", f"{text}.")]
        return [Finding("note" if noise.excess_lower > 0 else "good", f"{text}.")]


def _rows(molecules: Molecules) -> dict[str, Any]:
    return {
        "source": str(molecules.provenance.get("source") or ""),
        "sha256": molecules.provenance.get("sha256"),
        "rows": molecules.rows_in,
        "usable": len(molecules),
        "rejected": reason_counts(molecules),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
    return {"mean": float(values.mean()), **{name: float(np.quantile(values, q)) for name, q in names.items()}}
