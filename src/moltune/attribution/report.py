"""Influence scores on disk: table, facts, figures, one page."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moltune.attribution.figures import draw_molecules, score_against_residual, score_histogram
from moltune.attribution.influence import Influence
from moltune.data.reading.write import write_table
from moltune.errors import DataError
from moltune.evaluation.normality import anderson_darling
from moltune.evaluation.repeatability import TRUSTED
from moltune.files import write_json, write_text
from moltune.reports.page import render

SCORES, FACTS, REPORT = "scores.csv", "scores.json", "influence.html"
_DRAWN = 6


def write_influence(found: Influence, folder: str | Path, *, percentile: float = 33.0) -> Path:
    """Write ``scores.csv``, ``scores.json``, ``influence.html`` and ``figures/``; returns the page's path.

    Args:
        found: the scores.
        folder: made if missing.
        percentile: share of molecules, best first, left of the threshold that the histogram shows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {**found.facts, **describe_scores(found, percentile)}
    write_table(found.table, folder / SCORES)
    write_json(folder / FACTS, facts)
    columns = ["rank", "smiles", "label", "prediction", "residual", "score", "flags"]
    headings = {name: "SMILES" if name == "smiles" else name.capitalize() for name in columns}
    ranked = found.table.sort_values("rank")[columns].rename(columns=headings)
    page = render(
        "analysis.html",
        title=f"Influence of {len(found.table)} molecules",
        verdict=sentence(found, facts),
        findings=findings(facts, found),
        tables={"Those that help most": ranked.head(20), "Those that harm most": ranked.tail(20).iloc[::-1]},
        figures=draw_influence(found, facts, folder / "figures"),
    )
    return write_text(folder / REPORT, page)


def describe_scores(found: Influence, percentile: float) -> dict[str, Any]:
    """Threshold, normality and spread of the scores, ready for JSON."""
    scores = found.table["score"].to_numpy()
    share = percentile if found.helps_low else 100 - percentile
    facts: dict[str, Any] = {"percentile": percentile, "threshold": float(np.percentile(scores, share))}
    facts["share_that_helps"] = float(np.mean(scores < 0 if found.helps_low else scores > 0))
    with suppress(DataError):
        facts["anderson_darling"] = asdict(anderson_darling(scores))
    return facts


def sentence(found: Influence, facts: dict[str, Any]) -> str:
    """What the scores say, and that they are a prediction."""
    sign = "negative scores help" if found.helps_low else "positive scores help"
    error = "error" if found.classes is None else "log loss"
    return (
        f"{facts['share_that_helps']:.0%} of the molecules are predicted to lower the {facts['target']} {error} "
        f"({sign}). "
        "This is a first-order prediction of the loss: whether a selection helps must be measured against random "
        "selection, all and none."
    )


def findings(facts: dict[str, Any], found: Influence) -> list[tuple[str, str]]:
    """Level and sentence of all that bears on trust."""
    result = []
    if "stamp" in facts:
        result.append(("bad", f"The scores are {facts['stamp']}. Test errors of models that use them are too low."))
    text = f"Solver {facts['solver']}: residual {facts['residual']:.2g} of the gradient's length"
    if facts["solver"] == "identity":
        result.append(("note", f"{text}; it does not solve for the curvature."))
    elif facts["converged"]:
        result.append(("good", f"{text}, within the tolerance of {facts['tolerance']:g}."))
    else:
        result.append(("bad", f"{text}, above the tolerance of {facts['tolerance']:g}: it did not converge."))
    if "repeats_rank_correlation" in facts:
        agreement = facts["repeats_rank_correlation"]
        level = "good" if agreement > 0.95 else "bad"
        result.append((level, f"Rank correlation between its {facts['repeats']} repeats: {agreement:.3f}."))
    repeats = facts.get("rank_repeatability")
    if repeats is not None:
        text = (
            f"The rankings by two halves of the {facts['target']} part correlate with "
            f"{facts['target_halves_rank_correlation']:.2f}; two parts of its size would with about {repeats:.2f}"
        )
        if repeats >= TRUSTED:
            result.append(("good", f"{text}."))
        else:
            result.append(("bad", f"{text}: the scores depend much on which molecules happen to be in that part."))
    flagged = int((found.table["flags"].str.contains(" in ")).sum())
    if flagged:
        result.append(("bad", f"{flagged} molecules are in the run's own data already; see the flags."))
    return result


def draw_influence(found: Influence, facts: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draw the figures; returns caption → PNG."""
    side = "left" if found.helps_low else "right"
    scores, residuals = (found.table[name].to_numpy() for name in ("score", "residual"))
    square = f" ({found.unit}²)" if found.unit and " " not in found.unit else ""
    loss = f"MSE{square}" if found.classes is None else "log loss"
    label = f"Predicted {'change' if found.helps_low else 'fall'} of the {facts['target']} {loss}"
    residual = "Prediction − label" if found.classes is None else f"Probability of {found.classes[1]} − class (0 or 1)"
    histogram = score_histogram(scores, facts["threshold"], folder / "scores", label=label)
    scatter = score_against_residual(
        scores, residuals, folder / "score_against_residual", label=label, unit=found.unit, residual=residual
    )
    figures = {
        f"Scores; molecules {side} of the red line are the best {facts['percentile']:g} %.": histogram[0],
        "Score against residual: far from zero only where the model errs.": scatter[0],
    }
    ranked = found.table.sort_values("rank")
    ends = {"best": ("help", ranked.head(_DRAWN)), "worst": ("harm", ranked.tail(_DRAWN).iloc[::-1])}
    for name, (does, part) in ends.items():
        named = [f"label {label:.3g}" if found.classes is None else label for label in part["label"]]
        legends = [f"{score:.2g}  ({label})" for score, label in zip(part["score"], named, strict=True)]
        caption = f"The {len(part)} molecules that {does} most, with their scores."
        figures[caption] = draw_molecules(part["smiles"].tolist(), legends, folder / f"{name}.png")
    return figures
