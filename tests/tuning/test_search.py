"""The search: what it may see, how it resumes and shares, where it stops, what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny import RunSettings

from moltune.config import FinetuneConfig, SearchSettings, make_config
from moltune.data.load import load_molecules
from moltune.errors import ConfigError, RunFolderError
from moltune.evaluation.classification import log_loss
from moltune.features.registry import FeatureTable
from moltune.overrides import read_yaml
from moltune.predictors.probe import Probe
from moltune.tuning.finetune import finetune
from moltune.tuning.prepare import prepare
from moltune.tuning.search import search as search_module
from moltune.tuning.search.result import Searched, bound_warnings, trial_config
from moltune.tuning.search.search import search, tuning_parts, with_epochs
from moltune.tuning.search.spaces import change_space, default_space

optuna = pytest.importorskip("optuna")
Choice = optuna.distributions.CategoricalDistribution
Range = optuna.distributions.FloatDistribution

PROBE = {"method": {"name": "probe", "probe": {"features": "rdkit", "head": "svr"}}}
FIXED = ["method.probe.features=", "method.probe.head="]


@pytest.fixture
def config(settings: RunSettings) -> FinetuneConfig:
    return make_config({**settings(), **PROBE})


def run(config: FinetuneConfig, folder: Path, trials: int = 6, **more: Any) -> Searched:
    return search(config, SearchSettings(trials=trials, space=FIXED), output=folder, **more)


# --- what it sees and finds ------------------------------------------------------------------------------------------


def test_the_test_part_is_in_no_split(config: FinetuneConfig) -> None:
    prepared = prepare(config, load_molecules(None, config.data))
    hidden = set(prepared.parts["test"][0])
    parts = tuning_parts(prepared.molecules, prepared.split, config.split, 3)
    assert len(parts) == 3
    everything = set(prepared.parts["train"][0]) | set(prepared.parts["validation"][0])
    for (train, y), (validation, z) in parts:
        assert len(train) == len(y)
        assert len(validation) == len(z) == len(prepared.parts["validation"][0])
        assert set(train) | set(validation) == everything
        assert not (set(train) & set(validation))
        assert not (hidden & everything)
    assert len({tuple(validation) for _, (validation, _) in parts}) == 3


def test_the_best_settings_are_the_best_of_all_trials_and_go_into_finetune(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    found = run(config, tmp_path / "tune")
    table = pd.read_csv(tmp_path / "tune" / "trials.csv")
    assert len(table) == 6
    assert found.value == pytest.approx(table["value"].min())
    assert found.default == pytest.approx(table["value"].iloc[0])
    assert found.value <= found.default
    # The objective, computed again by hand.
    prepared = prepare(config, load_molecules(None, config.data))
    errors = []
    for train, (smiles, y) in tuning_parts(prepared.molecules, prepared.split, config.split, 2):
        tuned = search_module.tune_model(
            train, None, model=found.best.model, method=found.best.method, training=found.best.training,
            seed=0, folder=tmp_path / "none",
        )  # fmt: skip
        errors.append(np.sqrt(np.mean((tuned.model.predict(smiles) - y) ** 2)))
    assert found.value == pytest.approx(np.mean(errors))
    summary = json.loads((tmp_path / "tune" / "summary.json").read_text())
    assert summary["trials"] == {"complete": 6, "pruned": 0}
    assert summary["best"].keys() == {"method.probe.C", "method.probe.epsilon"}
    for name in ("history.png", "history.svg", "importances.png", "importances.svg"):
        assert (tmp_path / "tune" / name).stat().st_size > 1000
    stored = make_config(read_yaml(tmp_path / "tune" / "best.yaml"))
    assert pytest.approx(summary["best"]["method.probe.C"]) == stored.method.probe.C
    made = finetune(stored.model_copy(update={"output": tmp_path / "run"}))
    assert made.config.method == found.best.method


def test_training_methods_are_searched_and_pruned(settings: RunSettings, tmp_path: Path) -> None:
    values = settings(**{"method": {"name": "lora"}, "training.threads": 1})
    spaces = ["training.epochs=1:2", "training.weight_decay=", "training.learning_rate=1e-4:1e-2:log"]
    found = search(make_config(values), SearchSettings(trials=3, space=spaces), output=tmp_path / "tune")
    assert len(found.trials) == 3
    assert set(found.best_values) == {"peft.r", "peft.lora_alpha", "training.epochs", "training.learning_rate"}
    assert found.best.method.peft["r"] in (2, 4, 8, 16, 32)
    assert found.best.training.epochs in (1, 2)
    study = optuna.load_study(study_name="moltune", storage=f"sqlite:///{tmp_path / 'tune' / 'study.db'}")
    steps = sorted(study.trials[0].intermediate_values)
    assert steps[0] == 1
    assert steps[-1] > 1000, "both splits report"


def test_a_hopeless_trial_is_stopped(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.pruners.MedianPruner", lambda **_: optuna.pruners.ThresholdPruner(upper=1e-9))
    values = settings(**{"method": {"name": "head"}, "training.epochs": 3})
    with pytest.raises(search_module.DataError, match="not one trial came to its end"):
        search(make_config(values), SearchSettings(trials=2), output=tmp_path / "tune")
    monkeypatch.undo()
    found = search(make_config(values), SearchSettings(trials=3, prune=False), output=tmp_path / "tune")
    assert found.trials["state"].tolist() == ["pruned", "pruned", "complete"]
    assert found.default is None


def test_a_search_on_classes_compares_log_losses_of_the_validation_parts(
    of_classes: RunSettings, tmp_path: Path
) -> None:
    config = make_config(of_classes(**{"method.name": "probe", "method.probe.features": "rdkit-fast"}))
    space = ["method.probe.head=ridge,svr", "method.probe.features=", "method.probe.epsilon="]
    found = search(config, SearchSettings(trials=4, space=space), output=tmp_path / "search")
    assert (found.metric, found.label) == ("log_loss", "log loss")
    summary = json.loads((tmp_path / "search" / "summary.json").read_text())
    assert summary["best_validation_log_loss"] == pytest.approx(found.trials["value"].min())
    assert "Validation log loss" in (tmp_path / "search" / "history.svg").read_text(encoding="utf-8")
    # The objective, computed again by hand; no molecule of the test part is in it.
    prepared = prepare(config)
    losses = []
    for train, (smiles, true) in tuning_parts(prepared.molecules, prepared.split, config.split, 2):
        probe = Probe(found.best.method.probe, FeatureTable(), class_names=prepared.classes)
        losses.append(log_loss(true, probe.fit(train, (smiles, true)).predict(smiles)))
        assert not set(prepared.parts["test"][0]) & {*train[0], *smiles}
    assert found.value == pytest.approx(np.mean(losses))


def test_a_tuned_classifier_reports_its_loss_after_each_epoch(of_classes: RunSettings, tmp_path: Path) -> None:
    space = ["training.learning_rate=1e-4:1e-2:log", "training.epochs=", "training.weight_decay="]
    config = make_config(of_classes(**{"method.name": "head", "training.epochs": 2}))
    found = search(config, SearchSettings(trials=2, space=space), output=tmp_path / "search")
    assert len(found.trials) == 2
    study = optuna.load_study(study_name="moltune", storage=f"sqlite:///{tmp_path / 'search' / 'study.db'}")
    reported = list(study.trials[0].intermediate_values.values())
    assert len(reported) == 4
    # Of a third of positives guessing has 0.65; an RMSE of the logits or of the labels would be another number.
    assert all(0.3 < value < 1.0 for value in [*reported, found.value])


# --- resuming and sharing --------------------------------------------------------------------------------------------


def test_an_interrupted_search_ends_as_an_uninterrupted_one(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config, tmp_path / "whole", trials=8)
    original, calls = search_module.tune_model, 0

    def fails(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(search_module, "tune_model", fails)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "cut", trials=8)
    monkeypatch.undo()
    assert len(pd.DataFrame(optuna_states(tmp_path / "cut"))) == 4
    resumed = run(config, tmp_path / "cut", trials=8)
    columns = ["state", "value", "method.probe.C", "method.probe.epsilon"]
    pd.testing.assert_frame_equal(
        resumed.trials[columns].reset_index(drop=True), whole.trials[columns].reset_index(drop=True)
    )
    again = run(config, tmp_path / "cut", trials=8)
    assert len(again.trials) == 8
    assert len(run(config, tmp_path / "cut", trials=9).trials) == 9


def optuna_states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="moltune", storage=f"sqlite:///{folder / 'study.db'}")
    return [trial.state.name for trial in study.trials]


@pytest.mark.slow
def test_processes_share_a_search_and_one_is_killed(config: FinetuneConfig, tmp_path: Path) -> None:
    config_file = tmp_path / "config.json"
    config_file.write_text(config.model_dump_json())
    code = (
        "import sys, json\n"
        "from moltune.config import SearchSettings, make_config\n"
        "from moltune.tuning.search.search import search\n"
        "config = make_config(json.loads(open(sys.argv[1]).read()))\n"
        f"search(config, SearchSettings(trials=40, space={FIXED!r}), output=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(config_file), str(tmp_path / "tune")]
    workers = [subprocess.Popen(command) for _ in range(2)]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if len(optuna_states(tmp_path / "tune")) >= 4:
                break
        except Exception:
            pass
        time.sleep(0.1)
    workers[0].kill()
    workers[0].wait()
    assert workers[1].wait(timeout=200) == 0
    found = run(config, tmp_path / "tune", trials=40)
    assert len(found.trials) == 40
    assert "RUNNING" not in optuna_states(tmp_path / "tune")
    assert len(found.trials.drop_duplicates("method.probe.C")) == 40


def test_another_search_does_not_go_into_the_folder(config: FinetuneConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "tune", trials=1)
    with pytest.raises(RunFolderError, match="belongs to a search with other data, settings or space"):
        run(config.model_copy(update={"seed": 5}), tmp_path / "tune", trials=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match="holds other files"):
        run(config, tmp_path / "mine", trials=1)


# --- spaces --------------------------------------------------------------------------------------------------------


def test_the_grid_of_the_founding_study_is_in_the_space() -> None:
    space = default_space("lora")
    assert space["peft.r"] == Choice((2, 4, 8, 16, 32))
    assert space["peft.lora_alpha"] == Choice((4, 8, 16, 32, 64))
    assert default_space("vera").keys() >= {"training.learning_rate", "training.epochs"}


@pytest.mark.parametrize("name", ["full", "head", "lora", "dora", "ia3", "bitfit", "ln", "probe", "vera"])
def test_the_defaults_of_a_method_lie_inside_its_space(name: str) -> None:
    config = make_config({"method": name})
    config = with_epochs(config, molecules=2940)
    space = default_space(name)
    start = search_module.start_values(config, space)
    assert start.keys() == space.keys() or name == "vera"
    assert trial_config(config, start).training == config.training


def test_values_at_a_bound_are_warned_about() -> None:
    space = {
        "a": Range(1e-4, 1e-1, log=True), "training.layer_decay": Range(0.5, 1.0), "c": Choice((2, 4, 8)),
        "d": Choice((False, True)), "e": Choice(("x", "y", "z")),
    }  # fmt: skip
    words = bound_warnings({"a": 1.1e-4, "training.layer_decay": 1.0, "c": 8, "d": True, "e": "x"}, space)
    assert len(words) == 2
    assert words[0].startswith("a=0.00011 sits at the lower bound of its range (0.0001:0.1:log)")
    assert words[1].startswith("c=8 sits at the upper bound of its range (2,4,8)")
    assert bound_warnings({"a": 3e-3, "training.layer_decay": 0.7, "c": 4}, space) == []
    assert len(bound_warnings({"training.layer_decay": 0.51}, space)) == 1


def test_spaces_are_changed_by_text() -> None:
    changed = change_space(
        default_space("lora"), ["peft.r=2,4", "training.epochs=", "x=1e-3:1:log", "y=1:9", "z=a,true"]
    )
    assert changed["peft.r"] == Choice((2, 4))
    assert "training.epochs" not in changed
    assert changed["x"] == Range(1e-3, 1.0, log=True)
    assert changed["y"] == optuna.distributions.IntDistribution(1, 9)
    assert changed["z"] == Choice(("a", True))
    for text in ("peft.r", "a=1:2:lin", "a=2:1", "a=0:1:log", "a=x:1"):
        with pytest.raises(ConfigError):
            change_space({}, [text])


def test_wrong_settings_are_found_before_the_first_trial(config: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        search(
            config, SearchSettings(space=[*FIXED, "method.probe.C=", "method.probe.epsilon="]), output=tmp_path / "x"
        )
    with pytest.raises(ConfigError, match="splits"):
        make_settings_of_search(splits=1)
    assert not (tmp_path / "x").exists()


def make_settings_of_search(**values: Any) -> SearchSettings:
    from moltune.config import make_settings

    return make_settings(SearchSettings, values)
