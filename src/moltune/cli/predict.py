"""Predict: ``moltune predict``, ``moltune evaluate`` and ``moltune ionisation``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from moltune.cli.console import facts, molecule_progress, out, print_json
from moltune.cli.options import Base, Given, Json, Quiet, argument, flags, option, with_settings
from moltune.config import DataSettings, EvaluationSettings, TrainingSettings
from moltune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Run = Annotated[Path, argument("RUN", "Run folder, or its model folder.")]
Blend = Annotated[
    bool | None,
    option("--blend/--no-blend", help="Use the blend with classical models, too.", default="where the run has one"),
]


@with_settings({DataSettings: flags("smiles"), TrainingSettings: {"eval_batch_size": "--batch-size"}})
def predict(
    given: Given,
    run: Run,
    inputs: Annotated[
        list[str] | None, argument("INPUT", "A file, a bundled set, SMILES, or - for SMILES on standard input.")
    ] = None,
    output: Annotated[
        Path | None,
        option("--output", "-o", help="CSV, TSV, Parquet or JSON lines.", default="CSV on the screen"),
    ] = None,
    blend: Blend = None,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict new molecules. Every input row comes back; one that cannot be predicted has a note that says why.

    Example: moltune predict runs/mine molecules.csv -o predictions.csv
    """
    source = _file_or_set(inputs or ["-"])
    from moltune.data.reading.write import check_output, write_table
    from moltune.predictors.predictor import Predictor

    if output is not None:
        check_output(output, *([] if source is None else [source]))
    smiles = [] if source is not None else _listed(inputs or ["-"])
    batch_size = given.settings(TrainingSettings).eval_batch_size
    predictor = Predictor.load(run, base, blend=blend)
    with molecule_progress(quiet) as progress:
        if source is not None:
            column = given.options[DataSettings]["smiles"]
            table = predictor.predict_source(source, smiles=column, batch_size=batch_size, progress=progress)
        else:
            table = predictor.predict(smiles, batch_size=batch_size, progress=progress)
    if output is not None:
        write_table(table, output)
    if as_json:
        print_json(table.astype(object).where(table.notna(), None).to_dict(orient="records"))
    elif output is None:
        sys.stdout.write(table.to_csv(index=False))
    _say(table, output)


def _file_or_set(inputs: list[str]) -> str | None:
    """The one input that is a table, if it is."""
    from moltune import datasets
    from moltune.data.reading.read import FORMATS

    if len(inputs) != 1 or inputs[0] == "-":
        return None
    (only,) = inputs
    if only in datasets.names() or Path(only).exists():
        return only
    if Path(only).suffix.lower() in {*FORMATS, ".gz", ".txt", ".zip"}:
        raise DataError(f"there is no file {only}")
    return None


def _listed(inputs: list[str]) -> list[str]:
    if inputs != ["-"]:
        return inputs
    if sys.stdin.isatty():
        raise DataError("give a file or SMILES, or pipe SMILES into standard input")
    from moltune.data.reading.headers import STRUCTURE_HEADERS

    listed = [line.split()[0] for line in sys.stdin if line.strip()]
    if listed and listed[0].lower() in STRUCTURE_HEADERS:
        del listed[0]
    if not listed:
        raise DataError("standard input holds no SMILES")
    return listed


def _say(table: pd.DataFrame, output: Path | None) -> None:
    failed = int(table["predicted"].isna().sum())
    place = f", written to {output}" if output is not None else ""
    logger.info("%d of %d molecules predicted%s", len(table) - failed, len(table), place)
    if failed:
        first = table[table["predicted"].isna()].iloc[0]
        logger.warning("%d not predicted, such as row %d (%s): %s", failed, first["row"], first["input"], first["note"])
    if failed == len(table):
        raise DataError("not one molecule could be predicted; the notes say why")


@with_settings({DataSettings: flags("target", "smiles"), EvaluationSettings: flags("bootstrap")})
def evaluate(
    given: Given,
    run: Run,
    data: Annotated[str, argument("DATA", "Labelled molecules: a file, bundled set or hub id.")],
    blend: Blend = None,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a tuned model's predictions with the measurements of other molecules.

    Example: moltune evaluate runs/mine measured_later.csv
    """
    from dataclasses import replace

    from moltune.data.load import in_unit
    from moltune.data.reading.read import source_kind
    from moltune.predictors.predictor import Predictor
    from moltune.reports.summary import METRIC_LABELS, format_estimate

    source_kind(data)
    resamples = given.settings(EvaluationSettings).bootstrap
    predictor = Predictor.load(run, base, blend=blend)
    predictor = replace(predictor, cleaning=in_unit(predictor.cleaning, predictor.unit))
    metrics = predictor.evaluate_source(data, **given.options[DataSettings], bootstrap=resamples)
    if as_json:
        return print_json(metrics)
    rows = metrics["rows"]
    out.print(f"{rows['evaluated']} of {rows['in']} rows evaluated, {rows['left_out']} left out or merged")
    out.print(facts({label: format_estimate(metrics[name]) for name, label in METRIC_LABELS.items()}))
    if "blend" in metrics:
        values = {label: format_estimate(metrics["blend"][name]) for name, label in METRIC_LABELS.items()}
        out.print(facts(values, title="blend with classical baselines"))


def ionisation(
    smiles: Annotated[str, argument("SMILES", "A molecule.")],
    ph: Annotated[float, option("--ph", help="pH of the water.")] = 7.4,
    svg: Annotated[
        Path | None, option("--svg", help="Also draw the molecule with its sites into this file.", default="no drawing")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate the pKa of each ionisable site, the charge, and the main form of a molecule at a pH.

    The estimates are those of MolGpKa, with a mean absolute error of 0.5 to 0.8 pKa units on measured values.

    Example: moltune ionisation 'CC(=O)Oc1ccccc1C(=O)O' --svg aspirin.svg
    """
    from dataclasses import asdict

    from rdkit import Chem
    from rich.table import Table

    from moltune.features.ionisation import draw_svg
    from moltune.features.ionisation import ionisation as ionise
    from moltune.files import write_text

    found = ionise(smiles, ph)
    if svg is not None:
        write_text(svg, draw_svg(smiles, ph))
    if as_json:
        return print_json(asdict(found))
    atoms = Chem.MolFromSmiles(smiles)
    table = Table(box=None, pad_edge=False)
    for heading in ("Atom", "Kind", "pKa", f"Charged at pH {ph:g}"):
        table.add_column(heading)
    for site in found.sites:
        atom = f"{atoms.GetAtomWithIdx(site.atom).GetSymbol()} {site.atom}"
        table.add_row(atom, site.kind, f"{site.pka:.1f}", "yes" if site.is_charged(ph) else "no")
    out.print(table if found.sites else "No ionisable site was found.")
    charge = round(found.positive - found.negative, 2) + 0.0
    form = {"main form": found.main_form, "charge of the main form": found.main_charge}
    out.print(facts({"net charge expected": f"{charge:g}", **form}))
