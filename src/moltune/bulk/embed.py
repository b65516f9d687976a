"""Embeddings of a file of any length, for models of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moltune.bulk.predict import PIECE, folder_digest, rows_with_results, source_schema, structure_column, with_source
from moltune.bulk.work import Finished, Function, Work, do_pieces, folder_for
from moltune.bulk.writers import FULL_PRECISION, as_array, check_folder
from moltune.config import CleanSettings, ModelSettings, TableSettings
from moltune.data.cleaning.clean import clean
from moltune.data.reading.stream import Piece, Source, open_source
from moltune.errors import CheckpointError, DataError
from moltune.features.embedding import Encoder, OnnxEncoder
from moltune.models.names import resolve
from moltune.predictors.load import load_model
from moltune.predictors.names import NOTE, Property, column_names
from moltune.progress import StageReport, no_report
from moltune.run import CONFIG, Run

EMBEDDING = "embedding"


@dataclass(frozen=True)
class EmbedWork(Work):
    """Embeddings of a checkpoint, or of a run's tuned model.

    Attributes:
        model: a bundled name, a folder, a run folder or a hub id.
        base: where the checkpoint is now that an adapter was made on; None: where it was.
        smiles: column of structures.
        batch_size: molecules at a time.
    """

    model: str
    base: str | None
    smiles: str
    batch_size: int

    @property
    def key(self) -> dict[str, Any]:
        """Settings, and a digest of the files of the model."""
        digest = folder_digest(Path(resolve(self.model)))
        return {"embed": digest, "base": self.base, "smiles": self.smiles, "batch_size": self.batch_size}

    def open(self) -> Function:
        """Load the model."""
        settings = CleanSettings()
        if (Path(self.model) / CONFIG).is_file():
            settings = Run.load(self.model).config.data.clean
            embed, issues = self._tuned()
        else:
            checkpoint = ModelSettings(name=self.model)
            encoder = OnnxEncoder.find(checkpoint) or Encoder(checkpoint)
            encoder.batch_size = self.batch_size
            embed, issues = encoder, encoder.issues

        def do(piece: Piece) -> pa.Table:
            raw = piece.table()
            molecules = clean(raw, settings, smiles=self.smiles, need_target=False)
            table = raw.all_rows
            notes = dict.fromkeys(table.index.tolist(), "")
            notes.update(zip(molecules.rejected["row"].tolist(), molecules.rejected["reason"], strict=True))
            rows, readable = [], []
            found = issues(molecules.smiles)
            for at, (row, text) in enumerate(zip(molecules.table["row"].tolist(), molecules.smiles, strict=True)):
                if at in found:
                    notes[row] = found[at].message
                # A molecule with a token that is not known has an embedding, one that is too long has none.
                if at not in found or found[at].kind == "unknown":
                    rows.append(row)
                    readable.append(text)
            values = np.asarray(embed(readable), dtype=np.float32) if readable else np.empty((0, 0), dtype=np.float32)
            vectors = dict(zip(rows, values, strict=True))
            column = pa.array([vectors.get(row) for row in notes], type=pa.list_(pa.float32()))
            return with_source(pa.table({EMBEDDING: column, NOTE: pa.array(list(notes.values()), pa.string())}), table)

        return do

    def _tuned(self) -> tuple[Callable[[Sequence[str]], np.ndarray], Callable[[Sequence[str]], dict[int, Any]]]:
        from moltune.predictors.language import LanguageModel
        from moltune.predictors.probe import Probe

        model = load_model(self.model, self.base)
        if isinstance(model, Probe) and model.encoder is not None:
            model.encoder.batch_size = self.batch_size
            return model.encoder, model.encoder.issues
        if not isinstance(model, LanguageModel):
            raise CheckpointError(f"the model of {self.model} has no language model in it, and so no embeddings")
        return partial(model.embed, batch_size=self.batch_size), model.issues


def embed_file(
    model: str | Path,
    source: str | Path | pd.DataFrame,
    output: str | Path,
    *,
    base: str | None = None,
    smiles: str | None = None,
    table: TableSettings | None = None,
    batch_size: int = 32,
    workers: int = 1,
    piece: int = PIECE,
    report: StageReport = no_report,
) -> tuple[int, int, int]:
    """Write the pooled embedding of every row of a source, in constant memory; see ``predict_file``.

    Args:
        model: a bundled name, a folder, a run folder or a hub id.
        source: anything that :func:`moltune.data.reading.read.read_table` takes.
        output: .npy (float32, shape (rows, d); NaN where there is none) or .parquet (the source's columns, with
            ``embedding`` and ``note`` added).
        base: where the checkpoint is now that an adapter was made on; unset: where it was.
        smiles: column of structures; unset: found by its name.
        table: sheet and header; unset: the defaults.
        batch_size: molecules at a time.
        workers: processes, each with one thread; 1: this process, with all threads.
        piece: rows that are done at a time.
        report: told how far the work is.

    Returns:
        Number of rows, of those with an embedding, and its width.

    Raises:
        DataError: the source cannot be read, none of its molecules can, or the output cannot be written.
        CheckpointError: the model cannot be loaded, or is no language model.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    if suffix not in {".npy", *FULL_PRECISION}:
        raise DataError(f"Cannot tell the format of {output.name!r}; use .npy or .parquet.")
    check_folder(output, *([source] if isinstance(source, str | Path) else []))
    resolve(model)
    opened = open_source(source, table, piece)
    work = EmbedWork(str(model), base, structure_column(opened, smiles), batch_size)
    report = report if opened.rows > piece else no_report
    with folder_for(output, opened, work, piece) as finished:
        do_pieces(opened, work, finished, report, workers=workers, stage=f"embedding {opened.rows:,} rows")
        temporary = finished.folder / f"result-{output.name}"
        width, found = _width(finished)
        if found:
            (_npy if suffix == ".npy" else _parquet)(temporary, opened, finished, width, report)
            os.replace(temporary, output)
    if not found:
        raise DataError(f"not one molecule of {opened.label} could be embedded")
    return opened.rows, found, width


def _width(finished: Finished) -> tuple[int, int]:
    """Numbers in an embedding, and rows that have one."""
    width = found = 0
    for path in sorted(finished.folder.glob("*.parquet")):
        column = pq.read_table(path, columns=[EMBEDDING])[EMBEDDING].combine_chunks()
        found += len(column) - column.null_count
        width = max(width, len(column.drop_null()[0]) if column.null_count < len(column) else 0)
    return width, found


def _npy(path: Path, source: Source, finished: Finished, width: int, report: StageReport) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (source.rows, width)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for index in range(len(list(finished.folder.glob("*.parquet")))):
            column = finished.read(index)[EMBEDDING].combine_chunks()
            values = np.full((len(column), width), np.nan, dtype="<f4")
            values[np.asarray(column.is_valid())] = column.drop_null().flatten().to_numpy().reshape(-1, width)
            stream.write(values.tobytes())


def _parquet(path: Path, source: Source, finished: Finished, width: int, report: StageReport) -> None:
    own = source_schema(finished)
    names = column_names([(Property(EMBEDDING, "", None), [""])], own.names)
    kind = pa.list_(pa.float32(), width)
    schema = pa.schema([*own, pa.field(names.of[0][""], kind), pa.field(names.note, pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for _, rows, result in rows_with_results(source, finished, own.names, report):
            columns = [as_array(rows[field.name], field.type) for field in own]
            columns += [result[EMBEDDING].combine_chunks().cast(kind), result[NOTE].combine_chunks()]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
