"""Do one task: the part of the engine that runs inside a worker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split
from moltune.errors import DataError, NumericsError, RunFolderError
from moltune.evaluation.metrics import task_of
from moltune.files import write_json
from moltune.run import machine
from moltune.study.arms.base import PREDICTIONS, Outcome, Workbench, load_object
from moltune.study.arms.registry import find_kind
from moltune.study.engine.store import HISTORY, RESULT, SPECIFICATION, Store, Task

LEAST_COVERAGE = 0.95
Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Event:
    """What became of a task: "done", "failed", "busy" (another process has it) or "died" (its worker did)."""

    hash: str
    status: Literal["done", "failed", "busy", "died"]
    seconds: float = 0.0
    message: str = ""


def perform(store: Store, task: Task, threads: int) -> Event:
    """Claim a task, do it, and put its result in place; an exception becomes a stored failure."""
    started = time.monotonic()
    with store.claim(task) as claimed:
        if not claimed:
            return Event(task.hash, "busy")
        if store.finished(task):
            return Event(task.hash, "done")
        store.write_journal("begin", task)
        try:
            store.commit(task, compute(store, task, threads))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            store.write_failure(task, message, traceback.format_exc())
            store.write_journal("failed", task, error=message)
            return Event(task.hash, "failed", time.monotonic() - started, message)
        store.write_journal("done", task)
    return Event(task.hash, "done", time.monotonic() - started)


def compute(store: Store, task: Task, threads: int) -> Fill:
    """Compute a task's result; returns the function that writes it into a folder.

    Raises:
        DataError: too few test molecules were predicted.
        NumericsError: a prediction is not finite.
    """
    specification = task.specification
    molecules = _molecules(store.folder, specification["_data_key"])
    needs = {name: store.need(name, hash_) for name, hash_ in task.needs.items()}
    bench = Workbench(molecules, store.work(task), threads, needs)
    if task.kind == "step":
        results = load_object(specification["_function"])(bench, specification["specification"])
        return lambda folder: _write_step(folder, task, results)
    split = store.split(task.unit, molecules)
    _forget_peak()
    wall, cpu = time.monotonic(), time.process_time()
    outcome = find_kind(specification["kind"]).run(specification["arm"], split, specification["seed"] or 0, bench)
    facts = {
        "title": task.title,
        "arm": task.arm,
        "seconds": round(time.monotonic() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_memory_mb": _peak_memory(),
        "threads": threads,
        "machine": machine(),
        **measure(outcome, split, molecules, task.title),
        "facts": outcome.facts,
    }
    return lambda folder: _write_run(folder, task, outcome, facts)


def measure(outcome: Outcome, split: Split, molecules: Molecules, title: str) -> dict[str, Any]:
    """Check predictions and compute the metrics of each part.

    Raises:
        DataError: a molecule is predicted twice or lies outside its part, or too few test molecules are predicted.
        NumericsError: a prediction is not finite.
    """
    predictions, task = outcome.predictions, task_of(molecules.classes)
    bad = predictions.loc[~np.isfinite(predictions["predicted"].to_numpy(dtype=float))]
    if len(bad):
        raise NumericsError(f"{title}: the prediction for row {bad['row'].iloc[0]} is not finite")
    outside = predictions.loc[~predictions["predicted"].between(0, 1)]
    if molecules.classes is not None and len(outside):
        raise DataError(
            f"{title}: the prediction for row {outside['row'].iloc[0]} is {outside['predicted'].iloc[0]:g}, and the "
            f"probability of {molecules.classes[1]!r} lies between 0 and 1"
        )
    rows = molecules.table["row"].to_numpy()
    target = pd.Series(molecules.target, index=rows)
    result: dict[str, Any] = {}
    for part in ("validation", "test"):
        members = rows[split.parts()[part]]
        found = predictions.loc[predictions["part"] == part]
        if found["row"].duplicated().any() or not found["row"].isin(members).all():
            raise DataError(f"{title}: the predictions of the {part} part name a row twice, or one of another part")
        if part == "test" and len(found) < max(2, LEAST_COVERAGE * len(members)):
            raise DataError(
                f"{title}: only {len(found)} of {len(members)} test molecules are predicted; a comparison needs "
                f"{LEAST_COVERAGE:.0%}"
            )
        if len(found):
            true, predicted = target.loc[found["row"]].to_numpy(), found["predicted"].to_numpy(dtype=float)
            values = {name: float(metric(true, predicted)) for name, metric in task.all_metrics.items()}
            result[part] = {"n": len(found), "of": len(members)} | {
                name: value if np.isfinite(value) else None for name, value in values.items()
            }
    return result


def _write_run(folder: Path, task: Task, outcome: Outcome, facts: dict[str, Any]) -> None:
    write_json(folder / SPECIFICATION, task.specification)
    outcome.predictions.to_parquet(folder / PREDICTIONS, index=False)
    if outcome.history is not None:
        outcome.history.to_csv(folder / HISTORY, index=False)
    for name, source in outcome.kept.items():
        source.rename(folder / name)
    write_json(folder / RESULT, facts)


def _write_step(folder: Path, task: Task, results: dict[str, np.ndarray | Path]) -> None:
    for name, values in results.items():
        if isinstance(values, Path):
            values.rename(folder / name)
        else:
            np.save(folder / f"{name}.npy", values)
    write_json(folder / SPECIFICATION, task.specification)


@lru_cache(maxsize=2)
def _molecules(folder: Path, key: str) -> Molecules:
    molecules = Store(folder).molecules(key)
    if molecules is None:
        raise RunFolderError(f"the molecules {key} are missing in {folder}; run the study again")
    return molecules


def _forget_peak() -> None:
    # Linux only: the high-water mark of memory then counts from here, not from earlier runs of this worker.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> float | None:
    """Peak resident memory of this process since :func:`_forget_peak`, in MB; None where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM")), None)
