"""HTML pages from the templates beside this file: one base page, one style sheet, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from moltune.errors import RunFolderError

_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def render(template: str, **values: Any) -> str:
    """Fill a template of ``reports/templates/`` and return the page as text.

    Values are escaped. The base page wants ``title``; parts of pages are in ``macros.html``.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
        RunFolderError: a figure cannot be read, or is neither SVG nor PNG.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def cell(value: object) -> str:
    """Text of a table's cell: numbers with three significant digits, "–" where there is none."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return (f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")).replace("-", "−")


def numeric_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the columns that hold numbers."""
    return list(frame.select_dtypes("number").columns)


def data_uri(path: Path | str) -> str:
    """A figure as an address that needs no file.

    Args:
        path: of a file, or the text of an SVG document.

    Raises:
        RunFolderError: the figure cannot be read, or is neither SVG nor PNG.
    """
    if isinstance(path, str):
        return f"data:image/svg+xml;base64,{base64.b64encode(path.encode()).decode('ascii')}"
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise RunFolderError(f"The figure {path} is neither SVG nor PNG, so the page cannot embed it.")
    try:
        return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError as error:
        raise RunFolderError(f"The figure {path} cannot be read: {error.strerror or error}.") from None


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("moltune.reports"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"cell": cell, "numeric_columns": numeric_columns, "data_uri": data_uri}
