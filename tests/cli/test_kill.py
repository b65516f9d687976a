"""Signals sent to a real process of the command line, and what ``--resume`` makes of what is left.

Dropout and redrawn random features are on. Children come from a fork server that has imported the libraries, which
takes longer than all the runs together.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import assert_same_run

EPOCHS = 4
PACE = 0.1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]


def command_line(arguments: list[str], log: str, pace: float, hang_in: str | None) -> None:
    """Run in the child: the command itself, slowed down so that a signal hits where it should."""
    sys.argv = ["moltune", *arguments]
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    import torch

    torch.set_num_threads(1)
    import moltune.tuning.loop as loop

    original = loop.MoleculeTrainer.training_step

    def paced(self: loop.MoleculeTrainer, *args: object, **kwargs: object) -> torch.Tensor:
        time.sleep(pace)
        return original(self, *args, **kwargs)

    loop.MoleculeTrainer.training_step = paced  # type: ignore[method-assign]
    if hang_in is not None:
        hang(hang_in)
    from moltune.cli.app import main

    main()


def hang(name: str) -> None:
    """Stand still for good in the third checkpoint: after its weights, or with its last file cut in half."""
    from transformers import Trainer, TrainerState

    calls = 0

    def third() -> bool:
        nonlocal calls
        calls += 1
        return calls == 3

    if name == "optimizer":
        save_optimizer = Trainer._save_optimizer_and_scheduler

        def save(self: Trainer, folder: str) -> None:
            if third():
                Path(folder, "optimizer.pt").write_bytes(b"half")
                time.sleep(600)
            save_optimizer(self, folder)

        Trainer._save_optimizer_and_scheduler = save
    else:
        save_state = TrainerState.save_to_json

        def save_json(self: TrainerState, path: str) -> None:
            save_state(self, path)
            if third():
                text = Path(path).read_text()
                Path(path).write_text(text[: len(text) // 2])
                time.sleep(600)

        TrainerState.save_to_json = save_json


@pytest.fixture(scope="module")
def start() -> Callable[..., multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest", "moltune.cli.app", "xgboost"])

    def begin(
        arguments: list[str], log: Path, pace: float = PACE, hang_in: str | None = None
    ) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=command_line, args=(arguments, str(log), pace, hang_in))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def arguments(tiny_model: Path, small_csv: Path) -> list[str]:
    settings = {
        "evaluation.baselines": "[mean]",
        "evaluation.bootstrap": "10",
        "evaluation.figures": "false",
        "training.threads": "1",
        "model.redraw": "true",
        "model.head_dropout": "0.3",
    }
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["finetune", str(small_csv), "--model", str(tiny_model), "--epochs", str(EPOCHS), *chosen]


@pytest.fixture(scope="module")
def uninterrupted(
    start: Callable[..., multiprocessing.process.BaseProcess],
    arguments: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("through")
    finish(start([*arguments, "-o", str(folder / "run")], folder / "log", pace=0), folder / "log")
    return folder / "run"


def finish(process: multiprocessing.process.BaseProcess, log: Path) -> None:
    process.join(120)
    assert process.exitcode == 0, log.read_text()


def wait_for(condition: Callable[[], object], process: multiprocessing.process.BaseProcess, log: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def whole_checkpoint(folder: Path, epoch: int) -> Callable[[], bool]:
    """Three steps make an epoch; the state is the last file of a checkpoint."""
    return (folder / "checkpoints" / f"checkpoint-{3 * epoch}" / "trainer_state.json").is_file


@pytest.mark.parametrize(
    ("signal_number", "when"),
    [
        (signal.SIGKILL, "before any checkpoint"),
        (signal.SIGKILL, "after two checkpoints"),
        (signal.SIGKILL, "optimizer"),
        (signal.SIGKILL, "state"),
        (signal.SIGTERM, "after two checkpoints"),
        (signal.SIGINT, "after two checkpoints"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_signal_and_resume(
    signal_number: signal.Signals,
    when: str,
    start: Callable[..., multiprocessing.process.BaseProcess],
    arguments: list[str],
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    command = [*arguments, "-o", str(run)]
    hang_in = when if when in ("optimizer", "state") else None
    process = start(command, log, hang_in=hang_in)
    if when == "before any checkpoint":
        wait_for((run / "splits.csv").is_file, process, log)
        time.sleep(PACE)
        assert not whole_checkpoint(run, 1)()
    elif when == "after two checkpoints":
        wait_for(whole_checkpoint(run, 2), process, log)
    else:
        half = run / "checkpoints" / "checkpoint-9" / ("optimizer.pt" if when == "optimizer" else "trainer_state.json")
        wait_for(half.is_file, process, log)
        time.sleep(0.2)
    os.kill(process.pid or 0, signal_number)
    process.join(60)
    assert process.exitcode == (130 if signal_number == signal.SIGINT else -signal_number), log.read_text()
    assert "Traceback" not in log.read_text()
    if signal_number == signal.SIGINT:
        assert "--resume" in log.read_text()
    assert (run / "config.yaml").is_file()
    assert not (run / "metrics.json").exists()

    finish(start([*command, "--resume"], log, pace=0), log)
    assert_same_run(uninterrupted, run)
    assert not (run / "checkpoints").exists()


def test_console_script_itself(arguments: list[str], uninterrupted: Path, tmp_path: Path) -> None:
    """The same once through a new interpreter: nothing depends on how the process came about."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "moltune", *arguments, "-o", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not whole_checkpoint(run, 1)() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert whole_checkpoint(run, 1)()
    done = subprocess.run(
        [*command, "--resume", "--json"], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, run)
