"""LiSSA on a tuned model beside a literal loop and dattri's LiSSA: time, memory, growth, and fidelity in one run.

    python benchmarks/influence_solvers.py RUN EXTERNAL [--scope last-1] [--jacobian-mb 8192] [--name NAME]

RUN is a finished run of moltune, EXTERNAL a file of labelled molecules. Ours is timed whole, from loading the model to
the scores. The reference for fidelity is conjugate gradients on the same curvature.

The loop is what the founding studies describe: one training molecule per step, a double backward pass through the
whole model, then one gradient per external molecule. It is timed over ``--loop-steps`` steps and scaled to a depth.
What it would find at that depth is computed here by the same recursion, one molecule per step, on the same curvature
with a Jacobian in memory: so its fidelity is that of the published recursion, only its time is extrapolated. dattri's
time per step is a sample, too; its training molecules are one padded tensor, as its loaders want.

Writes benchmarks/results/NAME.json; no molecule is in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine, write_result
from scipy.stats import spearmanr
from torch import Tensor
from torch.func import functional_call

from moltune.attribution.curvature import Curvature, GaussNewton
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.problem import Setting, make_curvature, make_setting
from moltune.attribution.solvers import Solution, make_solver
from moltune.config import DataSettings, InfluenceSettings, SolverSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.run import Run


@contextmanager
def measured(into: dict[str, Any], name: str) -> Iterator[None]:
    """Note wall-clock and processor seconds, and the peak of resident memory while the block runs (Linux)."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if clear.exists():
        clear.write_text("5")
    started, used = time.perf_counter(), time.process_time()
    yield
    into[name] = {
        "seconds": round(time.perf_counter() - started, 3),
        "processor_seconds": round(time.process_time() - used, 3),
    }
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        into[name]["peak_memory_mb"] = round(int(peak.split()[1]) / 1024)
    print(name, into[name], flush=True)


def scores_of(made: Linearised, x: Tensor) -> np.ndarray:
    """Influence of molecules up to a factor, negative helps."""
    return -made.loss_jvp(x).cpu().numpy()


class Loop:
    """One molecule at a time through the whole model, by two backward passes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.parameters = {name: value.clone().requires_grad_() for name, value in setting.scope.parameters.items()}

    def loss(self, made: Linearised, position: int) -> Tensor:
        """Squared error of one molecule, standardised."""
        model = self.setting.model
        ids = torch.tensor([made.inputs.dataset.input_ids[position]])
        logits = functional_call(model, self.parameters, kwargs={"input_ids": ids}).logits.squeeze()
        standardised = (logits - model.config.target_mean) / model.config.target_std
        return (standardised - made.target[position].float()) ** 2

    def steps(self, count: int) -> None:
        """So many products with the Hessian of one molecule."""
        wanted = list(self.parameters.values())
        vector = [torch.randn_like(value) for value in wanted]
        for position in np.random.default_rng(0).integers(0, len(self.setting.train), count):
            first = torch.autograd.grad(
                self.loss(self.setting.train, int(position)), wanted, create_graph=True, allow_unused=True
            )
            along = sum((g * v).sum() for g, v in zip(first, vector, strict=True) if g is not None)
            torch.autograd.grad(along, wanted, allow_unused=True)

    def gradients(self, count: int) -> None:
        """So many gradients of single molecules."""
        for position in range(count):
            wanted = list(self.parameters.values())
            torch.autograd.grad(self.loss(self.setting.train, position), wanted, allow_unused=True)


def one_by_one(curvature: GaussNewton, v: Tensor, depths: list[int]) -> dict[int, Tensor]:
    """x of the recursion with one molecule per step after each depth; its scale lets every step contract."""
    assert curvature.kept is not None
    sizes = torch.cat([(rows.double() ** 2).sum(dim=1) for rows in curvature.kept.split(64)])
    scale = 1.1 * (2 * float(sizes.max()) + float(curvature.diagonal.max()))
    rng = np.random.default_rng(0)
    # Single precision, as any such loop runs in.
    start, diagonal = v.float(), curvature.diagonal.float()
    x, found = start / scale, {}
    for step in range(1, max(depths) + 1):
        row = curvature.kept[int(rng.integers(len(curvature.kept)))]
        x = x + (start - 2 * row * (row @ x) - diagonal * x) / scale
        if step in depths:
            found[step] = x.double()
    return found


def dattri_step(setting: Setting, v: Tensor, steps: int, batch: int, into: dict[str, Any]) -> None:
    """Time dattri's LiSSA over a few steps."""
    from dattri.algorithm.influence_function import IFAttributorLiSSA
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    model, train = setting.model, setting.train
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in setting.scope.parameters or setting.scope.name != "all")
    config = model.config

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, mask, wanted = data
        given = {"input_ids": ids.long(), "attention_mask": mask.long()}
        logits = functional_call(model, parameters, kwargs=given).logits.squeeze(-1)
        return (((logits - config.target_mean) / config.target_std - wanted) ** 2).mean()

    made = train.inputs._collate([train.inputs.dataset[position] for position in range(len(train))])
    data = TensorDataset(made["input_ids"], made["attention_mask"], train.target.float())
    attributor = IFAttributorLiSSA(
        AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict()),
        layer_name=list(setting.scope.parameters),
        batch_size=batch,
        recursion_depth=steps,
        scaling=1e4,
    )
    attributor.cache(DataLoader(data, batch_size=len(train)))
    with measured(into, f"dattri, {steps} steps of {batch}"):
        attributor.transform_test_rep(0, v.float()[None])


