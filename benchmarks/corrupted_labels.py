"""Finding corrupted labels, and what selecting by influence is worth where there are some.

    python benchmarks/corrupted_labels.py FOLDER [--splits 5] [--frozen]

FOLDER holds the models of pools.py (made where they are missing): moltune/mini fine-tuned on the training part of
Lipophilicity less a pool of 600 molecules. With ``--frozen`` the encoder stays as it was pretrained, under a ridge head
fitted on the same part. The labels of 30 % of the pool are permuted among themselves. Every solver and selector of
ours, and every peer that is installed, scores the pool; the area under the ROC curve says how well the corrupted
labels come out on top. Where a number has no natural direction for this (uncertainty, similarity), high counts as
suspicious, and for diversity and similarity what would be taken last.

Then the best 420 of the pool by each selector (as many as have their own label) are added to the training part and a
ridge head is fitted anew on the same embeddings, its decay chosen on the validation part; the test error is compared.
Embeddings stay fixed, so this is the retraining of a head, not of a network. Several corruptions per split.

Writes benchmarks/results/corrupted_labels.json or corrupted_labels_frozen.json, and FOLDER/split-K.npz or
frozen-K.npz with the features for lds.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from linear_head import DECAYS, Fixed, best_decay, default_damping, error, fit_ridge, ours
from machine import describe_machine, write_result
from peers import Problem, run_peers
from pools import POOL, Pool, corrupt, held_out, tuned
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

from moltune.attribution.influence import score
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.problem import Setting, make_setting
from moltune.config import InfluenceSettings, SelectSettings, SplitSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import make_split
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.inference import embed_smiles
from moltune.predictors.predictor import Predictor
from moltune.selection.strategies import Candidates, choose
from moltune.uncertainty.estimate import MonteCarloDropout

PACKAGES = ("torch", "numpy", "scikit-learn", "kronfluence", "dattri", "captum")
HEAD: dict[str, dict[str, Any]] = {
    "exact": {"solver": "exact"},
    "exact, step whole": {"solver": "exact", "step": "whole"},
    "cg": {"solver": "cg"},
    "cg, hessian": {"solver": "cg", "curvature": "hessian"},
    "lissa": {"solver": "lissa"},
    "identity": {"solver": "identity"},
}
BLOCK: dict[str, dict[str, Any]] = {
    "identity": {"solver": "identity"},
    "cg": {"solver": "cg", "curvature_molecules": 200},
    "lissa": {"solver": "lissa", "curvature_molecules": 200, "batch_size": 32},
}
KEPT = POOL - round(0.3 * POOL)
DRAWS = 10


def settings_of(**changes: Any) -> InfluenceSettings:
    return InfluenceSettings.model_validate({"allow_unconverged": True, "halves": False, **changes})


def scores_of(setting: Setting, which: dict[str, dict[str, Any]], scope: str, decay: float) -> dict[str, np.ndarray]:
    """Influence of the pool by each solver, high is harmful."""
    found = {}
    for name, changes in which.items():
        found[f"{scope} {name}"], _ = score(setting, settings_of(scope=scope, **changes), decay)
    return found


def features(made: Linearised) -> Fixed:
    """What the linear head sees of molecules, the bias last, and standardised labels."""
    return Fixed(made.jacobian(range(len(made))).double().numpy(), made.target.numpy())


def selectors(pool: Pool, fixed: dict[str, Fixed], validation: list[str]) -> dict[str, np.ndarray]:
    """Selectors that look at no label, high is suspicious."""
    candidates = Candidates(
        pool.molecules.smiles,
        reference=validation,
        embeddings=fixed["pool"].x[:, :-1],
        reference_embeddings=fixed["validation"].x[:, :-1],
    )
    found = {}
    for name, changes in {
        "similarity (fingerprint)": {"strategy": "similarity"},
        "similarity (embedding)": {"strategy": "similarity", "space": "embedding"},
        "diversity": {"strategy": "diversity"},
    }.items():
        order = choose(candidates, SelectSettings.model_validate({**changes, "count": len(candidates)}))
        place = np.empty(len(order))
        place[order] = np.arange(len(order))
        found[name] = place
    return found


def retrain(fixed: dict[str, Fixed], kept: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Test and validation error of a ridge head on the training part and the kept molecules of the pool."""
    errors = {}
    part = {name: Fixed(made.x[:, :-1], made.y) for name, made in fixed.items()}
    for name, chosen in kept.items():
        train = Fixed(
            np.vstack([part["train"].x, part["pool"].x[chosen]]), np.r_[part["train"].y, part["pool"].y[chosen]]
        )
        ridge = fit_ridge(train, best_decay(train, part["validation"], DECAYS[4:-1:2]))
        errors[name] = {which: error(ridge, part[which]) ** 0.5 for which in ("test", "validation")}
    return errors


