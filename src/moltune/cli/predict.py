"""``moltune predict``."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moltune.cli.console import molecule_progress, print_json, set_up_logging
from moltune.cli.options import Base, Json, Quiet, Smiles
from moltune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model folder.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="A file, a bundled set, SMILES, or - for SMILES on standard input."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV, TSV, Parquet or JSON lines; unset: CSV to the screen.")
    ] = None,
    smiles: Smiles = None,
    blend: Annotated[
        bool | None, typer.Option("--blend/--no-blend", help="Also the blend. [default: where the run has one]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict new molecules. Every input row comes back; one that cannot be predicted has a note that says why."""
    set_up_logging(quiet)
    inputs = inputs or ["-"]
    source = _file_or_set(inputs)
    from moltune.data.reading.write import check_output, write_table

    if output is not None:
        check_output(output, *([] if source is None else [source]))
    listed = None if source is not None else _listed(inputs)
    from moltune.predictors.predictor import Predictor

    predictor = Predictor.load(run, base, blend=blend)
    with molecule_progress(None, quiet) as progress:
        if source is not None:
            table = predictor.predict_source(source, smiles=smiles, batch_size=batch_size, progress=progress)
        else:
            table = predictor.predict(listed or [], batch_size=batch_size, progress=progress)
    if output is not None:
        write_table(table, output)
    if as_json:
        print_json(table.astype(object).where(table.notna(), None).to_dict(orient="records"))
    elif output is None:
        sys.stdout.write(_csv(table))
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
    if Path(only).suffix.lower() in {*FORMATS, ".gz", ".txt", ".xlsx", ".xls", ".zip"}:
        raise DataError(f"there is no file {only}")
    return None


def _listed(inputs: list[str]) -> list[str]:
    if inputs != ["-"]:
        return inputs
    if sys.stdin.isatty():
        raise DataError("give a file or SMILES, or pipe SMILES into standard input")
    from moltune.data.reading.formats import SMILES_HEADERS

    listed = [line.split()[0] for line in sys.stdin if line.strip()]
    if listed and listed[0].lower() in SMILES_HEADERS:
        del listed[0]
    if not listed:
        raise DataError("standard input holds no SMILES")
    return listed


def _csv(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    return buffer.getvalue()


def _say(table: pd.DataFrame, output: Path | None) -> None:
    failed = int(table["predicted"].isna().sum())
    place = f", written to {output}" if output is not None else ""
    logger.info("%d of %d molecules predicted%s", len(table) - failed, len(table), place)
    if failed:
        first = table[table["predicted"].isna()].iloc[0]
        logger.warning("%d not predicted, such as row %d (%s): %s", failed, first["row"], first["input"], first["note"])
    if failed == len(table):
        raise DataError("not one molecule could be predicted; the notes say why")
