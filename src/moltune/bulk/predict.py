"""Predictions for a file of any length: the table that went in, with columns added."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from moltune.bulk.ray import OnRay
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
from moltune.calibration import LEVEL
from moltune.config import TableSettings
from moltune.data.reading.columns import find_columns
from moltune.data.reading.stream import Piece, Source, open_source
from moltune.files import sha256_of
from moltune.predictors.names import NOTE, Names, joined
from moltune.predictors.several import Predictors
from moltune.progress import StageReport, no_report
from moltune.ready.catalogue import path_of

logger = logging.getLogger(__name__)

PIECE = 2000
"""Rows of a piece: what is lost at most by a kill, for each process."""
_SOURCE = b"source"


@dataclass(frozen=True)
class PredictWork(Work):
    """Predictions of one or more models.

    Attributes:
        models: run folders, model folders, or names of ready-made models.
        base, blend, level: see :meth:`moltune.predictors.predictor.Predictor.load`.
        smiles: column of structures.
        batch_size: of a language model.
        loaded: the predictors of this process; other processes load their own.
    """

    models: tuple[str, ...]
    base: str | None
    blend: bool | None
    level: float
    smiles: str
    batch_size: int
    loaded: Predictors | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> dict[str, Any]:
        """Settings, and a digest of the files of each model."""
        digests = [folder_digest(path_of(model) or Path(model)) for model in self.models]
        names = ("base", "blend", "level", "smiles", "batch_size")
        return {"models": digests, **{name: getattr(self, name) for name in names}}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def open(self) -> Function:
        """Load the predictors."""
        predictors = self.loaded or Predictors.load(self.models, self.base, blend=self.blend, level=self.level)

        def do(piece: Piece) -> pa.Table:
            raw = piece.table()
            found = predictors.predict_rows(raw, self.smiles, self.batch_size)
            side_by_side = pd.concat([one.add_prefix(_prefix(at)) for at, one in enumerate(found)], axis=1)
            return with_source(pa.Table.from_pandas(side_by_side, preserve_index=False), raw.all_rows)

        return do


@dataclass(frozen=True)
class Summary:
    """What became of the rows.

    Attributes:
        rows: how many there are.
        predicted: those with a prediction of every model.
        names: for each model: suffix → name of its column; "" is the prediction.
        note: name of the column of notes.
        failed: number, structure and note of the first row without one; None: there is none.
        outside: name of a column of predictions → how many of its molecules are outside of the model's domain.
        example: number, structure and reason of the first of them; None: there is none.
    """

    rows: int
    predicted: int
    names: list[dict[str, str]]
    note: str
    failed: tuple[int, str, str] | None
    outside: dict[str, int]
    example: tuple[int, str, str] | None


def predict_file(
    models: str | Path | Sequence[str | Path],
    source: str | Path | pd.DataFrame,
    output: str | Path,
    *,
    base: str | None = None,
    blend: bool | None = None,
    level: float = LEVEL,
    smiles: str | None = None,
    table: TableSettings | None = None,
    batch_size: int = 32,
    full_precision: bool = False,
    workers: int = 1,
    ray: str | None = None,
    restartable: bool = True,
    piece: int = PIECE,
    report: StageReport = no_report,
) -> Summary:
    """Predict every row of a source in constant memory, and write the table with columns added.

    Finished pieces are kept in ``<output>.unfinished`` until the output is whole: after a kill, the same call goes on.
    The output is complete or absent.

    Args:
        models: folder of a run or model, or name of a ready-made model, or several.
        source: anything that :func:`moltune.data.reading.read.read_table` takes.
        output: .csv, .tsv, .jsonl, .smi, .sdf (also .gz), .parquet or .xlsx.
        base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
        blend: predict with a run's blend; unset: where the run has one.
        level: share of measurements that an interval should hold.
        smiles: column of structures; unset: found by its name.
        table: sheet and header; unset: the defaults.
        batch_size: of a language model.
        full_precision: write all digits; otherwise no more than the run's error deserves (Parquet has them all).
        workers: processes, each with one thread; 1: this process, with all threads.
        ray: address of a Ray cluster that works instead, or "local"; see :class:`moltune.bulk.ray.OnRay`.
        restartable: keep finished pieces where a kill leaves them.
        piece: rows that are done at a time.
        report: told how far the work is.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
        DataError: the source cannot be read, or the output cannot be written.
        RunFolderError: the run is unfinished, or the folder for finished pieces holds something else.
        CheckpointError: there is no tuned model.
        NumericsError: a prediction is not finite.
    """
    output = Path(output)
    check_place(output, *([source] if isinstance(source, str | Path) else []))
    models = tuple(str(one) for one in ([models] if isinstance(models, str | Path) else models))
    way = None if ray is None else OnRay(ray)
    predictors = Predictors.load(models, base, blend=blend, level=level)
    opened = open_source(source, table, piece)
    check_rows(output, opened.rows)
    column = structure_column(opened, smiles, aloud=not isinstance(source, pd.DataFrame))
    # A bar for a second would only flicker.
    report = report if opened.rows > piece else no_report
    work = PredictWork(models, base, blend, level, column, batch_size, predictors)
    with folder_for(output if restartable else None, opened, work, piece) as finished:
        stage = f"predicting {opened.rows:,} rows"
        do_pieces(opened, work, finished, report, workers=workers, stage=stage, way=way)
        full = full_precision or format_of(output) in FULL_PRECISION
        return _write(output, opened, finished, predictors, column, full, report)


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


def _prefix(at: int) -> str:
    """Marks the columns of a model in the result of a piece."""
    return f"{at}:"


def _write(
    output: Path,
    source: Source,
    finished: Finished,
    predictors: Predictors,
    structure: str,
    full: bool,
    report: StageReport,
) -> Summary:
    """Put the pieces together."""
    own = source_schema(finished)
    found = common_schema([pa.schema(list(schema)) for schema in finished.schemas()])
    properties = predictors.properties
    columns = [_unmarked(found.names, at) for at in range(len(properties))]
    names = predictors.names(columns, own.names)
    for one, called in zip(properties, names.of, strict=True):
        if called[""] == f"{one.target}_predicted":
            logger.info("The table has columns of these names; predictions are in %r", called[""])
    added = [
        pa.field(name, found.field(_prefix(at) + suffix).type, metadata={"added": "yes"})
        for at, called in enumerate(names.of)
        for suffix, name in called.items()
    ]
    added.append(pa.field(names.note, pa.string(), metadata={"added": "yes"}))
    tally = _Tally(names, structure)
    temporary = finished.folder / f"result-{output.name}"
    with make_writer(temporary, pa.schema([*own, *added]), structure) as writer:
        for piece, rows, table in rows_with_results(source, finished, own.names, report):
            everything = table.to_pandas().set_axis(rows.index, axis=0)
            results = [
                everything[[_prefix(at) + name for name in [*suffixes, NOTE]]].set_axis([*suffixes, NOTE], axis=1)
                for at, suffixes in enumerate(columns)
            ]
            together = joined(rows, results, properties, names, full=full)
            writer.write(together, piece.records)
            tally.add(together, results)
    os.replace(temporary, output)
    return tally.summary(source.rows)


def _unmarked(marked: Sequence[str], at: int) -> list[str]:
    """Suffixes of one model's columns, without its note."""
    own = [name.removeprefix(_prefix(at)) for name in marked if name.startswith(_prefix(at))]
    return [name for name in own if name != NOTE]