def solve(name: str, curvature: Curvature, v: Tensor, settings: InfluenceSettings) -> Solution:
    chosen = SolverSettings.model_validate(settings.model_dump(include=set(SolverSettings.model_fields)))
    return make_solver(name, chosen).solve(curvature, v)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("external")
    parser.add_argument("--name", default="influence_solvers")
    parser.add_argument("--scope", default="last-1")
    parser.add_argument("--damping", type=float, default=0.1)
    parser.add_argument("--curvature-molecules", type=int, help="random training molecules; unset: all")
    parser.add_argument("--jacobian-mb", type=float, default=8192, help="of the curvature's Jacobian in memory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--loop-steps", type=int, default=30)
    parser.add_argument("--loop-depths", default="1000,3000,10000")
    parser.add_argument("--dattri-steps", type=int, default=5)
    parser.add_argument("--dattri-batch", type=int, default=32, help="beside 1; it takes a third of a GB per molecule")
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    molecules, parts = run.molecules()
    external = load_molecules(arguments.external, DataSettings(clean=run.config.data.clean))
    settings = InfluenceSettings.model_validate(
        {
            "scope": arguments.scope,
            "solver": "lissa",
            "damping": arguments.damping,
            "curvature_molecules": arguments.curvature_molecules,
            "jacobian_mb": arguments.jacobian_mb,
            "repeats": arguments.repeats,
            "batch_size": arguments.batch_size,
        }
    )
    # Two molecules: what the others cost is measured below, at several numbers of them.
    few = molecules_from_lists(external.smiles[:2], external.target[:2].tolist())
    times: dict[str, Any] = {}
    with measured(times, "prepare training and validation molecules"):
        setting = make_setting(run, molecules, parts, few, settings)
    with measured(times, "gradient of the validation loss"):
        v = setting.target.loss_gradient()
    with measured(times, "curvature"):
        curvature = make_curvature(setting, settings, run.config.training.weight_decay)
    with measured(times, "lissa"):
        ours = solve("lissa", curvature, v, settings)
    print(ours.residual, ours.facts, flush=True)
    growth: dict[str, Any] = {}
    train = parts == "train"
    smiles = [*external.smiles, *np.array(molecules.smiles, dtype=object)[train].tolist()]
    target = np.r_[external.target, molecules.target[train]]
    config, inputs = setting.model.config, setting.train.inputs
    made = None
    for count in (4 * len(external), 2 * len(external), len(external)):
        with measured(growth, str(count)):
            labels = torch.as_tensor((target[:count] - config.target_mean) / config.target_std)
            new = Inputs(setting.model, setting.scope, inputs.tokenizer, smiles[:count], inputs.max_length)
            made = Linearised(new, setting.scope, labels, settings.tokens)
            scores = scores_of(made, ours.x)
    assert made is not None
    with measured(times, "cg, the reference"):
        reference = solve("cg", curvature, v, settings)
    truth = scores_of(made, reference.x)
    result: dict[str, Any] = {
        "machine": describe_machine("torch", "dattri"),
        "molecules": {"train": len(setting.train), "target": len(setting.target), "external": len(external)},
        "curvature_molecules": len(curvature.positions),
        "jacobian_in_memory": isinstance(curvature, GaussNewton) and curvature.kept is not None,
        "scope": arguments.scope,
        "parameters": setting.scope.size,
        "parts": times,
        "external": growth,
        "lissa": {
            "residual": ours.residual,
            "spearman_with_cg": float(spearmanr(scores, truth).statistic),
            **ours.facts,
        },
        "cg": {"residual": reference.residual, **reference.facts},
        "identity": {"spearman_with_cg": float(spearmanr(scores_of(made, v), truth).statistic)},
    }
    needed = ("prepare training and validation molecules", "gradient of the validation loss", "curvature", "lissa")
    fixed = {unit: sum(times[name][unit] for name in needed) for unit in ("seconds", "processor_seconds")}
    loop = Loop(setting)
    with measured(times, "loop steps"):
        loop.steps(arguments.loop_steps)
    with measured(times, "loop gradients"):
        loop.gradients(arguments.loop_steps)
    result["fidelity_of_one_molecule_per_step"] = {}
    if isinstance(curvature, GaussNewton) and curvature.kept is not None:
        depths = [int(depth) for depth in arguments.loop_depths.split(",")]
        for depth, x in one_by_one(curvature, v, depths).items():
            result["fidelity_of_one_molecule_per_step"][depth] = {
                "spearman_with_cg": float(spearmanr(scores_of(made, x), truth).statistic),
                "residual": float((curvature.product(x) - v).norm() / v.norm()),
            }
    del curvature
    result["totals"] = {
        unit: {
            count: {
                "ours": fixed[unit] + value[unit],
                **{
                    f"loop of depth {depth}": int(depth) * times["loop steps"][unit] / arguments.loop_steps
                    + (int(count) + len(setting.target)) * times["loop gradients"][unit] / arguments.loop_steps
                    for depth in arguments.loop_depths.split(",")
                },
            }
            for count, value in growth.items()
        }
        for unit in ("seconds", "processor_seconds")
    }
    write_result(arguments.name, result)
    for batch in (1, arguments.dattri_batch) if arguments.dattri_steps else ():
        try:
            dattri_step(setting, v, arguments.dattri_steps, batch, times)
            # Its recursion without the gradients of external molecules, so that it is never charged too much.
            for unit, totals in result["totals"].items():
                step = times[f"dattri, {arguments.dattri_steps} steps of {batch}"][unit] / arguments.dattri_steps
                for values in totals.values():
                    for depth in arguments.loop_depths.split(","):
                        values[f"dattri's recursion, depth {depth}, batch {batch}"] = int(depth) * step
        except Exception as met:  # it may be missing, or fail: that is a result
            times[f"dattri, batch {batch}"] = f"{type(met).__name__}: {str(met).splitlines()[0][:200]}"
        write_result(arguments.name, result)
    print(json.dumps(result, indent=1))
    print(write_result(arguments.name, result))


if __name__ == "__main__":
    main()
