"""The same work on a Ray cluster (``moltune[ray]``), whose machines need not share a file system.

The process that the user started keeps the study folder. A task is sent with the molecules, its split and the files of
its needs; the files of its result are sent back and put in place here. Where a node dies, Ray says so, and the runner
does the task again elsewhere.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from moltune.cluster import connect
from moltune.study.engine.store import Store, Task
from moltune.study.engine.task import Event, compute
from moltune.study.engine.workers import Executor

Files = dict[str, bytes]


class RayExecutor(Executor):
    """Tasks on a Ray cluster.

    Args:
        folder: of the study, on this machine.
        address: of the cluster ("auto", "ray://host:10001", "host:6379"), or "local" to start one here.
        threads: CPU cores that each task asks for.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, folder: str | Path, address: str, threads: int = 1) -> None:
        self._ray, self._own = connect(address)
        self.threads = threads
        self.store = Store(folder)
        # A killed node must not be retried behind the runner's back: the runner counts deaths.
        environment = {"env_vars": dict.fromkeys(("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), str(threads))}
        self._remote = self._ray.remote(num_cpus=threads, max_retries=0, runtime_env=environment)(_perform_remotely)
        self._shared: dict[Path, Any] = {}
        self._running: dict[Any, tuple[Task, float, ExitStack]] = {}

    @property
    def slots(self) -> int:  # type: ignore[override]
        """As many tasks as the cluster has cores for, now: nodes may come and go."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self.threads)

    def submit(self, task: Task) -> Event | None:
        """Claim the task here, and send it with what it needs."""
        claim = ExitStack()
        if not claim.enter_context(self.store.claim(task)):
            claim.close()
            return Event(task.hash, "busy")
        self.store.write_journal("begin", task)
        inputs = [self.store.folder / "data" / task.specification["_data_key"]]
        inputs += [self.store.need(name, hash_) for name, hash_ in task.needs.items()]
        if task.unit:
            inputs.append(self.store.split_path(task.unit))
        reference = self._remote.remote(task, self.threads, *map(self._put, inputs))
        self._running[reference] = (task, time.monotonic(), claim)
        return None

    def wait(self, timeout: float) -> list[Event]:
        """Collect results, put their files in place, and give claims back."""
        events = []
        for reference in self._ray.wait(list(self._running), num_returns=1, timeout=timeout)[0]:
            task, started, claim = self._running.pop(reference)
            with claim:
                events.append(self._take(reference, task, time.monotonic() - started))
        return events

    def close(self) -> None:
        """Cancel what runs and leave the cluster."""
        for reference, (_, _, claim) in self._running.items():
            self._ray.cancel(reference, force=True)
            claim.close()
        self._running = {}
        if self._own:
            self._ray.shutdown()

    def _take(self, reference: Any, task: Task, seconds: float) -> Event:
        try:
            files, error, trace = self._ray.get(reference)
        except self._ray.exceptions.RayError as problem:
            return Event(task.hash, "died", seconds, f"Ray stopped its task ({type(problem).__name__})")
        if error:
            self.store.write_failure(task, error, trace)
            self.store.write_journal("failed", task, error=error)
            return Event(task.hash, "failed", seconds, error)
        self.store.commit(task, lambda folder: _unpack(folder, files))
        self.store.write_journal("done", task)
        return Event(task.hash, "done", seconds)

    def _put(self, path: Path) -> Any:
        """Upload a file or folder of the study once."""
        if path not in self._shared:
            self._shared[path] = self._ray.put(_pack(path, self.store.folder))
        return self._shared[path]


def _perform_remotely(task: Task, threads: int, *inputs: Files) -> tuple[Files, str, str]:
    """Do a task in a folder that lives as long as the call; returns files, or an error with its traceback."""
    with tempfile.TemporaryDirectory(prefix="moltune-") as name:
        folder = Path(name)
        for files in inputs:
            _unpack(folder, files)
        result = folder / "result"
        result.mkdir()
        try:
            compute(Store(folder), task, threads)(result)
        except Exception as error:
            return {}, f"{type(error).__name__}: {error}", traceback.format_exc()
        return _pack(result, result), "", ""


def _pack(path: Path, root: Path) -> Files:
    """Name relative to ``root`` -> content, of a file or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def _unpack(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
