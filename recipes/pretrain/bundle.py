"""Put a pretrained checkpoint into the package.

    python recipes/pretrain/bundle.py runs/mini mini
    python recipes/pretrain/bundle.py mini

Copies `model/` of what gpu.py wrote (published masked-LM layout), lets the rotary tables reach to 512 tokens, checks
that it loads strictly, writes the graph that predicts without PyTorch (it reads the same weights), and prints what the
model card needs: sizes, last losses, and the curve. The card itself is written by hand. Without a run, the graph of a
bundled checkpoint is written anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

import moltune
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.onnx_graph import write_graph

BUNDLED = Path(moltune.__file__).parent / "models" / "bundled"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAX_MEGABYTES = 25


def main() -> None:
    """Copy, check, and write the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("name")
    arguments = parser.parse_args()
    target = BUNDLED / arguments.name
    if arguments.run is not None:
        copy(arguments.run, target)
    graph = write_graph(make_regression(target).eval(), load_tokenizer(target), target, tuned=False)
    print(f"{graph.name}: {graph.stat().st_size / 2**20:.1f} MiB")


def copy(run: Path, target: Path) -> None:
    """Copy a checkpoint, check it, and print what its card needs."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / "model" / name, target / name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 512
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(target).eval(), load_tokenizer(target)
    with torch.inference_mode():
        logits = model(**tokenizer("CC(=O)Oc1ccccc1C(=O)O", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()
    size = (target / "model.safetensors").stat().st_size / 2**20
    assert size <= MAX_MEGABYTES, f"{size:.1f} MiB is more than {MAX_MEGABYTES}"
    encoder = sum(parameter.numel() for parameter in model.molformer.parameters())
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    kept = ("molecules", "train_seconds", "train", "held_out", "frozen", "tokens_per_molecule", "versions")
    print(json.dumps({"MiB": round(size, 1), "encoder_parameters": encoder, **{key: summary[key] for key in kept}}))
    for line in (run / "curve.jsonl").read_text(encoding="utf-8").splitlines():
        point = json.loads(line)
        errors = {name: values["rmse"] for name, values in point["frozen"].items()}
        print(f"| {point['molecules']:,} | {point['held_out']} | {errors} |")


if __name__ == "__main__":
    main()
