"""Intervals of predicted lipophilicity: whether they hold 90 % of the measurements, at what width, and what they need.

    python benchmarks/calibration.py [--stratified 5] [--scaffold 3] [--cache runs/features]

A support vector machine on the frozen embedding of the bundled checkpoint, RDKit's descriptors and ionisation learns
from training and validation part together. Five-fold out-of-fold predictions within them calibrate; the test part
judges. The choice among candidates is made on ``interval_score_within``, without the test part: four folds calibrate
and the fifth judges. Candidates for the difficulty of a molecule: its mean Tanimoto distance to the three nearest
training molecules, its mean distance to the five nearest in the embedding, the out-of-fold errors of those three, the
disagreement of two machines (embedding alone, descriptors alone), how far its prediction is from the mean, and its
size; with and without classes of the applicability domain. Takes some minutes of processor time; predictions
are kept beside the features.

``few`` is the case of a tuned model, which is calibrated on its validation part: so many molecules drawn at random from
those to learn from, ``--draws`` times per split, with the distance as difficulty, by domain class, for different
numbers of molecules below which a class is counted with the one before it.
Writes ``benchmarks/results/calibration.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from frozen_features import CACHE, NAMES, frozen_features
from machine import describe_machine, write_result
from rdkit import Chem

from moltune.calibration import LEVEL, conformal
from moltune.calibration.conformal import Calibration
from moltune.calibration.folds import fold_labels, out_of_fold
from moltune.calibration.merit import assess
from moltune.config import SplitSettings
from moltune.data.overlap import connectivity
from moltune.data.splitting.split import make_split
from moltune.domain.applicability import FLAGS, Domain
from moltune.domain.nearest import mean_distance
from moltune.evaluation.metrics import rmse
from moltune.predictors.probe_heads import Scaler, SvrHead

VIEWS = {"predicted": NAMES, "embedding alone": NAMES[:1], "descriptors alone": NAMES[1:]}
DIFFICULTIES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "distance": ("distance",),
    "embedding distance": ("embedding distance",),
    "neighbours' errors": ("neighbours' errors",),
    "disagreement": ("disagreement",),
    "extremeness": ("extremeness",),
    "size": ("size",),
    "both distances": ("distance", "embedding distance"),
    "distance, size": ("distance", "size"),
    "distance, neighbours' errors": ("distance", "neighbours' errors"),
    "distance, disagreement": ("distance", "disagreement"),
    "both distances, disagreement": ("distance", "embedding distance", "disagreement"),
    "all": ("distance", "embedding distance", "neighbours' errors", "disagreement", "extremeness", "size"),
}
EMBEDDING_NEIGHBOURS = 5
FEW, FEWEST, KEPT = (150, 420), (30, 20, 10, 5), ("coverage", "mean_width", "interval_score")
Columns = dict[str, np.ndarray]


class Predicting:
    """Predictions and inputs of difficulty for molecules that the learning positions do not hold."""

    def __init__(self, smiles: list[str], features: Columns, target: np.ndarray) -> None:
        self.smiles, self.features, self.target = np.array(smiles, dtype=object), features, target
        self.size = np.array([Chem.MolFromSmiles(one).GetNumHeavyAtoms() for one in smiles], dtype=np.float64)

    def __call__(self, learn: np.ndarray, rest: np.ndarray) -> Columns:
        """Learn from the first positions, give the columns of the second."""
        mean, std = self.target[learn].mean(), self.target[learn].std()
        found: Columns = {}
        for name, view in VIEWS.items():
            values = np.hstack([self.features[one] for one in view])
            scaler = Scaler().fit(values[learn])
            head = SvrHead().fit(scaler.transform(values[learn]), (self.target[learn] - mean) / std)
            found[name] = head.predict(scaler.transform(values[rest])) * std + mean
        report = Domain.fit(self.smiles[learn].tolist()).check(self.smiles[rest].tolist())
        embedding = self.features[NAMES[0]]
        scaler = Scaler().fit(embedding[learn])
        apart = mean_distance(
            scaler.transform(embedding[rest]), scaler.transform(embedding[learn]), EMBEDDING_NEIGHBOURS
        )
        return {
            "predicted": found["predicted"],
            "class": report.flag,
            "nearest": learn[report.nearest],
            "distance": report.distance,
            "embedding distance": apart,
            "disagreement": np.abs(found["embedding alone"] - found["descriptors alone"]),
            "extremeness": np.abs(found["predicted"] - mean),
            "size": self.size[rest],
        }


def run_split(
    predicting: Predicting, groups: np.ndarray, learn: np.ndarray, test: np.ndarray, seed: int
) -> tuple[Columns, Columns]:
    """Columns of the molecules to learn from, out of fold, and of the test molecules."""
    labels = fold_labels(groups[learn], seed=seed)
    parts: list[Columns] = []

    def one_fold(rest_of: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        parts.append({**predicting(learn[rest_of], learn[held_out]), "position": held_out})
        return held_out

    out_of_fold(labels, one_fold)
    order = np.argsort(np.concatenate([part["position"] for part in parts]))
    calibrating = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    judged = predicting(learn, test)
    errors = np.full(len(predicting.target), np.nan)
    errors[learn] = np.abs(predicting.target[learn] - calibrating["predicted"])
    calibrating["fold"] = labels
    calibrating["true"], judged["true"] = predicting.target[learn], predicting.target[test]
    for columns in (calibrating, judged):
        columns["neighbours' errors"] = errors[columns["nearest"]].mean(axis=1)
    return calibrating, judged


def kept(path: Path, *arguments: Any) -> tuple[Columns, Columns]:
    """What :func:`run_split` gives, from a file where there is one."""
    if not path.is_file():
        both = run_split(*arguments)
        arrays = {f"{side}/{name}": value for side, one in enumerate(both) for name, value in one.items()}
        np.savez(path, **arrays)
    with np.load(path) as stored:
        sides = [{name[2:]: stored[name] for name in stored.files if name[0] == side} for side in "01"]
    return sides[0], sides[1]


def candidates() -> list[tuple[str, tuple[str, ...], bool]]:
    """Name, inputs of difficulty, and whether there are classes."""
    return [
        (name + (", by domain class" if mondrian else ""), inputs, mondrian)
        for mondrian in (False, True)
        for name, inputs in DIFFICULTIES.items()
    ]


def judge(calibrating: Columns, judged: Columns, inputs: tuple[str, ...], mondrian: bool) -> dict[str, Any]:
    """Figures of merit of one candidate."""

    def given(columns: Columns) -> tuple[Any, ...]:
        asked = {name: columns[name] for name in inputs}
        return columns["true"], columns["predicted"], asked, columns["class"] if mondrian else None

    return assess(Calibration.fit(*given(calibrating), len(FLAGS)), *given(judged))


def within(calibrating: Columns, inputs: tuple[str, ...], mondrian: bool) -> float:
    """Mean interval score of a candidate over the folds, each judged by a calibration with the others."""
    scores = []
    for fold in np.unique(calibrating["fold"]):
        own = calibrating["fold"] == fold
        known, asked = ({name: value[rows] for name, value in calibrating.items()} for rows in (~own, own))
        scores.append(judge(known, asked, inputs, mondrian)["interval_score"])
    return float(np.mean(scores))


def few(both: list[tuple[Columns, Columns]], draws: int) -> dict[str, Any]:
    """Coverage by class, width and interval score of calibrations with few molecules; means over draws and splits."""
    table: dict[str, Any] = {}
    for size in FEW:
        for fewest in FEWEST:
            conformal.FEWEST_PER_CLASS = fewest
            rows = []
            for calibrating, judged in both:
                for seed in range(draws):
                    drawn = np.random.default_rng(seed).permutation(len(calibrating["true"]))[:size]
                    own = {name: values[drawn] for name, values in calibrating.items()}
                    rows.append(judge(own, judged, ("distance",), True))
            found = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in KEPT}
            for number, flag in enumerate(FLAGS):
                classes = [row["by_class"][str(number)] for row in rows if str(number) in row["by_class"]]
                found[flag] = {
                    "coverage": round(float(np.mean([one["coverage"] for one in classes])), 4),
                    "mean_width": round(float(np.mean([one["mean_width"] for one in classes])), 4),
                }
            table[f"{size} molecules, at least {fewest} per class"] = found
    return table


def summary(rows: list[dict[str, Any]], inner: list[float]) -> dict[str, Any]:
    """Mean over splits of one candidate's figures, some of them by split, and the calibration curve."""
    table: dict[str, Any] = {
        key: None if any(row[key] is None for row in rows) else round(float(np.mean([row[key] for row in rows])), 4)
        for key in ("coverage", "mean_width", "interval_score", "spearman")
    }
    table["interval_score_within"] = round(float(np.mean(inner)), 4)
    table["interval_score_within_by_split"] = [round(one, 4) for one in inner]
    for key in ("coverage", "interval_score"):
        table[f"{key}_by_split"] = [round(row[key], 4) for row in rows]
    classes = sorted({value for row in rows for value in row["by_class"]})
    if classes:
        table["by_class"] = {FLAGS[int(value)]: pooled(rows, value) for value in classes}
    table["curve"] = [
        [level, round(float(np.mean([dict(row["curve"])[level] for row in rows])), 4)]
        for level, _ in rows[0]["curve"][1::2]
    ]
    return table


