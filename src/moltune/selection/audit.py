"""What is in an external file, before anything is trained on it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from moltune.config import AuditSettings, CleanSettings, DataSettings, ModelSettings
from moltune.data.load import load_molecules, reason_counts
from moltune.data.molecules import Molecules
from moltune.data.overlap import LEVELS, disagreement, shared_molecules
from moltune.data.splitting.leakage import nearest_similarity
from moltune.errors import DataError
from moltune.evaluation.shift import EmbeddingShift, NumberShift, embedding_shift, number_shift
from moltune.evaluation.statistics import holm
from moltune.features.descriptors import morgan_bits
from moltune.features.embedding import Encoder
from moltune.features.physchem import DESCRIPTORS, physchem
from moltune.progress import StageReport, no_report
from moltune.run import CONFIG, Run
from moltune.selection.noise import LabelNoise, label_noise

logger = logging.getLogger(__name__)

SHIFTED = (
    "MolWt",
    "HeavyAtoms",
    "CrippenLogP",
    "TPSA",
    "HBondDonors",
    "HBondAcceptors",
    "RotatableBonds",
    "Rings",
    "AromaticRings",
    "FractionCSP3",
    "FormalCharge",
    "StereoCenters",
)
"""Descriptors of :mod:`moltune.features.physchem` whose distributions are compared."""

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
        findings: in words, the worst first.
        verdict: one sentence.
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
    findings: list[Finding]
    verdict: str
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
            "target_sd": _sd(self.known.target),
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


def audit(
    external: str | Path | pd.DataFrame | Molecules,
    against: str | Path | pd.DataFrame | Molecules,
    *,
    settings: AuditSettings | None = None,
    data: DataSettings | None = None,
    clean: CleanSettings | None = None,
    report: StageReport = no_report,
) -> Audit:
    """Examine external molecules before any of them is added to a training set.

    Args:
        external: a file, bundled set, hub id, data frame or cleaned molecules; labels are optional.
        against: the training molecules, as any of these, or a run folder: then its own molecules with their parts.
        settings: how.
        data: columns of the external file; its cleaning is ``clean``.
        clean: cleaning steps for both; unset: the defaults, or those of the run.
        report: is told what is being done.

    Raises:
        DataError: a source cannot be read, or holds fewer than five molecules.
        CheckpointError: the model cannot be loaded.
    """
    settings, data = settings or AuditSettings(), data or DataSettings()
    report("reading", 0)
    known, parts, run_clean = _known(against, clean)
    steps = clean or run_clean or CleanSettings()
    if not isinstance(external, Molecules):
        external = _load_external(external, data.model_copy(update={"clean": steps}))
    for name, molecules in (("external file", external), ("training set", known)):
        if len(molecules) < 5:
            raise DataError(f"the {name} holds {len(molecules)} usable molecules; an audit needs five or more")
    report("shared molecules", 0)
    shared = shared_molecules(external, known)
    if parts is not None:
        shared["part"] = parts[shared["known_position"].to_numpy(dtype=int)]
    overlap = {level: disagreement(shared, level) for level in LEVELS}
    report("similarities and descriptors", 0)
    rng = np.random.default_rng(settings.seed)
    similarity, reference = _similarities(external, known, rng, settings.reference)
    values = physchem(external.smiles), physchem(known.smiles)
    shifts = {name: number_shift(*(v[:, DESCRIPTORS.index(name)] for v in values)) for name in SHIFTED}
    adjusted = dict(zip(SHIFTED, holm([shift.p for shift in shifts.values()]).tolist(), strict=True))
    report("embeddings", 0)
    encoder = Encoder(ModelSettings(name=settings.model, too_long="truncate"))
    embedded = tuple(encoder(molecules.smiles).astype(np.float64) for molecules in (external, known))
    labelled = np.isfinite(external.target)
    target = number_shift(external.target, known.target) if labelled.sum() > 1 else None
    noise = None
    # A molecule whose label the model has learned says nothing about how well it predicts new ones.
    fresh = np.flatnonzero(labelled & ~np.isin(np.arange(len(external)), shared["position"].to_numpy(dtype=int)))
    if len(fresh) >= 5:
        report("label noise by a cross-validated model", 0)
        features = tuple(np.hstack([v, e]).astype(np.float64) for v, e in zip(values, embedded, strict=True))
        noise = label_noise(
            (features[0][fresh], external.target[fresh], [external.smiles[i] for i in fresh]),
            (features[1], known.target, known.smiles),
            folds=settings.folds,
            seed=settings.seed,
        )
    report("permutation test of the embeddings", 0)
    embeddings = embedding_shift(
        embedded[0], embedded[1], permutations=settings.permutations, most=settings.reference, seed=settings.seed
    )
    unit = str(known.provenance.get("unit") or "")
    facts = _Facts(external, known, overlap, similarity, reference, target, adjusted, embeddings, noise, parts, shared)
    findings = facts.findings()
    return Audit(
        external=external,
        known=known,
        shared=shared,
        overlap=overlap,
        similarity=similarity,
        reference_similarity=reference,
        target=target,
        descriptors=shifts,
        adjusted=adjusted,
        embeddings=embeddings,
        noise=noise,
        findings=findings,
        verdict=_verdict(findings),
        settings=settings,
        unit=unit,
        descriptor_values=values,
    )


def _known(
    against: str | Path | pd.DataFrame | Molecules, clean: CleanSettings | None
) -> tuple[Molecules, np.ndarray | None, CleanSettings | None]:
    if isinstance(against, Molecules):
        return against, None, None
    if isinstance(against, str | Path) and (Path(against) / CONFIG).is_file():
        run = Run.load(against)
        molecules, parts = run.molecules()
        return molecules, parts, run.config.data.clean
    return load_molecules(against, DataSettings(clean=clean or CleanSettings())), None, None


def _load_external(source: str | Path | pd.DataFrame, data: DataSettings) -> Molecules:
    try:
        return load_molecules(source, data)
    except DataError:
        if data.target is not None:
            raise
        # Without labels an audit still tells overlap, similarity and shift.
        molecules = load_molecules(source, data, need_target=False)
        logger.warning("%s has no usable label column; name one with --target", molecules.provenance.get("source"))
        return molecules


def _similarities(
    external: Molecules, known: Molecules, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray]:
    bits = morgan_bits([*known.smiles, *external.smiles])
    n = len(known)
    everyone = np.arange(n)
    similarity = nearest_similarity(bits, np.arange(n, n + len(external)), everyone)
    sample = np.sort(rng.choice(n, min(most, n), replace=False))
    return similarity, np.array([nearest_similarity(bits, np.array([i]), everyone[everyone != i])[0] for i in sample])


@dataclass(frozen=True)
class _Facts:
    external: Molecules
    known: Molecules
    overlap: dict[str, dict[str, Any]]
    similarity: np.ndarray
    reference: np.ndarray
    target: NumberShift | None
    adjusted: dict[str, float]
    embeddings: EmbeddingShift
    noise: LabelNoise | None
    parts: np.ndarray | None
    shared: pd.DataFrame

    def findings(self) -> list[Finding]:
        """All findings, the bad ones first."""
        found = [*self._rows(), *self._overlap(), *self._chemistry(), *self._target(), *self._noise()]
        return sorted(found, key=lambda one: ("bad", "note", "good").index(one.level))

    def _rows(self) -> list[Finding]:
        rejected = len(self.external.rejected)
        if not rejected:
            return [Finding("good", f"All {len(self.external)} rows are valid molecules, each there once.")]
        reasons = "; ".join(f"{count} {reason}" for reason, count in reason_counts(self.external).items())
        return [Finding("note", f"{rejected} of {self.external.rows_in} rows cannot be used: {reasons}.")]

    def _overlap(self) -> list[Finding]:
        sd = _sd(self.known.target)
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
        if self.parts is not None and seen:
            held_out = self.shared.loc[self.shared["part"].isin(["validation", "test"]), "position"].nunique()
            if held_out:
                text = f"{held_out} of them are in the run's validation or test part: adding them would leak."
                found.append(Finding("bad", text))
        return found or [Finding("good", "No molecule is in the training data already.")]

    def _chemistry(self) -> list[Finding]:
        found = []
        ours, theirs = np.median(self.similarity), np.median(self.reference)
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
        sd = _sd(self.known.target)
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


def _verdict(findings: list[Finding]) -> str:
    bad = sum(one.level == "bad" for one in findings)
    notes = sum(one.level == "note" for one in findings)
    if bad:
        return (
            "These labels contradict the training data or would leak into its evaluation: do not add them unseen. "
            "Find out what was measured, or add only what a control arm shows to help."
        )
    if notes:
        return (
            "Nothing contradicts the training data, but the molecules differ from it: whether they help must be "
            "measured, against random selection, all and none."
        )
    return "Nothing speaks against these molecules; whether they help must still be measured against none."


def _rows(molecules: Molecules) -> dict[str, Any]:
    return {
        "source": str(molecules.provenance.get("source") or ""),
        "sha256": molecules.provenance.get("sha256"),
        "rows": molecules.rows_in,
        "usable": len(molecules),
        "rejected": reason_counts(molecules),
    }


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1))


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
    return {"mean": float(values.mean()), **{name: float(np.quantile(values, q)) for name, q in names.items()}}
