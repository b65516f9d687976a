"""Influence on the log loss against retraining: logistic regression on fixed embeddings of moltune/mini, B3DB.

    python benchmarks/influence_truth_classes.py

The head is the optimum of a logistic regression whose classes weigh the same, its weight decay chosen on the validation
part. Each of 300 further molecules is added, and each of 300 training molecules is left out, and the regression is
solved anew by Newton's method: the change of the validation log loss is the truth.

Writes benchmarks/results/influence_truth_classes.json; no molecule is in it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import torch
from influence_truth import PACKAGES, agreement, compare, settings_of
from linear_head import DECAYS
from machine import describe_machine, write_result
from scipy.special import expit

from moltune.attribution.influence import score
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.loss import LogLoss
from moltune.attribution.problem import Setting
from moltune.attribution.scope import choose_scope
from moltune.data.load import load_molecules
from moltune.evaluation.classification import log_loss
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.inference import embed_smiles
from moltune.tuning.classify import class_weights

SIZES = {"train": 1500, "validation": 400, "external": 300}


def optimum(
    x: np.ndarray, y: np.ndarray, cost: np.ndarray, decay: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Minimise Σ cost ℓ + ½ decay |w|², the bias, which comes last, free."""
    penalty = np.diag(np.r_[np.full(x.shape[1] - 1, decay), 0.0])
    theta = np.zeros(x.shape[1]) if start is None else start
    for _ in range(100):
        p = expit(x @ theta)
        hessian = (x * (cost * p * (1 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(hessian, x.T @ (cost * (p - y)) + penalty @ theta)
        theta = theta - step
        if np.abs(step).max() < 1e-10:
            return theta
    raise RuntimeError(f"Newton's method did not converge with the weight decay {decay:g}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    molecules = load_molecules("b3db")
    order, parts, start = np.random.default_rng(0).permutation(len(molecules)), {}, 0
    for name, size in SIZES.items():
        parts[name], start = order[start : start + size], start + size
    assert molecules.classes is not None
    model = make_regression("moltune/mini", classes=list(molecules.classes)).float().eval()
    tokenizer, scope = load_tokenizer("moltune/mini"), choose_scope(model, "head")
    smiles = {name: [molecules.smiles[at] for at in positions] for name, positions in parts.items()}
    y = {name: molecules.target[positions] for name, positions in parts.items()}
    x = {name: np.hstack([embed_smiles(model, tokenizer, own), np.ones((len(own), 1))]) for name, own in smiles.items()}
    n, weights = SIZES["train"], class_weights(y["train"], "balanced")
    cost = {name: np.where(labels > 0.5, weights[1], weights[0]) / n for name, labels in y.items()}

    def loss(theta: np.ndarray) -> float:
        return float(log_loss(y["validation"], expit(x["validation"] @ theta)))

    def trained(decay: float) -> np.ndarray:
        return optimum(x["train"], y["train"], cost["train"], decay)

    def added(at: int, amount: float, decay: float) -> float:
        """Change of the loss when an external molecule is added."""
        larger = (np.append(one["train"], one["external"][at]) for one in (y, cost))
        labels, costs = larger
        costs[-1] *= amount
        return loss(optimum(np.vstack([x["train"], x["external"][at]]), labels, costs, decay, theta)) - before

    def left_out(at: int, decay: float) -> float:
        rest = np.arange(n) != at
        return loss(optimum(x["train"][rest], y["train"][rest], cost["train"][rest], decay, theta)) - before

    decay = min(DECAYS, key=lambda decay: loss(trained(decay)))
    theta = trained(decay)
    before = loss(theta)
    with torch.no_grad():
        model.head.out_proj.weight.copy_(torch.as_tensor(theta[:-1]).view(1, -1))
        model.head.out_proj.bias.fill_(float(theta[-1]))
    scope = choose_scope(model, "head")

    def linearised(name: str, wanted: LogLoss) -> Linearised:
        return Linearised(Inputs(model, scope, tokenizer, smiles[name]), scope, torch.as_tensor(y[name]), loss=wanted)

    made = [linearised("train", LogLoss(weights)), linearised("validation", LogLoss())]
    setting = Setting(model, scope, *made, linearised("external", LogLoss(weights)))
    exact = {"solver": "exact", "damping": 0.0}
    derivative, _ = score(setting, settings_of(**exact), decay)
    whole, _ = score(setting, settings_of(**exact, step="whole"), decay)
    within, _ = score(replace(setting, external=setting.train), settings_of(**exact), decay)
    some = range(SIZES["external"])
    adding = np.array([added(at, 1.0, decay) for at in some])
    thousandth = np.array([added(at, 1e-3, decay) * 1e3 for at in some])
    leaving = np.array([left_out(at, decay) for at in some])
    result = {
        "machine": describe_machine(*PACKAGES),
        "molecules": SIZES,
        "weights_of_classes": weights,
        "weight_decay_chosen_on_validation": decay,
        "validation_log_loss": before,
        "truth": {
            "derivative_against_adding_whole": compare(derivative, adding),
            "derivative_against_adding_a_thousandth": compare(derivative, thousandth),
            "whole_against_adding_whole": compare(whole, adding),
            "minus_derivative_against_leaving_out": compare(-within[: len(leaving)], leaving),
            "share_that_helps": float((adding < 0).mean()),
        },
        "head": agreement(setting, decay, "exact", [{"solver": "cg"}, {"solver": "lissa"}, {"solver": "identity"}]),
    }
    print(json.dumps(result["truth"], indent=1), write_result("influence_truth_classes", result))


if __name__ == "__main__":
    main()
