"""Parts of a job's result, sorted and filtered, for the page's table."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_KEPT = 3
_open: OrderedDict[str, pa.Table] = OrderedDict()
_lock = Lock()


def rows(
    path: Path,
    *,
    offset: int,
    limit: int,
    sort: str | None,
    descending: bool,
    domain: tuple[str, str] | None,
) -> tuple[int, list[dict[str, Any]]]:
    """Rows of a view.

    Args:
        path: that :func:`moltune.service.files.predict_upload` wrote.
        offset, limit: the part that is wanted.
        sort: column; unset, or none of the view's: the order of the file. Empty cells come last.
        descending: largest first.
        domain: a column of domain flags and the flag that rows must have.

    Returns:
        How many rows the filter lets through, and those that are wanted.
    """
    table = _read(path)
    if domain is not None and domain[0] in table.column_names:
        table = table.filter(pc.equal(table[domain[0]], domain[1]))
    if sort in table.column_names:
        order = "descending" if descending else "ascending"
        table = table.take(pc.sort_indices(table, sort_keys=[(sort, order)]))
    return table.num_rows, [
        {name: None if isinstance(cell, float) and not math.isfinite(cell) else cell for name, cell in row.items()}
        for row in table.slice(offset, limit).to_pylist()
    ]


def _read(path: Path) -> pa.Table:
    key = str(path)
    with _lock:
        if key in _open:
            _open.move_to_end(key)
            return _open[key]
    table = pq.read_table(path)
    with _lock:
        _open[key] = table
        if len(_open) > _KEPT:
            _open.popitem(last=False)
    return table
