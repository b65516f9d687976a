"""Two studies side by side: the same arm in both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.errors import DataError
from moltune.reports.summary import format_number
from moltune.study.analysis.verdicts import Analysis, Comparison, analyse, compare
from moltune.study.engine.store import Store
from moltune.study.recipe.recipe import ArmSpec, Recipe


@dataclass(frozen=True)
class Line:
    """One arm in two studies."""

    arm: str
    first: float  # mean of the metric in the first study
    second: float
    paired: bool  # whether both ran on the same splits of the same data
    identical: bool  # whether every common block has the same run behind it
    word: str  # what changed from the first to the second: better, worse, equivalent, cannot tell
    words: str  # the same as a sentence

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare_studies(first: str | Path, second: str | Path) -> list[Line]:
    """Compare the arms that two studies share by name, the second against the first.

    Raises:
        RunFolderError: a folder is no study.
        DataError: the studies share no arm, or judge by different metrics.
    """
    stores = Store(first), Store(second)
    old, new = (analyse(store) for store in stores)
    if old.metric != new.metric:
        raise DataError(f"the studies judge by different metrics: {old.metric} and {new.metric}")
    shared = [arm.name for arm in new.recipe.arms if arm.name in {other.name for other in old.recipe.arms}]
    if not shared:
        raise DataError("the studies have no arm of the same name")
    units = _same_units(*stores)
    lines = {arm: _line(arm, old, new, units) for arm in shared}
    changed = [arm for arm, line in lines.items() if line.paired and not line.identical]
    for arm, item in zip(changed, _judge(changed, old, new, units), strict=True):
        words = "; too few common splits to compare"
        if item.difference is not None and item.interval is not None:
            low, high = (format_number(value, 4) for value in item.interval)
            difference = format_number(item.difference, 4)
            words = f"; {item.word} (difference {difference}, 95 % interval {low} to {high})"
        lines[arm] = replace(lines[arm], word=item.word, words=lines[arm].words + words)
    return list(lines.values())


def _same_units(first: Store, second: Store) -> set[str]:
    """Splits that are the same in both, molecule by molecule."""
    same = set()
    for path in (first.folder / "splits").glob("*.csv"):
        other = second.split_path(path.stem)
        columns = ["smiles", "split", "target"]
        if other.is_file() and pd.read_csv(path, usecols=columns).equals(pd.read_csv(other, usecols=columns)):
            same.add(path.stem)
    return same


def _line(arm: str, old: Analysis, new: Analysis, units: set[str]) -> Line:
    metric = old.metric
    frames = [a.frame.loc[a.frame["arm"] == arm].dropna(subset=[metric]) for a in (old, new)]
    before, after = (float(frame[metric].mean()) for frame in frames)
    both = frames[0].merge(frames[1], on="block", suffixes=("", "_new"))
    both = both.loc[both["unit"].isin(units)]
    identical = len(both) > 0 and bool((both["hash"] == both["hash_new"]).all())
    words = f"{old.label} {format_number(before, 4)} → {format_number(after, 4)}"
    if identical:
        words += ", the same runs in both studies"
    elif not len(both):
        words += "; no split is the same in both, so they were not compared"
    return Line(arm, before, after, len(both) > 0, identical, "cannot tell", words)


def _judge(arms: list[str], old: Analysis, new: Analysis, units: set[str]) -> list[Comparison]:
    """One comparison per arm, that of the second study against that of the first."""
    if not arms:
        return []
    frames = []
    for analysis, suffix in ((old, "first"), (new, "second")):
        frame = analysis.frame.loc[analysis.frame["arm"].isin(arms) & analysis.frame["unit"].isin(units)]
        frames.append(frame.assign(arm=frame["arm"] + f" ({suffix})"))
    pairs = [(f"{arm} (second)", f"{arm} (first)") for arm in arms]
    specs = [ArmSpec(name=name, kind="any") for pair in pairs for name in pair]
    recipe: Recipe = new.recipe.model_copy(update={"arms": specs, "comparisons": pairs, "reference": None})
    return compare(pd.concat(frames), recipe, float(np.mean([old.ratio, new.ratio])))
