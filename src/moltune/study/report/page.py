"""A study's report: one HTML page that loads nothing, and the same numbers as Parquet, JSON, LaTeX and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moltune.data.reading.write import write_table
from moltune.files import write_json, write_text
from moltune.reports.page import render
from moltune.study.analysis.verdicts import Analysis, analyse
from moltune.study.engine.store import Store
from moltune.study.report.gallery import draw
from moltune.study.report.text import (
    UNDECIDED,
    arms_table,
    claims_table,
    comparisons_table,
    in_order,
    sentence,
    tally,
    to_latex,
    to_markdown,
)

REPORT = "report.html"

# With more undecided comparisons than this, the page folds them away.
_MANY = 8
_TEXTS = ("arm", "block", "unit", "hash")
_FACTS = (
    "trainable_parameters",
    "total_parameters",
    "best_epoch",
    "training_seconds",
    "molecules_per_second",
    "memory_growth_bytes",
    "weights_bytes",
)


def write_study(folder: str | Path) -> Analysis:
    """Analyse a study's folder and write its report, tables and figures.

    Raises:
        RunFolderError: the folder is no study.
    """
    store = Store(folder)
    study = store.study()
    analysis = analyse(store)
    write_table(_flat(analysis), store.folder / "results.parquet")
    write_json(store.folder / "results.json", results(analysis, study))
    (store.folder / "tables").mkdir(exist_ok=True)
    for name, table in _tables(analysis).items():
        if len(table):
            write_text(store.folder / "tables" / f"{name}.md", to_markdown(table))
            write_text(store.folder / "tables" / f"{name}.tex", to_latex(table, f"{analysis.recipe.name}: {name}"))
    figures = draw(analysis, store, study, store.folder / "figures")
    write_text(store.folder / REPORT, page(analysis, study, figures))
    return analysis


def results(analysis: Analysis, study: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``results.json``."""
    ranking = None
    if analysis.ranking is not None:
        arms, ranks = analysis.ranking.arms, analysis.ranking.friedman
        ranking = {
            "arms": arms,
            "splits": len(analysis.ranking.table),
            "average_ranks": None if ranks is None else ranks.average_ranks.tolist(),
            "critical_difference": None if ranks is None else ranks.critical_difference,
            "friedman_p": None if ranks is None else ranks.p,
            "tukey": [
                {"arms": [arms[pair.first], arms[pair.second]]}
                | {name: getattr(pair, name) for name in ("difference", "lower", "upper", "p")}
                for pair in analysis.ranking.tukey
            ],
        }
    return {
        "study": analysis.recipe.name,
        "task": analysis.recipe.task.name,
        "metric": analysis.metric,
        "verdicts": [{**item.to_dict(), "sentence": sentence(item, analysis)} for item in analysis.comparisons],
        "arms": {arm.name: {"kind": arm.kind, "control": arm.control} for arm in analysis.recipe.arms},
        "runs": json.loads(_flat(analysis).to_json(orient="records", double_precision=15)),
        "ranking": ranking,
        "overlap_ratio": analysis.ratio,
        "notes": analysis.notes,
        "failures": analysis.failures,
        "claims": [
            {**claim.model_dump(), "verdict": row["Verdict"]}
            for claim, row in zip(analysis.recipe.claims, claims_table(analysis).to_dict("records"), strict=True)
        ],
        "published": [item.model_dump() for item in analysis.recipe.published],
        "data": study["data"],
        "versions": study["versions"],
    }


def _flat(analysis: Analysis) -> pd.DataFrame:
    """One line per arm and block, with the facts that are numbers as columns."""
    frame = analysis.frame.drop(columns="facts")
    facts = [entry if isinstance(entry, Mapping) else {} for entry in analysis.frame["facts"]]
    for name in _FACTS:
        frame[name] = pd.Series([entry.get(name) for entry in facts], dtype="float64")
    for name in ("split", "fold", "seed"):
        frame[name] = pd.array(frame[name].tolist(), dtype="Int64")
    numbers = [name for name in frame.columns if frame[name].dtype == object and name not in _TEXTS]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    return {
        "claims": claims_table(analysis),
        "arms": arms_table(analysis),
        "comparisons": comparisons_table(analysis),
    }


def page(analysis: Analysis, study: Mapping[str, Any], figures: Mapping[str, Path]) -> str:
    """The report as HTML; ``figures`` are caption -> SVG file."""
    decided, undecided = in_order(analysis.comparisons)
    folded = undecided if len(undecided) > _MANY else []
    shown = decided if folded else [*decided, *undecided]
    return render(
        "study.html",
        title=analysis.recipe.name,
        recipe=analysis.recipe,
        tally=tally(analysis.comparisons) if analysis.comparisons else "",
        shown=[(item.word.replace(" ", "-"), sentence(item, analysis)) for item in shown],
        folded=[(UNDECIDED.replace(" ", "-"), sentence(item, analysis)) for item in folded],
        notes=list(dict.fromkeys(analysis.notes)),
        failures=analysis.failures,
        # A verdict stays on one line.
        tables={
            name: table.replace(UNDECIDED, UNDECIDED.replace(" ", "\N{NO-BREAK SPACE}"))
            for name, table in _tables(analysis).items()
        },
        ratio=analysis.ratio,
        figures=figures,
        provenance=_provenance(analysis, study),
        settings=json.dumps(study["recipe"], indent=1),
        runs=analysis.frame[["arm", "block", "hash"]].rename(columns=str.capitalize),
    )


def _provenance(analysis: Analysis, study: Mapping[str, Any]) -> list[tuple[str, Any]]:
    data, protocol = study["data"], analysis.recipe.protocol
    facts = {
        "Data": data.get("source"),
        "SHA-256 of the source": data.get("sha256"),
        "Molecules": f"{data['n']:,} of {data['rows_in']:,} rows; {data['rejected']:,} left out or merged",
        "Target": data.get("target_column"),
        "Classes": " and ".join(analysis.recipe.classes or ()),
        "Unit": data.get("unit"),
        "Licence": data.get("licence"),
        "Citation": data.get("citation"),
        "Protocol": f"{protocol.name}: {len(protocol.blocks())} blocks, {protocol.kind}, {protocol.split.method}",
        "Runs": analysis.frame["hash"].nunique(),
        **{f"Version of {name}": version for name, version in study["versions"].items()},
        **{f"Machine: {name}": value for name, value in study["machine"].items()},
    }
    return [(name, value) for name, value in facts.items() if value not in (None, "")]
