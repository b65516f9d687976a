"""Prediction from the command line: ours beside chemprop's and admet-ai's, as a user would start them.

    python -m venv runs/peers/chemprop && runs/peers/chemprop/bin/pip install chemprop==2.3.1 -c constraints.txt
    python -m venv runs/peers/admet && runs/peers/admet/bin/pip install admet-ai==2.0.1 -c constraints.txt
    python benchmarks/predict_commands.py cold --chemprop runs/peers/chemprop --admet runs/peers/admet
    python benchmarks/predict_commands.py bulk --chemprop runs/peers/chemprop --admet runs/peers/admet \
        --smiles molecules.csv [--count 100000] [--few 1000] [--admet-count 2000] [--workers 1]
    python benchmarks/predict_commands.py memory --smiles molecules.csv --sizes 10000,100000,1000000
    python benchmarks/predict_commands.py kills --smiles molecules.csv --model lipophilicity-fast --count 6000

``--model NAME|RUN`` (repeatable) says which models of ours; chemprop's is its default one, trained for an epoch on a
few hundred molecules, since speed does not depend on the weights; admet-ai predicts its 41 properties with an ensemble,
the smallest thing that it does. All have one thread for each worker.

cold    one molecule, ``--runs`` times each in turn: medians of seconds
bulk    CSV to CSV; ``rate`` is that of the rows beyond ``--few``, which leaves the start aside
memory  largest resident memory of ours, in MiB, for files of growing length (the molecules are repeated)
kills   CSV to CSV, killed by SIGKILL ``--kills`` times at random moments and begun again, beside a run left in peace:
        whether the bytes are the same, and which rows are lost or doubled; seed 0

Processor time, of all processes together, is disturbed least by other work on the machine.
Writes ``benchmarks/results/predict_{cold,bulk,memory,kills}.json``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from machine import describe_machine, write_result

from moltune import datasets

COLUMN = "smiles"
ONE = "CC(=O)Oc1ccccc1C(=O)O"


@dataclass(frozen=True)
class Spent:
    """Seconds of all processes of a command, on the clock, and MiB of the first process (as seen every 50 ms)."""

    processor: float
    clock: float
    memory: float


def largest_memory(pid: int) -> float:
    """Largest resident memory of a process so far, in MiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def timed(command: list[str]) -> Spent:
    """Run a command with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env={**os.environ, **threads}, stdout=said, stderr=said)
        pid, memory = 0, 0.0
        while not pid:
            # What the system reports at the end counts what this process had when it started the child, too.
            memory = max(memory, largest_memory(child.pid))
            time.sleep(0.05)
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        # Popen must not wait for it once more.
        child.returncode = os.waitstatus_to_exitcode(status)
        clock = time.perf_counter() - start
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
    return Spent(usage.ru_utime + usage.ru_stime, clock, memory)


def ours(model: str, source: str, output: Path, workers: int = 1) -> list[str]:
    """``moltune predict`` of a model."""
    command = [sys.executable, "-m", "moltune", "predict", source, "--model", model, "-q", "-o", str(output)]
    return [*command, "--workers", str(workers)] if Path(source).is_file() else command


def chemprop(environment: Path, model: Path, source: Path, output: Path) -> list[str]:
    """``chemprop predict``."""
    command = [str(environment / "bin" / "chemprop"), "predict", "-i", str(source), "-s", COLUMN, "-o", str(output)]
    return [*command, "--model-paths", str(model), "--accelerator", "cpu"]


def admet(environment: Path, source: Path, output: Path) -> list[str]:
    """``admet_predict``."""
    command = [str(environment / "bin" / "admet_predict"), "--data_path", str(source), "--save_path", str(output)]
    return [*command, "--smiles_column", COLUMN, "--num_workers", "0"]


def chemprop_model(environment: Path, folder: Path) -> Path:
    """Train chemprop's default model for one epoch."""
    table = datasets.load("freesolv")
    target = table.select_dtypes("number").columns[0]
    table[[COLUMN, target]].head(400).to_csv(folder / "train.csv", index=False)
    command = [str(environment / "bin" / "chemprop"), "train", "-i", str(folder / "train.csv"), "-s", COLUMN]
    command += ["--target-columns", target, "-o", str(folder / "chemprop"), "--epochs", "1", "--accelerator", "cpu"]
    timed([*command, "--warmup-epochs", "0"])
    return next((folder / "chemprop").rglob("best.pt"))


def table_of(molecules: list[str], count: int, path: Path) -> Path:
    """A CSV file of so many molecules; they come again where there are too few."""
    rows = [molecules[at % len(molecules)] for at in range(count)]
    pd.DataFrame({COLUMN: rows}).to_csv(path, index=False)
    return path


