"""Work on a source piece by piece, each finished piece in a file of its own, so that a killed run goes on."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moltune import __version__
from moltune.data.reading.stream import Piece, Source
from moltune.errors import MoltuneError, RunFolderError
from moltune.files import replacing, write_json
from moltune.progress import StageReport

logger = logging.getLogger(__name__)

ENDING, SETTINGS = ".unfinished", "settings.json"
_SAY_EVERY = 60.0
# One thread in each worker: as many processes as cores would otherwise fight for them.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")

Function = Callable[[Piece], pa.Table]


class Work(ABC):
    """What is done with each piece. It is sent to other processes, so that it holds names and settings only."""

    @property
    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Everything that decides the result, ready for JSON."""

    @abstractmethod
    def open(self) -> Function:
        """Load what is needed; the function gives one row per row of a piece."""


@dataclass(frozen=True)
class Finished:
    """Results of all pieces.

    Attributes:
        folder: where they are, one Parquet file per piece.
    """

    folder: Path

    def path(self, index: int) -> Path:
        """File of a piece."""
        return self.folder / f"{index:06d}.parquet"

    def read(self, index: int) -> pa.Table:
        """Result of a piece."""
        return pq.read_table(self.path(index))

    def write(self, index: int, result: pa.Table) -> None:
        """Keep the result of a piece; its file is whole or absent."""
        with replacing(self.path(index)) as temporary:
            pq.write_table(result, temporary)

    def schemas(self) -> Iterator[pa.Schema]:
        """Columns of the result of each piece, in their order."""
        for path in sorted(self.folder.glob("*.parquet")):
            yield pq.read_schema(path)


Way = Callable[[Work, Callable[[], Iterator[Piece]], Finished], Iterator[int]]
"""Does the pieces that are missing, and tells the number of rows of each when its file is there."""


@contextmanager
def folder_for(output: Path | None, source: Source, work: Work, rows: int) -> Iterator[Finished]:
    """The folder beside an output in which finished pieces are kept until the output is whole; then it goes.

    A folder that a killed process left is taken up where input, model and settings are the same, and else emptied.

    Args:
        output: the file to be written; None: nothing is kept, and a temporary folder is used.
        source: of the pieces.
        work: that is done.
        rows: of a piece.

    Raises:
        RunFolderError: there is a folder of that name with something else in it.
    """
    if output is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Finished(Path(temporary))
        return
    folder = output.with_name(output.name + ENDING)
    key = {"moltune": __version__, "input": source.digest, "rows": source.rows, "piece": rows, "work": work.key}
    key = json.loads(json.dumps(key))
    settings = folder / SETTINGS
    if folder.exists() and not settings.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} is needed for unfinished work, but holds something else; move it")
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")) != key:
        logger.info("%s belongs to another input, model or setting; it begins again", folder)
        _empty(folder)
    folder.mkdir(exist_ok=True)
    write_json(settings, key)
    for path in folder.glob(".*"):
        path.unlink()
    whole = False
    try:
        yield Finished(folder)
        whole = True
    finally:
        if whole or not any(folder.glob("*.parquet")):
            _empty(folder)
            folder.rmdir()


def _empty(folder: Path) -> None:
    """Delete what is in a folder, its settings last: a folder without them is empty."""
    for path in folder.iterdir():
        if path.name != SETTINGS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / SETTINGS).unlink(missing_ok=True)


def do_pieces(
    source: Source,
    work: Work,
    finished: Finished,
    report: StageReport,
    *,
    workers: int,
    stage: str,
    way: Way | None = None,
) -> None:
    """Do what is not done yet.

    Args:
        source: of the pieces.
        work: to do.
        finished: where results go.
        report: told the share of rows that are done.
        workers: processes; 1: this one.
        stage: name of the work for ``report``.
        way: how pieces are done; unset: on ``workers`` processes of this machine.

    Raises:
        MoltuneError: a process died, or see the work itself.
    """
    done, progress = 0, _Progress(source.rows, report, stage)
    for path in finished.folder.glob("*.parquet"):
        done += pq.read_metadata(path).num_rows
    progress.begin(done)
    if done == source.rows:
        return
    way = way or (_here if workers == 1 else partial(_on_processes, workers))
    for rows in way(work, lambda: (one for one in source.pieces() if not finished.path(one.index).is_file()), finished):
        progress.more(rows)


def _here(work: Work, missing: Callable[[], Iterator[Piece]], finished: Finished) -> Iterator[int]:
    function = work.open()
    for piece in missing():
        finished.write(piece.index, function(piece))
        yield piece.rows


def _on_processes(
    workers: int, work: Work, missing: Callable[[], Iterator[Piece]], finished: Finished
) -> Iterator[int]:
    try:
        with _pool(work, workers) as pool:
            waiting: deque[tuple[Future[None], int]] = deque()
            for piece in missing():
                waiting.append((pool.submit(_do_in_worker, piece, finished), piece.rows))
                # Pieces are read no faster than they are done, so that memory stays as it is.
                while len(waiting) > 2 * workers:
                    yield _take(waiting)
            while waiting:
                yield _take(waiting)
    except BrokenProcessPool:
        raise MoltuneError(
            "a worker process died, perhaps for want of memory; "
            "the same command goes on, if need be with fewer --workers"
        ) from None


class _Progress:
    """Tells how far the work is, to a bar and, once a minute, to the log."""

    def __init__(self, total: int, report: StageReport, stage: str) -> None:
        self.total, self.report, self.stage = total, report, stage
        self.done = self.before = 0
        self.started = self.said = time.monotonic()

    def begin(self, done: int) -> None:
        self.done = self.before = done
        if done:
            logger.info("%s of %s rows were done before", f"{done:,}", f"{self.total:,}")
        self.report(self.stage, done / self.total)

    def more(self, rows: int) -> None:
        self.done += rows
        self.report(self.stage, self.done / self.total)
        now = time.monotonic()
        if now - self.said > _SAY_EVERY and self.done < self.total:
            self.said = now
            left = (now - self.started) / (self.done - self.before) * (self.total - self.done)
            logger.info("%s of %s rows, %s left", f"{self.done:,}", f"{self.total:,}", _words(left))


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else "less than a minute"


def _take(waiting: deque[tuple[Future[None], int]]) -> int:
    future, rows = waiting.popleft()
    future.result()
    return rows


@contextmanager
def _pool(work: Work, workers: int) -> Iterator[ProcessPoolExecutor]:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_function: Function | None = None


def _start(work: Work) -> None:
    """Prepare a worker process, which ends when its parent does, however that ends."""
    global _function
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    logging.getLogger("moltune").setLevel(logging.ERROR)
    _function = work.open()


def _do_in_worker(piece: Piece, finished: Finished) -> None:
    assert _function is not None
    finished.write(piece.index, _function(piece))
