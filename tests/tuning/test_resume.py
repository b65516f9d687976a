"""A run that is stopped in any way and resumed ends with the numbers of one that ran through.

Dropout and redrawn random features are on throughout: whatever a resume forgot of the random state would show.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import RunSettings, assert_same_run
from transformers import Trainer

from moltune.config import make_config
from moltune.run import Run
from moltune.tuning import finetune as finetune_module
from moltune.tuning.finetune import finetune
from moltune.tuning.resume import last_whole_checkpoint

EPOCHS = 5


class Stopped(Exception):
    """Stands for a kill in tests that stay in one process."""


@pytest.fixture(scope="module")
def values(settings: RunSettings) -> dict[str, Any]:
    return settings(**{"training.epochs": EPOCHS, "model.redraw": True, "model.head_dropout": 0.3})


@pytest.fixture(scope="module")
def uninterrupted(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finetune({**values, "output": str(tmp_path_factory.mktemp("runs") / "through")})


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    def report(state: dict[str, Any]) -> None:
        if state["step"] == step:
            raise Stopped

    return report


def steps_per_epoch(run: Run) -> int:
    return -(-run.provenance["split"]["sizes"]["train"] // run.config.training.batch_size)


def start_and_stop(values: dict[str, Any], step: int) -> None:
    with pytest.raises(Stopped):
        finetune(values, report=stop_at(step))


@pytest.mark.parametrize("epochs_done", [0, 1, EPOCHS - 1])
def test_resumed_run_equals_uninterrupted_one(
    epochs_done: int, values: dict[str, Any], uninterrupted: Run, tmp_path: Path
) -> None:
    values = {**values, "output": str(tmp_path / "run")}
    start_and_stop(values, epochs_done * steps_per_epoch(uninterrupted) + 2)
    assert (last_whole_checkpoint(tmp_path / "run" / "checkpoints") is None) == (epochs_done == 0)
    steps: list[int] = []
    finetune(values, resume=True, report=lambda state: steps.append(state["step"]))
    assert steps[0] == epochs_done * steps_per_epoch(uninterrupted) + 1
    assert_same_run(uninterrupted.path, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_two_interruptions(values: dict[str, Any], uninterrupted: Run, tmp_path: Path) -> None:
    values = {**values, "output": str(tmp_path / "run")}
    per_epoch = steps_per_epoch(uninterrupted)
    start_and_stop(values, per_epoch + 1)
    with pytest.raises(Stopped):
        finetune(values, resume=True, report=stop_at(2 * per_epoch + 1))
    finetune(values, resume=True)
    assert_same_run(uninterrupted.path, tmp_path / "run")


@pytest.mark.parametrize("step", ["judge", "write_report"])
def test_stopped_after_training(
    step: str, values: dict[str, Any], uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**values, "output": str(tmp_path / "run")}

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(finetune_module, step, stop)
        with pytest.raises(Stopped):
            finetune(values)
    assert not Run.open(tmp_path / "run").finished
    finetune(values, resume=True)
    assert_same_run(uninterrupted.path, tmp_path / "run")


@pytest.mark.parametrize("bucket_by_length", [True, False])
def test_without_validation_part_and_without_buckets(
    bucket_by_length: bool, settings: RunSettings, tmp_path: Path
) -> None:
    changes = {"split.ratios": "80/0/20", "split.method": "random", "training.bucket_by_length": bucket_by_length}
    values = settings(**changes)
    through = finetune({**values, "output": str(tmp_path / "through")})
    values["output"] = str(tmp_path / "run")
    start_and_stop(values, 2 * steps_per_epoch(through) + 1)
    finetune(values, resume=True)
    assert_same_run(through.path, tmp_path / "run")


# --- early stopping ----------------------------------------------------------------------------------------------


def early_stopping_values(settings: RunSettings) -> dict[str, Any]:
    """A learning rate so high that the validation loss soon rises."""
    return settings(
        **{"training.epochs": 30, "training.patience": 3, "training.learning_rate": 0.05, "training.layer_decay": 1.0}
    )


@pytest.fixture(scope="module")
def stopped_early(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = finetune({**early_stopping_values(settings), "output": str(tmp_path_factory.mktemp("early") / "through")})
    assert run.metrics["epochs"] == run.metrics["best_epoch"] + 3 < 30
    return run


@pytest.mark.parametrize("before_the_end", [1, 0, None])
def test_early_stopping_remembers_how_long_it_waited(
    before_the_end: int | None,
    settings: RunSettings,
    stopped_early: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {**early_stopping_values(settings), "output": str(tmp_path / "run")}
    if before_the_end is None:
        # Between the last epoch and the return to the best one.
        def stop(*args: Any) -> None:
            raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_load_best_model", stop)
            with pytest.raises(Stopped):
                finetune(values)
    else:
        start_and_stop(values, (stopped_early.metrics["epochs"] - before_the_end) * steps_per_epoch(stopped_early))
    finetune(values, resume=True)
    assert_same_run(stopped_early.path, tmp_path / "run")


# --- damaged checkpoints -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(values: dict[str, Any], uninterrupted: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in its fourth epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    start_and_stop({**values, "output": str(folder)}, 3 * steps_per_epoch(uninterrupted) + 1)
    return folder


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.mark.parametrize("last_file", FILES)
def test_half_written_checkpoint_is_not_used(
    last_file: str,
    interrupted: Path,
    values: dict[str, Any],
    uninterrupted: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files appear in the order of FILES; the process dies while ``last_file`` is being written."""
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    whole = last_whole_checkpoint(folder / "checkpoints")
    assert whole is not None
    half = folder / "checkpoints" / f"checkpoint-{4 * steps_per_epoch(uninterrupted)}"
    half.mkdir()
    for name in FILES[: FILES.index(last_file) + 1]:
        content = (whole / name).read_bytes()
        (half / name).write_bytes(content if name != last_file else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "moltune"):
        assert last_whole_checkpoint(folder / "checkpoints") == whole
    assert half.name in caplog.text
    assert not half.exists()
    if last_file == FILES[-1]:
        finetune({**values, "output": str(folder)}, resume=True)
        assert_same_run(uninterrupted.path, folder)


