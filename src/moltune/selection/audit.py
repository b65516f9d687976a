"""Audit of an external file before anything is trained on it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from moltune.config import AuditSettings, CleanSettings, DataSettings, ModelSettings
from moltune.data.classes import with_classes
from moltune.data.load import in_unit, load_molecules, load_molecules_labelled_or_not
from moltune.data.molecules import Molecules
from moltune.data.overlap import LEVELS, disagreement, shared_molecules
from moltune.data.reading.columns import match_name
from moltune.data.reading.read import read_table
from moltune.data.splitting.similarity import morgan_bits, nearest_similarity
from moltune.errors import DataError
from moltune.evaluation.metrics import task_of
from moltune.evaluation.shift import embedding_shift, number_shift, share_shift
from moltune.evaluation.statistics import holm
from moltune.features.embedding import Encoder
from moltune.features.physchem import DESCRIPTORS, physchem
from moltune.progress import StageReport, no_report
from moltune.run import Run
from moltune.selection.class_findings import ClassAudit, class_disagreement
from moltune.selection.findings import Audit
from moltune.selection.noise import class_noise, label_noise

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
        external: a file, bundled set, hub id, data frame or cleaned molecules; labels are optional. Where those of the
            training molecules are classes, they must be the same.
        against: the training molecules, as any of these, or a run folder: then its own molecules with their parts.
        settings: encoder, permutations, folds and so on; unset: the defaults.
        data: columns of the external file; a target that both files have is that of both. ``task`` says whether the
            training labels are classes.
        clean: cleaning steps for both; unset: those of the run, or of ``data``.
        report: receives the stage in progress.

    Raises:
        DataError: a source cannot be read, or holds fewer than five molecules.
        CheckpointError: the model cannot be loaded.
    """
    settings, data = settings or AuditSettings(), data or DataSettings()
    report("reading", 0)
    known, parts, run_clean = _known(against, data.model_copy(update={"clean": clean or data.clean}))
    classes = known.classes
    if not isinstance(external, Molecules):
        like_known = {"clean": clean or run_clean or data.clean, "task": task_of(classes).name}
        external = _external(external, data.model_copy(update=like_known), known)
    external = with_classes(external, classes)
    for name, molecules in (("external file", external), ("training set", known)):
        if len(molecules) < 5:
            raise DataError(f"the {name} holds {len(molecules)} usable molecules; an audit needs five or more")
    report("shared molecules", 0)
    shared = shared_molecules(external, known)
    if parts is not None:
        shared["part"] = parts[shared["known_position"].to_numpy(dtype=int)]
    overlap = {level: disagreement(shared, level) for level in LEVELS}
    if classes is not None:
        overlap = {level: {**facts, **class_disagreement(shared, level)} for level, facts in overlap.items()}
    report("similarities and descriptors", 0)
    rng = np.random.default_rng(settings.seed)
    similarity, reference = _similarities(external, known, rng, settings.reference)
    values = physchem(external.smiles), physchem(known.smiles)
    shifts = {name: number_shift(*(of[:, DESCRIPTORS.index(name)] for of in values)) for name in SHIFTED}
    adjusted = dict(zip(SHIFTED, holm([shift.p for shift in shifts.values()]).tolist(), strict=True))
    report("embeddings", 0)
    encoder = Encoder(ModelSettings(name=settings.model, too_long="truncate"))
    embedded = [encoder(molecules.smiles).astype(np.float64) for molecules in (external, known)]
    labelled = np.isfinite(external.target)
    if not labelled.any():
        logger.warning("%s has no usable label column; name one with --target", external.provenance.get("source"))
    noise = None
    # The error on a molecule of the training set is no estimate of the error on new molecules.
    fresh = np.flatnonzero(labelled & ~np.isin(np.arange(len(external)), shared["position"].to_numpy(dtype=int)))
    if len(fresh) >= 5:
        report("label noise by a cross-validated model", 0)
        features = [np.hstack(pair).astype(np.float64) for pair in zip(values, embedded, strict=True)]
        noise = (label_noise if classes is None else class_noise)(
            (features[0][fresh], external.target[fresh], [external.smiles[i] for i in fresh]),
            (features[1], known.target, known.smiles),
            folds=settings.folds,
            seed=settings.seed,
        )
    report("permutation test of the embeddings", 0)
    embeddings = embedding_shift(
        *embedded, permutations=settings.permutations, most=settings.reference, seed=settings.seed
    )
    compare = number_shift if classes is None else share_shift
    return (Audit if classes is None else ClassAudit)(
        external=external,
        known=known,
        shared=shared,
        overlap=overlap,
        similarity=similarity,
        reference_similarity=reference,
        target=compare(external.target, known.target) if labelled.sum() > 1 else None,
        descriptors=shifts,
        adjusted=adjusted,
        embeddings=embeddings,
        noise=noise,
        settings=settings,
        unit=known.unit,
        descriptor_values=values,
    )


def _known(
    against: str | Path | pd.DataFrame | Molecules, data: DataSettings
) -> tuple[Molecules, np.ndarray | None, CleanSettings | None]:
    if isinstance(against, Molecules):
        return against, None, None
    if isinstance(against, str | Path) and Path(against).is_dir():
        run = Run.load(against)
        molecules, parts = run.molecules()
        return molecules, parts, run.config.data.clean
    return load_molecules(against, _training(against, data)), None, None


def _training(source: str | Path | pd.DataFrame, data: DataSettings) -> DataSettings:
    """How to read the training molecules: the named target is theirs, too, where they have a column of this name."""
    settings = DataSettings(clean=data.clean, task=data.task)
    if data.target is None:
        return settings
    try:
        target = match_name(read_table(source, settings).frame.columns, data.target, "target column")
    except DataError:
        return settings
    return settings.model_copy(update={"target": target})


def _external(source: str | Path | pd.DataFrame, data: DataSettings, known: Molecules) -> Molecules:
    """External molecules in the unit of the training molecules, where theirs can be converted to it."""
    settings = data.model_copy(update={"clean": in_unit(data.clean, known.unit)})
    try:
        return load_molecules_labelled_or_not(source, settings, known.classes)
    except DataError:
        if known.classes is not None:
            raise
        # Whether another unit is all that is wrong shows when it is left as it is; the audit then says so.
        found = load_molecules_labelled_or_not(source, data)
        if not found.unit or found.unit == known.unit:
            raise
        return found


def _similarities(
    external: Molecules, known: Molecules, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """To the nearest training molecule: of each external molecule, and of up to ``most`` training molecules."""
    bits = morgan_bits([*known.smiles, *external.smiles])
    everyone = np.arange(len(known))
    similarity = nearest_similarity(bits, np.arange(len(known), len(bits)), everyone)
    sample = np.sort(rng.choice(everyone, min(most, len(known)), replace=False))
    return similarity, np.array([nearest_similarity(bits, np.array([i]), everyone[everyone != i])[0] for i in sample])
