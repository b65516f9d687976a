"""Tuned models in, predictions out: for files, lists and single SMILES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from moltune.config import CleanSettings, DataSettings, ModelSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import DataError
from moltune.evaluation.metrics import evaluate
from moltune.models.checkpoints import load_regression, load_tokenizer, max_length
from moltune.models.coverage import check_smiles
from moltune.models.regression import RegressionModel
from moltune.run import CONFIG, Run
from moltune.training.inference import predict_smiles
from moltune.training.probe import Probe, is_probe, load_probe

PREDICTION_COLUMNS = ["row", "input", "smiles", "predicted", "note"]


@dataclass(frozen=True)
class Predictor:
    """A tuned model with the cleaning that its training data went through.

    Attributes:
        model: in evaluation mode; a probe where the run fitted one.
        tokenizer: that belongs to it; None for a probe, which reads SMILES itself.
        cleaning: steps that each molecule goes through first.
        policy: what happens to unknown tokens and over-long SMILES.
        unit: of the target; empty when not known.
    """

    model: RegressionModel | Probe
    tokenizer: PreTrainedTokenizerBase | None
    cleaning: CleanSettings
    policy: ModelSettings
    unit: str = ""

    @classmethod
    def load(cls, path: str | Path, base: str | Path | None = None) -> Predictor:
        """Load a run folder, or the ``model`` folder of one (then with the default cleaning).

        Args:
            path: the folder.
            base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.

        Raises:
            RunFolderError: the run is unfinished.
            CheckpointError: there is no tuned model.
        """
        cleaning, policy, unit = CleanSettings(), ModelSettings(), ""
        if (Path(path) / CONFIG).is_file():
            run = Run.load(path)
            cleaning, policy = run.config.data.clean, run.config.model
            unit = str(run.provenance.get("data", {}).get("unit") or "")
        if is_probe(path):
            return cls(load_probe(path, base), None, cleaning, policy, unit)
        return cls(load_regression(path, base), load_tokenizer(path), cleaning, policy, unit)

    @property
    def target_name(self) -> str:
        """Name of the predicted property."""
        return str(self.model.target["name"] if isinstance(self.model, Probe) else self.model.config.target_name)

    def predict(
        self, smiles: Sequence[str], *, batch_size: int = 128, progress: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Predict a list of SMILES; see :meth:`predict_molecules`. ``row`` counts from one."""
        if not len(smiles):
            raise DataError("there are no molecules to predict")
        return self.predict_molecules(molecules_from_lists(smiles, None, self.cleaning), batch_size, progress)

    def predict_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        batch_size: int = 128,
        progress: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        """Predict a file, bundled set or data frame; see :meth:`predict_molecules`."""
        settings = DataSettings(smiles=smiles, clean=self.cleaning)
        return self.predict_molecules(
            load_molecules(source, settings, need_target=False), batch_size=batch_size, progress=progress
        )

    def predict_molecules(
        self, molecules: Molecules, batch_size: int = 128, progress: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Predict cleaned molecules.

        Returns:
            One line per input row, in input order, with the columns of ``PREDICTION_COLUMNS``. Where no prediction
            can be made ``predicted`` is NaN and ``note`` says why; a note beside a number is a warning.
        """
        table = molecules.table[["row", "input", "smiles"]].copy()
        smiles = molecules.smiles
        blocking, warnings = self._issues(smiles)
        table["predicted"] = np.nan
        good = [position for position in range(len(table)) if position not in blocking]
        table.loc[table.index[good], "predicted"] = self._values([smiles[at] for at in good], batch_size, progress)
        table["note"] = [blocking.get(position) or warnings.get(position, "") for position in range(len(table))]
        rejected = pd.DataFrame(
            {
                "row": molecules.rejected["row"],
                "input": molecules.rejected["input"],
                "smiles": "",
                "predicted": np.nan,
                "note": molecules.rejected["reason"],
            }
        )
        both = pd.concat([table, rejected], ignore_index=True) if len(rejected) else table
        return both.sort_values("row", kind="stable").reset_index(drop=True)[PREDICTION_COLUMNS]

    def evaluate_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        target: str | None = None,
        bootstrap: int = 1000,
        confidence: float = 0.95,
        batch_size: int = 128,
    ) -> dict[str, Any]:
        """Compare predictions with the measurements of a labelled file.

        Returns:
            The metrics of :func:`moltune.evaluation.metrics.evaluate`, with ``rows`` in, evaluated and left out.

        Raises:
            DataError: the file has no usable label, or the model can read none of its molecules.
        """
        settings = DataSettings(smiles=smiles, target=target, clean=self.cleaning)
        molecules = load_molecules(source, settings)
        predicted = self.predict_molecules(molecules.reject(self._issues(molecules.smiles)[0]), batch_size)
        values = predicted.dropna(subset="predicted").set_index("row")["predicted"]
        true = molecules.table.set_index("row")["target"].loc[values.index]
        if not len(values):
            raise DataError("the model can read none of the molecules")
        metrics = evaluate(true.to_numpy(), values.to_numpy(), bootstrap=bootstrap, confidence=confidence)
        left_out = molecules.rows_in - len(values)
        return {**metrics, "rows": {"in": molecules.rows_in, "evaluated": len(values), "left_out": left_out}}

    def _values(self, smiles: Sequence[str], batch_size: int, progress: Callable[[int], None] | None) -> np.ndarray:
        if isinstance(self.model, Probe):
            return self.model.predict(smiles, progress=progress)
        assert self.tokenizer is not None
        limit = max_length(self.model.encoder, self.tokenizer) if self.policy.too_long == "truncate" else None
        return predict_smiles(
            self.model, self.tokenizer, smiles, batch_size=batch_size, max_length=limit, progress=progress
        )

    def _issues(self, smiles: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
        """Molecules that cannot be predicted, and those that can with a warning."""
        blocking: dict[int, str] = {}
        warnings: dict[int, str] = {}
        if isinstance(self.model, Probe):
            found = self.model.issues(smiles)
        else:
            assert self.tokenizer is not None
            found = check_smiles(self.tokenizer, smiles, max_length(self.model.encoder, self.tokenizer))
        for position, issue in found.items():
            tolerated = (issue.kind == "unknown" and self.policy.unknown_tokens == "warn") or (
                issue.kind == "too long" and self.policy.too_long == "truncate"
            )
            (warnings if tolerated else blocking)[position] = issue.message
        return blocking, warnings
