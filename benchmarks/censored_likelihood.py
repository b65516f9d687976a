"""Bounds in training: the censored likelihood against dropping them, on labels of which some are made bounds.

    python benchmarks/censored_likelihood.py [--splits 5] [--share 0.3] [--limit median|drawn]

Lipophilicity, stratified splits. In each training part 30 % of the measurements above its median become "more than b".
With ``--limit median`` b is the median, as the limit of an assay; with ``drawn`` it lies evenly between the median and
the measurement, so that b itself tells something of the measurement, which Tobit's model does not know.

moltune/mini is then fine-tuned with the usual settings, without these molecules and with them (``--bounds use``);
validation and test part stay exact. Both arms of a split have the same seed. The trained linear head is judged too,
beside the kernel head that may replace it.

Writes benchmarks/results/censored_likelihood_LIMIT.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, write_result

from moltune.config import MethodSettings, ModelSettings, SplitSettings, TrainingSettings, training_defaults
from moltune.data.load import load_molecules
from moltune.data.molecules import BOUND_COLUMNS, Molecules
from moltune.data.splitting.bounds import Bounds
from moltune.data.splitting.split import make_split, parts_of
from moltune.evaluation.metrics import rmse
from moltune.evaluation.statistics import corrected_interval, corrected_t_test
from moltune.predictors.language import LanguageModel
from moltune.tuning.train import tune_model

ARMS = ("dropped", "censored")
NAMES = ("mean", "lower", "upper", "p")
# Splits of the same molecules overlap: 20 % of them are tested for each 70 % that are learnt from.
TESTED = 0.2 / 0.7


def with_bounds(
    molecules: Molecules, train: np.ndarray, share: float, seed: int, limit: str = "median"
) -> tuple[np.ndarray, Bounds]:
    """Make a share of the measurements above the median of the training part "more than" something smaller.

    Returns:
        Positions of the training part that stay exact, and the bounds.
    """
    rng = np.random.default_rng(seed)
    target = molecules.target[train]
    median = float(np.median(target))
    above = np.flatnonzero(target > median)
    chosen = np.sort(rng.choice(above, round(share * len(above)), replace=False))
    value = rng.uniform(median, target[chosen]) if limit == "drawn" else median
    table = molecules.table.iloc[train[chosen]].assign(relation=">", value=value)
    return np.delete(train, chosen), Bounds(table[BOUND_COLUMNS].reset_index(drop=True), {})


def run_split(
    molecules: Molecules, seed: int, share: float, model: str, training: TrainingSettings, limit: str = "median"
) -> dict[str, Any]:
    """Test error of both arms on one split."""
    split = make_split(molecules, SplitSettings(), seed)
    exact, bounds = with_bounds(molecules, split.train, share, seed, limit)
    parts = parts_of(molecules, split)
    smiles, true = parts["test"]
    train = ([molecules.smiles[position] for position in exact], molecules.target[exact])
    row: dict[str, Any] = {"split": seed, "exact": len(exact), "bounds": len(bounds)}
    for arm, used in zip(ARMS, (None, bounds), strict=True):
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            tuned = tune_model(
                train,
                parts["validation"],
                model=ModelSettings(name=model),
                method=MethodSettings(),
                training=training,
                seed=seed,
                folder=Path(folder),
                bounds=used,
            )
        assert isinstance(tuned.model, LanguageModel)
        row[arm] = round(float(rmse(true, tuned.model.predict(smiles))), 4)
        tuned.model.network.set_kernel(None)
        linear = tuned.model.predict(smiles)
        row[f"{arm}, linear head"] = round(float(rmse(true, linear)), 4)
        row[f"{arm}, bias above the median"] = round(float(np.mean((linear - true)[true > np.median(true)])), 4)
        row[f"{arm}, processor seconds"] = round(time.process_time() - started, 1)
    return row


def summarise(rows: list[dict[str, Any]], suffix: str) -> dict[str, float]:
    """Difference of the test errors, censored less dropped, over the splits, with the corrected resampled t test."""
    first, second = (np.array([row[f"{arm}{suffix}"] for row in rows]) for arm in ARMS)
    difference = second - first
    lower, upper = corrected_interval(difference, TESTED)
    p = corrected_t_test(difference, TESTED).p
    return {
        name: round(float(value), 5) for name, value in zip(NAMES, (difference.mean(), lower, upper, p), strict=True)
    }


def main() -> None:
    """Run every split and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--limit", choices=("median", "drawn"), default="median")
    parser.add_argument("--data", default="lipophilicity")
    parser.add_argument("--model", default="moltune/mini")
    parser.add_argument("--epochs", type=int, default=None)
    arguments = parser.parse_args()
    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    training = TrainingSettings(**{**training_defaults("full"), **chosen, "threads": 1})
    molecules = load_molecules(arguments.data)
    rows = []
    for seed in range(arguments.splits):
        rows.append(run_split(molecules, seed, arguments.share, arguments.model, training, arguments.limit))
        print(rows[-1], flush=True)
        write_result(
            f"censored_likelihood_{arguments.limit}",
            {
                "machine": describe_machine("torch", "numpy", "scikit-learn"),
                "data": arguments.data,
                "limit": arguments.limit,
                "share_of_bounds_above_the_median": arguments.share,
                "splits": rows,
                "difference": summarise(rows, "") if len(rows) > 1 else None,
                "difference, linear head": summarise(rows, ", linear head") if len(rows) > 1 else None,
            },
        )


if __name__ == "__main__":
    main()
