"""How many more single-thread runs two local workers finish than one, in the same time.

Prepares one study (data, splits and descriptors are shared steps and not timed), then does its runs with one worker of
one thread and with two, in fresh copies of the prepared folder, and compares runs per second. The order changes from
round to round, since the machine may be busy. Writes ``benchmarks/results/study_workers.json``.

    python benchmarks/study_workers.py --rounds 2
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, write_result

from moltune.study.engine.run import run_study
from moltune.study.engine.workers import LocalExecutor
from moltune.study.load import make_recipe

RECIPE: dict[str, Any] = {
    "name": "workers",
    "data": {"source": "lipophilicity"},
    "protocol": {"splits": 4, "seeds": 1},
    "reference": "forest",
    "controls": [],
}
FOREST = {"name": "forest", "kind": "baseline", "baseline": "random-forest"}
BOOSTED = {"name": "boosted", "kind": "baseline", "baseline": "xgboost"}


def seconds(prepared: Path, folder: Path, workers: int) -> tuple[int, float]:
    """Runs done and the seconds from the first task to the last, worker start included."""
    shutil.copytree(prepared, folder)
    recipe = make_recipe({**RECIPE, "arms": [FOREST, BOOSTED]})
    started = time.monotonic()
    with LocalExecutor(folder, workers, threads=1) as executor:
        ran = run_study(recipe, folder, executor=executor)
    if ran.failed or ran.missing:
        raise SystemExit(f"runs failed: {ran.failed}")
    return len(ran.done), time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    record = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # Ridge needs the same descriptors and takes no time itself.
        ridge = {**RECIPE, "reference": "ridge", "arms": [{"name": "ridge", "kind": "baseline", "baseline": "ridge"}]}
        with LocalExecutor(work / "prepared", 2, threads=1) as executor:
            run_study(make_recipe(ridge), work / "prepared", executor=executor)
        for name_ in ("runs", "journal.jsonl"):
            path = work / "prepared" / name_
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for index in range(arguments.rounds):
            timing: dict[str, Any] = {}
            for workers in (1, 2) if index % 2 == 0 else (2, 1):
                runs, took = seconds(work / "prepared", work / f"{index}-{workers}", workers)
                timing[f"workers_{workers}"] = {"runs": runs, "seconds": round(took, 2)}
            timing["ratio"] = round(timing["workers_1"]["seconds"] / timing["workers_2"]["seconds"], 3)
            record.append(timing)
            print(timing, flush=True)
    ratio = statistics.median(timing["ratio"] for timing in record)
    print(f"two workers do {ratio:.2f} times the work of one")
    machine = describe_machine("scikit-learn", "xgboost-cpu", "moltune")
    write_result("study_workers", {"machine": machine, "rounds": record, "median_ratio": ratio})


if __name__ == "__main__":
    main()
