"""Which figures a study gets, from what is in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moltune.evaluation.metrics import CLASSIFICATION
from moltune.study.analysis.verdicts import Analysis
from moltune.study.arms.registry import find_kind
from moltune.study.engine.store import Store
from moltune.study.report import figures
from moltune.study.report.text import titles

_MOST_PANELS = 9
_CAPTIONS = {
    "differences": "Each arm minus the arm that it is compared with, on the same splits. The bar is the 95 % interval "
    "of the corrected t-test; differences inside the orange band do not matter.",
    "blocks": "Test part of every run; the red bar is the arm's mean. Dots at one height in the line share a split.",
    "critical_differences": "Average ranks over splits; a red bar spans the arms that the tests of Friedman and "
    "Nemenyi cannot distinguish.",
    "intervals": "Tukey's simultaneous intervals: arms whose bars overlap cannot be distinguished. They ignore that "
    "training sets overlap and are narrower than the verdicts above.",
    "losses": "Training of the arms that learn by epochs; a ring marks the epoch with the smallest validation loss.",
    "predictions": "Test molecules of the first block; half of them lie in the band.",
    "curves": "Test molecules of the first block: ROC curves, and in ten bins of equal size what share is positive "
    "against the mean probability; dashed: guessing, and probabilities that are right.",
    "grid": "Validation part of the first block over two settings; the best is framed.",
}


def draw(analysis: Analysis, store: Store, study: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Draw what there is to draw; returns caption -> SVG file."""
    names, metric, ranking, sign = titles(analysis), analysis.metric, analysis.ranking, analysis.recipe.sign
    unit = str(study["data"].get("unit") or "")
    # A long unit belongs into the text, not on an axis.
    label = f"{analysis.label} ({unit})" if 0 < len(unit) <= 20 else analysis.label
    drawn: dict[str, list[Path]] = {}
    if any(item.interval for item in analysis.comparisons):
        stem = folder / "differences"
        drawn["differences"] = figures.differences_figure(
            analysis.comparisons, names, stem, label=f"Difference of {label}", sign=sign
        )
    # A map of settings has a figure of its own, of validation errors.
    runs = analysis.frame[~analysis.frame["arm"].isin([arm.name for arm in analysis.recipe.arms if arm.grid])]
    if runs[metric].notna().any():
        drawn["blocks"] = figures.blocks_figure(runs, metric, names, folder / "blocks", label=label, sign=sign)
    if ranking is not None:
        if ranking.friedman is not None:
            stem = folder / "critical_differences"
            drawn["critical_differences"] = figures.critical_difference_figure(ranking, names, stem)
        drawn["intervals"] = figures.intervals_figure(ranking, names, folder / "intervals", label=label)
    if histories := _histories(analysis, store):
        drawn["losses"] = figures.losses_figure(histories, names, folder / "losses")
    panels = _panels(analysis, store, study)
    if panels and analysis.recipe.task is CLASSIFICATION:
        drawn["curves"] = figures.curves_figure(panels, names, folder / "curves")
    elif panels:
        target = str(study["data"].get("target_column") or "target")
        drawn["predictions"] = figures.scatter_figure(panels, names, folder / "predictions", label=target)
    grid = grid_table(analysis, store)
    if grid is not None:
        drawn["grid"] = figures.grid_figure(grid, folder / "grid", label=f"Validation {label}", sign=sign)
    shown = {_CAPTIONS[key]: next(path for path in paths if path.suffix == ".svg") for key, paths in drawn.items()}
    return shown | _of_kinds(analysis, store, folder)


def grid_table(analysis: Analysis, store: Store) -> pd.DataFrame | None:
    """The metric of the validation part over the two settings of arms that form a grid; None where there are none."""
    points = {arm.name: arm.grid for arm in analysis.recipe.arms if arm.grid}
    rows = []
    for arm, hash_ in analysis.frame.loc[analysis.frame["arm"].isin(points), ["arm", "hash"]].itertuples(index=False):
        result = store.result(hash_)
        if result is not None and "validation" in result.facts:
            rows.append({**points[arm], "value": result.facts["validation"][analysis.metric]})
    if not rows:
        return None
    first, second = next(iter(points.values()))
    return pd.DataFrame(rows).pivot_table(index=first, columns=second, values="value")


def _of_kinds(analysis: Analysis, store: Store, folder: Path) -> dict[str, Path]:
    """What each kind of arm draws of its runs."""
    done = analysis.frame.dropna(subset=[analysis.metric])
    runs: dict[str, dict[str, dict[str, Path]]] = {}
    for arm in analysis.recipe.arms:
        own = done.loc[done["arm"] == arm.name]
        if len(own):
            places = [store.folder / "runs" / hash_ for hash_ in own["hash"]]
            runs.setdefault(arm.kind, {})[arm.name] = dict(zip(own["block"], places, strict=True))
    drawn: dict[str, Path] = {}
    for kind, places_of in runs.items():
        drawn |= find_kind(kind).draw(places_of, analysis.recipe, folder)
    return drawn


def _histories(analysis: Analysis, store: Store) -> dict[str, list[pd.DataFrame]]:
    found: dict[str, list[pd.DataFrame]] = {}
    shown = analysis.recipe.shown or [arm.name for arm in analysis.recipe.arms if not arm.grid]
    for arm, hash_ in analysis.frame[["arm", "hash"]].drop_duplicates().itertuples(index=False):
        result = store.result(hash_) if arm in shown else None
        if result is not None and result.history is not None and len(result.history):
            found.setdefault(arm, []).append(result.history)
    return found


def _panels(analysis: Analysis, store: Store, study: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    molecules = store.molecules(study["data"]["key"])
    assert molecules is not None
    target = molecules.table.set_index("row")["target"]
    own = analysis.recipe.shown or [arm.name for arm in analysis.recipe.arms if not (arm.control or arm.grid)]
    done = analysis.frame.dropna(subset=[analysis.metric])
    done = done.loc[done["arm"].isin(own)]
    first = done.loc[done["block"].isin(done["block"].head(1))]
    panels = {}
    best = first.sort_values(analysis.metric, ascending=analysis.recipe.sign > 0)
    for arm, hash_ in best[["arm", "hash"]].head(_MOST_PANELS).itertuples(index=False):
        result = store.result(hash_)
        assert result is not None
        test = result.predictions.loc[result.predictions["part"] == "test"]
        panels[arm] = (target.loc[test["row"]].to_numpy(), test["predicted"].to_numpy())
    return panels
