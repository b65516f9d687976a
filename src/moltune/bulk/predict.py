"""Predictions for a file of any length: the table that went in, with columns added."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from moltune.bulk.work import Finished, Function, Work, do_pieces, folder_for
from moltune.bulk.writers import (
    FULL_PRECISION,
    check_place,
    check_rows,
    common_schema,
    format_of,
    make_writer,
    schema_of,
)
from moltune.config import TableSettings
from moltune.data.reading.columns import find_columns
from moltune.data.reading.stream import Piece, Source, open_source
from moltune.files import sha256_of
from moltune.predictors.names import NOTE, joined, property_names
from moltune.predictors.predictor import Predictor
from moltune.progress import StageReport, no_report

logger = logging.getLogger(__name__)

PIECE = 2000
"""Rows of a piece: what is lost at most by a kill, for each process."""
_SOURCE = b"source"


@dataclass(frozen=True)
class PredictWork(Work):
    """Predictions of a run.

    Attributes:
        run: folder of the run or model.
        base, blend: see :meth:`moltune.predictors.predictor.Predictor.load`.
        smiles: column of structures.
        batch_size: of a language model.
        loaded: the predictor of this process; other processes load their own.
    """

    run: str
    base: str | None
    blend: bool | None
    smiles: str
    batch_size: int
    loaded: Predictor | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> dict[str, Any]:
        """Settings, and a digest of the files of the model."""
        digest = folder_digest(Path(self.run))
        names = ("base", "blend", "smiles", "batch_size")
        return {"model": digest, **{name: getattr(self, name) for name in names}}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def open(self) -> Function:
        """Load the predictor."""
        predictor = self.loaded or Predictor.load(self.run, self.base, blend=self.blend)

        def do(piece: Piece) -> pa.Table:
            raw = piece.table()
            found = predictor.predict_rows(raw, self.smiles, self.batch_size)
            return with_source(pa.Table.from_pandas(found, preserve_index=False), raw.all_rows)

        return do


@dataclass(frozen=True)
class Summary:
    """What became of the rows.

    Attributes:
        rows: how many there are.
        predicted: those with a prediction.
        column: name of the column of predictions.
        failed: number, structure and note of the first row without one; None: there is none.
    """

    rows: int
    predicted: int
    column: str
    failed: tuple[int, str, str] | None


def predict_file(
    run: str | Path,
    source: str | Path | pd.DataFrame,
    output: str | Path,
    *,
    base: str | None = None,
    blend: bool | None = None,
    smiles: str | None = None,
    table: TableSettings | None = None,
    batch_size: int = 32,
    full_precision: bool = False,
    workers: int = 1,
    restartable: bool = True,
    piece: int = PIECE,
    report: StageReport = no_report,
) -> Summary:
    """Predict every row of a source in constant memory, and write the table with columns added.

    Finished pieces are kept in ``<output>.unfinished`` until the output is whole: after a kill, the same call goes on.
    The output is complete or absent.

    Args:
        run: folder of the run or model.
        source: anything that :func:`moltune.data.reading.read.read_table` takes.
        output: .csv, .tsv, .jsonl, .smi, .sdf (also .gz), .parquet or .xlsx.
        base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
        blend: also give the run's blend; unset: where the run has one.
        smiles: column of structures; unset: found by its name.
        table: sheet and header; unset: the defaults.
        batch_size: of a language model.
        full_precision: write all digits; otherwise no more than the run's error deserves (Parquet has them all).
        workers: processes, each with one thread; 1: this process, with all threads.
        restartable: keep finished pieces where a kill leaves them.
        piece: rows that are done at a time.
        report: told how far the work is.

    Raises:
        DataError: the source cannot be read, or the output cannot be written.
        RunFolderError: the run is unfinished, or the folder for finished pieces holds something else.
        CheckpointError: there is no tuned model.
        NumericsError: a prediction is not finite.
    """
    output = Path(output)
    check_place(output, *([source] if isinstance(source, str | Path) else []))
    predictor = Predictor.load(run, base, blend=blend)
    opened = open_source(source, table, piece)
    check_rows(output, opened.rows)
    column = structure_column(opened, smiles, aloud=not isinstance(source, pd.DataFrame))
    # A bar for a second would only flicker.
    report = report if opened.rows > piece else no_report
    work = PredictWork(str(run), base, blend, column, batch_size, predictor)
    with folder_for(output if restartable else None, opened, work, piece) as finished:
        do_pieces(opened, work, finished, report, workers=workers, stage=f"predicting {opened.rows:,} rows")
        full = full_precision or format_of(output) in FULL_PRECISION
        return _write(output, opened, finished, predictor, column, full, report)


def structure_column(source: Source, smiles: str | None, aloud: bool = True) -> str:
    """The column of structures, found in the first rows; says ``aloud`` how the source is read.

    Raises:
        DataError: it is not obvious.
    """
    column, _ = find_columns(next(source.pieces()).table().frame, smiles, None, need_target=False)
    if aloud:
        logger.info("%s: structure %r; %s rows", source.label, column, f"{source.rows:,}")
    for note in source.notes:
        logger.info("%s", note)
    return column


def with_source(result: pa.Table, rows: pd.DataFrame) -> pa.Table:
    """A result that knows the names and types of its piece's own columns."""
    return result.replace_schema_metadata({_SOURCE: schema_of(rows).serialize().to_pybytes()})


