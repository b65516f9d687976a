"""Solvers of influence on one tuned model: agreement, residual, time and memory, beside a literal loop.

    python benchmarks/influence_solvers.py RUN EXTERNAL [--scope last-1] [--train 2940]

RUN is a finished run of moltune. The loop is what the founding studies describe: LiSSA with one molecule per step, a
double backward pass through the whole model, then one gradient per external molecule; it is timed over ``--loop-steps``
steps and scaled to the depth that ours ran.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from scipy.stats import spearmanr
from torch.func import functional_call

from moltune.attribution.influence import InfluenceSettings, Setting, make_setting, score
from moltune.config import DataSettings
from moltune.data.load import load_molecules
from moltune.run import Run


def loop_seconds(setting: Setting, steps: int, molecules: int) -> tuple[float, float]:
    """Seconds per LiSSA step, and per external gradient, of a loop over single molecules."""
    model, train = setting.model, setting.train
    parameters = {name: value.clone().requires_grad_() for name, value in setting.scope.parameters.items()}
    wanted = list(parameters.values())
    rng = np.random.default_rng(0)

    def loss(made: Any, position: int) -> torch.Tensor:
        ids = torch.tensor([made.inputs.dataset.input_ids[position]])
        logits = functional_call(model, parameters, kwargs={"input_ids": ids}).logits.squeeze()
        standardised = (logits - model.config.target_mean) / model.config.target_std
        return (standardised - made.target[position].float()) ** 2

    vector = [torch.randn_like(value) for value in wanted]
    started = time.perf_counter()
    for position in rng.integers(0, len(train), steps):
        first = torch.autograd.grad(loss(train, int(position)), wanted, create_graph=True, allow_unused=True)
        along = sum((g * v).sum() for g, v in zip(first, vector, strict=True) if g is not None)
        torch.autograd.grad(along, wanted, allow_unused=True)
    per_step = (time.perf_counter() - started) / steps
    started = time.perf_counter()
    for position in range(molecules):
        torch.autograd.grad(loss(setting.external, position), wanted, allow_unused=True)
    return per_step, (time.perf_counter() - started) / molecules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("external")
    parser.add_argument("--scope", default="last-1")
    parser.add_argument("--damping", type=float, default=0.1)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--solvers", default="cg,exact,lissa,identity")
    parser.add_argument("--train", type=int, help="random training molecules of the curvature")
    parser.add_argument("--loop-steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/influence_solvers.json"))
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    molecules, parts = run.molecules()
    external = load_molecules(arguments.external, DataSettings(clean=run.config.data.clean))
    found: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    setting = None
    for solver in arguments.solvers.split(","):
        settings = InfluenceSettings.model_validate(
            {
                "scope": arguments.scope,
                "solver": solver,
                "damping": arguments.damping,
                "depth": arguments.depth,
                "curvature_molecules": arguments.train,
                "allow_unconverged": True,
            }
        )
        started = time.perf_counter()
        setting = make_setting(run, molecules, parts, external, settings)
        scores[solver], facts = score(setting, settings, run.config.training.weight_decay)
        found[solver] = {**facts, "seconds": time.perf_counter() - started}
        found[solver]["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(solver, json.dumps(found[solver]), flush=True)
    assert setting is not None
    names = list(scores)
    agreement = {
        f"{one} against {other}": float(spearmanr(scores[one], scores[other]).statistic)
        for i, one in enumerate(names)
        for other in names[i + 1 :]
    }
    per_step, per_gradient = loop_seconds(setting, arguments.loop_steps, min(20, len(external)))
    # Ours runs the same number of steps three times, each on a batch; the loop is charged for one pass only.
    loop = arguments.depth * per_step + len(external) * per_gradient
    result = {
        "machine": describe_machine(),
        "run": str(arguments.run.name),
        "molecules": {"train": len(setting.train), "target": len(setting.target), "external": len(external)},
        "parameters": setting.scope.size,
        "scope": arguments.scope,
        "solvers": found,
        "spearman": agreement,
        "loop": {"seconds_per_step": per_step, "seconds_per_gradient": per_gradient, "seconds_at_depth": loop},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"spearman": agreement, "loop": result["loop"]}, indent=2))


if __name__ == "__main__":
    main()
