"""The applicability domain of a model of lipophilicity: what it flags, its false alarms, and errors by flag.

    python -m venv runs/skfp-venv && runs/skfp-venv/bin/pip install scikit-fingerprints
    python benchmarks/domain.py [--skfp runs/skfp-venv/bin/python] [--splits 5] [--cache runs/features]

Fitted on training and validation part of a split together. False alarms are the flagged share of the test part of a
stratified split; the foreign molecules are those of ``foreign_molecules.py``, 200 of each kind. Thresholds come from
distances within the training molecules. Candidates are rules of one distance, the domain without and with embeddings,
and, on the first split, the methods of scikit-fingerprints. Errors by flag are those of a support vector machine on the
frozen embedding of the bundled checkpoint, over stratified, scaffold and cluster splits.
Writes ``benchmarks/results/domain.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from foreign_molecules import FOREIGN
from frozen_features import CACHE, frozen_features
from machine import describe_machine, write_result
from rdkit import Chem

from moltune.config import ModelSettings, SplitSettings
from moltune.data.splitting.split import make_split
from moltune.domain.applicability import FLAGS, LEVELS, Domain, DomainReport
from moltune.domain.nearest import mean_distance, nearest_by_tanimoto, packed_fingerprints
from moltune.evaluation.metrics import spearman
from moltune.features.descriptors import rdkit_descriptors
from moltune.features.embedding import Encoder
from moltune.predictors.probe_heads import Scaler, SvrHead

COUNT = 200
OWN = "own test part"
Sets = dict[str, tuple[list[str], dict[str, np.ndarray]]]
"""Set -> its SMILES, and their features."""


def foreign_features(cache: Path) -> Sets:
    """Foreign molecules with their embeddings and descriptors, kept in a file."""
    sets = {name: draw(COUNT, np.random.default_rng(0)) for name, draw in FOREIGN.items()}
    path = cache / "foreign.npz"
    if not path.is_file():
        encoder = Encoder(ModelSettings(too_long="truncate"))
        arrays = {f"{name}/embedding": encoder(smiles) for name, smiles in sets.items()}
        arrays |= {
            f"{name}/rdkit-fast": rdkit_descriptors(smiles, fast=True).to_numpy(np.float32)
            for name, smiles in sets.items()
        }
        np.savez(path, **arrays)
    with np.load(path) as stored:
        return {
            name: (smiles, {one: stored[f"{name}/{one}"] for one in ("embedding", "rdkit-fast")})
            for name, smiles in sets.items()
        }


def one_distance(
    far: Callable[[Any, Any, bool], np.ndarray], train: Any, sets: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Flagged share of each set beyond the 95 % and 99 % quantiles of the training molecules' distances."""
    cutoffs = np.quantile(far(train, train, True), [1 - share for share in LEVELS])
    return {
        name: dict(zip(("flagged", "out"), (far(one, train, False)[:, None] > cutoffs).mean(axis=0), strict=True))
        for name, one in sets.items()
    }


def shares(report: DomainReport) -> dict[str, float]:
    """Flagged (near or out), and out alone."""
    return {"flagged": float((report.flag > 0).mean()), "out": float((report.flag == 2).mean())}


def candidates(domains: dict[str, Domain], train: tuple[list[str], np.ndarray], sets: Sets) -> dict[str, Any]:
    """Flagged shares of each set by each rule."""
    fingerprints = {name: packed(smiles) for name, (smiles, _) in sets.items()}
    scaler = Scaler().fit(train[1])
    scaled = {name: scaler.transform(values["embedding"]) for name, (_, values) in sets.items()}
    known, points = packed(train[0]), scaler.transform(train[1])

    def tanimoto(k: int) -> Callable[[Any, Any, bool], np.ndarray]:
        return lambda one, other, own: 1 - nearest_by_tanimoto(one, other, k, leave_out_self=own)[1].mean(axis=1)

    def euclidean(k: int) -> Callable[[Any, Any, bool], np.ndarray]:
        return lambda one, other, own: mean_distance(one, other, k, leave_out_self=own)

    found: dict[str, Any] = {
        f"Tanimoto distance, {k} nearest": one_distance(tanimoto(k), known, fingerprints) for k in (1, 3, 5)
    }
    found |= {f"embedding distance, {k} nearest": one_distance(euclidean(k), points, scaled) for k in (1, 5)}
    for name, domain in domains.items():
        found[name] = {one: shares(domain.check(smiles, values["embedding"])) for one, (smiles, values) in sets.items()}
    return found


def packed(smiles: list[str]) -> np.ndarray:
    """Fingerprints of SMILES."""
    return packed_fingerprints([Chem.MolFromSmiles(one) for one in smiles])


