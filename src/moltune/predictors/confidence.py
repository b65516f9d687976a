"""What goes with each prediction: its interval, its domain flag, and the nearest training molecule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from rdkit import Chem
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.calibration import LEVEL
from moltune.calibration.conformal import Calibration
from moltune.calibration.merit import assess
from moltune.calibration.sets import PredictionSets
from moltune.domain.applicability import FLAGS, NEIGHBOURS, Domain, DomainReport
from moltune.errors import CheckpointError
from moltune.files import replacing

FEWEST_TRAINED, FEWEST_HELD_OUT = NEIGHBOURS + 2, 20
"""With fewer training molecules there is no domain, with fewer held-out ones no interval."""
_SETS = "-sets"


@dataclass(frozen=True)
class Confidence:
    """The training molecules of a model, and the errors that it made on molecules that it was not trained on.

    Make one with :meth:`fit` or :meth:`load`.

    Attributes:
        domain: of the training molecules.
        measured: their measurements, in the target's unit, shape (n,).
        calibrations: name of a source of predictions ("model", "blend") → its errors; empty where too few are known.
        sets: the same for sources of probabilities.
    """

    domain: Domain
    measured: np.ndarray
    calibrations: dict[str, Calibration]
    sets: dict[str, PredictionSets] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        train: tuple[Sequence[str], np.ndarray],
        held_out: tuple[Sequence[str], np.ndarray],
        predicted: Mapping[str, np.ndarray],
        spread: np.ndarray | None = None,
        classes: bool = False,
    ) -> Self | None:
        """Learn from the training part what is usual, and from held-out molecules how large errors are.

        Intervals are split-conformal (Papadopoulos et al. 2002, doi:10.1007/3-540-36755-1_29), normalised by the
        distance to the nearest training molecules and with a quantile for each domain class; see
        :mod:`moltune.calibration.conformal`.

        Args:
            train: SMILES and measurements that the model was fitted on.
            held_out: of molecules that it was not fitted on; empty: there are none, and no intervals.
            predicted: name of a source → its predictions of the latter, shape (n,).
            spread: how far the members of an ensemble disagree about the latter, shape (n,); it then widens intervals,
                too.
            classes: measurements are the classes 0 and 1, and predictions probabilities: there are prediction sets then
                instead of intervals (:mod:`moltune.calibration.sets`).

        Returns:
            None where there are fewer than five training molecules.
        """
        unique = {text: float(value) for text, value in zip(*train, strict=True)}
        if len(unique) < FEWEST_TRAINED:
            return None
        domain = Domain.fit(list(unique))
        calibrations = {}
        smiles, true = held_out
        if classes:
            known = predicted if len(true) >= FEWEST_HELD_OUT and np.ptp(true) > 0 else {}
            sets = {source: PredictionSets.fit(true, values) for source, values in known.items()}
            return cls(domain, np.array(list(unique.values())), {}, sets)
        if len(true) >= FEWEST_HELD_OUT:
            inputs, flags = _judged(domain.check(list(smiles)), spread)
            calibrations = {
                source: Calibration.fit(true, values, inputs, flags, len(FLAGS))
                for source, values in predicted.items()
                if (values != true).any()
            }
        return cls(domain, np.array(list(unique.values())), calibrations)

    def describe(
        self,
        smiles: Sequence[str | Chem.Mol],
        predicted: np.ndarray,
        source: str,
        level: float = LEVEL,
        spread: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """What to say beside n predictions.

        Args:
            smiles: of the molecules, or what RDKit read of them.
            predicted: shape (n,).
            source: of the predictions; intervals are given where its errors are known.
            level: share of measurements that an interval should hold.
            spread: as in the fit.

        Returns:
            Suffix of a column's name → values, shape (n,): ``_low``, ``_high`` and ``_sd`` (in the target's unit),
            ``_domain`` (in, near or out), ``_reason`` in words, ``_nearest`` (SMILES of the nearest training
            molecule), ``_nearest_measured`` (in the target's unit) and ``_similarity`` (Tanimoto, Morgan, radius 2).

        Raises:
            ConfigError: the level is not between 0 and 1.
            DataError: too few errors are known for such a level.
        """
        report = self.domain.check(list(smiles))
        found: dict[str, np.ndarray] = {}
        if source in self.calibrations:
            own = self.calibrations[source].predict(predicted, *_judged(report, spread), level)
            found = {"_low": own.low, "_high": own.high, "_sd": own.sd}
        nearest = report.nearest[:, 0]
        texts = {
            "_domain": report.names,
            "_reason": ["; ".join(words) for words in report.reasons],
            "_nearest": [self.domain.smiles[at] for at in nearest],
        }
        found |= {suffix: np.array(values, dtype=object) for suffix, values in texts.items()}
        return found | {"_nearest_measured": self.measured[nearest], "_similarity": report.similarity[:, 0]}

    def judge(
        self,
        smiles: Sequence[str],
        true: np.ndarray,
        predicted: np.ndarray,
        source: str,
        spread: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Compare intervals with measurements of molecules that neither model nor calibration has seen.

        Returns:
            What :func:`moltune.calibration.merit.assess` says; empty where there are no intervals.
        """
        if source not in self.calibrations:
            return {}
        inputs, flags = _judged(self.domain.check(list(smiles)), spread)
        return by_flag(assess(self.calibrations[source], true, predicted, inputs, flags))

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        arrays = {"measured": self.measured} | {f"domain.{k}": v for k, v in self.domain.to_arrays().items()}
        for source, calibration in self.calibrations.items():
            arrays |= {f"{source}.{name}": value for name, value in calibration.to_arrays().items()}
        for source, own in self.sets.items():
            arrays |= {f"{source}{_SETS}.negative": own.negative, f"{source}{_SETS}.positive": own.positive}
        with replacing(path) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is damaged, or was written by a later version.
        """
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): copy it again") from None
        groups: dict[str, dict[str, np.ndarray]] = {}
        measured = arrays.pop("measured", np.empty(0))
        for name, values in arrays.items():
            group, _, own = name.partition(".")
            groups.setdefault(group, {})[own] = values
        domain = Domain.from_arrays(groups.pop("domain", {}))
        if len(measured) != len(domain.smiles):
            raise CheckpointError(f"{path} is damaged: its arrays do not fit together; copy it again")
        sets = {name.removesuffix(_SETS): groups.pop(name) for name in list(groups) if name.endswith(_SETS)}
        return cls(
            domain,
            measured,
            {source: Calibration.from_arrays(own) for source, own in groups.items()},
            {source: PredictionSets(**own) for source, own in sets.items()},
        )


def by_flag(found: dict[str, Any]) -> dict[str, Any]:
    """Figures of merit with the names of domain flags for those of classes."""
    return {**found, "by_class": {FLAGS[int(flag)]: values for flag, values in found["by_class"].items()}}


def _judged(report: DomainReport, spread: np.ndarray | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What difficulty is judged by, and the class of each molecule."""
    return {"distance": report.distance} | ({} if spread is None else {"spread": spread}), report.flag
