"""Local worker processes, one of which is killed by its own task."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from joblib import Parallel, delayed

from moltune.data.load import load_molecules
from moltune.study.arms.base import Workbench
from moltune.study.engine.store import Store, Task, digest
from moltune.study.engine.task import Event
from moltune.study.engine.workers import LocalExecutor


def good(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"values": np.array([os.getpid(), int(os.environ["OMP_NUM_THREADS"])])}


def fatal(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def task(function: str, number: int = 0) -> Task:
    values = {"step": function, "specification": {"number": number}, "_function": f"{__name__}:{function}"}
    return Task(digest(values), "step", function, function, {**values, "_data_key": "k"})


def finish(executor: LocalExecutor) -> Event:
    while True:
        if events := executor.wait(0.5):
            assert len(events) == 1
            return events[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_worker_is_reported_and_replaced(table: pd.DataFrame, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_molecules(load_molecules(table), "k")
    with LocalExecutor(tmp_path, 1, threads=3) as executor:
        executor.submit(task("good"))
        assert finish(executor).status == "done"
        executor.submit(task("good", 1))
        assert finish(executor).status == "done"
        executor.submit(task("fatal"))
        assert finish(executor).status == "died"
        executor.submit(task("good", 2))
        assert finish(executor).status == "done"
        found = [np.load(store.place(task("good", number)) / "values.npy") for number in range(3)]
    pids, threads = np.array(found).T
    # One worker serves many tasks, until it dies.
    assert pids[0] == pids[1] != pids[2]
    assert os.getpid() not in pids
    assert set(threads) == {3}
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids[2]), 0)


def with_helpers(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Leave the processes of a pool of joblib behind, as descriptors of many molecules do."""
    return {"values": np.array(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4)))}


@pytest.mark.slow
def test_no_process_that_a_worker_started_outlives_it(table: pd.DataFrame, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_molecules(load_molecules(table), "k")
    with LocalExecutor(tmp_path, 1, threads=2) as executor:
        executor.submit(task("with_helpers"))
        assert finish(executor).status == "done"
        helpers = set(np.load(store.place(task("with_helpers")) / "values.npy").tolist())
        assert all(psutil.pid_exists(pid) for pid in helpers)
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in helpers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in helpers)
