"""Run a study: compute what is missing, and keep what failed for the report."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joblib import cpu_count

from moltune.errors import ConfigError
from moltune.files import write_json
from moltune.study.engine.plan import Plan, make_plan
from moltune.study.engine.store import STUDY, Store, Task
from moltune.study.engine.task import Event
from moltune.study.engine.workers import Executor, LocalExecutor
from moltune.study.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

_MOST_DEATHS = 2
_PAUSE, _PAUSE_WHEN_BUSY = 0.2, 1.0


@dataclass
class Progress:
    """Where a study stands; handed to the ``report`` callback after each change."""

    total: int  # runs, and shared steps that are still needed
    done: int = 0  # now or earlier
    failed: int = 0
    running: list[str] = field(default_factory=list)  # titles
    seconds_left: float | None = None  # estimate; None while nothing is known
    last: tuple[Task, Event] | None = None  # what just ended


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Ran:
    """What a call of :func:`run_study` left; runs are named by their hashes."""

    folder: Path
    plan: Plan
    done: list[str]
    failed: dict[str, str]  # with one line about each
    missing: list[str]  # neither finished nor failed: the budget was spent
    computed: int  # runs and steps that this call did itself

    def to_dict(self) -> dict[str, Any]:
        """Counts, JSON-ready."""
        return {
            "folder": str(self.folder),
            "runs": len(self.plan.runs),
            "done": len(self.done),
            "failed": self.failed,
            "missing": len(self.missing),
            "computed": self.computed,
        }


def run_study(
    recipe: Recipe,
    folder: str | Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    retry_failed: bool = False,
    executor: Executor | None = None,
    reuse: Sequence[str | Path] = (),
    report: Report | None = None,
) -> Ran:
    """Compute every run of a study that is not there yet.

    Several processes may run the same study in the same folder: each run is done by one of them.

    Args:
        recipe: what to run.
        folder: of the study, new or begun.
        workers: local processes.
        threads: CPU threads of each; unset: cores / workers.
        retry_failed: do again what failed before; otherwise failures stay as they are.
        executor: another kind of worker, such as a cluster; it is closed here.
        reuse: folders of other studies, from which runs of the same specification are copied.
        report: called after each change.

    Raises:
        ConfigError, ArmUnavailable, DataError: the recipe or the data cannot be used.
        RunFolderError: the folder holds something else, or one to reuse holds no study.
    """
    if workers < 1 or (threads is not None and threads < 1):
        raise ConfigError("a study needs at least one worker, and each worker at least one thread")
    store = Store(folder)
    with ExitStack() as stack:
        if executor is not None:
            stack.enter_context(executor)
        store.occupy(recipe.name)
        plan = make_plan(recipe, store)
        write_json(store.folder / STUDY, plan.to_dict())
        store.sweep()
        others = [Store(other) for other in reuse]
        for other in others:
            other.study()
        adopted = sum(any(store.adopt(other, task) for other in others) for task in plan.tasks)
        if adopted:
            logger.info("%d runs and steps were taken over from other studies", adopted)
        if executor is None:
            if workers > cpu_count():
                logger.warning("%d workers share %d cores, which makes every run slower", workers, cpu_count())
            executor = stack.enter_context(LocalExecutor(store.folder, workers, threads))
        computed = _Loop(store, plan, executor, retry_failed, report).run()
    done = [task.hash for task in plan.runs if store.finished(task)]
    failures = {task.hash: store.failure(task.hash) for task in plan.runs if not store.finished(task)}
    failed = {hash_: str(failure["error"]) for hash_, failure in failures.items() if failure is not None}
    missing = [hash_ for hash_, failure in failures.items() if failure is None]
    return Ran(store.folder, plan, done, failed, missing, computed)


class _Loop:
    def __init__(self, store: Store, plan: Plan, executor: Executor, retry_failed: bool, report: Report | None) -> None:
        self.store, self.executor, self.report = store, executor, report
        hours = plan.recipe.budget.hours
        self.deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.tasks = {task.hash: task for task in plan.tasks}
        self.failed: set[str] = set()
        waiting = []
        for task in plan.tasks:
            if store.finished(task):
                continue
            if store.failure(task.hash) is not None and not retry_failed:
                self.failed.add(task.hash)
            else:
                store.forget_failure(task)
                waiting.append(task)
        needed = {hash_ for task in waiting for hash_ in task.needs.values()}
        # A step that only finished runs needed is not worth its time.
        self.waiting = deque(task for task in waiting if task.kind == "run" or task.hash in needed)
        self.running: dict[str, Task] = {}
        self.deaths: Counter[str] = Counter()
        self.not_before: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}
        self.computed = 0
        self.progress = Progress(
            total=len(plan.runs) + sum(task.kind == "step" for task in self.waiting),
            done=sum(store.finished(task) for task in plan.runs),
            failed=sum(task.hash in self.failed for task in plan.runs),
        )

    def run(self) -> int:
        self._tell(None)
        while self.waiting or self.running:
            before = len(self.waiting)
            self._submit()
            if not self.running and time.monotonic() > self.deadline:
                logger.warning("The time budget is spent; %d tasks were not begun.", len(self.waiting))
                break
            for event in self.executor.wait(_PAUSE) if self.running else []:
                self._take(event)
            if not self.running and len(self.waiting) == before:
                time.sleep(_PAUSE)
        return self.computed

    def _submit(self) -> None:
        for _ in range(len(self.waiting)):
            if len(self.running) >= self.executor.slots or time.monotonic() > self.deadline:
                return
            task = self.waiting.popleft()
            needs = [self.tasks[hash_] for hash_ in task.needs.values()]
            failed = next((need for need in needs if need.hash in self.failed), None)
            if failed is not None:
                failure = self.store.failure(failed.hash) or {}
                message = f"{failed.title!r}, which it needs, failed: {failure.get('error', '')}"
                self._fail(task, message, failure.get("traceback", ""))
            elif time.monotonic() >= self.not_before.get(task.hash, 0) and all(map(self.store.finished, needs)):
                self.running[task.hash] = task
                self._tell(None)
                if (event := self.executor.submit(task)) is not None:
                    self._take(event)
            else:
                self.waiting.append(task)

    def _take(self, event: Event) -> None:
        task = self.running.pop(event.hash)
        if event.status == "done" or (event.status == "busy" and self.store.finished(task)):
            if event.status == "done":
                self.computed += 1
                self.seconds.setdefault(task.arm, []).append(event.seconds)
            self.progress.done += 1
            self._tell((task, event))
        elif event.status == "failed":
            self._failed(task, event)
        elif event.status == "died":
            self.deaths[task.hash] += 1
            self.store.write_journal("died", task, message=event.message)
            if self.deaths[task.hash] > _MOST_DEATHS:
                times = self.deaths[task.hash]
                self._fail(task, f"{event.message}, {times} times; it may need more memory than there is")
            else:
                self.waiting.appendleft(task)
        elif (failure := self.store.failure(task.hash)) is not None:
            self._failed(task, Event(task.hash, "failed", message=str(failure["error"])))
        else:
            # Another process has it; look again later whether it has finished.
            self.not_before[task.hash] = time.monotonic() + _PAUSE_WHEN_BUSY
            self.waiting.append(task)

    def _fail(self, task: Task, message: str, traceback: str = "") -> None:
        self.store.write_failure(task, message, traceback)
        self._failed(task, Event(task.hash, "failed", message=message))

    def _failed(self, task: Task, event: Event) -> None:
        self.failed.add(task.hash)
        self.progress.failed += 1
        logger.warning("%s failed: %s", task.title, event.message)
        self._tell((task, event))

    def _tell(self, last: tuple[Task, Event] | None) -> None:
        self.progress.last = last
        self.progress.running = [task.title for task in self.running.values()]
        self.progress.seconds_left = self._seconds_left()
        if self.report is not None:
            self.report(self.progress)

    def _seconds_left(self) -> float | None:
        """Open tasks at the median time of their arm (of all arms, where it has none yet), over the slots."""
        known = {arm: statistics.median(values) for arm, values in self.seconds.items()}
        runs = {task.arm for task in self.tasks.values() if task.kind == "run"} & known.keys()
        if not runs:
            return None
        usual = statistics.median(known[arm] for arm in runs)
        open_tasks = [*self.waiting, *self.running.values()]
        return sum(known.get(task.arm, usual) for task in open_tasks) / self.executor.slots
