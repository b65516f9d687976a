"""Executors: who does the tasks, local processes or this one; :mod:`moltune.study.engine.cluster` adds a cluster."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from joblib import cpu_count

from moltune.study.engine.store import Store, Task
from moltune.study.engine.task import Event, perform

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)


class Executor(ABC):
    """Does tasks in some number of slots. Use it as a context manager."""

    slots: int

    @abstractmethod
    def submit(self, task: Task) -> Event | None:
        """Begin a task, for which there must be a free slot; returns what became of it where it has ended already."""

    def wait(self, timeout: float) -> list[Event]:
        """What ended since the last call; waits up to ``timeout`` seconds for something that runs to end."""
        return []

    def close(self) -> None:  # noqa: B027 - where nothing runs between calls there is nothing to stop
        """Stop everything at once; unfinished tasks are given up and can be resumed."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class LocalExecutor(Executor):
    """Worker processes on this machine, each with its share of the cores; a dead one is replaced.

    Every slot is a pool of one process, since the death of a worker breaks the whole pool that it belongs to.

    Args:
        folder: of the study.
        workers: number of processes.
        threads: CPU threads of each; unset: cores / workers.
    """

    def __init__(self, folder: Path, workers: int, threads: int | None = None) -> None:
        self.slots = workers
        self.threads = threads or max(1, cpu_count() // workers)
        self._store = Store(folder)
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Event], tuple[Task, ProcessPoolExecutor]] = {}
        # Workers end when this end of the pipe closes, be it by close() or by the death of this process.
        self._watched, self._held = multiprocessing.Pipe(duplex=False)

    def submit(self, task: Task) -> None:
        """Hand a task to an idle worker, or start one."""
        pool = self._idle.pop() if self._idle else self._start()
        # The process of a pool starts with its first task.
        with _thread_variables(self.threads):
            try:
                future = pool.submit(perform, self._store, task, self.threads)
            except BrokenProcessPool:
                pool = self._start()
                future = pool.submit(perform, self._store, task, self.threads)
        self._busy[future] = task, pool

    def wait(self, timeout: float) -> list[Event]:
        """Collect what the workers report; a worker that ended without a report counts as "died"."""
        events = []
        for future in wait(self._busy, timeout, FIRST_COMPLETED).done:
            task, pool = self._busy.pop(future)
            try:
                events.append(future.result())
                self._idle.append(pool)
            except BrokenProcessPool:
                pool.shutdown()
                events.append(Event(task.hash, "died", message="its worker process was killed"))
        return events

    def close(self) -> None:
        """Stop the workers: results are written atomically, so nothing half-done can stay behind."""
        self._held.close()
        for pool in [*self._idle, *(pool for _, pool in self._busy.values())]:
            pool.shutdown(cancel_futures=True)
        self._idle, self._busy = [], {}

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_begin_worker, initargs=(self._watched,))


class InlineExecutor(Executor):
    """Does each task in this very process, one at a time: for debuggers, tests, and studies of tiny runs."""

    slots = 1

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.threads = threads
        self._store = Store(folder)

    def submit(self, task: Task) -> Event:
        """Do the task now."""
        return perform(self._store, task, self.threads)


@contextlib.contextmanager
def _thread_variables(threads: int) -> Iterator[None]:
    """Thread counts must stand in the environment before numerical libraries are imported."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin_worker(watched: Connection) -> None:
    # Ctrl-C goes to the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    logging.getLogger("moltune").setLevel(logging.ERROR)


def _end_with_parent(watched: Connection) -> None:
    """End this process as soon as its parent closes its end of the pipe or is killed, so that no orphan works on."""
    watched.poll(None)
    # Processes that joblib started here would wait minutes for more work, and its tracker would report their folder.
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    for place in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        for folder in place.glob(f"joblib_memmapping_folder_{os.getpid()}_*"):
            shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
