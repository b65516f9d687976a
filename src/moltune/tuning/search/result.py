"""What a hyperparameter search found: its table of trials, best settings, warnings, importances and figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from moltune.config import FinetuneConfig, make_config
from moltune.errors import ConfigError, DataError
from moltune.overrides import set_nested
from moltune.run import settings_of, write_atomically
from moltune.tuning.search.figures import draw_importances, draw_search_history
from moltune.tuning.search.spaces import Space

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
        value: their mean validation RMSE, in the target's unit.
        default: that of the settings as given; None where that trial was pruned.
        trials: one line per finished trial.
        warnings: best values that lie at a bound.
        importances: share of the variance by setting; empty where there are too few trials.
    """

    folder: Path
    best: FinetuneConfig
    value: float
    default: float | None
    trials: pd.DataFrame
    warnings: list[str]
    importances: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        states = self.trials["state"].value_counts()
        return {
            "best_validation_rmse": self.value,
            "default_validation_rmse": self.default,
            "best": self.best_values,
            "trials": {"complete": int(states.get("complete", 0)), "pruned": int(states.get("pruned", 0))},
            "warnings": self.warnings,
            "importances": self.importances,
            "config": str(self.folder / BEST),
        }

    @property
    def best_values(self) -> dict[str, Any]:
        """The searched settings of the best trial."""
        line = self.trials.iloc[int(self.trials["value"].where(self.trials["state"] == "complete").argmin())]
        known = ("number", "state", "value", "seconds")
        return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in line.items() if k not in known}


def summarise(folder: Path, config: FinetuneConfig, space: Space, study: optuna.Study) -> Searched:
    """Write what is known after the trials so far, and return it.

    Raises:
        DataError: no trial came to its end.
    """
    table = _table(study)
    complete = table[table["state"] == "complete"]
    if not len(complete):
        raise DataError("not one trial came to its end, so there is no best setting; allow more trials or time")
    trial = study.best_trial
    best = trial_config(config, trial.params)
    warnings = bound_warnings(trial.params, space)
    for words in warnings:
        logger.warning(words)
    first = table.loc[table["number"] == 0]
    started = first["state"].eq("complete").any()
    result = Searched(
        folder=folder,
        best=best,
        value=float(study.best_value),
        default=float(first["value"].iloc[0]) if started else None,
        trials=table,
        warnings=warnings,
        importances=_importances(study),
    )
    _write(result)
    return result


def bound_warnings(values: Mapping[str, Any], space: Space) -> list[str]:
    """One sentence per best value that sits at a bound of its range."""
    found = []
    for name, value in values.items():
        side = space[name].bound(value) if name in space else None
        if side is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            found.append(
                f"{name}={shown} sits at the {side} bound of its range ({space[name]}): the best value may lie "
                f"beyond it; widen it with --space {name}=..."
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


def load_optuna() -> Any:
    """The package Optuna.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna: run `pip install moltune[tune]`") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def progress_of(study: optuna.Study, number: int, trials: int) -> dict[str, Any]:
    """What is known after a trial: its number, state and value, the best value, how many of ``trials`` are done."""
    table = _table(study)
    line = table.loc[table["number"] == number].iloc[0]
    complete = table.loc[table["state"] == "complete", "value"]
    return {
        "number": number,
        "state": line["state"],
        "value": float(line["value"]) if pd.notna(line["value"]) else None,
        "best": float(complete.min()) if len(complete) else None,
        "done": len(table),
        "trials": trials,
    }


def _table(study: optuna.Study) -> pd.DataFrame:
    """Finished trials; those given up with their process are not among them."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value if trial.state.name == "COMPLETE" else _last(trial.intermediate_values),
            "seconds": trial.user_attrs.get(SECONDS),
            **trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
    return pd.DataFrame(rows, columns=None if rows else ["number", "state", "value", "seconds"])


def _last(values: Mapping[int, float]) -> float | None:
    return values[max(values)] if values else None


def _importances(study: optuna.Study) -> dict[str, float]:
    optuna = load_optuna()
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    # Too few trials, or trials that do not differ.
    except (ValueError, RuntimeError, ZeroDivisionError):
        return {}
    return {str(name): float(value) for name, value in found.items()}


def _write(result: Searched) -> None:
    folder = result.folder
    write_atomically(folder / TRIALS, lambda path: result.trials.to_csv(path, index=False))
    # The run folder belongs to no settings: each run has its own.
    values = settings_of(result.best.model_copy(update={"output": None}))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_atomically(folder / BEST, lambda path: path.write_text(text, encoding="utf-8"))
    summary = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / SUMMARY, lambda path: path.write_text(summary, encoding="utf-8"))
    draw_search_history(result.trials, folder / "history")
    if result.importances:
        draw_importances(result.importances, folder / "importances")
