"""The main job: fine-tune the bundled checkpoint on a bundled data set, one split and one seed, beside the baselines.

    python benchmarks/main_job.py --data lipophilicity

Writes benchmarks/results/main_job_<data>.json: metrics, settings, seconds, machine and versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

import moltune
from moltune.files import write_text
from moltune.run import machine, settings_of, versions

RESULTS = Path(__file__).parent / "results"
BASELINES = ["mean", "ridge", "random-forest", "xgboost", "gp:rdkit-fast+ionisation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="lipophilicity", help="bundled data set")
    parser.add_argument("--model", default="moltune/mini")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = moltune.finetune(
            {
                "data": {"source": arguments.data},
                "model": {"name": arguments.model},
                "evaluation": {"baselines": BASELINES, "figures": False},
                "seed": arguments.seed,
                "output": f"{folder}/run",
            }
        )
        result: dict[str, Any] = {
            "command": f"python benchmarks/main_job.py --data {arguments.data} --model {arguments.model}",
            "metrics": run.metrics,
            "history": run.history.to_dict(orient="records"),
            "config": {key: value for key, value in settings_of(run.config).items() if key != "output"},
            "machine": {**machine(), "platform": platform.platform(), "threads": torch.get_num_threads()},
            "versions": versions(),
        }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"main_job_{arguments.data}.json"
    text = json.dumps(result, indent=1, allow_nan=False, default=float) + "\n"
    write_text(path, text)
    metrics: dict[str, Any] = result["metrics"]
    rmse = {"blend": metrics["blend"], "model": metrics, **metrics["baselines"]}
    for name, values in rmse.items():
        value = values["test"]["rmse"]
        print(f"{name:20s} test RMSE {value['value']:.3f} ({value['lower']:.3f} to {value['upper']:.3f})")


if __name__ == "__main__":
    main()