def source_schema(finished: Finished) -> pa.Schema:
    """The source's own columns in all pieces."""
    return common_schema([pa.ipc.read_schema(pa.py_buffer(schema.metadata[_SOURCE])) for schema in finished.schemas()])


def rows_with_results(
    source: Source, finished: Finished, columns: list[str], report: StageReport
) -> Iterator[tuple[Piece, pd.DataFrame, pa.Table]]:
    """Each piece again, its rows with all columns of the source, and its result."""
    done = 0
    for piece in source.pieces():
        rows = piece.table().all_rows
        missing = {name: None for name in columns if name not in rows}
        yield piece, rows.assign(**missing)[columns], finished.read(piece.index)
        done += piece.rows
        report("writing", done / source.rows)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files of a model or run folder that decide its predictions; of its name if it is none."""
    digest = hashlib.sha256(b"" if folder.is_dir() else str(folder).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("figures/", "logs/", "checkpoints/")) or path.suffix in (".html", ".csv"):
            continue
        digest.update(name.encode())
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def _write(
    output: Path,
    source: Source,
    finished: Finished,
    predictor: Predictor,
    structure: str,
    full: bool,
    report: StageReport,
) -> Summary:
    """Put the pieces together."""
    own = source_schema(finished)
    found = common_schema([pa.schema(list(schema)) for schema in finished.schemas()])
    suffixes = {name: pa.types.is_floating(found.field(name).type) for name in found.names if name != NOTE}
    names = property_names(predictor.target_name, predictor.unit, suffixes, own.names)
    if names[""] in (f"{predictor.target_name}_predicted", f"{NOTE}_predicted"):
        logger.info("The table has columns of these names; predictions are in %r", names[""])
    added = [pa.field(name, found.field(suffix).type, metadata={"added": "yes"}) for suffix, name in names.items()]
    predicted, failed = 0, None
    temporary = finished.folder / f"result-{output.name}"
    schema = pa.schema([*own, *added])
    with make_writer(temporary, schema, structure) as writer:
        for piece, rows, table in rows_with_results(source, finished, own.names, report):
            result = table.to_pandas().set_axis(rows.index, axis=0)
            writer.write(joined(rows, result, names, predictor.error, full), piece.records)
            bad = result[""].isna()
            predicted += int((~bad).sum())
            if failed is None and bad.any():
                at = bad.idxmax()
                failed = (int(at), str(rows.loc[at, structure] or ""), str(result.loc[at, NOTE]))
    os.replace(temporary, output)
    return Summary(source.rows, predicted, names[""], failed)
