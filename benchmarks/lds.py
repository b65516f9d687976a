"""Linear datamodelling score (Park et al. 2023, arXiv:2303.14186) of every solver and peer, on a linear head.

    python benchmarks/lds.py FOLDER [--splits 5] [--subsets 50]

FOLDER holds the split-K.npz or frozen-K.npz of corrupted_labels.py: embeddings by fine-tuned models, or by moltune/mini
as it was pretrained. The head is first put at the
optimum of a ridge regression on the training part (decay chosen on the validation part), as influence assumes. Then 50
random halves of the pool of 600 molecules are added to the training part in turn and the head is fitted anew; the score
is Spearman's correlation, over the halves, of the summed influence of their molecules with the true change of the
validation loss of the whole part. With true labels, and with 30 % of the pool's labels permuted. Embeddings stay fixed.

Writes benchmarks/results/lds.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from linear_head import Fixed, best_decay, default_damping, error, fit_ridge, ours
from machine import describe_machine, write_result
from peers import Problem, run_peers
from scipy.stats import spearmanr


def measure(fixed: dict[str, Fixed], arguments: argparse.Namespace, seed: int, slow: bool) -> dict[str, Any]:
    """LDS of everything on one split and one set of labels."""
    part = {name: Fixed(made.x[:, :-1], made.y) for name, made in fixed.items()}
    decay = best_decay(part["train"], part["validation"])
    ridge = fit_ridge(part["train"], decay)
    weights = np.r_[ridge.coef_, ridge.intercept_]
    n = len(part["pool"].y)
    rng = np.random.default_rng(seed)
    subsets = [rng.choice(n, n // 2, replace=False) for _ in range(arguments.subsets)]
    before, truth = error(ridge, part["validation"]), []
    for chosen in subsets:
        larger = Fixed(
            np.vstack([part["train"].x, part["pool"].x[chosen]]), np.r_[part["train"].y, part["pool"].y[chosen]]
        )
        # The weight of the decay stays that of the training part, as in the loss that influence differentiates.
        truth.append(error(fit_ridge(larger, decay, len(part["train"].y)), part["validation"]) - before)
    problem = Problem(
        torch.as_tensor(weights).float(),
        *(
            (torch.as_tensor(part[name].x).float(), torch.as_tensor(part[name].y).float())
            for name in ("train", "validation", "pool")
        ),
        damping=decay + default_damping(fixed["train"]),
    )
    theirs = {} if arguments.no_peers else run_peers(problem, slow=slow)
    scores = {**ours(fixed, weights, decay), **{name: v for name, v in theirs.items() if not isinstance(v, str)}}
    return {
        "weight_decay": decay,
        "share_of_halves_that_help": float(np.mean(np.array(truth) < 0)),
        "lds": {
            name: float(spearmanr([values[chosen].sum() for chosen in subsets], truth).statistic)
            for name, values in scores.items()
        },
        "failed": {name: v for name, v in theirs.items() if isinstance(v, str)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--kind", choices=("split", "frozen"), default="split", help="fine-tuned or pretrained encoder")
    parser.add_argument("--slow-peers-splits", type=int, default=1, help="splits on which the slow peers run, too")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    done: dict[str, list[dict[str, Any]]] = {"true labels": [], "30 % of labels permuted": []}
    for split in range(arguments.splits):
        stored = np.load(arguments.folder / f"{arguments.kind}-{split}.npz")
        parts = ("train", "validation", "test", "pool")
        fixed = {name: Fixed(stored[f"{name}_x"].astype(np.float64), stored[f"{name}_y"]) for name in parts}
        slow = split < arguments.slow_peers_splits
        permuted, fixed["pool"] = fixed["pool"], Fixed(fixed["pool"].x, stored["clean"])
        done["true labels"].append(measure(fixed, arguments, split, slow))
        done["30 % of labels permuted"].append(measure({**fixed, "pool": permuted}, arguments, split, False))
        summary = {
            labels: dict(
                sorted(
                    {
                        name: float(np.mean([one["lds"].get(name, np.nan) for one in found]))
                        for name in found[0]["lds"]
                    }.items(),
                    key=lambda pair: -pair[1],
                )
            )
            for labels, found in done.items()
        }
        result = {
            "machine": describe_machine("torch", "scikit-learn", "numpy"),
            "encoder": "fine-tuned" if arguments.kind == "split" else "pretrained",
            "target": "total validation loss",
            "subsets": arguments.subsets,
            "mean_over_splits": summary,
            "splits": done,
        }
        path = write_result("lds", result)
        print(split, summary, flush=True)
    print(path)


if __name__ == "__main__":
    main()
