"""Record the pKa values of pkasso's own code for the tests, in double precision.

    pip install --no-deps torch_geometric && python recipes/ionisation/record.py runs/wheels/pkasso

Writes ``tests/features/molgpka_values.json``: for each molecule its sites as [kind, atom, pKa with the package's
weights, pKa with the weights that moltune ships, in half precision]. The package's lists of acids and bases are taken
as they are, less atoms with a charge.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "NCC(=O)O",
    "C[C@H](N)C(=O)O",
    "CN(C)CCc1c[nH]cn1",
    "NC(=N)NCCCC(N)C(=O)O",
    "C1CNCCN1",
    "CCO",
    "CO",
    "c1ccccc1O",
    "Oc1ccc(cc1)[N+](=O)[O-]",
    "CC(=O)NS(=O)(=O)c1ccc(N)cc1",
    "OP(=O)(O)CCN",
    "OP(=O)(O)OCC1OC(n2cnc3c(N)ncnc32)C(O)C1O",
    "CS",
    "Sc1ccccc1",
    "CC(=O)S",
    "CC(=O)CC(C)=O",
    "O=C1CCC(=O)N1",
    "O=C1NC(=O)c2ccccc12",
    "c1ccc2[nH]ccc2c1",
    "c1nnn[nH]1",
    "Cn1ccnc1",
    "C1CC1N",
    "C1CC(C#N)C1",
    "CON=C(C)C",
    "ON=C1CCCCC1",
    "NNC(=O)c1ccncc1",
    "C[N+](C)(C)CC(=O)O",
    "C[n+]1ccc(N)cc1",
    "[O-][n+]1ccccc1C(=O)O",
    "CN=[N+]=[N-]",
    "FS(F)(F)(F)(F)c1ccc(O)cc1",
    "OB(O)c1cc[se]c1",
    "C[Si](C)(C)CCN",
    "Ic1ccc(Br)c(Cl)c1N",
    "CC12CCC(CC1)N(C)C2",
    "C1CCCCCCN1",
    "N#CCC#N",
    "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "CN1CCN(CC1)c1nc2cc(Cl)ccc2nc1NC(=O)C(F)(F)F",
    "COc1cc(ccc1O)C=CC(=O)CC(=O)C=Cc1ccc(O)c(OC)c1",
    "OS(=O)(=O)c1ccc(cc1)N=Nc1ccc(cc1)N(C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)NO",
    "Cc1cc(=O)[nH]c(=S)[nH]1",
    "[2H]OC(=O)C([2H])N",
    "C",
    "CCOCC",
    "O=C(O)CC(O)(CC(=O)O)C(=O)O",
    "c1ccc(cc1)C1=NCC(=O)Nc2ccccc12",
    "NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl",
]


def main() -> None:
    """Run the package's code on every molecule and write what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the folder that holds the unpacked wheel of pkasso 0.6.2")
    folder: Path = parser.parse_args().package
    sys.path.insert(0, str(folder))
    from pkasso.external.molgpka.descriptor import MolVectorizer
    from pkasso.external.molgpka.ionization_group import get_ionization_aid
    from pkasso.external.molgpka.pka import load_model

    data = folder / "pkasso" / "data"
    networks: dict[str, list[Any]] = {}
    for kind in ("acid", "base"):
        original, shipped = (load_model(data / f"weight_{kind}.pth") for _ in range(2))
        weights = load_file(ROOT / "src/moltune/features/ionisation/weights" / f"{kind}.safetensors")
        shipped.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
        networks[kind] = [original.double().eval(), shipped.double().eval()]
    recorded: dict[str, list[list[Any]]] = {}
    for smiles in MOLECULES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        vectorizer = MolVectorizer(mol)
        sites: dict[tuple[str, int], list[float]] = {}
        for kind in ("acid", "base"):
            for node in get_ionization_aid(mol, kind, data / "smarts_pattern_molgpka.tsv"):
                atom = mol.GetAtomWithIdx(node)
                atom = atom.GetNeighbors()[0] if kind == "acid" else atom
                if atom.GetFormalCharge():
                    continue
                graph = vectorizer.mol2vec(node)
                graph.x = graph.x.double()
                with torch.no_grad():
                    sites[kind, atom.GetIdx()] = [round(float(one(graph)), 7) for one in networks[kind]]
        recorded[smiles] = [[*site, *values] for site, values in sorted(sites.items())]
    lines = [f"{json.dumps(smiles)}: {json.dumps(sites)}" for smiles, sites in recorded.items()]
    target = ROOT / "tests" / "features" / "molgpka_values.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
