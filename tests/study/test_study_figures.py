from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from moltune.study.analysis.verdicts import Comparison
from moltune.study.report.figures import blocks_figure, differences_figure, far_edge

TITLES = {name: name for name in ("base", "a", "b", "c", "control")}


def compared(arm: str, difference: float, word: str = "cannot tell") -> Comparison:
    return Comparison(
        arm, "base", word, difference=difference, interval=(difference - 0.004, difference + 0.004), margin=0.005
    )


@pytest.mark.parametrize(
    ("reaches", "edge"),
    [
        ([], None),
        ([0.01], None),
        ([0.01, 0.02, 0.079], None),
        ([0.01, 0.01, 0.06, 0.6], 0.066),
        # Half of the differences are large: then they are what the picture is about.
        ([0.01, 0.01, 0.6, 0.7], None),
    ],
)
def test_only_what_lies_far_from_most_is_cut_off(reaches: list[float], edge: float | None) -> None:
    assert far_edge(reaches) == (None if edge is None else pytest.approx(edge))


def test_a_control_far_away_leaves_the_others_readable(tmp_path: Path) -> None:
    near = [compared("a", 0.002), compared("b", -0.004), compared("c", 0.03)]
    far = compared("control", 0.6, "worse")
    drawn = {}
    for name, comparisons in (("near", near), ("far", [*near, far])):
        paths = differences_figure(comparisons, TITLES, tmp_path / name, label="RMSE")
        assert {path.suffix for path in paths} == {".png", ".svg"}
        drawn[name] = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert "worse, +0.600" in drawn["far"]
    assert "worse" not in drawn["near"]
    for text in drawn.values():
        ticks = [float(number.replace("−", "-")) for number in re.findall(r">(−?\d+\.\d+)</text>", text)]
        assert min(ticks) < 0 < max(ticks) < 0.1


def test_an_arm_far_behind_leaves_the_runs_of_the_others_readable(tmp_path: Path) -> None:
    errors = {"a": (0.60, 0.62), "b": (0.61, 0.63), "c": (0.62, 0.64), "control": (1.2, 1.3)}
    rows = [
        {"arm": arm, "unit": f"split{at}", "hash": f"{arm}{at}", "rmse": value}
        for arm, values in errors.items()
        for at, value in enumerate(values)
    ]
    blocks_figure(pd.DataFrame(rows), "rmse", TITLES, tmp_path / "blocks", label="RMSE")
    text = (tmp_path / "blocks.svg").read_text(encoding="utf-8")
    assert ">1.25</text>" in text
    ticks = [float(number) for number in re.findall(r">(\d+\.\d+)</text>", text) if number != "1.25"]
    assert min(ticks) >= 0.59
    assert max(ticks) < 0.75