def selections(harm: dict[str, np.ndarray], pool: Pool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Positions of the pool that each way of selecting keeps."""
    everything = np.arange(len(pool.corrupted))
    kept = {"none": everything[:0], "all": everything, "those with their own label": everything[~pool.corrupted]}
    for name, values in harm.items():
        order = np.argsort(values, kind="stable")
        kept[name], kept[f"{name}, reversed"] = order[:KEPT], order[::-1][:KEPT]
        kept[f"{name}, helpful only"] = everything[values < 0] if values.min() < 0 else everything
    for draw in range(DRAWS):
        kept[f"random {draw}"] = rng.choice(everything, KEPT, replace=False)
    return kept


def one_tuned_split(folder: Path, split: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """AUC of every method on the fine-tuned model of one split, and the retrainings under several corruptions."""
    run, apart = tuned(folder, split)
    molecules, parts = run.molecules()
    pool = corrupt(apart, 100 * split)
    decay = run.config.training.weight_decay
    setting = make_setting(run, molecules, parts, pool.molecules, settings_of())
    fixed = {
        name: features(made)
        for name, made in (("train", setting.train), ("validation", setting.target), ("pool", setting.external))
    }
    fixed["test"] = features(part_of(setting, molecules, parts == "test"))
    harm = scores_of(setting, HEAD, "head", decay)
    smiles = np.array(molecules.smiles, dtype=object)
    harm |= {"|residual|": np.abs(setting.external.residuals.numpy())}
    harm |= selectors(pool, fixed, smiles[parts == "validation"].tolist())
    estimate = MonteCarloDropout(Predictor.load(run.path), arguments.passes)
    harm["uncertainty (dropout)"] = estimate.samples(pool.molecules.smiles).var(axis=0, ddof=1)
    if split < arguments.block_splits:
        block = make_setting(run, molecules, parts, pool.molecules, settings_of(scope="last-1"))
        harm |= scores_of(block, BLOCK, "last-1", decay)
    head, config = setting.model.head.out_proj, setting.model.config
    weights = np.r_[head.weight.detach().numpy().ravel(), head.bias.detach().numpy()].astype(np.float64)
    return finish(
        f"{folder}/split-{split}.npz",
        apart,
        split,
        fixed,
        weights,
        decay,
        harm,
        arguments,
        config.target_mean,
        config.target_std,
    )


def one_frozen_split(
    folder: Path, split: int, arguments: argparse.Namespace, everything: Molecules, embeddings: np.ndarray
) -> dict[str, Any]:
    """The same with a ridge head on embeddings of the pretrained encoder: all methods on one linear problem."""
    found = make_split(everything, SplitSettings(), split)
    held = held_out(found.train, split)
    positions = {
        "train": np.setdiff1d(found.train, held),
        "validation": found.validation,
        "test": found.test,
        "pool": held,
    }
    target = everything.target
    mean, std = float(target[positions["train"]].mean()), float(target[positions["train"]].std())
    smiles = np.array(everything.smiles, dtype=object)
    apart = molecules_from_lists(smiles[held].tolist(), target[held].tolist())
    pool = corrupt(apart, 100 * split)
    rows = np.c_[embeddings, np.ones(len(embeddings))]
    fixed = {name: Fixed(rows[chosen], (target[chosen] - mean) / std) for name, chosen in positions.items()}
    fixed["pool"] = Fixed(fixed["pool"].x, (pool.molecules.target - mean) / std)
    part = {name: Fixed(made.x[:, :-1], made.y) for name, made in fixed.items()}
    decay = best_decay(part["train"], part["validation"])
    ridge = fit_ridge(part["train"], decay)
    weights = np.r_[ridge.coef_, ridge.intercept_]
    harm = ours(fixed, weights, decay) | selectors(pool, fixed, smiles[found.validation].tolist())
    return finish(f"{folder}/frozen-{split}.npz", apart, split, fixed, weights, decay, harm, arguments, mean, std)


def finish(
    path: str,
    apart: Molecules,
    split: int,
    fixed: dict[str, Fixed],
    weights: np.ndarray,
    decay: float,
    harm: dict[str, np.ndarray],
    arguments: argparse.Namespace,
    mean: float,
    std: float,
) -> dict[str, Any]:
    """Peers on the same head, AUC, retrainings; the features are kept for lds.py."""
    pool = corrupt(apart, 100 * split)
    tensors = {
        name: (torch.as_tensor(made.x[:, :-1]).float(), torch.as_tensor(made.y).float()) for name, made in fixed.items()
    }
    problem = Problem(
        torch.as_tensor(weights).float(),
        tensors["train"],
        tensors["validation"],
        tensors["pool"],
        decay + default_damping(fixed["train"]),
    )
    theirs = {} if arguments.no_peers else run_peers(problem, slow=split < arguments.slow_peers_splits)
    found: dict[str, Any] = {
        "weight_decay": decay,
        "auc_ours": {name: auc(pool, values) for name, values in harm.items()},
        "auc_peers": {name: v if isinstance(v, str) else auc(pool, v) for name, v in theirs.items()},
    }
    print(split, found, flush=True)
    found["retrained"] = []
    for number in range(arguments.corruptions):
        other = corrupt(apart, 100 * split + number)
        relabelled = {**fixed, "pool": Fixed(fixed["pool"].x, (other.molecules.target - mean) / std)}
        found["retrained"].append(retrained(relabelled, weights, decay, other, [split, number]))
    np.savez(
        path,
        weights=weights,
        clean=(pool.clean - mean) / std,
        **{f"{name}_{axis}": getattr(made, axis) for name, made in fixed.items() for axis in "xy"},
    )
    return found


def part_of(setting: Setting, molecules: Molecules, chosen: np.ndarray) -> Linearised:
    """More molecules of the run, linearised as those of the setting."""
    config, inputs = setting.model.config, setting.train.inputs
    smiles = np.array(molecules.smiles, dtype=object)[chosen].tolist()
    target = torch.as_tensor((molecules.target[chosen] - config.target_mean) / config.target_std)
    made = Inputs(setting.model, setting.scope, inputs.tokenizer, smiles, inputs.max_length)
    return Linearised(made, setting.scope, target)


def retrained(
    fixed: dict[str, Fixed], weights: np.ndarray, decay: float, pool: Pool, seed: list[int]
) -> dict[str, Any]:
    """Errors after selecting under one corruption."""
    chosen = ("exact, default damping", "exact, step whole", "identity, default damping", "|residual|")
    found = ours(fixed, weights, decay)
    kept = selections({name: found[name] for name in chosen}, pool, np.random.default_rng(seed))
    errors = retrain(fixed, kept)
    result: dict[str, Any] = {
        which: {name: value[which] for name, value in errors.items() if not name.startswith("random")}
        for which in ("test", "validation")
    }
    for which, values in result.items():
        draws = [value[which] for name, value in errors.items() if name.startswith("random")]
        values["random"] = float(np.mean(draws))
    result["corrupted_share_kept"] = {
        name: float(pool.corrupted[positions].mean())
        for name, positions in kept.items()
        if "random" not in name and len(positions)
    }
    result["kept"] = {name: len(positions) for name, positions in kept.items() if "helpful" in name}
    return result


def auc(pool: Pool, values: np.ndarray) -> float:
    return float(roc_auc_score(pool.corrupted, values))


def summarise(splits: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits, and each way of selecting against random on split means."""
    summary: dict[str, Any] = {}
    for key in ("auc_ours", "auc_peers"):
        names = dict.fromkeys(name for split in splits for name in split[key])
        means = {}
        for name in names:
            values = [split[key][name] for split in splits if isinstance(split[key].get(name), float)]
            means[name] = {"mean": float(np.mean(values)), "splits": len(values)} if values else {"failed": True}
        summary[key] = dict(sorted(means.items(), key=lambda pair: -pair[1].get("mean", 0)))
    test = {
        name: np.array([np.mean([one["test"][name] for one in split["retrained"]]) for split in splits])
        for name in splits[0]["retrained"][0]["test"]
    }
    summary["retrained"] = {
        name: {
            "test_rmse_standardised": float(values.mean()),
            "less_than_random": float((test["random"] - values).mean()),
            "splits_better_than_random": int((values < test["random"]).sum()),
            "p_paired_t": float(ttest_rel(values, test["random"]).pvalue)
            if len(splits) > 1 and name != "random"
            else None,
            "corrupted_share_kept": float(
                np.mean([one["corrupted_share_kept"].get(name, np.nan) for s in splits for one in s["retrained"]])
            )
            if name not in ("random", "none")
            else None,
        }
        for name, values in sorted(test.items(), key=lambda pair: pair[1].mean())
    }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--corruptions", type=int, default=3, help="per split, for the retrainings")
    parser.add_argument("--block-splits", type=int, default=1, help="splits on which the last block is scored, too")
    parser.add_argument("--passes", type=int, default=10, help="of dropout")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--frozen", action="store_true", help="the pretrained encoder in place of fine-tuned ones")
    parser.add_argument("--slow-peers-splits", type=int, default=1, help="splits on which the slow peers run, too")
    arguments = parser.parse_args()
    if arguments.frozen:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        everything = load_molecules("lipophilicity")
        model = make_regression("moltune/mini").float().eval()
        embeddings = embed_smiles(model, load_tokenizer("moltune/mini"), everything.smiles)
    done: list[dict[str, Any]] = []
    name = "corrupted_labels_frozen" if arguments.frozen else "corrupted_labels"
    for split in range(arguments.splits):
        if arguments.frozen:
            done.append(one_frozen_split(arguments.folder, split, arguments, everything, embeddings))
        else:
            done.append(one_tuned_split(arguments.folder, split, arguments))
        result = {
            "machine": describe_machine(*([] if arguments.no_peers else PACKAGES)),
            "model": "pretrained, ridge head" if arguments.frozen else "fine-tuned",
            "pool": POOL,
            "corrupted": 0.3,
            "corruptions_per_split": arguments.corruptions,
            "kept_by_a_selector": KEPT,
            "dropout_passes": arguments.passes,
            "summary": summarise(done),
            "splits": done,
        }
        path = write_result(name, result)
    print(path)


if __name__ == "__main__":
    main()
