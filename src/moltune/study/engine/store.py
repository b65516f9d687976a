"""The study folder: the only place that knows what a study looks like on disk.

::

    study.json       the recipe with its controls, notes, and the hash of every run
    data/            the cleaned molecules
    splits/          row, smiles, inchikey, split of every split
    steps/<hash>/    shared steps, such as descriptors
    runs/<hash>/     specification.json, result.json, predictions.parquet, history.csv
    failed/          a traceback for each run that failed
    work/<hash>/     scratch of runs that are under way
    claims/          lock files: who works on what
    journal.jsonl    one line per event, with time and process
    results.parquet, results.json, report.html, tables/, figures/

A run is named by the hash of its complete specification. Its folder is filled elsewhere and renamed into place, so it
is complete or absent, and a study that is killed at any moment loses at most what its workers had in hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from filelock import FileLock, Timeout

from moltune.data.molecules import Molecules
from moltune.data.reading.write import write_table
from moltune.data.splitting.split import Split
from moltune.errors import RunFolderError
from moltune.files import write_json
from moltune.study.arms.base import PREDICTIONS, run_need

STUDY, JOURNAL, RESULT, SPECIFICATION = "study.json", "journal.jsonl", "result.json", "specification.json"
HISTORY = "history.csv"
# What a folder may hold before the study begins: predictions from elsewhere, and what `study splits` writes.
_FIRST = {"external", "data", "splits", JOURNAL, "claims"}
_FRAMES = ("table", "rejected", "conflicts", "bounds")


def canonical(specification: Any) -> str:
    """One text for one specification: sorted keys, no blanks; keys that begin with ``_`` do not count."""
    return json.dumps(_public(specification), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(specification: Any) -> str:
    """The first 20 hex digits of SHA-256 of :func:`canonical`: the name of a run."""
    return hashlib.sha256(canonical(specification).encode()).hexdigest()[:20]


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _public(item) for key, item in value.items() if not str(key).startswith("_")}
    return [_public(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Task:
    """A run or a shared step, ready to be done anywhere."""

    hash: str  # of the specification
    kind: str  # "run" or "step"
    title: str  # for people, such as "xgboost split0-seed0"
    arm: str  # its name; the name of a step
    specification: dict[str, Any]  # everything that decides the result; keys with _ are carried along only
    unit: str = ""  # name of the split; empty for a step
    needs: dict[str, str] = field(default_factory=dict)  # name -> hash of the steps and runs that come first


@dataclass(frozen=True)
class Result:
    """What a finished run left: content of ``result.json``; row, part, predicted; losses per epoch, or None."""

    facts: dict[str, Any]
    predictions: pd.DataFrame
    history: pd.DataFrame | None


class Store:
    """A study folder, read and written by several processes at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def occupy(self, name: str) -> None:
        """Make the folder; it may hold the study of this name already, with other arms or blocks.

        Raises:
            RunFolderError: the folder holds something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError(f"{self.folder} is a file; choose another folder with -o")
        if (self.folder / STUDY).is_file():
            there = self.study()["recipe"]["name"]
            if there != name:
                raise RunFolderError(f"{self.folder} holds the study {there!r}; choose another folder with -o")
        elif self.folder.is_dir() and any(path.name not in _FIRST for path in self.folder.iterdir()):
            raise RunFolderError(f"{self.folder} holds no study, but other files; choose another folder with -o")
        self.folder.mkdir(parents=True, exist_ok=True)

    def study(self) -> dict[str, Any]:
        """Read ``study.json``.

        Raises:
            RunFolderError: there is no study here.
        """
        content = _read_json(self.folder / STUDY)
        if content is None:
            raise RunFolderError(f"{self.folder} is no study folder: there is no readable {STUDY} in it")
        return content

    def save_molecules(self, molecules: Molecules, key: str) -> None:
        """Keep cleaned molecules under the checksum of what they were made from."""

        def fill(folder: Path) -> None:
            for name in _FRAMES:
                frame: pd.DataFrame = getattr(molecules, name)
                texts = {column: str for column in frame if frame[column].dtype == object}
                frame.astype(texts).to_parquet(folder / f"{name}.parquet", index=False)
            merged = list(molecules.provenance.get("merged_rows", {}).items())
            provenance = {**molecules.provenance, "merged_rows": merged}
            write_json(folder / "facts.json", {"provenance": provenance, "rows_in": molecules.rows_in, "key": key})

        self._put(self.folder / "data" / key, fill)

    def molecules(self, key: str) -> Molecules | None:
        """Molecules kept before; None where there are none."""
        folder = self.folder / "data" / key
        facts = _read_json(folder / "facts.json")
        if facts is None:
            return None
        facts["provenance"]["merged_rows"] = {int(row): int(kept) for row, kept in facts["provenance"]["merged_rows"]}
        # Stores of earlier versions have no bounds.
        paths = {name: folder / f"{name}.parquet" for name in _FRAMES}
        frames: dict[str, Any] = {name: pd.read_parquet(path) for name, path in paths.items() if path.is_file()}
        return Molecules(**frames, rows_in=facts["rows_in"], provenance=facts["provenance"])

    def split_path(self, unit: str) -> Path:
        """CSV file of a split."""
        return self.folder / "splits" / f"{unit}.csv"

    def save_split(self, unit: str, split: Split, molecules: Molecules) -> None:
        """Write the parts as a table for people and other programs."""
        path = self.split_path(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(split.to_frame(molecules).assign(target=molecules.target), path)

    def split(self, unit: str, molecules: Molecules) -> Split:
        """Read the parts back.

        Raises:
            RunFolderError: the file is missing or does not fit the molecules.
        """
        path = self.split_path(unit)
        try:
            frame = pd.read_csv(path, usecols=["row", "split"])
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot read the split {path}: {error}") from None
        if frame["row"].tolist() != molecules.table["row"].tolist():
            raise RunFolderError(f"{path} does not fit the study's molecules; delete it and run the study again")
        train, validation, test = (
            np.flatnonzero(frame["split"] == part).astype(np.int64) for part in ("train", "validation", "test")
        )
        return Split(train, validation, test, method="index", seed=0, settings={"unit": unit})

    def place(self, task: Task) -> Path:
        """Folder of a finished task."""
        return self.folder / f"{task.kind}s" / task.hash

    def need(self, name: str, hash_: str) -> Path:
        """Folder of what a task needs: a shared step, or the run of another arm."""
        return self.folder / ("runs" if name.startswith(run_need("")) else "steps") / hash_

    def work(self, task: Task) -> Path:
        """Scratch folder of a task."""
        return self.folder / "work" / task.hash

    def finished(self, task: Task) -> bool:
        """Whether its result is there."""
        return self.place(task).is_dir()

    def commit(self, task: Task, fill: Callable[[Path], object]) -> None:
        """Put a result in place, forget an earlier failure, and clear the scratch."""
        self._put(self.place(task), fill)
        self.forget_failure(task)
        shutil.rmtree(self.work(task), ignore_errors=True)

    def adopt(self, other: Store, task: Task) -> bool:
        """Copy a finished task from another study, where its hash proves it the same; returns whether it was there."""
        source = other.place(task)
        if self.finished(task) or not source.is_dir():
            return False
        self.commit(task, lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True))
        return True

    def result(self, hash_: str) -> Result | None:
        """Read a finished run; None where it is not finished."""
        folder = self.folder / "runs" / hash_
        if not folder.is_dir():
            return None
        history = pd.read_csv(folder / HISTORY) if (folder / HISTORY).is_file() else None
        facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return Result(facts, pd.read_parquet(folder / PREDICTIONS), history)

    def write_failure(self, task: Task, error: str, traceback: str) -> None:
        """Keep what went wrong."""
        (self.folder / "failed").mkdir(parents=True, exist_ok=True)
        values = {"task": task.title, "arm": task.arm, "hash": task.hash, "error": error, "traceback": traceback}
        write_json(self._failure_path(task.hash), {**values, "time": time.time()})

    def failure(self, hash_: str) -> dict[str, Any] | None:
        """What went wrong with a task that is not finished; None where nothing did."""
        return _read_json(self._failure_path(hash_))

    def forget_failure(self, task: Task) -> None:
        """Delete what went wrong before."""
        self._failure_path(task.hash).unlink(missing_ok=True)

    @contextmanager
    def claim(self, task: Task) -> Iterator[bool]:
        """Claim a task for this process; yields False at once where another one has it.

        The operating system holds the lock and drops it when its owner dies, so no claim goes stale.
        """
        owner = self.folder / "claims" / f"{task.hash}.json"
        owner.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(owner.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "task": task.title}
            write_json(owner, about)
            yield True
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def write_journal(self, event: str, task: Task, **more: Any) -> None:
        """Append one line; lines of several processes do not mix."""
        entry = {"time": time.time(), "pid": os.getpid(), "event": event, "hash": task.hash}
        line = json.dumps({**entry, "kind": task.kind, "task": task.title, **more}) + "\n"
        # Without a buffer this is one call of the system, which appends as a whole.
        with open(self.folder / JOURNAL, "ab", buffering=0) as file:
            file.write(line.encode())

    def sweep(self) -> None:
        """Delete half-filled folders that killed processes left behind."""
        for kind in ("runs", "steps", "data"):
            for path in (self.folder / kind).glob(".*.tmp"):
                host, pid = path.name.split(".")[-3:-1]
                # Of a process on another machine nothing is known.
                if host == _host() and not psutil.pid_exists(int(pid)):
                    shutil.rmtree(path, ignore_errors=True)

    def _failure_path(self, hash_: str) -> Path:
        return self.folder / "failed" / f"{hash_}.json"

    def _put(self, place: Path, fill: Callable[[Path], object]) -> None:
        if place.is_dir():
            return
        temporary = place.with_name(f".{place.name}.{_host()}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            fill(temporary)
            os.rename(temporary, place)
        except OSError:
            # Another process was first; what it put there is the same.
            if not place.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _host() -> str:
    return socket.gethostname().replace(".", "-")
