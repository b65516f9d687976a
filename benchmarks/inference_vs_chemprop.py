"""Predictions per second on the CPU: a moltune model beside chemprop's default one, on the same molecules.

Both commands run as a user would start them, in turn, from a CSV file to a CSV file, on one thread; then each is
timed inside one process, stage by stage. Chemprop lives in an environment of its own, and its model is trained for
one epoch on a few hundred molecules: speed does not depend on the weights. Ratios compare processor time, which
other work on the machine disturbs least. Writes ``benchmarks/results/inference_vs_chemprop.json``, or another
name.

    python -m venv runs/chemprop-venv
    runs/chemprop-venv/bin/pip install chemprop==2.3.1 torch==2.13.0 -c constraints.txt
    python benchmarks/inference_vs_chemprop.py --chemprop runs/chemprop-venv --smiles molecules.csv

``--smiles`` takes a CSV or Parquet file with a column ``smiles``. ``--model`` is a tuned model, a run folder, or an
encoder, which gets a fresh head. ``--earlier`` is another one, timed stage by stage in the same process as ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from machine import describe_machine, write_result

from moltune import datasets
from moltune.config import DataSettings
from moltune.data.load import load_molecules
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.checkpoints import load_config, load_regression, load_tokenizer, make_regression, max_length
from moltune.models.coverage import check_smiles
from moltune.models.molformer import MolformerConfig, MolformerModel, MolformerTokenizer
from moltune.models.regression import RegressionConfig

CHEMPROP_STAGES = """
import json, sys, time
import pandas as pd, torch
from chemprop import data, models
torch.set_num_threads(int(sys.argv[3]))
def timed():
    return time.process_time()
smiles = pd.read_csv(sys.argv[2])["smiles"].tolist()
model = models.MPNN.load_from_file(sys.argv[1], map_location="cpu").eval()
start = timed()
points = [data.MoleculeDatapoint.from_smi(text) for text in smiles]
parsed = timed()
loader = iter(data.build_dataloader(data.MoleculeDataset(points), batch_size=64, shuffle=False))
features = network = 0.0
with torch.inference_mode():
    while True:
        begin = timed()
        batch = next(loader, None)
        features += timed() - begin
        if batch is None:
            break
        begin = timed()
        model(batch.bmg, batch.V_d, batch.X_d)
        network += timed() - begin
print(json.dumps({"parse": parsed - start, "graphs": features, "model": network}))
"""


def read_molecules(path: Path, count: int, folder: Path) -> Path:
    """Write ``count`` molecules, drawn with a fixed seed, to a CSV file with one column."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if len(table) < count:
        raise SystemExit(f"{path} holds {len(table)} molecules, fewer than --count {count}")
    chosen = table[["smiles"]].sample(count, random_state=0)
    chosen.to_csv(folder / "molecules.csv", index=False)
    return folder / "molecules.csv"


def tuned_model(name: str | None, folder: Path) -> Path:
    """A tuned model to time: ``name`` itself, an encoder with a fresh head, or a random small one."""
    if name is not None and isinstance(load_config(name), RegressionConfig):
        return Path(name)
    source: str | Path | None = name
    if source is None:
        source = folder / "encoder"
        sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 768}
        MolformerModel(MolformerConfig(**sizes)).save_pretrained(source)
        MolformerTokenizer().save_pretrained(source)
    make_regression(source).save_pretrained(folder / "tuned")
    load_tokenizer(source).save_pretrained(folder / "tuned")
    return folder / "tuned"


def chemprop_model(chemprop: Path, folder: Path, environment: dict[str, str]) -> Path:
    """Train chemprop's default model for one epoch."""
    table = datasets.load("freesolv")
    target = table.select_dtypes("number").columns[0]
    table[["smiles", target]].head(400).to_csv(folder / "train.csv", index=False)
    command = [str(chemprop / "bin" / "chemprop"), "train", "-i", str(folder / "train.csv"), "-s", "smiles"]
    command += ["--target-columns", target, "-o", str(folder / "chemprop"), "--epochs", "1"]
    command += ["--warmup-epochs", "0", "--accelerator", "cpu"]
    run(command, environment)
    return next((folder / "chemprop").rglob("best*.pt"), None) or next((folder / "chemprop").rglob("*.pt"))


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command; processor seconds (children included), clock seconds and what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, clock, done.stdout


