"""Predict: ``moltune predict``, ``models``, ``embed``, ``evaluate`` and ``ionisation``."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from moltune.calibration import LEVEL
from moltune.cli.console import facts, out, print_json, stage_progress
from moltune.cli.options import Base, Given, Json, Quiet, argument, flags, option, with_settings
from moltune.cli.view import show_card, show_cards, show_predictions
from moltune.config import PH, DataSettings, EvaluationSettings, TrainingSettings
from moltune.errors import DataError, RunFolderError
from moltune.files import unpacked
from moltune.models.names import is_export
from moltune.ready import catalogue

if TYPE_CHECKING:
    import pandas as pd

    from moltune.bulk.predict import Summary

logger = logging.getLogger(__name__)

Run = Annotated[str, argument("RUN", "Run folder, its model folder, or a ready-made model.")]
Model = Annotated[
    list[str] | None,
    option(
        "--model",
        help="A ready-made model, a run folder, or its model folder; may be given more than once.",
        default="all ready-made models",
    ),
]
Fast = Annotated[bool, option("--fast", help="The fast ready-made models: the language model alone.")]
Blend = Annotated[
    bool | None,
    option(
        "--blend/--no-blend",
        help="Predict with the run's blend of language model and classical models.",
        default="where the run has one",
    ),
]
Workers = Annotated[
    int,
    option("--workers", help="Processes, each with one thread; 1: this one, with all threads.", min=1),
]


@with_settings(
    {
        DataSettings: {**flags("smiles", "sheet"), "header": "--header/--no-header"},
        TrainingSettings: {"eval_batch_size": "--batch-size"},
    }
)
def predict(
    given: Given,
    inputs: Annotated[
        list[str] | None,
        argument(
            "[RUN] INPUT", "A file, a bundled set, SMILES, or - for SMILES on standard input; first perhaps a run."
        ),
    ] = None,
    model: Model = None,
    fast: Fast = False,
    level: Annotated[
        float, option("--level", help="Share of measurements that an interval should hold.", min=0.01, max=0.999)
    ] = LEVEL,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            help="CSV, TSV, JSON lines, SMI, SDF (also .gz), Parquet or XLSX, by its ending.",
            default="a table for SMILES in a terminal, else CSV, on the screen",
        ),
    ] = None,
    full_precision: Annotated[
        bool, option("--full-precision", help="All digits, not only those that the model's error deserves.")
    ] = False,
    workers: Workers = 1,
    ray: Annotated[
        str | None, option("--ray", metavar="ADDRESS", help="Work on a Ray cluster; local starts one.")
    ] = None,
    blend: Blend = None,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict new molecules, with ready-made models or your own run: the table that went in comes out, with columns
    added.

    A row that cannot be predicted stays in its place, with a note that says why. After a kill, the same command goes on
    where it was.

    Example: moltune predict runs/mine molecules.csv -o predictions.csv
    """
    models, inputs = _models_and_inputs(model or [], inputs or ["-"], fast)
    source = _file_or_set(inputs)
    from moltune.bulk.predict import predict_file
    from moltune.bulk.writers import check_place

    if output is not None:
        check_place(output, *([] if source is None else [source]))
    shown = output is None and not as_json and source is None and sys.stdout.isatty()
    with TemporaryDirectory() as folder, stage_progress(quiet) as report:
        written = output or Path(folder) / ("predictions.jsonl" if as_json or shown else "predictions.csv")
        done = predict_file(
            models,
            _listed(inputs) if source is None else source,
            written,
            base=base,
            blend=blend,
            level=level,
            table=given.settings(DataSettings),
            smiles=given.options[DataSettings]["smiles"],
            batch_size=given.settings(TrainingSettings).eval_batch_size,
            full_precision=full_precision,
            workers=workers,
            ray=ray,
            restartable=output is not None,
            report=report,
        )
        if output is None and (as_json or shown):
            with written.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            if as_json:
                print_json(rows)
            else:
                show_predictions(rows, done, level)
        elif as_json:
            print_json({"output": str(output), **asdict(done)})
        elif output is None:
            with written.open(encoding="utf-8", newline="") as text:
                shutil.copyfileobj(text, sys.stdout)
    _say(done, output)


def _models_and_inputs(models: list[str], inputs: list[str], fast: bool) -> tuple[list[str], list[str]]:
    """Whose predictions are asked for, and of what: a run may stand before its input; unset: all ready-made models."""
    first = Path(inputs[0])
    table_follows = len(inputs) > 1 and _file_or_set(inputs[1:]) is not None
    if first.is_dir() or is_export(first) or (table_follows and inputs[0] in catalogue.cards()):
        models, inputs = [*models, inputs[0]], inputs[1:] or ["-"]
    elif table_follows or (_in_a_folder(first) and not first.is_file()):
        raise RunFolderError(f"there is no run or model {inputs[0]}")
    if models and fast:
        raise DataError("--fast chooses among the ready-made models: leave it out where models are named")
    models = models or catalogue.names(fast)
    if not models:
        raise RunFolderError("this installation has no ready-made models: name a run")
    return [str(unpacked(model)) for model in models], inputs


def _in_a_folder(path: Path) -> bool:
    return len(path.parts) > 1 and (path.parts[0] == "runs" or Path(path.parts[0]).is_dir())


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


