"""A study that is killed with SIGKILL at random moments ends with the results of one that is left in peace.

Runs a small study of forests, boosting and ridge regression once without interruption, and once more while its main
process, or one of its workers, is killed again and again at random moments. Then compares every prediction, and counts
how often each run was done. Writes ``benchmarks/results/study_kills.json``.

    python benchmarks/study_kills.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

RESULT = Path(__file__).parent / "results" / "study_kills.json"
RECIPE: dict[str, Any] = {
    "name": "kills",
    "protocol": {"splits": 4, "seeds": 2},
    "arms": [
        {"name": "forest", "kind": "baseline", "baseline": "random-forest"},
        {"name": "boosted", "kind": "baseline", "baseline": "xgboost"},
        {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
    ],
}


def command(recipe: Path, folder: Path) -> list[str]:
    moltune = Path(sys.executable).with_name("moltune")
    return [str(moltune), "study", "run", str(recipe), "-o", str(folder), "--workers", "2", "--quiet", "--json"]


def killed_again_and_again(recipe: Path, folder: Path, kills: int, total: int, seed: int) -> list[dict[str, Any]]:
    """Start the study, wait until a random number of runs is there and a random while longer, kill; ``kills`` times.

    Every third time only a worker is killed, and the study has to go on without it.
    """
    draw = random.Random(seed)
    record = []
    for kill in range(kills):
        if finished(folder) > total // 2:
            # So that every kill meets work.
            drop_runs(folder, draw)
        process = subprocess.Popen(command(recipe, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = finished(folder) + draw.randrange(total // 2)
        started = time.monotonic()
        while process.poll() is None and finished(folder) < wanted and time.monotonic() - started < 120:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1.5))
        victim = strike(process, "worker" if kill % 3 == 2 else "study", draw)
        entry = {"victim": victim, "after_seconds": round(time.monotonic() - started, 2)}
        record.append({**entry, "runs_finished": finished(folder), "of": total})
        print(record[-1], flush=True)
        process.wait()
    return record


def strike(process: subprocess.Popen[bytes], wish: str, draw: random.Random) -> str:
    """Kill the study or one of its workers; says which, or that it had ended."""
    if process.poll() is not None:
        return "none: the study had ended"
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    if wish == "worker" and workers:
        draw.choice(workers).kill()
        return "worker"
    process.send_signal(signal.SIGKILL)
    return "study"


def finished(folder: Path) -> int:
    return len(list((folder / "runs").glob("[!.]*"))) if (folder / "runs").is_dir() else 0


def drop_runs(folder: Path, draw: random.Random) -> None:
    """Take half of the finished runs away, and note it in the journal."""
    runs = sorted((folder / "runs").glob("[!.]*"))
    with open(folder / "journal.jsonl", "a", encoding="utf-8") as journal:
        for run in draw.sample(runs, len(runs) // 2):
            for file in run.iterdir():
                file.unlink()
            run.rmdir()
            journal.write(json.dumps({"event": "dropped", "hash": run.name}) + "\n")


def compare(peaceful: Path, killed: Path) -> dict[str, Any]:
    """What differs between the two folders, and how often a run was done although it was there."""
    names = sorted(path.name for path in (peaceful / "runs").glob("[!.]*"))
    same_names = names == sorted(path.name for path in (killed / "runs").glob("[!.]*"))
    different = [name for name in names if not _equal(peaceful, killed, name)]
    events = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    balance: Counter[str] = Counter()
    twice = 0
    for event in events:
        if event["event"] == "done":
            balance[event["hash"]] += 1
            twice += balance[event["hash"]] > 1
        elif event["event"] == "dropped":
            balance[event["hash"]] -= 1
    verdicts = [json.loads((folder / "results.json").read_text())["verdicts"] for folder in (peaceful, killed)]
    return {
        "runs": len(names),
        "same_runs": same_names,
        "runs_with_other_predictions": different,
        "runs_done_twice": twice,
        "begun": sum(event["event"] == "begin" for event in events),
        "same_verdicts": verdicts[0] == verdicts[1],
    }


def _equal(one: Path, other: Path, name: str) -> bool:
    try:
        frames = [pd.read_parquet(folder / "runs" / name / "predictions.parquet") for folder in (one, other)]
    except OSError:
        return False
    return frames[0].equals(frames[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--molecules", type=int, default=250)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from moltune import datasets

        data = folder / "molecules.csv"
        datasets.load("esol").head(arguments.molecules).to_csv(data, index=False)
        target = datasets.info("esol").target
        recipe = folder / "recipe.yaml"
        source = {"source": str(data), "smiles": "smiles", "target": target}
        recipe.write_text(yaml.safe_dump({**RECIPE, "data": source}), encoding="utf-8")
        started = time.monotonic()
        subprocess.run(command(recipe, folder / "peaceful"), check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
        total = finished(folder / "peaceful")
        kills = killed_again_and_again(recipe, folder / "killed", arguments.kills, total, arguments.seed)
        subprocess.run(command(recipe, folder / "killed"), check=True, stdout=subprocess.DEVNULL)
        report = {"kills": kills, **compare(folder / "peaceful", folder / "killed")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in report.items() if key != "kills"})


if __name__ == "__main__":
    main()
