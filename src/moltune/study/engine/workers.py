"""Who does the work: local processes, behind an interface that a cluster can also fill."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from moltune.study.engine.store import Store, Task
from moltune.study.engine.task import Event, perform

logger = logging.getLogger(__name__)

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
    def submit(self, task: Task) -> None:
        """Begin a task; there must be a free slot."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """What ended since the last call; waits up to ``timeout`` seconds for something to."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything at once; unfinished tasks are given up and can be resumed."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # pragma: no cover - macOS and Windows
        return os.cpu_count() or 1


class LocalExecutor(Executor):
    """Worker processes on this machine, each with its share of the cores; a dead one is replaced.

    Args:
        folder: of the study.
        workers: number of processes.
        threads: CPU threads of each; unset: cores / workers.
    """

    def __init__(self, folder: Path, workers: int, threads: int | None = None) -> None:
        self.slots = workers
        self.threads = threads or max(1, cores() // workers)
        self._folder = folder
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}

    def submit(self, task: Task) -> None:
        """Hand a task to an idle worker, or start one."""
        worker = self._idle.pop() if self._idle else _Worker(self._folder, self.threads)
        try:
            worker.connection.send(task)
        except OSError:
            worker.stop()
            worker = _Worker(self._folder, self.threads)
            worker.connection.send(task)
        self._busy[task.hash] = worker

    def wait(self, timeout: float) -> list[Event]:
        """Collect what the workers report; a worker that died without a word counts as "died"."""
        if not self._busy:
            time.sleep(timeout)
            return []
        waited = {worker.connection: hash_ for hash_, worker in self._busy.items()}
        events = []
        for ready in wait(list(waited), timeout):
            assert isinstance(ready, Connection)
            hash_ = waited[ready]
            worker = self._busy.pop(hash_)
            try:
                events.append(ready.recv())
                self._idle.append(worker)
            except (EOFError, OSError):
                worker.stop()
                code = worker.process.exitcode
                events.append(Event(hash_, "died", message=f"its worker process ended with exit code {code}"))
        return events

    def close(self) -> None:
        """Kill the workers: results are written atomically, so nothing half-done can stay behind."""
        for worker in [*self._idle, *self._busy.values()]:
            worker.stop()
        self._idle, self._busy = [], {}


class InlineExecutor(Executor):
    """Does each task in this very process, one at a time: for debuggers, tests, and studies of tiny runs."""

    slots = 1

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.threads = threads
        self._store = Store(folder)
        self._ended: list[Event] = []

    def submit(self, task: Task) -> None:
        """Do the task now."""
        self._ended.append(perform(self._store, task, self.threads))

    def wait(self, timeout: float) -> list[Event]:
        """Return what the last submitted task became."""
        if not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Nothing runs between calls."""


class _Worker:
    def __init__(self, folder: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, folder, threads, os.getpid()))
        with _environment(threads):
            self.process.start()
        # Only the child may hold the other end, or its death would not show.
        theirs.close()

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Thread counts must stand in the environment before numerical libraries are imported."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(connection: Connection, folder: Path, threads: int, parent: int) -> None:
    # Ctrl-C goes to the whole group of processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    logging.getLogger("moltune").setLevel(logging.ERROR)
    store = Store(folder)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(perform(store, task, threads))


def _die_with(parent: int) -> None:
    """End this process soon after its parent was killed, so that no orphan works on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
