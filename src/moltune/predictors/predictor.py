"""Tuned models in, predictions out: for files, lists and single SMILES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moltune.config import CleanSettings, DataSettings, ModelSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import DataError, RunFolderError
from moltune.evaluation.metrics import evaluate
from moltune.predictors.base import Progress, TunedModel
from moltune.predictors.load import load_model
from moltune.run import ADAPTED, BLENDED, CONFIG, Run

if TYPE_CHECKING:
    from moltune.predictors.blend import Blend

PREDICTION_COLUMNS = ["row", "input", "smiles", "predicted", "note"]
BLEND_COLUMN = "predicted_blend"


@dataclass(frozen=True)
class Predictor:
    """A tuned model with the cleaning that its training data went through.

    Attributes:
        model: ready to predict.
        cleaning: steps that each molecule goes through first.
        policy: what happens to unknown tokens and over-long SMILES.
        unit: of the target; empty when not known.
        blend: with classical baselines; None where the run has none.
    """

    model: TunedModel
    cleaning: CleanSettings
    policy: ModelSettings
    unit: str = ""
    blend: Blend | None = None

    @classmethod
    def load(cls, path: str | Path, base: str | Path | None = None, *, blend: bool | None = None) -> Predictor:
        """Load a run folder, or the ``model`` folder of one (then with the default cleaning).

        Args:
            path: of the run or model.
            base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
            blend: also give the run's blend with classical baselines; unset: where the run has one.

        Raises:
            RunFolderError: the run is unfinished, or has no blend although one was asked for.
            CheckpointError: there is no tuned model.
        """
        cleaning, policy, unit, blended = CleanSettings(), ModelSettings(), "", None
        if (Path(path) / CONFIG).is_file():
            run = Run.load(path)
            cleaning, policy = run.config.data.clean, run.config.model
            unit = str(run.provenance.get("data", {}).get("unit") or "")
            if base is None and (run.path / ADAPTED).is_dir():
                base = run.path / ADAPTED
            if blend is not False and (run.path / BLENDED).is_dir():
                from moltune.predictors.blend import Blend

                blended = Blend.load(run.path / BLENDED, base)
        if blend and blended is None:
            raise RunFolderError(f"{path} has no blend; fine-tune with --blend, or leave --blend out here")
        return cls(load_model(path, base, truncate=policy.too_long == "truncate"), cleaning, policy, unit, blended)

    @property
    def columns(self) -> list[str]:
        """Columns of a table of predictions."""
        return [*PREDICTION_COLUMNS[:-1], *([] if self.blend is None else [BLEND_COLUMN]), PREDICTION_COLUMNS[-1]]

    @property
    def target_name(self) -> str:
        """Name of the predicted property."""
        return self.model.target_name

    def predict(self, smiles: Sequence[str], *, batch_size: int = 32, progress: Progress | None = None) -> pd.DataFrame:
        """Predict a list of SMILES; see :meth:`predict_molecules`. ``row`` counts from one."""
        if not len(smiles):
            raise DataError("there are no molecules to predict")
        return self.predict_molecules(molecules_from_lists(smiles, None, self.cleaning), batch_size, progress)

    def predict_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Predict a file, bundled set or data frame; see :meth:`predict_molecules`."""
        settings = DataSettings(smiles=smiles, clean=self.cleaning)
        return self.predict_molecules(load_molecules(source, settings, need_target=False), batch_size, progress)

    def predict_molecules(
        self, molecules: Molecules, batch_size: int = 32, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Predict cleaned molecules.

        Returns:
            One line per input row, in input order, with the columns of :attr:`columns`: ``predicted`` is the language
            model's, ``predicted_blend`` the blend's. Where no prediction can be made they are NaN and ``note`` says
            why; a note beside a number is a warning.
        """
        table = molecules.table[["row", "input", "smiles"]].copy()
        blocking, warnings = self._issues(molecules.smiles)
        good = [position for position in range(len(table)) if position not in blocking]
        readable = [molecules.smiles[position] for position in good]
        found = {"predicted": self.model.predict(readable, batch_size, progress)}
        if self.blend is not None:
            found[BLEND_COLUMN] = self.blend.predict(readable, found["predicted"])
        for column, values in found.items():
            table[column] = np.nan
            table.loc[table.index[good], column] = values
        table["note"] = [blocking.get(position) or warnings.get(position, "") for position in range(len(table))]
        if len(molecules.rejected):
            rejected = molecules.rejected[["row", "input"]].assign(
                smiles="", predicted=np.nan, note=molecules.rejected["reason"]
            )
            table = pd.concat([table, rejected], ignore_index=True)
        return table.sort_values("row", kind="stable").reset_index(drop=True)[self.columns]

    def evaluate_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        target: str | None = None,
        bootstrap: int = 1000,
        confidence: float = 0.95,
        batch_size: int = 32,
    ) -> dict[str, Any]:
        """Compare predictions with the measurements of a labelled file.

        Returns:
            The metrics of :func:`moltune.evaluation.metrics.evaluate`, with ``rows`` in, evaluated and left out; with
            a blend, ``blend`` holds its metrics.

        Raises:
            DataError: the file has no usable label, or the model can read none of its molecules.
        """
        molecules = load_molecules(source, DataSettings(smiles=smiles, target=target, clean=self.cleaning))
        predicted = self.predict_molecules(molecules.reject(self._issues(molecules.smiles)[0]), batch_size)
        values = predicted.dropna(subset="predicted").set_index("row")
        if not len(values):
            raise DataError("the model can read none of the molecules")
        true = molecules.table.set_index("row")["target"].loc[values.index].to_numpy()
        options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence}
        metrics = evaluate(true, values["predicted"].to_numpy(), **options)
        if self.blend is not None:
            metrics["blend"] = evaluate(true, values[BLEND_COLUMN].to_numpy(), **options)
        left_out = molecules.rows_in - len(values)
        return {**metrics, "rows": {"in": molecules.rows_in, "evaluated": len(values), "left_out": left_out}}

    def _issues(self, smiles: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
        """Molecules that cannot be predicted, and those that can with a warning."""
        blocking: dict[int, str] = {}
        warnings: dict[int, str] = {}
        for position, issue in self.model.issues(smiles).items():
            tolerated = (issue.kind == "unknown" and self.policy.unknown_tokens == "warn") or (
                issue.kind == "too long" and self.policy.too_long == "truncate"
            )
            (warnings if tolerated else blocking)[position] = issue.message
        return blocking, warnings
