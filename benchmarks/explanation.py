"""Are the contributions of atoms faithful to the predictor? Deletion test on molecules that it was not trained on.

    moltune finetune lipophilicity --method probe -o runs/explained
    python benchmarks/explanation.py runs/explained [--molecules 200] [--random 3]

Molecules are drawn from the run's test part. Methods, the first three with the same predictions of edited molecules:

fitted       what ``moltune explain`` shows: a model of atoms and groups, fitted to edits
occlusion    mean change over the edits that touch an atom, shared among the atoms that an edit touches
replacement  mean change over the edits that replace this one atom
Shapley      BRICS fragments taken off the outside one by one in random orders (Shapley value of a convex geometry),
             shared among the atoms of a fragment
Crippen      contributions to logP, which know nothing of the predictor: a control

The tests perturb molecules in ways that no method does. ``swap`` replaces atoms by elements that no edit brings in (Br,
S, As, Si by their number of bonds; the next row where it is that element already). ``strike`` takes atoms out and
leaves the pieces side by side, broken rings and all; only where it takes nothing but whole branches is it an edit, too.
Atoms are perturbed in the order of |contribution|: the area under |change of the prediction| over the share of atoms
perturbed (5 to 30 %; beyond that little is left of a molecule), minus that of random orders. Signed: atoms that raise
the prediction most are perturbed first, and then those that lower it most; half the difference of the areas under the
change, which is 0 for random orders. Intervals are 95 % bootstrap intervals over molecules, also of the differences
from the fitted model. The method, its settings and these shares were chosen on the validation part.

``known truth`` explains Crippen's logP itself, a sum over atoms: correlation with its contributions, of atoms and of
atoms with their neighbours (whether a carbonyl's effect belongs to its carbon or its oxygen is not in the sum).
``stability`` repeats explanations with another seed.
Writes ``benchmarks/results/explanation.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, write_result
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS, Crippen, rdMolDescriptors

from moltune.explanation.contributions import EDITS, Predict, fit_contributions
from moltune.explanation.edits import Variant, variants
from moltune.predictors.predictor import Predictor
from moltune.run import Run

SHARES = (0.05, 0.1, 0.2, 0.3)
ORDERS = 40
METHODS = ("fitted", "occlusion", "replacement", "Shapley", "Crippen")


class Remembering:
    """A predictor that answers each question once; NaN where a molecule cannot be predicted."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.known = predictor, dict[str, float]()

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Predictions, shape (n,)."""
        new = [one for one in dict.fromkeys(smiles) if one not in self.known]
        issues = self.predictor.model.issues(new) if new else {}
        good = [one for at, one in enumerate(new) if at not in issues or issues[at].kind == "unknown"]
        values = self.predictor.model.predict(good).tolist() if good else []
        self.known |= dict.fromkeys(new, float("nan")) | dict(zip(good, values, strict=True))
        return np.array([self.known[one] for one in smiles])


def occlusion(mol: Chem.Mol, edited: Sequence[Variant], changes: np.ndarray, alone: bool = False) -> np.ndarray:
    """Mean change per atom over the edits that touch it; ``alone``: only those that replace it and nothing else."""
    total, weight = np.zeros(mol.GetNumAtoms()), np.zeros(mol.GetNumAtoms())
    for one, change in zip(edited, changes.tolist(), strict=True):
        if alone and (len(one.gone) > 1 or not one.new):
            continue
        size = len(one.gone)
        total[list(one.gone)] += change / size**2
        weight[list(one.gone)] += 1 / size
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def shapley(predict: Predict, mol: Chem.Mol, rng: np.random.Generator, reference: float) -> np.ndarray:
    """Shapley values of fragments over random orders of peeling, shared equally among the atoms of each."""
    bonds = [mol.GetBondBetweenAtoms(*ends).GetIdx() for ends, _ in BRICS.FindBRICSBonds(mol)]
    cut = Chem.FragmentOnBonds(mol, bonds, addDummies=False) if bonds else mol
    pieces = [set(piece) for piece in Chem.GetMolFrags(cut)]
    beside = [
        {
            other
            for other, piece in enumerate(pieces)
            if other != at and any(mol.GetBondBetweenAtoms(a, b) for a in own for b in piece)
        }
        for at, own in enumerate(pieces)
    ]
    chains = []
    for _ in range(ORDERS):
        left, chain = set(range(len(pieces))), [frozenset(range(len(pieces)))]
        while len(left) > 1:
            left.remove(int(rng.choice([one for one in sorted(left) if len(beside[one] & left) <= 1] or sorted(left))))
            chain.append(frozenset(left))
        chains.append(chain)
    kept = sorted({one for chain in chains for one in chain}, key=sorted)
    texts = {one: strike(mol, set(range(mol.GetNumAtoms())) - set().union(*(pieces[p] for p in one))) for one in kept}
    values = dict(zip(kept, predict([texts[one] for one in kept]).tolist(), strict=True))
    found = np.zeros(mol.GetNumAtoms())
    for chain in chains:
        for before, after in [*pairwise(chain), (chain[-1], frozenset())]:
            ((piece),) = before - after
            change = values[before] - (values[after] if after else reference)
            found[list(pieces[piece])] += np.nan_to_num(change) / len(pieces[piece]) / ORDERS
    return found


def crippen(mol: Chem.Mol) -> np.ndarray:
    """Contributions to Crippen's logP, hydrogens with their atom."""
    whole = Chem.AddHs(mol)
    values = np.array(rdMolDescriptors._CalcCrippenContribs(whole))[:, 0]
    found = values[: mol.GetNumAtoms()].copy()
    for atom in list(whole.GetAtoms())[mol.GetNumAtoms() :]:
        found[atom.GetNeighbors()[0].GetIdx()] += values[atom.GetIdx()]
    return found


