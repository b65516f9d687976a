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
is there whole or not at all, and a study that is killed at any moment loses at most what its workers had in hand.
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
from filelock import FileLock, Timeout

from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split
from moltune.errors import RunFolderError
from moltune.run import write_atomically

STUDY, JOURNAL, RESULT, SPECIFICATION = "study.json", "journal.jsonl", "result.json", "specification.json"
PREDICTIONS, HISTORY = "predictions.parquet", "history.csv"


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
    """A run or a shared step, ready to be done anywhere.

    Attributes:
        hash: of ``specification``.
        kind: "run" or "step".
        title: for people, such as "xgboost split0-seed0".
        arm: name of the arm; of a step: its name.
        specification: everything that decides the result; keys with ``_`` are carried along only.
        unit: name of the split; empty for a step.
        needs: name -> hash of the shared steps, and of the runs, that come first.
    """

    hash: str
    kind: str
    title: str
    arm: str
    specification: dict[str, Any]
    unit: str = ""
    needs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Attributes:
        facts: content of ``result.json``.
        predictions: row, part, predicted.
        history: losses per epoch, or None.
    """

    facts: dict[str, Any]
    predictions: pd.DataFrame
    history: pd.DataFrame | None


class Store:
    """A study folder, read and written by several processes at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    # ---- the study ------------------------------------------------------------------------------------------------

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
            raise RunFolderError(f"{self.folder} holds files that are no study; choose another folder with -o")
        self.folder.mkdir(parents=True, exist_ok=True)

    def study(self) -> dict[str, Any]:
        """Read ``study.json``.

        Raises:
            RunFolderError: there is no study here.
        """
        try:
            content: dict[str, Any] = json.loads((self.folder / STUDY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunFolderError(f"{self.folder} is no study folder: there is no readable {STUDY} in it") from None
        return content

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file of the folder atomically; NaN is refused."""
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    # ---- data and splits ------------------------------------------------------------------------------------------

    def save_molecules(self, molecules: Molecules, key: str) -> None:
        """Keep cleaned molecules under the checksum of what they were made from."""

        def fill(folder: Path) -> None:
            for name in ("table", "rejected", "conflicts"):
                frame: pd.DataFrame = getattr(molecules, name)
                texts = {column: str for column in frame if frame[column].dtype == object}
                frame.astype(texts).to_parquet(folder / f"{name}.parquet", index=False)
            merged = list(molecules.provenance.get("merged_rows", {}).items())
            facts = {"provenance": {**molecules.provenance, "merged_rows": merged}, "rows_in": molecules.rows_in}
            (folder / "facts.json").write_text(json.dumps({**facts, "key": key}), encoding="utf-8")

        self._put(self.folder / "data" / key, fill)

    def molecules(self, key: str) -> Molecules | None:
        """Molecules kept before; None where there are none."""
        folder = self.folder / "data" / key
        if not (folder / "facts.json").is_file():
            return None
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        facts["provenance"]["merged_rows"] = {int(row): int(kept) for row, kept in facts["provenance"]["merged_rows"]}
        frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("table", "rejected", "conflicts")}
        return Molecules(**frames, rows_in=facts["rows_in"], provenance=facts["provenance"])

    def save_split(self, unit: str, split: Split, molecules: Molecules) -> None:
        """Write the parts as a table for people and other programs, and keep their positions."""
        folder = self.folder / "splits"
        folder.mkdir(parents=True, exist_ok=True)
        frame = split.to_frame(molecules).assign(target=molecules.target)
        write_atomically(folder / f"{unit}.csv", lambda temporary: frame.to_csv(temporary, index=False))

    def split(self, unit: str, molecules: Molecules) -> Split:
        """Read the parts back.

        Raises:
            RunFolderError: the file is missing or does not fit the molecules.
        """
        path = self.folder / "splits" / f"{unit}.csv"
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

    # ---- runs and steps -------------------------------------------------------------------------------------------

    def place(self, task: Task) -> Path:
        """Folder of a finished task."""
        return self.folder / ("runs" if task.kind == "run" else "steps") / task.hash

    def work(self, task: Task) -> Path:
        """Scratch folder of a task."""
        return self.folder / "work" / task.hash

    def finished(self, task: Task) -> bool:
        """Whether its result is there."""
        return self.place(task).is_dir()

    def commit(self, task: Task, fill: Callable[[Path], None]) -> None:
        """Put a result in place, forget an earlier failure, and clear the scratch."""
        self._put(self.place(task), fill)
        self.failure_path(task).unlink(missing_ok=True)
        shutil.rmtree(self.work(task), ignore_errors=True)

    def adopt(self, other: Store, task: Task) -> bool:
        """Copy a finished task from another study; the hash says that it is the same.

        Returns:
            Whether it was there to be copied.
        """
        source = other.place(task)
        if self.finished(task) or not source.is_dir():
            return False

        def fill(folder: Path) -> None:
            shutil.copytree(source, folder, dirs_exist_ok=True)

        self.commit(task, fill)
        return True

    def result(self, hash_: str) -> Result | None:
        """Read a finished run; None where it is not finished."""
        folder = self.folder / "runs" / hash_
        if not folder.is_dir():
            return None
        history = pd.read_csv(folder / HISTORY) if (folder / HISTORY).is_file() else None
        facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return Result(facts, pd.read_parquet(folder / PREDICTIONS), history)

    def failure_path(self, task: Task) -> Path:
        """File with the traceback of a task that failed."""
        return self.folder / "failed" / f"{task.hash}.json"

    def write_failure(self, task: Task, error: str, traceback: str) -> None:
        """Keep what went wrong."""
        path = self.failure_path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"task": task.title, "arm": task.arm, "hash": task.hash, "error": error, "traceback": traceback}
        text = json.dumps({**values, "time": time.time()}, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def failure(self, task: Task) -> dict[str, Any] | None:
        """What went wrong before; None where nothing did."""
        try:
            content: dict[str, Any] = json.loads(self.failure_path(task).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    # ---- who does what --------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, task: Task) -> Iterator[bool]:
        """Claim a task for this process; yields False at once where another one has it.

        The operating system holds the lock and drops it when its owner dies, however it dies: no claim goes stale, and
        a process that merely sleeps keeps its own.
        """
        folder = self.folder / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{task.hash}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        owner = folder / f"{task.hash}.json"
        try:
            text = json.dumps(
                {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "task": task.title}
            )
            owner.write_text(text, encoding="utf-8")
            yield True
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def write_journal(self, event: str, task: Task, **more: Any) -> None:
        """Append one line; lines of several processes do not mix."""
        entry = {"time": time.time(), "pid": os.getpid(), "event": event, "hash": task.hash}
        line = json.dumps({**entry, "kind": task.kind, "task": task.title, **more}) + "\n"
        descriptor = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def journal(self) -> list[dict[str, Any]]:
        """Every event so far; a line that a kill cut short is left out."""
        path = self.folder / JOURNAL
        events = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def _put(self, place: Path, fill: Callable[[Path], None]) -> None:
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

    def sweep(self) -> None:
        """Delete half-filled folders that killed processes left behind."""
        for kind in ("runs", "steps", "data"):
            for path in (self.folder / kind).glob(".*.tmp"):
                host, pid = path.name.split(".")[-3:-1]
                # Of a process on another machine nothing is known.
                if host == _host() and not _alive(int(pid)):
                    shutil.rmtree(path, ignore_errors=True)


# What a study's folder may hold before the study begins: predictions from elsewhere, and the data of `study splits`.
_FIRST = {"external", "data", "splits", JOURNAL, "claims"}


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
