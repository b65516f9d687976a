"""MolGpKa's networks, as moltune runs them, on measured pKa values, and how fast they are.

    python benchmarks/pka_measured.py [--data ../shared/data/pka_measured.csv] [--molecules 2000]

The table is that of Baltruschat and Czodrowski 2020 (F1000Research 9:113, doi:10.12688/f1000research.22090.2;
CC BY 4.0): columns smiles, pka, type (acid or base) and source (literature or novartis). Each pKa is compared with the
strongest site of its type; molecules in which no such site is found are counted apart. The same without making the
molecules neutral shows what that step is worth. Rates are molecules per second of processor time on one thread, for
random molecules of Lipophilicity, with the correlation of the measured logD with Crippen's logP before and after the
correction for ionisation.
Writes ``benchmarks/results/pka_measured.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import describe_machine, write_result
from rdkit import Chem, RDLogger
from rdkit.Chem import Crippen
from threadpoolctl import threadpool_limits

from moltune import datasets
from moltune.features.ionisation import IONISATION_NAMES, Site, ionisation_block, predict_pka
from moltune.features.ionisation.molecules import prepare, prepare_mol
from moltune.features.ionisation.sites import _remembered, predict_sites


def as_drawn(smiles: Sequence[str]) -> list[list[Site] | None]:
    """Sites of the molecules with the charges that they are drawn with."""
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    return predict_sites([prepare_mol(mol, tuple(range(mol.GetNumAtoms()))) for mol in mols])


def errors(table: pd.DataFrame, found: list[list[Site] | None]) -> dict[str, Any]:
    """Absolute errors of the strongest site of the stated type, by source and type."""
    best = []
    for kind, sites in zip(table["type"], found, strict=True):
        values = [site.pka for site in sites or () if site.kind == kind]
        best.append((min if kind == "acid" else max)(values, default=np.nan))
    error = pd.Series(np.array(best) - table["pka"].to_numpy(), index=table.index)
    parts = {"all": table.index}
    parts |= {str(name): part.index for name, part in table.groupby("source")}
    parts |= {f"{source}, {kind}": part.index for (source, kind), part in table.groupby(["source", "type"])}
    return {
        name: {
            "molecules": len(rows),
            "without site": int(error[rows].isna().sum()),
            "mean absolute error": round(float(error[rows].abs().mean()), 3),
            "median absolute error": round(float(error[rows].abs().median()), 3),
            "mean error": round(float(error[rows].mean()), 3),
        }
        for name, rows in parts.items()
    }


def rate(function: Callable[[list[str]], Any], smiles: list[str]) -> float:
    """Molecules per second of processor time, none of which is remembered."""
    function(smiles[:5])
    _remembered.clear()
    started = time.process_time()
    function(smiles)
    return round(len(smiles) / (time.process_time() - started), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "pka_measured.csv")
    parser.add_argument("--molecules", type=int, default=2000, help="molecules of Lipophilicity for the rates")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    threadpool_limits(1)
    machine = describe_machine("rdkit", "numpy", "scipy", "moltune")
    table = pd.read_csv(arguments.data)
    lipophilicity = datasets.load("lipophilicity")
    drawn = lipophilicity["smiles"].sample(min(arguments.molecules, len(lipophilicity)), random_state=0).tolist()
    block = ionisation_block(lipophilicity["smiles"].tolist())
    measured = lipophilicity["logD"].to_numpy()
    parents = [prepare(smiles) for smiles in lipophilicity["smiles"]]
    logp = np.array([Crippen.MolLogP(one.mol) for one in parents if one is not None])
    correction = block[:, IONISATION_NAMES.index("correction")]
    columns = {
        "Crippen logP": logp,
        "logP less the correction": logp - correction,
        "logP less the correction, at most 3.5 (column logd)": block[:, IONISATION_NAMES.index("logd")],
    }
    result = {
        "machine": machine,
        "data": "Baltruschat and Czodrowski 2020, doi:10.12688/f1000research.22090.2",
        "neutral": errors(table, predict_pka(table["smiles"].tolist())),
        "as drawn": errors(table, as_drawn(table["smiles"].tolist())),
        "molecules per second": {
            "molecules": len(drawn),
            "preparation": rate(lambda smiles: [prepare(one) for one in smiles], drawn),
            "predict_pka": rate(predict_pka, drawn),
            "ionisation_block": rate(ionisation_block, drawn),
        },
        "correlation with logD": {
            name: round(float(np.corrcoef(values, measured)[0, 1]), 3) for name, values in columns.items()
        },
    }
    path = write_result("pka_measured", result)
    for form in ("neutral", "as drawn"):
        for name, numbers in result[form].items():
            print(f"{form:9s} {name:18s}", *(f"{key}: {value}" for key, value in numbers.items()), sep="  ")
    print(result["molecules per second"], result["correlation with logD"], path, sep="\n")


if __name__ == "__main__":
    main()
