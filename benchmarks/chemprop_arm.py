"""Predictions of chemprop for the splits of a study, so that it can be an external arm.

chemprop lives in an environment of its own. For every split file that ``moltune study splits RECIPE -o DIR`` wrote,
this trains chemprop with its defaults and writes ``split<n>.csv`` (row, predicted) for validation and test part. A
target of 0 and 1 alone is one of two classes, and probabilities are written. A split that is there already is not
repeated.

    moltune study splits baselines -o runs/studies/baselines
    python benchmarks/chemprop_arm.py runs/studies/baselines/splits external/chemprop --chemprop runs/chemprop-venv
    moltune study run baselines -o runs/studies/baselines
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd

from moltune.evaluation.metrics import CLASSIFICATION, REGRESSION


def run_split(path: Path, output: Path, chemprop: Path, epochs: int, seed: int) -> None:
    """Train on one split and write its predictions atomically."""
    frame = pd.read_csv(path)
    task = CLASSIFICATION if set(frame["target"]) == {0, 1} else REGRESSION
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        named = frame.assign(split=frame["split"].replace({"validation": "val"}))
        named[["smiles", "target", "split"]].to_csv(folder / "train.csv", index=False)
        asked = frame[frame["split"] != "train"]
        asked[["smiles"]].to_csv(folder / "asked.csv", index=False)
        common = ["--smiles-columns", "smiles", "--num-workers", "0", "--accelerator", "cpu"]
        train = ["train", "--data-path", "train.csv", "--target-columns", "target", "--splits-column", "split"]
        train += ["--task-type", task.name, "--epochs", str(epochs), "--pytorch-seed", str(seed), "-o", "model"]
        predict = ["predict", "--test-path", "asked.csv", "--preds-path", "predicted.csv"]
        for arguments in (train, predict):
            if arguments is predict:
                arguments = [*predict, "--model-paths", str(next(folder.rglob("best.pt")))]
            subprocess.run([str(chemprop), *arguments, *common], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        predicted = pd.read_csv(folder / "predicted.csv")
    if predicted["smiles"].tolist() != asked["smiles"].tolist():
        raise SystemExit(f"chemprop gave other molecules back than it was asked for ({path})")
    column = next(name for name in predicted.columns if name != "smiles")
    result = pd.DataFrame({"row": asked["row"].to_numpy(), "predicted": predicted[column].to_numpy(dtype=float)})
    temporary = output.with_name(f".{output.name}.tmp")
    result.to_csv(temporary, index=False)
    os.replace(temporary, output)
    test = (asked["split"] == "test").to_numpy()
    value = task.metrics[task.primary](asked["target"].to_numpy()[test], result["predicted"].to_numpy()[test])
    print(f"{path.stem}: test {task.primary} {float(value):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--chemprop", type=Path, required=True, help="its environment")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    command = (arguments.chemprop / "bin" / "chemprop").resolve()
    for path in sorted(arguments.splits.glob("*.csv")):
        output = arguments.output / path.name
        if not output.is_file():
            started = time.monotonic()
            run_split(path, output, command, arguments.epochs, arguments.seed)
            print(f"{path.stem}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
