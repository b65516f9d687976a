"""A number as people write it is read back or refused, never read as another one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltune.config import DataSettings
from moltune.data.load import load_molecules
from moltune.data.reading.numbers import decimal_mark, split_cell
from moltune.data.reading.write import write_table
from moltune.errors import DataError

SMILES = ["C" * length for length in range(1, 13)]


def grouped(digits: str, separator: str) -> str:
    head = len(digits) % 3 or 3
    return separator.join([digits[:head], *(digits[i : i + 3] for i in range(head, len(digits), 3))])


def style(mark: str, separator: str, minus: str = "-") -> Callable[[str], str]:
    def write(text: str) -> str:
        sign, text = (minus, text[1:]) if text.startswith("-") else ("", text)
        whole, point, part = text.partition(".")
        return sign + grouped(whole, separator) + (mark + part if point else "")

    return write


STYLES: dict[str, Callable[[str], str]] = {
    "plain": style(".", ""),
    "English": style(".", ","),
    "German": style(",", "."),
    "German, no groups": style(",", ""),
    "French": style(",", "\u202f", "\u2212"),
    "Swiss": style(".", "\u2019"),
}
NUMBERS = st.tuples(
    st.sampled_from(["", "-"]),
    st.integers(0, 10**7),
    st.one_of(st.just(""), st.from_regex(r"\.[0-9]{1,5}", fullmatch=True)),
).map(lambda parts: f"{parts[0]}{parts[1]}{parts[2]}")


@pytest.mark.parametrize("name", STYLES)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(numbers=st.lists(NUMBERS, min_size=2, max_size=12))
def test_a_column_in_one_style_is_read_back_or_refused(name: str, numbers: list[str]) -> None:
    written = [STYLES[name](number) for number in numbers]
    table = pd.DataFrame({"smiles": SMILES[: len(numbers)], "y": written}, dtype=object)
    try:
        molecules = load_molecules(table, DataSettings(clean={"duplicates": "first"}))
    except DataError as error:
        if "in two ways" in str(error) or "same value" in str(error):
            return
        raise
    assert len(molecules) == len(numbers)
    assert molecules.target.tolist() == [float(number) for number in numbers]


@settings(deadline=None, max_examples=150)
@given(numbers=st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=12, unique=True))
def test_what_we_write_can_be_read_again(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    path = tmp_path_factory.mktemp("written") / "a.csv"
    write_table(pd.DataFrame({"smiles": SMILES[: len(numbers)], "y": numbers}), path)
    assert load_molecules(path).target.tolist() == numbers


@pytest.mark.parametrize(
    ("cells", "mark", "values"),
    [
        (["1,5", "2"], "comma", [1.5, 2]),
        (["1.5", "1,234"], "point", [1.5, 1234]),
        (["1,5", "1.234"], "comma", [1.5, 1234]),
        (["0.123"], "point", [0.123]),
        (["1,234,567"], "point", [1234567]),
        (["1.234.567"], "comma", [1234567]),
        (["1'234.5"], "point", [1234.5]),
        (["1 234,5"], "comma", [1234.5]),
        (["1\u00a0234"], "point", [1234]),
        (["\u22120.33\u00a0", "\u2009+2\u2009", "\u20131"], "point", [-0.33, 2, -1]),
        (["1e-3", "2E5"], "point", [0.001, 200000]),
        (["1,5e-3"], "comma", [0.0015]),
        (["> 1,5", "4,69 uM"], "comma", [1.5, 4.69]),
    ],
)
def test_evidence_of_a_column(cells: list[str], mark: str, values: list[float]) -> None:
    parts = [split_cell(cell) for cell in cells]
    assert decimal_mark(parts, "y") == mark
    assert [part.value(mark) for part in parts if part] == values  # type: ignore[arg-type]


@pytest.mark.parametrize("cells", [["1,234"], ["1.234"], ["1,234", "56", "-7,890"]])
def test_a_column_that_nothing_decides_shows_both_readings(cells: list[str]) -> None:
    parts = [split_cell(cell) for cell in cells]
    with pytest.raises(DataError, match=rf"'{cells[0]}' is 1\.234|'{cells[0]}' is 1234") as error:
        decimal_mark(parts, "y")
    assert "1.234" in str(error.value)
    assert "1234.0" in str(error.value)
    assert "--decimal" in str(error.value)
    assert decimal_mark(parts, "y", "comma") == "comma"


def test_mixed_marks_are_an_error_and_with_the_option_rejects() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC", "CCC"], "y": ["1.5", "2.5", "3,5"]})
    with pytest.raises(DataError, match=r"mixes decimal marks: '1.5' needs a point, '3,5' a comma"):
        load_molecules(table)
    molecules = load_molecules(table, DataSettings(decimal="point"))
    assert molecules.target.tolist() == [1.5, 2.5]
    assert molecules.rejected["reason"].tolist() == ["the target has another decimal mark than the column: '3,5'"]


@pytest.mark.parametrize(
    "cell",
    ["", "n/a", "1,23,456", "12-34-5", "2024-01-01", "5M", "1_000", "٣", "0x10", "1 2", "1.2.3", "12.05.2024", None],
)
def test_what_is_no_number(cell: object) -> None:
    assert split_cell(cell) is None


def test_a_cell_in_parts() -> None:
    found = [split_cell(cell) for cell in ("> 10 µM", "<=3nM", "≥5", "45%", "5 M", "~2", 3, math.inf)]
    assert [(part.relation, part.value("point"), part.unit) for part in found if part] == [
        (">", 10, "µM"), ("<=", 3, "nM"), (">=", 5, ""), ("", 45, "%"), ("", 5, "M"), ("~", 2, ""), ("", 3, ""),
        ("", math.inf, ""),
    ]  # fmt: skip