class _Tally:
    """Counts rows without predictions, and predictions outside of a model's domain."""

    def __init__(self, names: Names, structure: str) -> None:
        self.names, self.structure = names, structure
        self.columns = [called[""] for called in names.of]
        self.predicted = 0
        self.outside = dict.fromkeys(self.columns, 0)
        self.failed: tuple[int, str, str] | None = None
        self.example: tuple[int, str, str] | None = None

    def add(self, rows: pd.DataFrame, results: Sequence[pd.DataFrame]) -> None:
        """Look at the rows of a piece."""
        bad = rows[self.columns].isna().any(axis=1)
        self.predicted += int((~bad).sum())
        if self.failed is None and bad.any():
            self.failed = self._row(rows, bad, rows[self.names.note])
        for column, found in zip(self.columns, results, strict=True):
            if "_domain" in found:
                out = found["_domain"] == "out"
                self.outside[column] += int(out.sum())
                if self.example is None and out.any():
                    self.example = self._row(rows, out, found["_reason"])

    def _row(self, rows: pd.DataFrame, chosen: pd.Series, why: pd.Series) -> tuple[int, str, str]:
        at: Any = chosen.idxmax()
        return int(at), str(rows.loc[at, self.structure] or ""), str(why.loc[at])

    def summary(self, rows: int) -> Summary:
        """Of everything that was seen."""
        return Summary(rows, self.predicted, self.names.of, self.names.note, self.failed, self.outside, self.example)