def _listed(inputs: list[str]) -> pd.DataFrame:
    import pandas as pd

    from moltune.data.reading.headers import STRUCTURE_HEADERS

    listed = inputs
    if inputs == ["-"]:
        if sys.stdin.isatty():
            raise DataError("give a file or SMILES, or pipe SMILES into standard input")
        listed = [line.split()[0] for line in sys.stdin if line.strip()]
        if listed and listed[0].lower() in STRUCTURE_HEADERS:
            del listed[0]
        if not listed:
            raise DataError("standard input holds no SMILES")
    return pd.DataFrame({"smiles": listed}, dtype=object)


def _say(done: Summary, output: Path | None) -> None:
    place = f", written to {output}" if output is not None else ""
    logger.info("%d of %d molecules predicted%s", done.predicted, done.rows, place)
    if done.failed is not None:
        logger.warning("%d not predicted, such as row %d (%s): %s", done.rows - done.predicted, *done.failed)
    outside = {column: count for column, count in done.outside.items() if count}
    if outside and done.example is not None:
        counts = ", ".join(f"{count} for {column}" for column, count in outside.items())
        logger.warning(
            "OUTSIDE OF THE DOMAIN: %s; these numbers are extrapolations, such as row %d (%s): %s",
            counts,
            *done.example,
        )
    if not done.predicted:
        raise DataError("not one molecule could be predicted; the notes say why")


def models(
    name: Annotated[str | None, argument("NAME", "A ready-made model, to see its card.")] = None,
    as_json: Json = False,
) -> None:
    """List the ready-made models, or show the card of one: what it was trained on, its error, when not to trust it.

    Example: moltune models lipophilicity
    """
    cards = catalogue.cards()
    if name is None:
        return show_cards(list(cards.values()), as_json)
    if name not in cards:
        raise DataError(f"there is no ready-made model {name!r}; there are {', '.join(cards) or 'none'}")
    show_card(cards[name], as_json)


@with_settings(
    {
        DataSettings: {**flags("smiles", "sheet"), "header": "--header/--no-header"},
        TrainingSettings: {"eval_batch_size": "--batch-size"},
    }
)
def embed(
    given: Given,
    model: Annotated[str, argument("MODEL", "A bundled name, folder or hub id of a checkpoint, or a run folder.")],
    data: Annotated[str, argument("DATA", "Molecules: a file, bundled set or hub id.")],
    output: Annotated[
        Path,
        option(
            "--output", "-o", help="An array (.npy; NaN where there is none), or the table with embeddings (.parquet)."
        ),
    ],
    workers: Workers = 1,
    base: Base = None,
    quiet: Quiet = False,
) -> None:
    """Write the embedding of every molecule of a file, for models of your own. After a kill, the same command goes on.

    Example: moltune embed moltune/mini molecules.csv -o embeddings.npy
    """
    from moltune.bulk.embed import embed_file

    with stage_progress(quiet) as report:
        rows, found, width = embed_file(
            model,
            data,
            output,
            base=base,
            table=given.settings(DataSettings),
            smiles=given.options[DataSettings]["smiles"],
            batch_size=given.settings(TrainingSettings).eval_batch_size,
            workers=workers,
            report=report,
        )
    logger.info("%d of %d molecules embedded in %d dimensions, written to %s", found, rows, width, output)


@with_settings(
    {
        DataSettings: {
            **flags("target", "smiles", "type", "sheet", "decimal"),
            "header": "--header/--no-header",
        },
        EvaluationSettings: flags("bootstrap"),
    }
)
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
    from moltune.data.reading.read import source_kind
    from moltune.predictors.predictor import Predictor

    source_kind(data)
    resamples = given.settings(EvaluationSettings).bootstrap
    given.settings(DataSettings)
    predictor = Predictor.load(run, base, blend=blend)
    metrics = predictor.evaluate_source(data, **given.options[DataSettings], bootstrap=resamples)
    if as_json:
        return print_json(metrics)
    rows, seen = metrics["rows"], metrics["seen"]
    out.print(f"{rows['evaluated']} of {rows['in']} rows evaluated, {rows['left_out']} left out or merged")
    known = sum((seen or {}).values())
    if seen is None:
        out.print("Whether the model was trained on some of them is not known: this is a model without its run.")
    elif known:
        out.print(
            f"[bold red]The model knows {known} of these {rows['evaluated']} molecules:[/] it was trained on "
            f"{seen['train']} and chosen on {seen['validation']} of them, so that the error of all is too low.",
            soft_wrap=True,
        )
    _show(metrics, "All molecules:" if known else "")
    if "unseen" in metrics:
        _show(metrics["unseen"], f"The {metrics['unseen']['n']} that it does not know:")
    elif known:
        out.print("There are not two others to tell its error from.")


def _show(metrics: dict[str, Any], title: str) -> None:
    from moltune.reports.summary import CLASS_METRIC_LABELS, METRIC_LABELS, format_estimate

    labels = CLASS_METRIC_LABELS if "roc_auc" in metrics else METRIC_LABELS
    # Not the title of a table, which would break in lines of its width.
    if title:
        out.print(f"[bold]{title}[/]")
    out.print(facts({label: format_estimate(metrics[name]) for name, label in labels.items()}))
    if "model_alone" in metrics:
        values = {label: format_estimate(metrics["model_alone"][name]) for name, label in labels.items()}
        out.print(facts(values, title="the tuned model without the blend"))


def ionisation(
    smiles: Annotated[str, argument("SMILES", "A molecule.")],
    ph: Annotated[float, option("--ph", help="pH of the water.")] = PH,
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
