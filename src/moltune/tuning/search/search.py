"""Hyperparameter search on validation data: Optuna over a SQLite file that resumes and that processes share.

::

    study.db            every trial; several processes may work on it at once
    trials.csv          number, state, value, seconds, one column per setting
    best.yaml           settings for `moltune finetune --config`
    summary.json        best value, default value, warnings, importances
    history.*           validation error by trial
    importances.*       how much of its variance each setting explains (fANOVA)

The test part of the configured split is set aside before anything else; the rest is divided anew for each split of the
search.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock

from moltune.config import FinetuneConfig, SearchSettings, SplitSettings, make_config
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split, make_split, parts_of
from moltune.errors import ConfigError, DataError, NumericsError, RunFolderError
from moltune.evaluation.metrics import task_of
from moltune.models.methods.registry import make_method
from moltune.run import settings_of
from moltune.tuning.check import check_files, default_output
from moltune.tuning.loop import check_settings, planned_epochs
from moltune.tuning.prepare import prepare
from moltune.tuning.search.result import SECONDS, Searched, summarise, trial_config, trials_table
from moltune.tuning.search.spaces import Space, change_space, default_space, is_inside, load_optuna, to_text
from moltune.tuning.train import tune_model

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

STUDY, _LOCK = "study.db", "study.lock"
_NAME = "moltune"
_OWNER = "owner"
_STRIDE = 1000
_GROUPED = ("scaffold", "cluster", "random", "stratified")

Part = tuple[list[str], np.ndarray]
TrialReport = Callable[[dict[str, Any]], None]


def search(
    config: FinetuneConfig | Mapping[str, Any],
    settings: SearchSettings | None = None,
    *,
    output: str | Path | None = None,
    molecules: Molecules | None = None,
    report: TrialReport | None = None,
) -> Searched:
    """Search for the settings of a method with the lowest mean validation error.

    That is the RMSE; of two classes the log loss, which training lowers and reports after each epoch, so that a trial
    can be stopped on the number that it is compared by. The ROC AUC would be blind to probabilities that are wrong, and
    changes in steps on a small validation part.

    Called again with the same settings and folder it goes on; called at the same time by several processes, they share
    the trials. The first trial has the settings as given.

    Args:
        config: everything that is not searched, ``data.source`` included.
        settings: number of trials, splits, space.
        output: folder of the study; unset: ``runs/tune-<data>-<model>-<method>``.
        molecules: loaded before.
        report: called after each trial with its number, state, value and the best value so far.

    Raises:
        ConfigError: a setting is wrong, or Optuna is not installed.
        RunFolderError: the folder belongs to another search.
        DataError: there are too few molecules.
    """
    config = config if isinstance(config, FinetuneConfig) else make_config(dict(config))
    settings = settings or SearchSettings()
    if config.data.bounds == "use":
        raise ConfigError("a search takes exact measurements only; bounds can be used in the fine-tuning after it")
    if molecules is None:
        check_files(config)
    make_method(config.method)
    check_settings(config.training)
    space = change_space(default_space(config.method.name), settings.space)
    if not space:
        raise ConfigError(f"there is nothing to search: name settings of {config.method.name} with --space")
    prepared = prepare(config, molecules)
    parts = tuning_parts(prepared.molecules, prepared.split, config.split, settings.splits)
    config = with_epochs(config, len(parts[0][0][0]))
    trial_config(config, start_values(config, space))
    usual = Path("runs") / f"tune-{default_output(config).name.rpartition('-seed')[0]}"
    work = _Search(usual if output is None else Path(output), config, settings, space, parts, prepared.classes)
    study = work.open(prepared.molecules)
    stop = float("inf") if settings.hours is None else time.monotonic() + settings.hours * 3600
    while time.monotonic() < stop and (trial := work.claim(study)):
        work.run(study, trial)
        if report is not None:
            report(_known(study, trial.number, settings.trials))
    return summarise(work.folder, config, space, study, work.metric)


def with_epochs(config: FinetuneConfig, molecules: int) -> FinetuneConfig:
    """The settings with the epochs that a training on so many molecules would take, where none are given."""
    epochs = planned_epochs(config.training, molecules)
    return config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})


def tuning_parts(molecules: Molecules, split: Split, settings: SplitSettings, count: int) -> list[tuple[Part, Part]]:
    """Training and validation parts of a search, made of everything but the test part.

    A search on the same validation part that later stops the training early is what `finetune` offers anyway; the test
    part is in none of these.

    Raises:
        DataError: there are too few molecules.
    """
    pool = molecules.reject(dict.fromkeys(split.test.tolist(), "test part"))
    if len(pool) < 4:
        raise DataError(f"{len(pool)} molecules outside the test part are too few to search on")
    share = len(split.validation) / len(pool) or 0.125
    method = settings.method if settings.method in _GROUPED else "stratified"
    own = settings.model_copy(
        update={"method": method, "ratios": (1 - share, share, 0.0), "seed": None, "column": None, "index_file": None}
    )
    splits = [make_split(pool, own, seed) for seed in range(count)]
    if len({made.validation.tobytes() for made in splits}) < count:
        logger.warning("%s splits of these molecules hardly differ: the search averages over equal ones", method)
    parts = [parts_of(pool, made) for made in splits]
    return [(made["train"], made["validation"]) for made in parts]


def start_values(config: FinetuneConfig, space: Space) -> dict[str, Any]:
    """The settings as given, where they lie inside the space; what is not set is left to the sampler."""
    flat = settings_of(config)
    flat["peft"] = {**getattr(make_method(config.method), "defaults", {}), **config.method.peft}
    found = {}
    for name, distribution in space.items():
        value: Any = flat
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            value = ",".join(map(str, value))
        if is_inside(distribution, value):
            found[name] = value
    return found


@dataclass(frozen=True)
class _Search:
    """A study in a folder, and what each of its trials needs."""

    folder: Path
    config: FinetuneConfig
    settings: SearchSettings
    space: Space
    parts: list[tuple[Part, Part]]
    classes: tuple[str, str] | None

    @property
    def metric(self) -> str:
        """What trials are compared by; lower is better."""
        return "rmse" if self.classes is None else "log_loss"

    @property
    def lock(self) -> FileLock:
        """Held while a process looks at all trials and takes one."""
        return FileLock(self.folder / _LOCK)

    def open(self, molecules: Molecules) -> optuna.Study:
        """The study of the folder, made where there is none; its first trial is the settings as given."""
        optuna, folder = load_optuna(), self.folder
        there = {path.name for path in folder.glob("*")}
        if there and not there & {STUDY, _LOCK}:
            raise RunFolderError(f"{folder} holds other files already: choose another --output")
        folder.mkdir(parents=True, exist_ok=True)
        identity = self.identity(molecules)
        with self.lock:
            study = optuna.create_study(
                study_name=_NAME,
                storage=f"sqlite:///{folder.resolve() / STUDY}",
                direction="minimize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
            )
            known = study.user_attrs.get("identity")
            if known is None:
                study.set_user_attr("identity", identity)
                study.enqueue_trial(start_values(self.config, self.space))
            elif known != identity:
                raise RunFolderError(
                    f"{folder} belongs to a search with other data, settings or space: choose another --output"
                )
        return study

    def identity(self, molecules: Molecules) -> str:
        """What must be the same for trials to be comparable; the number of trials and the pruning may change."""
        values = settings_of(self.config)
        values.pop("output")
        values.pop("evaluation")
        values["training"].pop("threads")
        lines = [f"{smiles} {target!r}" for smiles, target in zip(molecules.smiles, molecules.target, strict=True)]
        chosen = {name: to_text(distribution) for name, distribution in sorted(self.space.items())}
        text = json.dumps([values, self.settings.splits, chosen, lines], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def claim(self, study: optuna.Study) -> optuna.Trial | None:
        """Take the next trial; None where all are finished or in other hands. One process at a time decides.

        A trial whose process is gone is given up, and its settings are tried again.
        """
        optuna = load_optuna()
        state = optuna.trial.TrialState
        with self.lock:
            taken = 0
            for frozen in study.get_trials(deepcopy=False, states=(state.RUNNING, state.COMPLETE, state.PRUNED)):
                if frozen.state != state.RUNNING or _alive(frozen.user_attrs.get(_OWNER)):
                    taken += 1
                    continue
                study.tell(frozen.number, state=state.FAIL)
                # Its settings, or what it was asked to start from before it had drawn any.
                if again := {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}:
                    study.enqueue_trial(again)
            if taken >= self.settings.trials:
                return None
            # Seeded by what went before, so that an interrupted search draws what an uninterrupted one would have.
            seed = (self.config.seed * 100_003 + taken) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            trial = study.ask(self.space)
            trial.set_user_attr(_OWNER, [os.getpid(), psutil.Process().create_time()])
            return trial

    def run(self, study: optuna.Study, trial: optuna.Trial) -> None:
        """Do a trial and tell the study what came of it."""
        optuna = load_optuna()
        state = optuna.trial.TrialState
        started = time.monotonic()
        try:
            value = self.objective(trial, trial_config(self.config, trial.params))
        except optuna.TrialPruned:
            trial.set_user_attr(SECONDS, time.monotonic() - started)
            study.tell(trial, state=state.PRUNED)
        except NumericsError as error:
            # Diverged: no reason to end the search, and worse than any trial that was stopped for being slow.
            trial.set_user_attr("diverged", str(error))
            study.tell(trial, state=state.PRUNED)
        except Exception:
            study.tell(trial, state=state.FAIL)
            raise
        else:
            trial.set_user_attr(SECONDS, time.monotonic() - started)
            study.tell(trial, value)

    def objective(self, trial: optuna.Trial, config: FinetuneConfig) -> float:
        """Mean validation error over the splits: RMSE in the target's unit, or log loss."""
        metric = task_of(self.classes).metrics[self.metric]
        errors: list[float] = []
        for number, (train, (smiles, true)) in enumerate(self.parts):
            scale, losses = float(np.std(train[1])), list[float]()

            def watch(
                known: dict[str, Any], number: int = number, scale: float = scale, losses: list[float] = losses
            ) -> None:
                if not self.settings.prune or "eval_loss" not in known:
                    return
                loss = known["eval_loss"]
                losses.append(scale * loss**0.5 if self.classes is None else loss)
                trial.report(float(np.mean([*errors, min(losses)])), number * _STRIDE + round(known["epoch"]))
                if trial.should_prune():
                    raise load_optuna().TrialPruned

            with tempfile.TemporaryDirectory(prefix="moltune-tune-", ignore_cleanup_errors=True) as folder:
                tuned = tune_model(
                    train,
                    (smiles, true),
                    model=config.model,
                    method=config.method,
                    training=config.training,
                    seed=config.seed,
                    folder=Path(folder),
                    classes=self.classes,
                    report=watch,
                )
            errors.append(float(metric(true, tuned.model.predict(smiles))))
        return float(np.mean(errors))


def _alive(owner: list[float] | None) -> bool:
    """Whether another process still works on a trial; this one asks for a new trial only when it has none."""
    if owner is None or int(owner[0]) == os.getpid():
        return False
    try:
        return abs(psutil.Process(int(owner[0])).create_time() - owner[1]) < 1.0
    except psutil.Error:
        return False


def _known(study: optuna.Study, number: int, trials: int) -> dict[str, Any]:
    """What to report after a trial."""
    table = trials_table(study).set_index("number")
    line: Any = table.loc[number]
    best = table.loc[table["state"] == "complete", "value"].min()
    return {
        "number": number,
        "state": line["state"],
        "value": None if pd.isna(line["value"]) else float(line["value"]),
        "best": None if pd.isna(best) else float(best),
        "done": len(table),
        "trials": trials,
    }
