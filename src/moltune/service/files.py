"""A job in its process: the file that was uploaded becomes the result, and a view of it that can be sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moltune.bulk.predict import Summary, predict_file, structure_column
from moltune.data.reading.columns import is_empty
from moltune.data.reading.stream import open_source
from moltune.errors import DataError
from moltune.files import replacing
from moltune.service.models import histogram
from moltune.service.settings import Limits

VIEW = "view.parquet"
ROW = "row"
_PIECE = 200
_OTHERS = 4
_TEXTS = {"_class", "_set", "_domain", "_reason", "_nearest", "_main_form"}
Tell = Callable[[dict[str, Any]], bool]
"""Says how far a job is; whether it is asked to stop."""


class Stopped(Exception):
    """The job was asked to make room, and goes on later."""


def predict_upload(
    folder: str, upload: str, output: str, models: Sequence[str], places: Mapping[str, str], limits: Limits, tell: Tell
) -> dict[str, Any]:
    """Predict a file of a job's folder; what a process that was killed has finished is not done again.

    Args:
        folder: of the job.
        upload: name of the file in it.
        output: name of the result in it.
        models: names.
        places: name of each model -> where it is.
        limits: of rows.
        tell: see :data:`Tell`.

    Returns:
        What the job says in the end: ``rows``, ``predicted``, ``structure``, ``others``, ``note`` and ``results``, as
        :class:`moltune.service.schemas.Job` has them.

    Raises:
        DataError: the file cannot be used.
        Stopped: the job was asked to make room.
    """
    source, written = Path(folder, upload), Path(folder, output)
    opened = open_source(source, None, _PIECE)
    if opened.rows > limits.rows:
        raise DataError(f"the file has {opened.rows:,} rows; this service takes at most {limits.rows:,}")
    column = structure_column(opened, None, aloud=False)

    def report(stage: str, share: float) -> None:
        # Writing is quick beside predicting.
        done = 0.98 + 0.02 * share if stage == "writing" else 0.98 * share
        if tell({"rows": opened.rows, "progress": round(done, 4)}):
            raise Stopped

    report("", 0.0)
    done = predict_file(
        [places[one] for one in models], source, written, smiles=column, piece=_PIECE, report=report, workers=1
    )
    return {"rows": done.rows, "predicted": done.predicted, **_view(written, column, models, done)}


def _view(result: Path, structure: str, models: Sequence[str], done: Summary) -> dict[str, Any]:
    """Write the columns that the page shows, with types; counts and histograms of each model."""
    own = {column for names in done.names for column in names.values()} | {done.note, structure}
    kept = [{suffix: column for suffix, column in names.items() if suffix != "_model_alone"} for names in done.names]
    numbers = [column for names in kept for suffix, column in names.items() if suffix not in _TEXTS]
    texts = [column for names in kept for suffix, column in names.items() if suffix in _TEXTS]
    others: list[str] | None = None
    values: list[list[np.ndarray]] = [[] for _ in kept]
    flags: list[dict[str, int]] = [dict.fromkeys(("in", "near", "out"), 0) for _ in kept]
    classes: list[Counter[str]] = [Counter() for _ in kept]
    writer: pq.ParquetWriter | None = None
    with replacing(result.with_name(VIEW)) as temporary:
        for frame in _frames(result):
            if others is None:
                others = [str(name) for name in frame.columns if str(name) not in own][:_OTHERS]
                schema = pa.schema(
                    [
                        (ROW, pa.int64()),
                        *((name, pa.string()) for name in (structure, *others)),
                        *((name, pa.float64()) for name in numbers),
                        *((name, pa.string()) for name in (*texts, done.note)),
                    ]
                )
                writer = pq.ParquetWriter(temporary, schema)
            assert writer is not None
            arrays = [pa.array(frame.index.to_numpy(dtype=np.int64))]
            for field in list(schema)[1:]:
                cells = frame[field.name] if field.name in frame else pd.Series(None, index=frame.index, dtype=object)
                if pa.types.is_floating(field.type):
                    arrays.append(pa.array(pd.to_numeric(cells, errors="coerce"), field.type, from_pandas=True))
                else:
                    arrays.append(pa.array([None if pd.isna(cell) else str(cell) for cell in cells], field.type))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            for at, names in enumerate(kept):
                values[at].append(pd.to_numeric(frame[names[""]], errors="coerce").to_numpy(dtype=np.float64))
                for flag, count in frame.get(names.get("_domain", ""), pd.Series(dtype=object)).value_counts().items():
                    if flag in flags[at]:
                        flags[at][str(flag)] += int(count)
                if "_class" in names:
                    classes[at].update(str(one) for one in frame[names["_class"]] if not is_empty(one))
        if writer is not None:
            writer.close()
    return {
        "structure": structure,
        "others": others or [],
        "note": done.note,
        "results": [
            {
                "model": name,
                "columns": names,
                "domain": counted,
                "classes": dict(sorted(sorts.items())),
                "histogram": histogram(np.concatenate(found), (0, 1) if "_class" in names else None),
            }
            for name, names, counted, sorts, found in zip(models, kept, flags, classes, values, strict=True)
        ],
    }


def _frames(result: Path) -> Iterator[pd.DataFrame]:
    for piece in open_source(result, None, 5000).pieces():
        yield piece.table().all_rows
