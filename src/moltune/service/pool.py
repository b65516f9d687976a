"""Processes that predict molecules, and the bounded queue before them.

A process that becomes free takes what waits, up to a batch: under load batches grow by themselves, and a molecule that
comes alone waits for nothing. Requests of a few molecules and large ones (also explanations) stand in two lines, from
which a process takes in turn, so that neither starves.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from moltune.errors import MoltuneError
from moltune.service.metrics import Metrics
from moltune.service.models import Served
from moltune.service.problems import Problem, busy
from moltune.service.settings import ServiceSettings
from moltune.service.worker import DONE, EXPLAIN, FAILED, NEWS, PREDICT, READY, REFUSED, STOP, work

logger = logging.getLogger(__name__)

# One thread in each process: as many processes as cores would otherwise fight for them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_FEW = 4
_EXPLANATION = 30
_REMEMBERED = 200
_START_SECONDS = 300.0


class Died(Exception):
    """A process ended, or did not answer in time."""


class Worker:
    """A process of :mod:`moltune.service.worker` and the pipe to it. Its calls block: ask from a thread."""

    _starting = threading.Lock()

    def __init__(self, settings: ServiceSettings, served: Sequence[Served], for_files: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, list(served), settings.limits, for_files), daemon=True)
        with self._starting:
            before = {name: os.environ.get(name) for name in _ONE_THREAD}
            os.environ.update(_ONE_THREAD)
            try:
                self.process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
        other.close()

    def hear(self, seconds: float | None) -> tuple[str, Any]:
        """The next thing that the process says.

        Raises:
            Died: it says nothing any more.
        """
        connection: Connection = self.pipe
        try:
            if not connection.poll(seconds):
                raise Died(f"no answer within {seconds:g} seconds")
            found: tuple[str, Any] = connection.recv()
        except (EOFError, OSError):
            raise Died("the process ended") from None
        return found

    def ask(
        self, kind: str, payload: Any, seconds: float | None, news: Callable[[Any], None] | None = None
    ) -> tuple[str, Any]:
        """Ask, and wait for the answer; ``news`` gets what is said before.

        Raises:
            Died: there is none.
        """
        try:
            self.pipe.send((kind, payload))
        except (OSError, ValueError):
            raise Died("the process ended") from None
        while True:
            said, value = self.hear(seconds)
            if said != NEWS:
                return said, value
            if news is not None:
                news(value)

    def stop(self) -> None:
        """Ask a job to make room."""
        try:
            self.pipe.send((STOP, None))
        except (OSError, ValueError):
            logger.debug("a process had ended before it was asked to stop")

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join(5)
        self.pipe.close()


@dataclass(eq=False)
class _Unit:
    """A part of a request that is done at once."""

    kind: str
    models: tuple[str, ...]
    texts: list[str]
    weight: int
    few: bool
    future: asyncio.Future[Any]
    alone: bool = False
    asked: float = field(default_factory=time.monotonic)


class Pool:
    """The processes that predict molecules.

    Args:
        settings: of the service.
        served: the models.
        metrics: that are counted.
    """

    def __init__(self, settings: ServiceSettings, served: Sequence[Served], metrics: Metrics) -> None:
        self.settings, self.served, self.metrics = settings, list(served), metrics
        self.models: list[dict[str, Any]] = []
        self.ready = 0
        self._few: deque[_Unit] = deque()
        self._many: deque[_Unit] = deque()
        self._few_next = True
        self._waiting = 0
        self._pace = 0.05
        self._arrival = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[int, Worker] = {}
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="worker")
        self._explained: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def start(self) -> None:
        """Start the processes; returns when the first one can predict.

        Raises:
            MoltuneError: it cannot load the models.
        """
        await self._open(0)
        for at in range(self.settings.workers):
            self._tasks.append(asyncio.create_task(self._serve(at)))

    async def stop(self) -> None:
        """End the processes."""
        for task in self._tasks:
            task.cancel()
        for worker in self._workers.values():
            worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for unit in [*self._few, *self._many]:
            if not unit.future.done():
                unit.future.set_exception(busy(5))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def predict(self, models: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Predict n molecules with some models.

        Raises:
            Problem: the queue is full.
        """
        size, few = self.settings.batch, len(texts) <= _FEW
        self._check_room(len(texts))
        units = [
            self._put(PREDICT, tuple(models), list(texts[start : start + size]), few)
            for start in range(0, len(texts), size)
        ]
        await self._announce(len(units))
        found = [one for part in await asyncio.gather(*(unit.future for unit in units)) for one in part]
        self.metrics.molecules.inc(len(found))
        return found

    async def explain(self, model: str, text: str) -> dict[str, Any]:
        """Explain one prediction; the last ones are remembered.

        Raises:
            Problem: the queue is full, or the molecule cannot be predicted.
        """
        key = (model, text)
        if key in self._explained:
            self._explained.move_to_end(key)
            return self._explained[key]
        self._check_room(_EXPLANATION)
        unit = self._put(EXPLAIN, (model,), [text], few=False, weight=_EXPLANATION)
        await self._announce(1)
        found: dict[str, Any] = await unit.future
        self._explained[key] = found
        if len(self._explained) > _REMEMBERED:
            self._explained.popitem(last=False)
        return found

    def _check_room(self, weight: int) -> None:
        if self._waiting + weight > self.settings.limits.queue:
            self.metrics.refused.inc()
            raise busy(round(self._waiting * self._pace / max(self.ready, 1)) + 1)

    def _put(self, kind: str, models: tuple[str, ...], texts: list[str], few: bool, weight: int = 0) -> _Unit:
        unit = _Unit(kind, models, texts, weight or len(texts), few, asyncio.get_running_loop().create_future())
        self._queue(unit)
        return unit

    def _queue(self, unit: _Unit) -> None:
        (self._few if unit.few else self._many).append(unit)
        self._waiting += unit.weight
        self.metrics.waiting.set(self._waiting)

    async def _announce(self, count: int) -> None:
        async with self._arrival:
            self._arrival.notify(count)

    async def _take(self) -> list[_Unit]:
        """What one process does next."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self._few or self._many)
            lines = [self._few, self._many] if self._few_next else [self._many, self._few]
            line = next(one for one in lines if one)
            self._few_next = line is self._many
            units = [line.popleft()]
            first, size = units[0], len(units[0].texts)
            # Others that ask the same models come along, and also those that came alone to a large batch.
            for other in (line, self._few):
                while other and first.kind == PREDICT and not first.alone:
                    after = other[0]
                    fits = after.models == first.models and size + len(after.texts) <= self.settings.batch
                    if after.kind != PREDICT or after.alone or not fits:
                        break
                    size += len(after.texts)
                    units.append(other.popleft())
            self._waiting -= sum(unit.weight for unit in units)
            self.metrics.waiting.set(self._waiting)
            return units

    async def _open(self, at: int) -> Worker:
        loop = asyncio.get_running_loop()
        worker = Worker(self.settings, self.served)
        self._workers[at] = worker
        try:
            said, value = await loop.run_in_executor(self._threads, worker.hear, _START_SECONDS)
        except Died as error:
            raise MoltuneError(f"a process that should predict molecules did not start: {error}") from None
        if said != READY:
            raise MoltuneError(f"the models cannot be loaded: {value}")
        self.models = value
        self.ready += 1
        return worker

    async def _serve(self, at: int) -> None:
        worker = self._workers.get(at)
        while True:
            try:
                worker = worker or await self._open(at)
            except MoltuneError as error:
                logger.error("%s", error)
                await asyncio.sleep(5)
                continue
            try:
                await self._work(worker)
            except Died:
                self.ready -= 1
                self.metrics.restarts.inc()
                worker.kill()
                worker = None

    async def _work(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        while True:
            units = await self._take()
            first = units[0]
            texts = [text for unit in units for text in unit.texts]
            payload = (first.models, texts) if first.kind == PREDICT else (first.models[0], texts[0])
            begun = time.monotonic()
            try:
                said, value = await loop.run_in_executor(
                    self._threads, worker.ask, first.kind, payload, self.settings.limits.seconds
                )
            except Died as error:
                logger.warning("a process was started again while it worked on %d molecules: %s", len(texts), error)
                await self._again(units)
                raise
            if first.kind == PREDICT:
                self._pace = 0.9 * self._pace + 0.1 * (time.monotonic() - begun) / len(texts)
                self.metrics.batches.observe(len(texts))
            self._give(units, said, value)

    async def _again(self, units: list[_Unit]) -> None:
        """Who was in a batch that a process died of gets another chance, each by itself."""
        for unit in units:
            if unit.alone or (len(units) == 1 and len(unit.texts) == 1):
                problem = Problem(
                    422,
                    "too-hard",
                    f"The service gave up on this after {self.settings.limits.seconds:g} seconds, or its process ended:"
                    " try a smaller molecule, or fewer at a time.",
                )
                if not unit.future.done():
                    unit.future.set_exception(problem)
            else:
                unit.alone = True
                self._queue(unit)
        await self._announce(len(units))

    def _give(self, units: list[_Unit], said: str, value: Any) -> None:
        start = 0
        for unit in units:
            if unit.future.done():
                continue
            if said == DONE:
                end = start + len(unit.texts)
                unit.future.set_result(value[start:end] if unit.kind == PREDICT else value)
                start = end
            elif said == REFUSED:
                unit.future.set_exception(Problem(422, "not-predicted", str(value)))
            else:
                logger.error("a process failed: %s", value if said == FAILED else said)
                unit.future.set_exception(RuntimeError("a process failed"))
