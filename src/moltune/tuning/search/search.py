"""Hyperparameter search on validation data: Optuna over a SQLite file that resumes and that processes share.

::

    study.db            every trial; several processes may work on it at once
    trials.csv          number, state, value, seconds, one column per setting
    best.yaml           settings for `moltune finetune --config`
    summary.json        best value, default value, warnings, importances
    history.*           validation RMSE by trial
    importances.*       how much of its variance each setting explains (fANOVA)

The test part of the configured split is set aside before anything else; the rest is divided anew for each split of the
search.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from filelock import FileLock

from moltune.config import FinetuneConfig, SearchSettings, SplitSettings, make_config
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split, make_split
from moltune.errors import ConfigError, DataError, NumericsError, RunFolderError
from moltune.models.methods.registry import make_method
from moltune.run import settings_of
from moltune.tuning.finetune import prepare
from moltune.tuning.fit import tune_model
from moltune.tuning.loop import check_settings, planned_epochs
from moltune.tuning.search.result import SECONDS, Searched, load_optuna, progress_of, summarise, trial_config
from moltune.tuning.search.spaces import Choice, Range, Space, change_space, default_space

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

STUDY = "study.db"
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
    """Search for the settings of a method with the lowest mean validation RMSE.

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
    optuna = load_optuna()
    config = config if isinstance(config, FinetuneConfig) else make_config(dict(config))
    settings = settings or SearchSettings()
    if config.data.source is None and molecules is None:
        raise ConfigError("data.source is missing: name a file, a bundled set or a Hugging Face dataset")
    make_method(config.method)
    check_settings(config.training)
    space = change_space(default_space(config.method.name), settings.space)
    if not space:
        raise ConfigError(f"there is nothing to search: name settings of {config.method.name} with --space")
    molecules = load_molecules(None, config.data) if molecules is None else molecules
    prepared = prepare(config, molecules)
    parts = tuning_parts(prepared.molecules, prepared.split, config.split, settings.splits)
    config = with_epochs(config, len(parts[0][0][0]))
    first = _start_values(config, space)
    trial_config(config, first)
    folder = Path(output) if output is not None else _default_output(config)
    study = _open(optuna, folder, config, settings, space, first, prepared.molecules)
    stop = None if settings.hours is None else time.monotonic() + settings.hours * 3600
    while stop is None or time.monotonic() < stop:
        trial = _claim(optuna, study, folder, settings.trials, config.seed)
        if trial is None:
            break
        _work(optuna, study, trial, config, space, parts, settings.prune)
        if report is not None:
            report(progress_of(study, trial.number, settings.trials))
    return summarise(folder, config, space, study)


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
    smiles, target = np.array(pool.smiles, dtype=object), pool.target
    result, seen = [], set()
    for seed in range(count):
        made = make_split(pool, own, seed)
        seen.add(made.validation.tobytes())
        result.append(
            (
                (smiles[made.train].tolist(), target[made.train]),
                (smiles[made.validation].tolist(), target[made.validation]),
            )
        )
    if len(seen) < count:
        logger.warning("%s splits of these molecules hardly differ: the search averages over equal ones", method)
    return result