def _free(mol: Chem.Mol) -> Chem.RWMol:
    free = Chem.RWMol(mol)
    Chem.Kekulize(free, clearAromaticFlags=True)
    for atom in free.GetAtoms():
        atom.SetNumExplicitHs(0)
        atom.SetNoImplicit(False)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return free


def _text(mol: Chem.RWMol) -> str:
    with rdBase.BlockLogs():
        if not mol.GetNumAtoms() or Chem.SanitizeMol(mol, catchErrors=True):
            return ""
        again = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
        return "" if again is None else Chem.MolToSmiles(again)


def strike(mol: Chem.Mol, atoms: set[int]) -> str:
    """Take atoms out; what is left keeps its bonds and gets hydrogens. "" where that is no molecule."""
    free = _free(mol)
    free.BeginBatchEdit()
    for atom in atoms:
        free.RemoveAtom(atom)
    free.CommitBatchEdit()
    return _text(free)


def swap(mol: Chem.Mol, atoms: set[int]) -> str:
    """Replace atoms by elements of later rows, by their number of bonds. "" where that is no molecule."""
    free = _free(mol)
    for at in atoms:
        atom = free.GetAtomWithIdx(at)
        bonds = int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))
        first, second = {1: (35, 17), 2: (16, 34), 3: (33, 15), 4: (14, 32)}.get(bonds, (34, 52))
        atom.SetFormalCharge(0)
        atom.SetAtomicNum(second if atom.GetAtomicNum() == first else first)
    return _text(free)


PERTURBATIONS: dict[str, Callable[[Chem.Mol, set[int]], str]] = {"swap": swap, "strike": strike}


def areas(predict: Predict, mol: Chem.Mol, order: np.ndarray, perturb: Callable[..., str]) -> tuple[float, float]:
    """Mean |change| and mean change of the prediction (before minus after) over the shares of atoms perturbed."""
    counts = [max(1, round(share * mol.GetNumAtoms())) for share in SHARES]
    texts = [perturb(mol, set(order[:count].tolist())) for count in counts]
    before = predict([Chem.MolToSmiles(mol)])[0]
    values = before - predict([text for text in texts if text])
    values = values[np.isfinite(values)]
    return (float(np.abs(values).mean()), float(values.mean())) if len(values) else (np.nan, np.nan)


