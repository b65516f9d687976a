from __future__ import annotations

from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest

from moltune.reports.page import cell, render

EVIL = "<script>alert('x')</script>"


def analysis(**changes: object) -> str:
    values = {"title": "A title", "verdict": "A verdict.", "findings": [], "tables": {}, "figures": {}}
    return render("analysis.html", **{**values, **changes})


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2.00"), (-0.01234, "−0.0123"), (12.7, "12.7"), (1234.5, "1234"), (2.5e7, "2.50e+07"), (np.nan, "–"),
     (np.float64(0.5), "0.500"), (1234567, "1234567"), ("−0.1 (a)", "−0.1 (a)")],
)  # fmt: skip
def test_cells_have_three_significant_digits(value: object, text: str) -> None:
    assert cell(value) == text


def test_text_is_escaped_and_numbers_are_aligned(tmp_path: Path) -> None:
    figure = tmp_path / "figure.svg"
    figure.write_text("<svg/>")
    table = pd.DataFrame({EVIL: [EVIL], "number": [1.0]})
    page = analysis(title=EVIL, verdict=EVIL, findings=[("bad", EVIL)], tables={EVIL: table}, figures={EVIL: figure})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 9
    assert '<td class="number">1.00</td>' in page
    assert "default-src 'none'" in page


def test_long_tables_are_folded_and_empty_ones_left_out() -> None:
    long, short = pd.DataFrame({"a": range(30)}), pd.DataFrame({"a": range(3)})
    page = analysis(tables={"Long": long, "Short": short, "Empty": long.head(0)})
    assert page.count("<details>") == 1
    assert "All 30 rows" in page
    assert "Empty" not in page


def test_a_value_that_was_forgotten_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="verdict"):
        render("analysis.html", title="A title")
