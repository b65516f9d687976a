"""What an audit says where the target holds two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from scipy.stats import binomtest

from moltune.data.overlap import LEVELS
from moltune.selection.findings import ALPHA, Audit, Finding
from moltune.selection.noise import ClassNoise

# Shares of molecules of the other class from which labels contradict, and do so where all went one way.
_CONTRADICTION, _ONE_WAY = 0.1, 0.05


def class_disagreement(pairs: pd.DataFrame, level: str) -> dict[str, Any]:
    """How many shared molecules are of the other class, pairs of ``level`` and of every narrower level together.

    Returns:
        ``labelled`` (external molecules with both labels), ``other_class`` of them, of which ``to_positive`` are of the
        positive class here and of the negative one among the training molecules, and ``to_negative`` the other way.
    """
    within = pairs[pairs["level"].isin(LEVELS[: LEVELS.index(level) + 1])].dropna(subset=["difference"])
    counts = {
        "labelled": within["position"],
        "other_class": within.loc[within["difference"] != 0, "position"],
        "to_positive": within.loc[within["difference"] > 0, "position"],
        "to_negative": within.loc[within["difference"] < 0, "position"],
    }
    return {name: int(positions.nunique()) for name, positions in counts.items()}


@dataclass(frozen=True)
class ClassAudit(Audit):
    """The same of labels that are classes: ``overlap`` also has what :func:`class_disagreement` says."""

    @property
    def shown(self) -> pd.DataFrame:
        """The pairs with classes by name."""
        names = dict(enumerate(self._names))
        return self.shared.assign(**{name: self.shared[name].map(names) for name in ("label", "known_label")})

    @property
    def _names(self) -> tuple[str, str]:
        assert self.known.classes is not None
        return self.known.classes

    def _level(self, facts: dict[str, Any]) -> Literal["good", "note", "bad"]:
        share = facts["other_class"] / facts["labelled"]
        one_way = binomtest(facts["to_positive"], facts["other_class"]).pvalue < 0.01
        return "bad" if share > _CONTRADICTION or (one_way and share > _ONE_WAY) else "note"

    def _contradiction(self, facts: dict[str, Any]) -> str:
        both = "" if facts["labelled"] == facts["molecules"] else " with a label"
        return f"of the {facts['labelled']} molecules that both have{both}, {self._flipped(facts)}."

    def _differences(self, facts: dict[str, Any]) -> str:
        both = "them" if facts["labelled"] == facts["molecules"] else f"the {facts['labelled']} with both labels"
        return f"of {both}, {self._flipped(facts)}."

    def _flipped(self, facts: dict[str, Any]) -> str:
        negative, positive = self._names
        count = facts["other_class"]
        return (
            f"{count} ({count / facts['labelled']:.0%}) {'is' if count == 1 else 'are'} of the other class "
            f"({facts['to_positive']} {positive} here and {negative} there, {facts['to_negative']} the other way)"
        )

    def _target(self) -> list[Finding]:
        shift = self.target
        if shift is None:
            return super()._target()
        text = (
            f"{shift.means[0]:.0%} of the molecules are {self._names[1]}, against {shift.means[1]:.0%} of the training "
            f"molecules (Fisher's exact test, p = {shift.p:.2g})."
        )
        # A test of shares does not see a shift that the molecules in both tables show.
        shifted = any(facts["shifted"] for facts in self.overlap.values())
        return [Finding("note" if shift.p < ALPHA or shifted else "good", text)]

    def _noise(self) -> list[Finding]:
        noise = self.noise
        if noise is None:
            return []
        assert isinstance(noise, ClassNoise)
        text = (
            f"A model of the training labels expects the other class of {noise.external_error:.0%} of the new "
            f"molecules, where {noise.expected_error:.0%} is usual at their similarity; the excess is "
            f"{noise.excess:.0%} (95 % interval {noise.excess_lower:.0%} to {noise.excess_upper:.0%})"
        )
        if noise.extrapolated > 0.1:
            text += f"; for {noise.extrapolated:.0%} of them what is usual is extrapolated"
        grave = noise.excess_lower > _CONTRADICTION
        return [Finding("bad" if grave else "note" if noise.excess_lower > 0 else "good", f"{text}.")]