def by_skfp(python: Path, train: dict[str, np.ndarray], sets: Sets) -> dict[str, Any]:
    """The methods of scikit-fingerprints, run in their environment."""
    arrays = {}
    for feature, values in train.items():
        scaler = Scaler(np.float64).fit(values)
        center = {key: scaler.arrays[key] for key in ("median", "mean", "std")}
        for name, block in [("train", values), *((name, found[feature]) for name, (_, found) in sets.items())]:
            # Not clipped, as the scaler of a model would: what is far should stay far.
            filled = np.where(np.isfinite(block), block, center["median"])
            arrays[f"{feature}/{name}"] = (filled - center["mean"]) / center["std"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        script = Path(__file__).parent / "skfp_arm.py"
        done = subprocess.run([str(python), str(script), str(path)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def errors_by_flag(molecules: Any, embedding: np.ndarray, method: str, seeds: int) -> dict[str, Any]:
    """Errors of the frozen embedding with a support vector machine by flag, all test molecules of the splits."""
    errors, flags, correlations, target = [], [], [], molecules.target
    smiles = np.array(molecules.smiles, dtype=object)
    for seed in range(seeds):
        split = make_split(molecules, SplitSettings.model_validate({"method": method}), seed)
        learn = np.sort(np.r_[split.train, split.validation])
        scaler = Scaler().fit(embedding[learn])
        mean, std = target[learn].mean(), target[learn].std()
        head = SvrHead().fit(scaler.transform(embedding[learn]), (target[learn] - mean) / std)
        predicted = head.predict(scaler.transform(embedding[split.test])) * std + mean
        report = Domain.fit(smiles[learn].tolist()).check(smiles[split.test].tolist())
        errors.append(np.abs(predicted - target[split.test]))
        flags.append(report.flag)
        correlations.append(float(spearman(report.distance, errors[-1])))
    error, flag = np.concatenate(errors), np.concatenate(flags)
    table: dict[str, Any] = {"splits": seeds, "spearman_of_distance_and_error": round(float(np.mean(correlations)), 3)}
    for value, name in enumerate(FLAGS):
        own = error[flag == value]
        table[name] = {
            "molecules": len(own),
            "share": round(len(own) / len(error), 4),
            "rmse": round(float(np.sqrt((own**2).mean())), 3) if len(own) else None,
            "mean_absolute_error": round(float(own.mean()), 3) if len(own) else None,
        }
    return table


def speed(domain: Domain, smiles: list[str]) -> dict[str, float]:
    """Milliseconds of processor time per molecule on one core."""
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    found: dict[str, float] = {"training molecules": len(domain.smiles), "molecules": len(smiles)}
    for name, given in (("from SMILES", smiles), ("from molecules that were read already", mols)):
        started = time.process_time()
        domain.check(given)
        found[f"milliseconds per molecule, {name}"] = round((time.process_time() - started) / len(smiles) * 1e3, 3)
    return found


def averaged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits, and the own test part's flagged share in each."""
    table: dict[str, Any] = {}
    for rule in found[0]:
        table[rule] = {
            name: {key: round(float(np.mean([one[rule][name][key] for one in found])), 4) for key in ("flagged", "out")}
            for name in found[0][rule]
        }
        table[rule]["false alarms by split"] = [round(float(one[rule][OWN]["flagged"]), 4) for one in found]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skfp", type=Path, help="Python of an environment with scikit-fingerprints")
    parser.add_argument("--splits", type=int, default=5, help="stratified splits")
    parser.add_argument("--other-splits", type=int, default=3, help="scaffold splits, and as many cluster splits")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of computed features")
    arguments = parser.parse_args()
    machine = describe_machine("rdkit", "scikit-learn", "numpy", "torch", "moltune")
    molecules, features = frozen_features("lipophilicity", arguments.cache)
    foreign, smiles = foreign_features(arguments.cache), np.array(molecules.smiles, dtype=object)
    found, result = [], {"machine": machine, "molecules": {OWN: len(molecules), "each foreign kind": COUNT}}
    for seed in range(arguments.splits):
        split = make_split(molecules, SplitSettings(), seed)
        learn = np.sort(np.r_[split.train, split.validation])
        own = {name: values[split.test] for name, values in features.items()}
        sets: Sets = {OWN: (smiles[split.test].tolist(), own), **foreign}
        train = smiles[learn].tolist(), features["embedding"][learn]
        domains = {"domain": Domain.fit(train[0]), "domain with embeddings": Domain.fit(*train)}
        found.append(candidates(domains, train, sets))
        print(seed, found[-1]["domain"], flush=True)
        if seed:
            continue
        reports = {name: domains["domain"].check(one) for name, (one, _) in sets.items()}
        result["reasons on the first split"] = {
            name: dict(Counter(kind(words) for one in report.reasons for words in one).most_common(8))
            for name, report in reports.items()
        }
        result["speed"] = speed(domains["domain"], train[0])
        result["bytes"] = {
            name: sum(array.nbytes for array in domain.to_arrays().values()) for name, domain in domains.items()
        }
        if arguments.skfp is not None:
            known = {name: features[name][learn] for name in ("embedding", "rdkit-fast")}
            result["scikit-fingerprints on the first split, flagged"] = by_skfp(arguments.skfp, known, sets)
    result["candidates"] = averaged(found)
    result["errors by flag"] = {}
    for method, count in (
        ("stratified", arguments.splits),
        ("scaffold", arguments.other_splits),
        ("cluster", arguments.other_splits),
    ):
        result["errors by flag"][method] = errors_by_flag(molecules, features["embedding"], method, count)
        print(method, result["errors by flag"][method], flush=True)
    for name, row in result["candidates"].items():
        print(f"{name:32s}", {one: value for one, value in row.items() if one != "false alarms by split"}, flush=True)
    print(write_result("domain", result))


def kind(words: str) -> str:
    """A reason without its numbers."""
    return words.partition(" (")[0].partition(", seen in")[0].partition(", never seen")[0]


if __name__ == "__main__":
    main()
