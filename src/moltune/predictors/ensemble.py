"""A deep ensemble: the same model, trained from several seeds, as one predictor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moltune.errors import CheckpointError
from moltune.files import write_json
from moltune.models.coverage import Issue
from moltune.predictors.base import ENSEMBLE_TYPE, Progress, TunedModel

CONFIG = "config.json"


@dataclass(frozen=True)
class Ensemble(TunedModel):
    """The mean of several tuned models (Lakshminarayanan et al. 2017, arXiv 1612.01474).

    Attributes:
        members: that predict the same property.
    """

    members: list[TunedModel]

    @property
    def target_name(self) -> str:
        """Of the members."""
        return self.members[0].target_name

    @property
    def class_names(self) -> tuple[str, str] | None:
        """Of the members."""
        return self.members[0].class_names

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """What the first member cannot read; all have its vocabulary."""
        return self.members[0].issues(smiles)

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """The mean of the members, float64, shape (n,)."""
        return self.predict_with_spread(smiles, batch_size, progress)[0]

    def predict_with_spread(
        self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n - 1 in the denominator) of the members, in the target's unit, shape (n,) each.

        Progress counts what the last member has done.
        """
        *others, last = self.members
        found = [one.predict(smiles, batch_size) for one in others] + [last.predict(smiles, batch_size, progress)]
        return np.mean(found, axis=0), np.std(found, axis=0, ddof=1)

    def save(self, folder: str | Path) -> None:
        """Write each member into a folder of its own."""
        for at, one in enumerate(self.members):
            one.save(member_folder(folder, at))
        write_json(Path(folder) / CONFIG, {"model_type": ENSEMBLE_TYPE, "members": len(self.members)})


def member_folder(folder: str | Path, at: int) -> Path:
    """Where a member lies."""
    return Path(folder) / f"member-{at}"


def count_members(folder: Path) -> int:
    """How many members a saved ensemble has.

    Raises:
        CheckpointError: its file does not say it.
    """
    try:
        return int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["members"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"the ensemble in {folder} is damaged: copy it again") from None