def moltune_stages(model_folder: Path, molecules: Path) -> dict[str, float]:
    """Processor seconds of each stage of a prediction."""
    stages, last = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        stages[name], last = now - last, now

    model, tokenizer = load_regression(model_folder), load_tokenizer(model_folder)
    lap("load model")
    smiles = load_molecules(molecules, DataSettings(smiles="smiles"), need_target=False).smiles
    lap("read and clean")
    issues = check_smiles(tokenizer, smiles, max_length(model.encoder, tokenizer))
    lap("check coverage")
    dataset = SmilesDataset(tokenizer, [text for position, text in enumerate(smiles) if position not in issues])
    lap("tokenise")
    collate, batches = PadCollator(int(tokenizer.pad_token_id)), sorted_batches(dataset.lengths, 128)
    padded = [collate([dataset[i] for i in positions]) for positions in batches]
    lap("pad")
    with torch.inference_mode():
        for batch in padded:
            model(**batch)
    lap("model")
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chemprop", type=Path, required=True, help="virtual environment that chemprop is in")
    parser.add_argument("--smiles", type=Path, required=True, help="CSV or Parquet file with a column smiles")
    parser.add_argument("--model", help="tuned model, run folder or encoder; unset: a random small encoder")
    parser.add_argument("--earlier", help="tuned model, run folder or encoder that ours is compared with")
    parser.add_argument("--name", default="inference_vs_chemprop", help="of the file of results")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    machine, count = describe_machine("torch", "transformers", "rdkit"), arguments.count
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        molecules = read_molecules(arguments.smiles, count, folder)
        model, other = tuned_model(arguments.model, folder), chemprop_model(arguments.chemprop, folder, environment)
        ours = [sys.executable, "-m", "moltune", "predict", str(model), str(molecules), "-q", "-o"]
        theirs = [str(arguments.chemprop / "bin" / "chemprop"), "predict", "-i", str(molecules), "-s", "smiles"]
        theirs += ["--model-paths", str(other), "--accelerator", "cpu", "-o"]
        commands = {
            "moltune": [*ours, str(folder / "moltune.csv")],
            "chemprop": [*theirs, str(folder / "chemprop.csv")],
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                times[name].append(run(command, environment)[:2])
        predicted = {name: len(pd.read_csv(folder / f"{name}.csv")) for name in commands}
        python = str(arguments.chemprop / "bin" / "python")
        inner = [python, "-c", CHEMPROP_STAGES, str(other), str(molecules), str(arguments.threads)]
        stages = {
            "moltune": moltune_stages(model, molecules),
            "chemprop": json.loads(run(inner, environment)[2].strip().splitlines()[-1]),
        }
        if arguments.earlier:
            (folder / "earlier").mkdir()
            stages["earlier"] = moltune_stages(tuned_model(arguments.earlier, folder / "earlier"), molecules)
        parameters = sum(p.numel() for p in load_regression(model).parameters())
    best = {name: min(values) for name, values in times.items()}
    result: dict[str, Any] = {
        "what": f"prediction of {count} molecules from CSV to CSV on the CPU",
        "molecules": arguments.smiles.name,
        "threads": arguments.threads,
        "machine": machine,
        "chemprop": run([python, "-c", "import chemprop; print(chemprop.__version__)"], environment)[2].strip(),
        "moltune_parameters": parameters,
        "rows_out": predicted,
        "command_molecules_per_processor_second": {name: count / value[0] for name, value in best.items()},
        "command_molecules_per_clock_second": {name: count / value[1] for name, value in best.items()},
        "command_ratio": best["chemprop"][0] / best["moltune"][0],
        "stage_processor_seconds": stages,
        "model_molecules_per_processor_second": {name: count / value["model"] for name, value in stages.items()},
    }
    for name in commands:
        rate = result["command_molecules_per_processor_second"][name]
        inside = result["model_molecules_per_processor_second"][name]
        print(f"{name:9s} command {rate:7.0f}/s   model alone {inside:7.0f}/s   (per second of processor time)")
        print("          " + "   ".join(f"{stage} {spent:.1f} s" for stage, spent in stages[name].items()))
    print(write_result(arguments.name, result))


if __name__ == "__main__":
    main()
