"""Jobs: a row in SQLite beside a folder with the file that was uploaded and its result.

A job is acknowledged when its file and its row are on the disk. Names of files and folders are made here; what a client
calls its file is only remembered to name the download.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moltune.service.problems import busy
from moltune.service.settings import Limits

QUEUED, RUNNING, FINISHED, BROKEN = "queued", "running", "done", "failed"
_ID = re.compile(r"[0-9a-f]{32}")
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    turn INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    models TEXT NOT NULL,
    upload TEXT NOT NULL,
    output TEXT NOT NULL,
    created REAL NOT NULL,
    finished REAL,
    progress REAL NOT NULL DEFAULT 0,
    rows INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    said TEXT NOT NULL DEFAULT '{}',
    error TEXT
)
"""


class Jobs:
    """The jobs of one service; may be used from several threads.

    Args:
        folder: of the database and of all jobs; made where it does not exist.
        limits: how many jobs are kept, and how long.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits, self.places = limits, folder / "jobs"
        self.places.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._base.row_factory = sqlite3.Row
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        self._base.execute(_TABLE)
        self._recover()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._base.close()

    def _recover(self) -> None:
        """After a kill, what was under way waits again; a folder without a row was never acknowledged."""
        with self._change() as base:
            base.execute("UPDATE jobs SET state = ? WHERE state = ?", (QUEUED, RUNNING))
            known = {row["id"] for row in base.execute("SELECT id FROM jobs")}
        for place in self.places.iterdir():
            if place.name not in known:
                shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def incoming(self) -> Path:
        """A new place for an upload, not yet acknowledged."""
        place = self.places / secrets.token_hex(16)
        place.mkdir()
        return place

    def add(self, place: Path, name: str, models: list[str], upload: str, output: str) -> dict[str, Any]:
        """Acknowledge an upload: afterwards it is on the disk, whatever happens.

        Args:
            place: from :meth:`incoming`, with the file in it.
            name: that the client gave the file.
            models: to predict with.
            upload: name of the file in its folder.
            output: name of the result in it.

        Raises:
            Problem: so many jobs wait that there is no room.
        """
        _to_disk(place / upload)
        _to_disk(place)
        _to_disk(self.places)
        with self._change() as base:
            listed = base.execute("SELECT id, state FROM jobs ORDER BY created").fetchall()
            surplus = len(listed) + 1 - self.limits.jobs
            old = [row["id"] for row in listed if row["state"] in (FINISHED, BROKEN)]
            if surplus > len(old):
                raise busy(60)
            for one in old[: max(surplus, 0)]:
                base.execute("DELETE FROM jobs WHERE id = ?", (one,))
            base.execute(
                "INSERT INTO jobs (id, name, state, models, upload, output, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (place.name, name, QUEUED, json.dumps(models), upload, output, time.time()),
            )
        for one in old[: max(surplus, 0)]:
            shutil.rmtree(self.places / one, ignore_errors=True)
        found = self.find(place.name)
        assert found is not None
        return found

    def find(self, job: str) -> dict[str, Any] | None:
        """The job of that name, as :class:`moltune.service.schemas.Job` has it; None: there is none."""
        if not _ID.fullmatch(job):
            return None
        with self._lock:
            row = self._base.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        return None if row is None else self._values(row)

    def listed(self) -> list[dict[str, Any]]:
        """All of them, the latest first."""
        with self._lock:
            rows = self._base.execute("SELECT * FROM jobs ORDER BY created DESC, turn DESC").fetchall()
        return [self._values(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many there are in each state."""
        with self._lock:
            found = self._base.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {**dict.fromkeys((QUEUED, RUNNING, FINISHED, BROKEN), 0), **dict(map(tuple, found))}

    def place(self, job: str) -> Path:
        """Folder of a job that exists."""
        return self.places / job

    def begin(self) -> dict[str, Any] | None:
        """Take the job whose turn it is; None: none waits."""
        with self._change() as base:
            row = base.execute("SELECT * FROM jobs WHERE state = ? ORDER BY turn LIMIT 1", (QUEUED,)).fetchone()
            if row is None:
                return None
            base.execute("UPDATE jobs SET state = ? WHERE id = ?", (RUNNING, row["id"]))
        return dict(row) | {"models": json.loads(row["models"])}

    def waits(self) -> bool:
        """Whether a job waits."""
        return self.counts()[QUEUED] > 0

    def progress(self, job: str, rows: int, progress: float) -> None:
        """Remember how far a job is."""
        with self._change() as base:
            base.execute("UPDATE jobs SET rows = ?, progress = ? WHERE id = ?", (rows, progress, job))

    def again(self, job: str, died: bool = False) -> int:
        """Put a job at the end of the line; returns how often a process died of it."""
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + ?, turn = (SELECT MAX(turn) + 1 FROM jobs)"
                " WHERE id = ?",
                (QUEUED, int(died), job),
            )
            row = base.execute("SELECT attempts FROM jobs WHERE id = ?", (job,)).fetchone()
        return 0 if row is None else int(row["attempts"])

    def end(self, job: str, said: dict[str, Any] | None, error: str | None = None) -> None:
        """A job is done, or failed."""
        state = BROKEN if said is None else FINISHED
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET state = ?, finished = ?, said = ?, error = ?, progress = MAX(progress, ?)"
                " WHERE id = ?",
                (state, time.time(), json.dumps(said or {}), error, float(said is not None), job),
            )

    def remove(self, job: str) -> bool:
        """Forget a job and delete its files; False: there is none."""
        if not _ID.fullmatch(job):
            return False
        with self._change() as base:
            gone = base.execute("DELETE FROM jobs WHERE id = ?", (job,)).rowcount
        if gone:
            shutil.rmtree(self.places / job, ignore_errors=True)
        return bool(gone)

    def expire(self) -> None:
        """Remove what was kept long enough."""
        before = time.time() - self.limits.hours * 3600
        with self._lock:
            rows = self._base.execute("SELECT id FROM jobs WHERE finished < ?", (before,)).fetchall()
        for row in rows:
            self.remove(row["id"])

    def _values(self, row: sqlite3.Row) -> dict[str, Any]:
        expires = None if row["finished"] is None else row["finished"] + self.limits.hours * 3600
        names = ("id", "name", "state", "created", "finished", "progress", "rows", "error", "output")
        return {
            **{name: row[name] for name in names},
            "models": json.loads(row["models"]),
            "format": row["output"].partition(".")[2],
            "expires": expires,
            **json.loads(row["said"]),
        }


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