def test_run_folder_may_move(
    interrupted: Path, values: dict[str, Any], uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint is found where it is now, and resumed by a relative path as well."""
    shutil.copytree(interrupted, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    whole = last_whole_checkpoint(Path("elsewhere/checkpoints"))
    assert whole is not None
    best = json.loads((whole / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert Path(best).parent == Path("elsewhere/checkpoints")
    assert Path(best).is_dir()
    finetune({**values, "output": "elsewhere"}, resume=True)
    assert_same_run(uninterrupted.path, tmp_path / "elsewhere")


def test_checkpoint_without_its_best_one_is_not_used(interrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(interrupted / "checkpoints", folder)
    whole = last_whole_checkpoint(folder)
    assert whole is not None
    state = json.loads((whole / "trainer_state.json").read_text())
    state["best_model_checkpoint"] = str(folder / "checkpoint-1")
    (whole / "trainer_state.json").write_text(json.dumps(state))
    assert last_whole_checkpoint(folder) != whole


def test_no_checkpoints(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "none") is None
    (tmp_path / "logs").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert last_whole_checkpoint(tmp_path) is None


# --- what may be resumed -----------------------------------------------------------------------------------------


def test_resume_of_a_finished_run_returns_it(values: dict[str, Any], uninterrupted: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.path.rglob("*")}
    run = finetune({**values, "output": str(uninterrupted.path)}, resume=True)
    assert run.metrics == uninterrupted.metrics
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.path.rglob("*")} == before


def test_resume_where_nothing_is_starts_a_run(values: dict[str, Any], uninterrupted: Run, tmp_path: Path) -> None:
    finetune({**values, "output": str(tmp_path / "run")}, resume=True)
    assert_same_run(uninterrupted.path, tmp_path / "run")


def test_config_records_every_setting(uninterrupted: Run, values: dict[str, Any]) -> None:
    assert uninterrupted.config == make_config({**values, "output": str(uninterrupted.path)})
    assert os.path.isdir(uninterrupted.path)
