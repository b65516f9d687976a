"""Runs the jobs: each process takes the file whose turn it is, and makes room after a while when others wait."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moltune.service.jobs import Jobs
from moltune.service.metrics import Metrics
from moltune.service.models import Served
from moltune.service.pool import Died, Worker
from moltune.service.settings import ServiceSettings
from moltune.service.worker import DONE, FILE, REFUSED, STOPPED

logger = logging.getLogger(__name__)

_DEATHS = 3
_EVERY = 60.0
_NOTED = 0.5


class Runner:
    """Runs jobs until it is stopped.

    Args:
        settings: of the service.
        served: the models.
        jobs: to run.
        metrics: that are counted.
    """

    def __init__(self, settings: ServiceSettings, served: Sequence[Served], jobs: Jobs, metrics: Metrics) -> None:
        self.settings, self.served, self.jobs, self.metrics = settings, list(served), jobs, metrics
        self._arrival = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[int, Worker] = {}
        self._current: dict[str, Worker] = {}
        self._threads = ThreadPoolExecutor(settings.job_workers, thread_name_prefix="job")
        self._stopping = False

    def start(self) -> None:
        """Begin with what waits."""
        self._tasks = [asyncio.create_task(self._serve(at)) for at in range(self.settings.job_workers)]
        self._tasks.append(asyncio.create_task(self._expire()))
        self._arrival.set()

    async def stop(self) -> None:
        """End the processes; what they have finished of a file stays, and the job goes on after the next start."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for worker in self._workers.values():
            worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def arrived(self) -> None:
        """A job was added."""
        self._arrival.set()

    async def remove(self, job: str) -> bool:
        """Forget a job, also one that runs; False: there is none."""
        gone = await asyncio.to_thread(self.jobs.remove, job)
        if job in self._current:
            self._current[job].stop()
        return gone

    async def _serve(self, at: int) -> None:
        while True:
            job = await asyncio.to_thread(self.jobs.begin)
            if job is None:
                self._arrival.clear()
                # One may have come between the look and the clearing.
                if not await asyncio.to_thread(self.jobs.waits):
                    await self._arrival.wait()
                continue
            try:
                await self._run(at, job)
            except Exception:
                logger.exception("job %s failed", job["id"])
                await asyncio.to_thread(
                    self.jobs.end, job["id"], None, "The service made a mistake; its log says which."
                )

    async def _run(self, at: int, job: dict[str, Any]) -> None:
        name, place = job["id"], self.jobs.place(job["id"])
        known = {one.name for one in self.served}
        missing = [one for one in job["models"] if one not in known]
        if missing:
            self.jobs.end(name, None, f"the model {missing[0]} is not served any more")
            return
        worker = self._workers.get(at)
        if worker is None or not worker.process.is_alive():
            worker = self._workers[at] = Worker(self.settings, self.served, for_files=True)
        payload = (str(place), job["upload"], job["output"], job["models"])
        self._current[name] = worker
        loop = asyncio.get_running_loop()
        try:
            said, value = await loop.run_in_executor(
                self._threads, worker.ask, FILE, payload, None, self._listener(worker, name)
            )
        except Died as error:
            worker.kill()
            self._workers.pop(at, None)
            if self._stopping:
                return
            self.metrics.restarts.inc()
            logger.warning("a process ended while it worked on job %s: %s", name, error)
            if await asyncio.to_thread(self.jobs.again, name, True) >= _DEATHS:
                self.jobs.end(name, None, "the process ended again and again, perhaps for want of memory: send less")
            return
        finally:
            self._current.pop(name, None)
        if await asyncio.to_thread(self.jobs.find, name) is None:
            shutil.rmtree(place, ignore_errors=True)
        elif said == DONE:
            await asyncio.to_thread(self.jobs.end, name, value)
        elif said == STOPPED:
            await asyncio.to_thread(self.jobs.again, name)
        elif said == REFUSED:
            await asyncio.to_thread(self.jobs.end, name, None, value)
        else:
            raise RuntimeError(str(value))

    def _listener(self, worker: Worker, job: str) -> Any:
        """Notes how far a job is, not more often than anybody looks, and ends its turn."""
        begun = noted = time.monotonic()
        asked = False

        def listen(news: dict[str, Any]) -> None:
            nonlocal noted, asked
            now = time.monotonic()
            if now - noted >= _NOTED:
                noted = now
                self.jobs.progress(job, news["rows"], news["progress"])
            if not asked and now - begun > self.settings.turn and self.jobs.waits():
                asked = True
                worker.stop()

        return listen

    async def _expire(self) -> None:
        while True:
            await asyncio.to_thread(self.jobs.expire)
            await asyncio.sleep(_EVERY)