def pooled(rows: list[dict[str, Any]], value: str) -> dict[str, Any]:
    """A class over all splits, its molecules counted together."""
    own = [row["by_class"][value] for row in rows if value in row["by_class"]]
    weight = np.array([row["molecules"] for row in own])
    return {
        "molecules": int(weight.sum()),
        "coverage": round(float(np.average([row["coverage"] for row in own], weights=weight)), 4),
        "mean_width": round(float(np.average([row["mean_width"] for row in own], weights=weight)), 4),
        "rmse": round(float(np.sqrt(np.average([row["rmse"] ** 2 for row in own], weights=weight))), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stratified", type=int, default=5, help="stratified splits")
    parser.add_argument("--scaffold", type=int, default=3, help="scaffold splits")
    parser.add_argument("--draws", type=int, default=12, help="of few molecules, per split")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of computed features")
    arguments = parser.parse_args()
    usual = conformal.FEWEST_PER_CLASS
    machine = describe_machine("rdkit", "scikit-learn", "numpy", "torch", "moltune")
    molecules, features = frozen_features("lipophilicity", arguments.cache)
    predicting = Predicting(molecules.smiles, features, molecules.target)
    groups = connectivity(molecules.table["inchikey"]).to_numpy()
    result: dict[str, Any] = {"machine": machine, "molecules": len(molecules), "level": LEVEL, "unit": "logD"}
    for method, count in (("stratified", arguments.stratified), ("scaffold", arguments.scaffold)):
        columns, facts = [], []
        for seed in range(count):
            split = make_split(molecules, SplitSettings.model_validate({"method": method}), seed)
            learn = np.sort(np.r_[split.train, split.validation])
            path = arguments.cache / f"calibration-{method}-{seed}.npz"
            both = kept(path, predicting, groups, learn, split.test, seed)
            columns.append(both)
            facts.append(
                {
                    side: {
                        "rmse": round(float(rmse(one["true"], one["predicted"])), 4),
                        **{flag: int((one["class"] == i).sum()) for i, flag in enumerate(FLAGS)},
                    }
                    for side, one in zip(("out of fold", "test"), both, strict=True)
                }
            )
            print(method, seed, facts[-1], flush=True)
        table = {}
        for name, inputs, mondrian in candidates():
            rows = [judge(*both, inputs, mondrian) for both in columns]
            table[name] = summary(rows, [within(both[0], inputs, mondrian) for both in columns])
            shown = {key: value for key, value in table[name].items() if isinstance(value, float)}
            print(f"{method:10s} {name:50s}", shown, flush=True)
        result[method] = {"splits": facts, "candidates": table, "few": few(columns, arguments.draws)}
        conformal.FEWEST_PER_CLASS = usual
    print(write_result("calibration", result))


if __name__ == "__main__":
    main()