def _open(
    optuna: Any,
    folder: Path,
    config: FinetuneConfig,
    settings: SearchSettings,
    space: Space,
    first: dict[str, Any],
    molecules: Molecules,
) -> optuna.Study:
    """The study of a folder, made where there is none; its first trial is the settings as given."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STUDY).exists() and not _lock(folder).exists():
        raise RunFolderError(f"{folder} holds other files already: choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    identity = _identity(config, settings, space, molecules)
    with FileLock(_lock(folder)):
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
            study.enqueue_trial(first)
        elif known != identity:
            raise RunFolderError(
                f"{folder} belongs to a search with other data, settings or space: choose another --output"
            )
    return study


def _lock(folder: Path) -> Path:
    return folder / "study.lock"


def _identity(config: FinetuneConfig, settings: SearchSettings, space: Space, molecules: Molecules) -> str:
    """What must be the same for trials to be comparable; the number of trials and the pruning may change."""
    values = settings_of(config)
    values.pop("output")
    values.pop("evaluation")
    values["training"].pop("threads")
    lines = [f"{smiles} {target!r}" for smiles, target in zip(molecules.smiles, molecules.target, strict=True)]
    chosen = {name: str(kind) for name, kind in sorted(space.items())}
    text = json.dumps([values, settings.splits, chosen, lines], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _claim(optuna: Any, study: optuna.Study, folder: Path, trials: int, seed: int) -> optuna.Trial | None:
    """Take the next trial; None where all are finished or in other hands. One process at a time decides.

    A trial whose process is gone is given up, and its settings are tried again.
    """
    state = optuna.trial.TrialState
    with FileLock(_lock(folder)):
        taken = 0
        for frozen in study.get_trials(deepcopy=False):
            if frozen.state == state.RUNNING and not _alive(frozen.user_attrs.get(_OWNER)):
                study.tell(frozen.number, state=state.FAIL)
                # Its settings, or what it was asked to start from before it had drawn any.
                again = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
                if again:
                    study.enqueue_trial(again)
            elif frozen.state in (state.RUNNING, state.COMPLETE, state.PRUNED):
                taken += 1
        if taken >= trials:
            return None
        # Seeded by what went before, so that an interrupted search draws what an uninterrupted one would have.
        study.sampler = optuna.samplers.TPESampler(seed=(seed * 100_003 + taken) % 2**32, constant_liar=True)
        trial = study.ask()
        trial.set_user_attr(_OWNER, _me())
        return trial


def _me() -> list[float]:
    return [os.getpid(), psutil.Process().create_time()]


def _alive(owner: list[float] | None) -> bool:
    """Whether another process still works on a trial; this one asks for a new trial only when it has none."""
    if owner is None or int(owner[0]) == os.getpid():
        return False
    try:
        return abs(psutil.Process(int(owner[0])).create_time() - owner[1]) < 1.0
    except psutil.Error:
        return False


def _work(
    optuna: Any,
    study: optuna.Study,
    trial: optuna.Trial,
    config: FinetuneConfig,
    space: Space,
    parts: list[tuple[Part, Part]],
    prune: bool,
) -> None:
    state = optuna.trial.TrialState
    started = time.monotonic()
    try:
        value = _objective(optuna, trial, trial_config(config, _suggest(trial, space)), parts, prune)
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


def _suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, kind in space.items():
        if isinstance(kind, Choice):
            values[name] = trial.suggest_categorical(name, kind.values)
        elif kind.integer:
            values[name] = trial.suggest_int(name, int(kind.low), int(kind.high), log=kind.log)
        else:
            values[name] = trial.suggest_float(name, kind.low, kind.high, log=kind.log)
    return values


def _objective(
    optuna: Any, trial: optuna.Trial, config: FinetuneConfig, parts: list[tuple[Part, Part]], prune: bool
) -> float:
    """Mean validation RMSE over the splits, in the target's unit."""
    errors: list[float] = []
    for number, (train, validation) in enumerate(parts):
        scale = float(np.std(train[1]))
        lowest = float("inf")

        def watch(known: dict[str, Any], number: int = number, scale: float = scale) -> None:
            nonlocal lowest
            if not prune or "eval_loss" not in known:
                return
            lowest = min(lowest, scale * known["eval_loss"] ** 0.5)
            trial.report(float(np.mean([*errors, lowest])), number * _STRIDE + round(known["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned

        folder = Path(tempfile.mkdtemp(prefix="moltune-tune-"))
        try:
            tuned = tune_model(
                train,
                validation,
                model=config.model,
                method=config.method,
                training=config.training,
                seed=config.seed,
                folder=folder,
                report=watch,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        predicted = tuned.model.predict(validation[0])
        errors.append(float(np.sqrt(np.mean((predicted - validation[1]) ** 2))))
    return float(np.mean(errors))


def _start_values(config: FinetuneConfig, space: Space) -> dict[str, Any]:
    """The settings as given, where they lie inside the space; what is not set is left to the sampler."""
    flat = settings_of(config)
    flat["peft"] = {**getattr(make_method(config.method), "defaults", {}), **config.method.peft}
    found = {}
    for name, kind in space.items():
        value: Any = flat
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            value = ",".join(map(str, value))
        inside = value in kind.values if isinstance(kind, Choice) else _inside(kind, value)
        if value is not None and inside:
            found[name] = value
    return found


def _inside(kind: Range, value: Any) -> bool:
    return isinstance(value, int | float) and kind.low <= value <= kind.high


def _default_output(config: FinetuneConfig) -> Path:
    from moltune.tuning.finetune import default_output

    return Path("runs") / f"tune-{default_output(config).name.rpartition('-seed')[0]}"