def interval(values: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """Mean over molecules with its 95 % bootstrap interval."""
    known = np.array(values)[np.isfinite(values)]
    means = known[rng.integers(0, len(known), (5000, len(known)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"mean": float(known.mean()), "low": low, "high": high, "molecules": len(known)}


def answers(predict: Predict, mol: Chem.Mol, seed: int) -> tuple[list[Variant], np.ndarray]:
    """Edits of a molecule, and by how much the prediction of the molecule is above that of each."""
    edited = variants(mol, EDITS, seed)
    value, *others = predict([Chem.MolToSmiles(mol), *(one.smiles for one in edited)]).tolist()
    known = [at for at, other in enumerate(others) if np.isfinite(other)]
    return [edited[at] for at in known], value - np.array([others[at] for at in known])


def recovery(mol: Chem.Mol, edited: Sequence[Variant]) -> dict[str, tuple[float, float]]:
    """Correlation with Crippen's contributions where his logP is the predictor: atoms, and atoms with neighbours."""
    true = crippen(mol)
    values = np.array([Crippen.MolLogP(Chem.MolFromSmiles(one.smiles)) for one in edited])
    changes = Crippen.MolLogP(mol) - values
    around = Chem.GetAdjacencyMatrix(mol) + np.eye(mol.GetNumAtoms())
    found = {
        "fitted": fit_contributions(mol, edited, changes).values,
        "occlusion": occlusion(mol, edited, changes),
        "replacement": occlusion(mol, edited, changes, alone=True),
    }
    return {
        name: (float(np.corrcoef(one, true)[0, 1]), float(np.corrcoef(around @ one, around @ true)[0, 1]))
        for name, one in found.items()
    }


def summary(rows: list[dict[str, Any]], random: int) -> dict[str, Any]:
    """Means with intervals over molecules."""
    rng = np.random.default_rng(0)
    deletion: dict[str, Any] = {}
    for test in PERTURBATIONS:
        for measure in ("by size", "signed"):
            columns = {name: [row["deletion"][test][measure][name] for row in rows] for name in METHODS}
            listed = {name: interval(values, rng) for name, values in columns.items()}
            for name in METHODS[1:]:
                pairs = np.array(columns["fitted"]) - np.array(columns[name])
                listed[name]["fitted minus this"] = interval(pairs.tolist(), rng)
            deletion[f"{test}, {measure}"] = listed
    names = list(rows[0]["known truth"])
    truth = {
        name: {
            "atoms": float(np.nanmedian([row["known truth"][name][0] for row in rows])),
            "atoms with neighbours": float(np.nanmedian([row["known truth"][name][1] for row in rows])),
        }
        for name in names
    }
    again = [row["stability"] for row in rows if "stability" in row]
    return {
        "molecules": len(rows),
        "random orders": random,
        "edits at most": EDITS,
        "shares": SHARES,
        "deletion": deletion,
        "random order, mean |change|": {
            test: float(np.nanmean([row["deletion"][test]["random"] for row in rows])) for test in PERTURBATIONS
        },
        "known truth, median correlation": truth,
        "fidelity, quartiles": np.quantile([row["fidelity"] for row in rows], [0.25, 0.5, 0.75]).tolist(),
        "sum of contributions minus prediction": {
            "mean": float(np.mean([row["rest"] for row in rows])),
            "standard deviation": float(np.std([row["rest"] for row in rows])),
        },
        "root mean square of contributions": float(np.sqrt(np.mean([row["square"] for row in rows]))),
        "mean standard error": float(np.mean([row["error"] for row in rows])),
        "stability": {
            "molecules": len(again),
            "median correlation of two seeds": float(np.median([one[0] for one in again])),
            "standard deviation between seeds": float(np.sqrt(np.mean([one[1] for one in again]) / 2)),
        }
        if again
        else None,
        "seconds of processor per explanation, median": float(np.median([row["seconds"] for row in rows])),
    }


def examine(predict: Remembering, mol: Chem.Mol, reference: float, random: int, again: bool) -> dict[str, Any]:
    """Everything that is measured on one molecule."""
    started = time.process_time()
    edited, changes = answers(predict, mol, 0)
    fitted = fit_contributions(mol, edited, changes)
    seconds = time.process_time() - started
    found = {
        "fitted": fitted.values,
        "occlusion": occlusion(mol, edited, changes),
        "replacement": occlusion(mol, edited, changes, alone=True),
        "Shapley": shapley(predict, mol, np.random.default_rng(0), reference),
        "Crippen": crippen(mol),
    }
    row: dict[str, Any] = {"seconds": seconds, "fidelity": fitted.fidelity, "error": float(fitted.errors.mean())}
    row["square"] = float((fitted.values**2).mean())
    row["rest"] = float(fitted.values.sum() - predict([Chem.MolToSmiles(mol)])[0])
    row["known truth"], row["deletion"] = recovery(mol, edited), {}
    for test, perturb in PERTURBATIONS.items():
        orders = [np.random.default_rng(seed).permutation(mol.GetNumAtoms()) for seed in range(random)]
        chance = float(np.nanmean([areas(predict, mol, order, perturb)[0] for order in orders]))
        sizes, signed = {}, {}
        for name, one in found.items():
            ranked = [np.argsort(values, kind="stable") for values in (-np.abs(one), -one, one)]
            size, up, down = (areas(predict, mol, order, perturb) for order in ranked)
            sizes[name], signed[name] = size[0] - chance, (up[1] - down[1]) / 2
        row["deletion"][test] = {"by size": sizes, "signed": signed, "random": chance}
    if again:
        other = fit_contributions(mol, *answers(predict, mol, 1)).values
        correlation = float(np.corrcoef(other, fitted.values)[0, 1])
        row["stability"] = (correlation, float(((other - fitted.values) ** 2).mean()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--molecules", type=int, default=200)
    parser.add_argument("--random", type=int, default=3, help="random orders per molecule")
    parser.add_argument("--stability", type=int, default=20, help="molecules that are explained twice")
    arguments = parser.parse_args()
    run, predict = Run.load(arguments.run), Remembering(Predictor.load(arguments.run))
    table = run.predictions
    test = table.loc[table["split"] == "test", "smiles"].tolist()
    reference = float(table.loc[table["split"] == "train", "predicted"].mean())
    rows: list[dict[str, Any]] = []
    for at in np.random.default_rng(0).permutation(len(test))[: arguments.molecules].tolist():
        mol = Chem.MolFromSmiles(test[at])
        rows.append(examine(predict, mol, reference, arguments.random, len(rows) < arguments.stability))
        predict.known.clear()
        if len(rows) % 10 == 0 or len(rows) == arguments.molecules:
            machine = describe_machine("rdkit", "torch", "scikit-learn", "numpy")
            settings = run.config.method.probe.model_dump(mode="json")
            result = {"machine": machine, "probe": settings, **summary(rows, arguments.random)}
            print(len(rows), "molecules", write_result("explanation", result), flush=True)


if __name__ == "__main__":
    main()