def cold(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One prediction, again and again, the programs in turn."""
    one, output = table_of([ONE], 1, folder / "one.csv"), folder / "out.csv"
    commands = {f"moltune {Path(model).name}": ours(model, ONE, output) for model in arguments.model}
    if arguments.chemprop:
        model = chemprop_model(arguments.chemprop, folder)
        commands["chemprop"] = chemprop(arguments.chemprop, model, one, output)
    if arguments.admet:
        commands["admet-ai"] = admet(arguments.admet, one, output)
    spent: dict[str, list[Spent]] = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            output.unlink(missing_ok=True)
            spent[name].append(timed(command))
    return {
        "runs": arguments.runs,
        **{
            name: {
                "processor_seconds": median(one.processor for one in all_of),
                "clock_seconds": median(one.clock for one in all_of),
                "processor_seconds_range": [f(one.processor for one in all_of) for f in (min, max)],
                "clock_seconds_range": [f(one.clock for one in all_of) for f in (min, max)],
            }
            for name, all_of in spent.items()
        },
    }


def bulk(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Many predictions, and some, of each program."""
    molecules, output = read(arguments), folder / "out.csv"
    made = {}
    for model in arguments.model:
        made[f"moltune {Path(model).name}"] = (
            arguments.count,
            lambda path, model=model: ours(model, path, output, arguments.workers),
        )
    if arguments.chemprop:
        trained = chemprop_model(arguments.chemprop, folder)
        made["chemprop"] = (arguments.count, lambda path: chemprop(arguments.chemprop, trained, path, output))
    if arguments.admet:
        made["admet-ai"] = (arguments.admet_count, lambda path: admet(arguments.admet, path, output))
    result: dict[str, Any] = {"workers": arguments.workers}
    for name, (count, command) in made.items():
        rows, spent = (min(arguments.few, count // 2), count), []
        for number in rows:
            path = table_of(molecules, number, folder / "in.csv")
            output.unlink(missing_ok=True)
            spent.append(timed(command(str(path))))
            assert len(pd.read_csv(output)) == number
        few, all_of = spent
        result[name] = {
            "rows": count,
            "rows_of_the_short_run": rows[0],
            "processor_seconds": all_of.processor,
            "clock_seconds": all_of.clock,
            "processor_seconds_of_the_short_run": few.processor,
            "rate_per_processor_second": (count - rows[0]) / (all_of.processor - few.processor),
            "largest_memory_mib": all_of.memory,
        }
        print(name, result[name], flush=True)
    if "chemprop" in result:
        for name in [one for one in made if one != "chemprop"]:
            own, other = (result[one]["rate_per_processor_second"] for one in (name, "chemprop"))
            result[name]["rate_over_that_of_chemprop"] = own / other
    return result


def memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Memory of ours for files of growing length."""
    molecules, result = read(arguments), dict[str, Any]()
    for model in arguments.model:
        result[f"moltune {Path(model).name}"] = by_rows = {}
        for size in map(int, arguments.sizes.split(",")):
            path = table_of(molecules, size, folder / "in.csv")
            spent = timed(ours(model, str(path), folder / "out.csv", arguments.workers))
            by_rows[str(size)] = {"memory_mib": spent.memory, "processor_seconds": spent.processor}
            print(model, size, spent, flush=True)
    return result


def kills(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours killed again and again, each time after a share of the time that a whole run takes."""
    molecules, draw, result = read(arguments), random.Random(0), dict[str, Any]()
    table = pd.DataFrame({COLUMN: [molecules[at % len(molecules)] for at in range(arguments.count)]})
    table.rename_axis("id").to_csv(folder / "in.csv")
    for model in arguments.model:
        peaceful, killed = folder / "peaceful.csv", folder / "killed.csv"
        for path in (peaceful, killed):
            path.unlink(missing_ok=True)
        seconds = timed(ours(model, str(folder / "in.csv"), peaceful, arguments.workers)).clock
        command, record = ours(model, str(folder / "in.csv"), killed, arguments.workers), []
        while sum(moment["killed"] for moment in record) < arguments.kills:
            after = draw.uniform(0, seconds)
            child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            with suppress(subprocess.TimeoutExpired):
                child.wait(after)
            moment: dict[str, Any] = {"after_seconds": after, "killed": child.poll() is None}
            child.send_signal(signal.SIGKILL)
            child.wait()
            finished = folder.glob("killed.csv.unfinished/[0-9]*.parquet")
            moment["finished_rows"] = sum(len(pd.read_parquet(path)) for path in finished)
            record.append(moment)
            print(model, moment, flush=True)
            # Where it had ended before, it begins again.
            killed.unlink(missing_ok=True)
        timed(command)
        ids = pd.read_csv(killed)["id"]
        result[f"moltune {Path(model).name}"] = {
            "rows": arguments.count,
            "workers": arguments.workers,
            "seconds_without_a_kill": seconds,
            "kills": record,
            "same_bytes": killed.read_bytes() == peaceful.read_bytes(),
            "rows_lost": len(set(range(arguments.count)) - set(ids)),
            "rows_doubled": int(ids.duplicated().sum()),
            "rows_in_order": ids.is_monotonic_increasing,
            "left_behind": sorted(path.name for path in folder.glob("*.unfinished")),
        }
    return result


def read(arguments: argparse.Namespace) -> list[str]:
    """Molecules in random order."""
    path = arguments.smiles
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return table[COLUMN].sample(min(len(table), arguments.most), random_state=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cold", "bulk", "memory", "kills"))
    parser.add_argument("--model", action="append", help="of ours, repeatable; unset: lipophilicity, best and fast")
    parser.add_argument("--chemprop", type=Path, help="virtual environment")
    parser.add_argument("--admet", type=Path, help="virtual environment")
    parser.add_argument("--smiles", type=Path, help=f"CSV or Parquet file with a column {COLUMN}")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--admet-count", type=int, default=2000)
    parser.add_argument("--most", type=int, default=100_000, help="different molecules")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    arguments.model = arguments.model or ["lipophilicity", "lipophilicity-fast"]
    machine = describe_machine("onnxruntime", "numpy", "rdkit")
    with tempfile.TemporaryDirectory() as folder:
        found = {"cold": cold, "bulk": bulk, "memory": memory, "kills": kills}[arguments.what](arguments, Path(folder))
    versions = {}
    for name, environment in (("chemprop", arguments.chemprop), ("admet_ai", arguments.admet)):
        if environment:
            code = f"from importlib.metadata import version; print(version({name!r}))"
            done = subprocess.run(
                [environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
            )
            versions[name] = done.stdout.strip()
    for name, values in found.items():
        print(name, values)
    print(write_result(f"predict_{arguments.what}", {"machine": {**machine, **versions}, **found}))


if __name__ == "__main__":
    main()
