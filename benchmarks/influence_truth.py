"""Influence against retraining: ridge regression on fixed embeddings of moltune/mini, Lipophilicity, split 0.

    python benchmarks/influence_truth.py [--external FILE] [--block] [--run RUN]

The head is the optimum of a ridge regression on the embeddings of the training part, its weight decay chosen on the
validation part. Each external molecule is added and scikit-learn's Ridge is fitted anew: the change of the validation
loss is the truth. Then the solvers: on the head against the dense solve, and with ``--block`` on the last block LiSSA
against conjugate gradients, both on that model and on RUN, a fine-tuned one. Without FILE (SMILES, Label), 300
molecules of the test part take the place of the external ones.

Writes benchmarks/results/influence_truth.json; no molecule is in it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from linear_head import (
    DECAYS,
    Fixed,
    Labelled,
    again,
    best_decay,
    embed,
    error,
    fit_ridge,
    setting_of,
    write_head,
)
from machine import describe_machine, write_result
from scipy.stats import pearsonr, spearmanr

from moltune.attribution.influence import score
from moltune.attribution.problem import Setting
from moltune.config import InfluenceSettings, SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.models.checkpoints import load_regression, load_tokenizer, make_regression

PACKAGES = ("torch", "numpy", "scikit-learn", "moltune")


def load_parts(external: Path | None) -> tuple[dict[str, Labelled], str]:
    """Training and validation part of split 0 and the external molecules, and where these come from."""
    molecules = load_molecules("lipophilicity")
    split = make_split(molecules, SplitSettings(), 0)
    smiles, target = np.array(molecules.smiles, dtype=object), molecules.target
    parts: dict[str, Labelled] = {
        name: (smiles[positions].tolist(), target[positions])
        for name, positions in (("train", split.train), ("validation", split.validation))
    }
    if external is not None and external.is_file():
        found = load_molecules(str(external))
        parts["external"] = (found.smiles, found.target)
        return parts, "external file"
    held = np.random.default_rng(0).choice(split.test, 300, replace=False)
    parts["external"] = (smiles[held].tolist(), target[held])
    return parts, "test part of split 0"


def settings_of(**changes: Any) -> InfluenceSettings:
    return InfluenceSettings.model_validate({"allow_unconverged": True, "halves": False, **changes})


def retrained(fixed: dict[str, Fixed], decay: float, weight: float) -> np.ndarray:
    """Change of the validation loss, standardised, per unit of weight, when each external molecule is added."""
    train, validation, external = fixed["train"], fixed["validation"], fixed["external"]
    before = error(fit_ridge(train, decay), validation)
    weights = np.r_[np.ones(len(train.y)), weight]
    changes = []
    for x, y in zip(external.x, external.y, strict=True):
        larger = Fixed(np.vstack([train.x, x]), np.r_[train.y, y])
        changes.append(error(fit_ridge(larger, decay, len(train.y), weights), validation) - before)
    return np.array(changes) / weight


def compare(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {
        "pearson": float(pearsonr(found, truth).statistic),
        "spearman": float(spearmanr(found, truth).statistic),
        "slope": float(np.polyfit(truth, found, 1)[0]),
        "largest_relative_difference": float(np.abs(found - truth).max() / np.abs(truth).max()),
    }


def head_truth(setting: Setting, fixed: dict[str, Fixed], decay: float) -> dict[str, Any]:
    """``exact`` on the head against retraining."""
    unit = setting.model.config.target_std**2
    added, per_weight = (unit * retrained(fixed, decay, weight) for weight in (1.0, 1e-3))
    exact = {"solver": "exact", "damping": 0.0}
    derivative, _ = score(setting, settings_of(**exact), decay)
    whole, _ = score(setting, settings_of(**exact, step="whole"), decay)
    return {
        "derivative_against_adding_whole": compare(derivative, added),
        "derivative_against_adding_a_thousandth": compare(derivative, per_weight),
        "whole_against_adding_whole": compare(whole, added),
        "share_that_helps": float((added < 0).mean()),
    }


def agreement(setting: Setting, decay: float, reference: str, others: list[dict[str, Any]], **common: Any) -> Any:
    """Rank correlation of solvers with a reference solver, residuals and seconds."""
    results: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for one in [{"solver": reference}, *others]:
        name = " ".join(str(value) if key == "solver" else f"{key}={value}" for key, value in one.items())
        started = time.perf_counter()
        scores[name], facts = score(setting, settings_of(**common, **one), decay)
        results[name] = {
            "residual": facts["residual"],
            "seconds": round(time.perf_counter() - started, 2),
            "repeats_rank_correlation": facts.get("repeats_rank_correlation"),
            "spearman": float(spearmanr(scores[name], scores[reference]).statistic),
        }
        print("  ", name, results[name], flush=True)
    return {"reference": reference, "parameters": setting.scope.size, **common, "solvers": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--external", type=Path, help="CSV file with SMILES and Label")
    parser.add_argument("--run", type=Path, help="run folder of a fine-tuned model of split 0, all training molecules")
    parser.add_argument("--block", action="store_true", help="the last block, too, which takes many minutes")
    parser.add_argument("--curvature-molecules", type=int, default=380, help="of the last block; keeps its Jacobian")
    arguments = parser.parse_args()
    parts, source = load_parts(arguments.external)
    labels = parts["train"][1]
    model = make_regression("moltune/mini", target_mean=float(labels.mean()), target_std=float(labels.std()))
    model, tokenizer = model.float().eval(), load_tokenizer("moltune/mini")
    fixed = embed(model, tokenizer, parts)
    chosen = best_decay(fixed["train"], fixed["validation"])
    result: dict[str, Any] = {
        "machine": describe_machine(*PACKAGES),
        "molecules": {name: len(part.y) for name, part in fixed.items()},
        "external": source,
        "weight_decay_chosen_on_validation": chosen,
        "truth": {},
    }
    setting = setting_of(model, tokenizer, parts, "head")
    for decay in (DECAYS[0], chosen):
        write_head(model, fit_ridge(fixed["train"], decay))
        setting = again(setting)
        result["truth"][f"{decay:g}"] = head_truth(setting, fixed, decay)
        print(decay, json.dumps(result["truth"][f"{decay:g}"], indent=1), flush=True)
    solvers = [{"solver": "cg"}, {"solver": "lissa"}, {"solver": "lissa", "restarts": 0}, {"solver": "identity"}]
    result["head"] = {
        "default damping": agreement(setting, chosen, "exact", solvers),
        "weight decay alone": agreement(setting, chosen, "exact", solvers, damping=0.0),
    }
    write_result("influence_truth", result)
    if not arguments.block:
        return
    block = {"curvature_molecules": arguments.curvature_molecules}
    others = [{"solver": "lissa"}, {"solver": "identity"}]
    result["last-1"] = {}
    models = {"ridge head on the pretrained encoder": model}
    if arguments.run is not None:
        models["fine-tuned"] = load_regression(arguments.run).set_kernel(None).float().eval()
    for name, network in models.items():
        setting = setting_of(network, tokenizer, parts, "last-1")
        result["last-1"][name] = agreement(setting, 0.01, "cg", others, **block)
    print(write_result("influence_truth", result))


if __name__ == "__main__":
    main()
