"""A probe that is trained on every molecule: its error and its intervals come from folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moltune.calibration.conformal import Calibration, Intervals
from moltune.calibration.folds import FOLDS, fold_labels, out_of_fold
from moltune.calibration.merit import judge
from moltune.domain.applicability import FLAGS, Domain
from moltune.predictors.base import MODEL
from moltune.predictors.confidence import FEWEST_HELD_OUT, Confidence, by_flag
from moltune.predictors.probe import Probe


@dataclass(frozen=True)
class CrossValidated:
    """What folds say of a probe.

    Attributes:
        predicted: of each molecule by a probe that saw neither it nor a relative of it, shape (n,).
        confidence: intervals from these errors, for the probe that was fitted on everything.
        intervals: coverage and width on molecules that had no part in the calibration, as
            :func:`moltune.calibration.merit.assess` gives them; empty where there are too few.
    """

    predicted: np.ndarray
    confidence: Confidence
    intervals: dict[str, Any]


def cross_validate(
    probe: Probe, smiles: Sequence[str], target: np.ndarray, inchikeys: Sequence[str], seed: int = 0
) -> CrossValidated:
    """Fit the probe anew without each of five folds, and predict that fold.

    Molecules with the same first block of the InChIKey share a fold. Intervals are cross-conformal (Vovk 2015,
    doi:10.1007/s10472-013-9368-4); what they are worth is measured by calibrating on four folds at a time.

    Args:
        probe: its settings and features count; it is not changed.
        smiles: n molecules.
        target: their measurements, shape (n,).
        inchikeys: of the molecules.
        seed: of the folds and the fits.

    Raises:
        DataError: fewer molecules than folds, or than a domain needs.
    """
    texts, target = np.array(smiles, dtype=object), np.asarray(target, dtype=np.float64)

    def predict(learn: np.ndarray, rest: np.ndarray) -> np.ndarray:
        part = Probe(probe.settings, probe.features, probe.target_name).fit(
            (list(texts[learn]), target[learn]), seed=seed
        )
        report = Domain.fit(list(texts[learn])).check(list(texts[rest]))
        return np.column_stack([part.predict(list(texts[rest])), report.distance, report.flag])

    labels = fold_labels([key.split("-")[0] for key in inchikeys], seed=seed)
    predicted, distance, flag = out_of_fold(labels, predict).T
    flags = flag.astype(np.int64)

    def calibrated(rows: np.ndarray) -> Calibration:
        return Calibration.fit(target[rows], predicted[rows], {"distance": distance[rows]}, flags[rows], len(FLAGS))

    everybody = np.arange(len(target))
    domain = Domain.fit(list(texts))
    if len(target) < FEWEST_HELD_OUT * FOLDS / (FOLDS - 1):
        return CrossValidated(predicted, Confidence(domain, target, {}), {})
    without = {int(fold): calibrated(everybody[labels != fold]) for fold in np.unique(labels)}

    def at(level: float) -> Intervals:
        def of_fold(_: np.ndarray, rest: np.ndarray) -> np.ndarray:
            own = without[int(labels[rest[0]])].predict(
                predicted[rest], {"distance": distance[rest]}, flags[rest], level
            )
            return np.column_stack([own.low, own.high, own.sd])

        return Intervals(*out_of_fold(labels, of_fold).T)

    worth = judge(at, target, predicted, flags, largest=min(one.largest_level for one in without.values()))
    confidence = Confidence(domain, target, {MODEL: calibrated(everybody)})
    return CrossValidated(predicted, confidence, by_flag(worth))
