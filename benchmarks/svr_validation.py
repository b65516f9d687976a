"""What fixed features are worth: the validation error of a support vector machine on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from moltune.data.splitting.split import Split
from moltune.evaluation.metrics import rmse
from moltune.predictors.probe_heads import Scaler, SvrHead


def svr_validation(
    features: np.ndarray,
    target: np.ndarray,
    splits: Iterable[Split],
    penalties: Sequence[float],
    *,
    epsilon: float = 0.1,
    clip: float = np.inf,
) -> dict[str, list[float]]:
    """Validation RMSE on each split, by C.

    Args:
        features: shape (n, d).
        target: shape (n,).
        splits: of the n molecules.
        penalties: C of the machine, in standard deviations of the target.
        epsilon: errors below this cost nothing, in the same unit.
        clip: standardised features beyond this many deviations are cut off there.
    """
    result: dict[str, list[float]] = {f"C={penalty:g}": [] for penalty in penalties}
    for split in splits:
        scaler = Scaler().fit(features[split.train])
        train, rest = (
            np.clip(scaler.transform(features[part]), -clip, clip) for part in (split.train, split.validation)
        )
        mean, std = target[split.train].mean(), target[split.train].std()
        for penalty in penalties:
            head = SvrHead(penalty, epsilon).fit(train, (target[split.train] - mean) / std)
            predicted = head.predict(rest) * std + mean
            result[f"C={penalty:g}"].append(round(float(rmse(target[split.validation], predicted)), 4))
    return result
