"""What a hyperparameter search found: its table of trials, best settings, warnings, importances and figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from moltune.config import FinetuneConfig, make_config
from moltune.errors import DataError
from moltune.files import replacing, write_json, write_text
from moltune.overrides import set_nested
from moltune.run import settings_of
from moltune.tuning.search.figures import draw_importances, draw_search_history
from moltune.tuning.search.spaces import Space, bound_of, load_optuna, to_text

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

TRIALS, BEST, SUMMARY = "trials.csv", "best.yaml", "summary.json"
SECONDS = "seconds"


@dataclass(frozen=True)
class Searched:
    """What a search found so far.

    Attributes:
        folder: of the study.
        best: settings that won, ready for :func:`moltune.tuning.finetune.finetune`.
        best_values: those of them that were searched.
        value: their mean validation RMSE in the target's unit, or of classes log loss.
        default: that of the settings as given; None where that trial was pruned.
        trials: one line per finished trial.
        warnings: best values that lie at a bound.
        importances: share of the variance by setting; empty where there are too few trials.
        metric: what trials were compared by, ``rmse`` or ``log_loss``.
    """

    folder: Path
    best: FinetuneConfig
    best_values: dict[str, Any]
    value: float
    default: float | None
    trials: pd.DataFrame
    warnings: list[str]
    importances: dict[str, float]
    metric: str = "rmse"

    @property
    def label(self) -> str:
        """Name of the metric for readers."""
        return {"rmse": "RMSE", "log_loss": "log loss"}[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        states = self.trials["state"].value_counts()
        return {
            f"best_validation_{self.metric}": self.value,
            f"default_validation_{self.metric}": self.default,
            "best": self.best_values,
            "trials": {"complete": int(states.get("complete", 0)), "pruned": int(states.get("pruned", 0))},
            "warnings": self.warnings,
            "importances": self.importances,
            "config": str(self.folder / BEST),
        }


def summarise(folder: Path, config: FinetuneConfig, space: Space, study: optuna.Study, metric: str) -> Searched:
    """Write what is known after the trials so far, and return it.

    Raises:
        DataError: no trial came to its end.
    """
    table = trials_table(study)
    if not table["state"].eq("complete").any():
        raise DataError("not one trial came to its end, so there is no best setting; allow more trials or time")
    given = table[(table["number"] == 0) & (table["state"] == "complete")]
    result = Searched(
        folder=folder,
        best=trial_config(config, study.best_params),
        best_values=study.best_params,
        value=float(study.best_value),
        default=float(given["value"].iloc[0]) if len(given) else None,
        trials=table,
        warnings=bound_warnings(study.best_params, space),
        importances=_importances(study),
        metric=metric,
    )
    for words in result.warnings:
        logger.warning(words)
    with replacing(folder / TRIALS) as path:
        table.to_csv(path, index=False)
    # The run folder belongs to no settings: each run has its own.
    values = settings_of(result.best.model_copy(update={"output": None}))
    write_text(folder / BEST, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    write_json(folder / SUMMARY, result.to_dict())
    draw_search_history(table, folder / "history", result.label)
    if result.importances:
        draw_importances(result.importances, folder / "importances")
    return result


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Finished trials, a pruned one with its last value; those given up with their process are not among them."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "seconds": trial.user_attrs.get(SECONDS),
            **trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
    return pd.DataFrame(rows, columns=None if rows else ["number", "state", "value", "seconds"])


def bound_warnings(values: Mapping[str, Any], space: Space) -> list[str]:
    """One sentence per best value that sits at a bound of its range."""
    found = []
    for name, value in values.items():
        side = bound_of(name, value, space[name]) if name in space else None
        if side is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            found.append(
                f"{name}={shown} sits at the {side} bound of its range ({to_text(space[name])}): the best value may "
                f"lie beyond it; widen it with --space {name}=..."
            )
    return found


def trial_config(config: FinetuneConfig, values: Mapping[str, Any]) -> FinetuneConfig:
    """The settings with those of a trial in their place.

    Raises:
        ConfigError: a value is wrong.
    """
    nested = settings_of(config)
    for name, value in values.items():
        set_nested(nested, name, value)
    return make_config(nested)


def _importances(study: optuna.Study) -> dict[str, float]:
    importance = load_optuna().importance
    try:
        return importance.get_param_importances(study, evaluator=importance.FanovaImportanceEvaluator(seed=0))
    # Too few trials, or trials that do not differ.
    except (ValueError, RuntimeError, ZeroDivisionError):
        return {}
