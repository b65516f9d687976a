"""Train the ready-made models: two for each bundled property, on all of its molecules.

    python recipes/ready/make.py [--output FOLDER] [NAME ...]

The best model reads mini's embedding, RDKit's descriptors and ionisation, the fast one nano's embedding alone.
Errors and intervals come from five-fold cross-validation (see moltune/tuning/cross_validation.py). What a prediction
does not need is left out of the folder.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from moltune import datasets, finetune
from moltune.files import write_json
from moltune.ready.catalogue import CARD, FAST, Card
from moltune.run import INTERVALS, METRICS, PREDICTIONS, SPLITS, Run

BEST = ["embedding", "rdkit-fast", "ionisation"]
KEPT = {"config.yaml", "model", INTERVALS, METRICS, PREDICTIONS, SPLITS}


@dataclass(frozen=True)
class Property:
    """A property, the bundled set that it is learned from, and where not to trust it."""

    data: str
    words: str
    caveats: tuple[str, ...]


PROPERTIES = {
    "lipophilicity": Property(
        "lipophilicity",
        "logD, octanol/water, pH 7.4",
        (
            "Trained on drug-like molecules of one company (ChEMBL); small molecules, peptides, salts and metal "
            "compounds are flagged as out of the domain, and their values are extrapolations.",
            "The ionisation estimates behind the best model come from MolGpKa, which learned computed pKa values of "
            "ChEMBL molecules; some of them may be in this set. It never saw a logD.",
        ),
    ),
    "solubility": Property(
        "esol",
        "aqueous solubility, logS",
        ("Small organic molecules, of which many are pesticides and simple hydrocarbons: few are drug-like.",),
    ),
    "hydration": Property(
        "freesolv",
        "hydration free energy",
        ("Trained on 642 small neutral molecules: most drugs are out of its domain.",),
    ),
}


def make(name: str, folder: Path) -> None:
    """Train one model and write its folder."""
    own, fast = PROPERTIES[name.removesuffix(FAST)], name.endswith(FAST)
    features, checkpoint = (["embedding"], "moltune/nano") if fast else (BEST, "moltune/mini")
    config = {
        "data": {"source": own.data},
        "split": {"ratios": "100/0/0"},
        "model": {"name": checkpoint},
        "method": {"name": "probe", "probe": {"head": "gp", "features": features}},
        "evaluation": {"baselines": [], "figures": False},
        "output": folder / name,
    }
    run = finetune(config, overwrite=True)
    for path in run.path.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.write_table(PREDICTIONS, run.predictions[["true"]])
    card = asdict(describe(name, own, features, run))
    write_json(run.path / CARD, card)
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    print(f"{name}: {card['error']}, {size / 1e6:.2f} MB")


def describe(name: str, own: Property, features: list[str], run: Run) -> Card:
    """The card of a finished run."""
    about, crossed = datasets.info(own.data), run.metrics["cross_validation"]
    intervals = run.metrics["intervals"]["model"]
    return Card(
        name=name,
        predicts=own.words,
        target=about.target,
        unit=about.unit,
        features=features,
        data={"set": about.name, "licence": about.licence, "citation": about.citation, "source": about.source},
        molecules=crossed["n"],
        date=date.today().isoformat(),
        error={metric: round(crossed[metric]["value"], 4) for metric in ("rmse", "mae", "r2")},
        intervals={key: intervals[key] for key in ("level", "coverage", "mean_width", "spearman", "by_class")},
        caveats=list(own.caveats),
        made_with={key: run.provenance[key] for key in ("versions", "machine")} | {"checkpoint": run.config.model.name},
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name + which for name in PROPERTIES for which in ("", FAST)]
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--output", type=Path, default=Path("src/moltune/ready/models"))
    arguments = parser.parse_args()
    for name in arguments.names or known:
        make(name, arguments.output)


if __name__ == "__main__":
    main()
