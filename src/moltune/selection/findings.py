"""What an audit measured, and what it says in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from moltune.config import AuditSettings
from moltune.data.load import reason_counts
from moltune.data.molecules import Molecules
from moltune.evaluation.shift import EmbeddingShift, NumberShift
from moltune.selection.noise import LabelNoise

_CONTRADICTION = 0.5
_FEW = 0.3
_ALPHA = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that the audit found.

    Attributes:
        level: "good", "note" or "bad".
        text: one sentence.
    """

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
    noise: LabelNoise | None
    settings: AuditSettings
    unit: str = ""
    descriptor_values: tuple[np.ndarray, np.ndarray] = field(default=(np.empty(0), np.empty(0)), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {
            "verdict": self.verdict,
            "findings": [{"level": one.level, "text": one.text} for one in self.findings],
            "external": _rows(self.external),
            "against": _rows(self.known),
            "target_sd": self.target_sd,
            "shared": self.overlap,
            "shared_molecules": self.shared.astype(object).where(self.shared.notna(), None).to_dict(orient="records"),
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
    def verdict(self) -> str:
        """One sentence."""
        levels = {one.level for one in self.findings}
        if "bad" in levels:
            return (
                "These labels contradict the training data or would leak into its evaluation: do not add them unseen. "
                "Find out what was measured, or add only what a control arm shows to help."
            )
        if "note" in levels:
            return (
                "Nothing contradicts the training data, but the molecules differ from it: whether they help must be "
                "measured, against random selection, all and none."
            )
        return "Nothing speaks against these molecules; whether they help must still be measured against none."

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
            return [Finding("good", f"All {len(self.external)} rows are valid molecules, each there once.")]
        reasons = "; ".join(f"{count} {reason}" for reason, count in reason_counts(self.external).items())
        return [Finding("note", f"{rejected} of {self.external.rows_in} rows cannot be used: {reasons}.")]

    def _overlap(self) -> list[Finding]:
        sd = self.target_sd
        found = []
        names = {
            "smiles": "are in the training data too (same canonical SMILES)",
            "inchikey": "are there by InChIKey, tautomers included",
            "connectivity": "are there by connectivity, stereoisomers included",
        }
        seen = 0
        for level, words in names.items():
            facts = self.overlap[level]
            if facts["molecules"] == seen:
                continue
            seen = facts["molecules"]
            text = f"{seen} of {len(self.external)} molecules {words}"
            if facts["rmse"] is None:
                found.append(Finding("note", f"{text}."))
                continue
            ratio = facts["rmse"] / sd if sd else float("inf")
            text += (
                f"; their labels differ by an RMSE of {facts['rmse']:.3g}, {ratio:.0%} of the target's standard "
                f"deviation ({sd:.3g}), by up to {facts['largest']:.3g}."
            )
            found.append(Finding("bad" if ratio > _CONTRADICTION else "note", text))
        if "part" in self.shared and seen:
            held_out = self.shared.loc[self.shared["part"].isin(["validation", "test"]), "position"].nunique()
            if held_out:
                text = f"{held_out} of them are in the run's validation or test part: adding them would leak."
                found.append(Finding("bad", text))
        return found or [Finding("good", "No molecule is in the training data already.")]

    def _chemistry(self) -> list[Finding]:
        found = []
        ours, theirs = np.median(self.similarity), np.median(self.reference_similarity)
        far = float(np.mean(self.similarity < _FEW))
        text = (
            f"The nearest training molecule has a median Tanimoto similarity of {ours:.2f}; among training molecules "
            f"it is {theirs:.2f}."
        )
        far_text = f" {far:.0%} have none at {_FEW} or more."
        found.append(Finding("note" if theirs - ours > 0.1 else "good", text + far_text))
        moved = [name for name, p in self.adjusted.items() if p < _ALPHA]
        if moved:
            text = f"Descriptors that are distributed differently (Kolmogorov-Smirnov, Holm): {', '.join(moved)}."
            found.append(Finding("note", text))
        if self.embeddings.p < _ALPHA:
            found.append(
                Finding(
                    "note",
                    "The embeddings come from another distribution (MMD permutation test, "
                    f"p = {self.embeddings.p:.3g}): these molecules are of another chemical regime.",
                )
            )
        else:
            found.append(Finding("good", f"No shift of embeddings is seen (MMD, p = {self.embeddings.p:.2g})."))
        return found

    def _target(self) -> list[Finding]:
        if self.target is None:
            return [Finding("note", "There are no labels, so nothing can be said about them.")]
        shift = self.target
        text = (
            f"The labels have mean {shift.means[0]:.3g} and standard deviation {shift.sds[0]:.3g}, against "
            f"{shift.means[1]:.3g} and {shift.sds[1]:.3g} (Kolmogorov-Smirnov p = {shift.p:.2g})."
        )
        return [Finding("note" if shift.p < _ALPHA else "good", text)]

    def _noise(self) -> list[Finding]:
        noise = self.noise
        if noise is None:
            return []
        sd = self.target_sd
        text = (
            f"A model of the training labels is off by an RMSE of {noise.external_rmse:.3g} on the new molecules, "
            f"where {noise.expected_rmse:.3g} was to be expected at their similarity; the labels' excess standard "
            f"deviation is {noise.excess:.3g} (95 % interval {noise.excess_lower:.3g} to {noise.excess_upper:.3g})"
        )
        if noise.correlation is not None:
            text += f", and their correlation with the predictions {noise.correlation:.2f}"
        if noise.extrapolated > 0.1:
            text += f"; for {noise.extrapolated:.0%} of them the expected error is extrapolated"
        bad = noise.excess_lower > _CONTRADICTION * sd
        level: Literal["good", "note", "bad"] = "bad" if bad else "note" if noise.excess_lower > 0 else "good"
        return [Finding(level, f"{text}.")]


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
