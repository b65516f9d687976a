"""A study's report: one HTML page that loads nothing, and the same numbers as Parquet, JSON, LaTeX and Markdown."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from moltune.data.reading.write import write_bytes, write_table
from moltune.reports.style import STYLE
from moltune.study.analysis.claims import claims_table
from moltune.study.analysis.verdicts import Analysis, Comparison, analyse
from moltune.study.engine.store import Store
from moltune.study.report.gallery import draw
from moltune.study.report.text import (
    arms_table,
    comparisons_table,
    in_order,
    sentence,
    tally,
    to_latex,
    to_markdown,
)

logger = logging.getLogger(__name__)

REPORT = "report.html"

_MANY = 8
_STUDY_STYLE = """
body { max-width: 84rem; }
.verdicts { list-style: none; padding: 0; margin: 0; }
.verdicts li { padding: .7rem 1rem; margin: .5rem 0; background: var(--card); border-left: .35rem solid var(--soft); }
.verdicts li.better { border-color: #0072B2; } .verdicts li.worse { border-color: #D55E00; }
.verdicts li.equivalent { border-color: #009E73; }
tr.published { font-style: italic; color: var(--soft); }
.study-figures { display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr)); }
pre { overflow-x: auto; background: var(--card); padding: .75rem; font-size: .85rem; }
"""


def write_study(folder: str | Path) -> Analysis:
    """Analyse a study's folder and write its report, tables and figures.

    Raises:
        RunFolderError: the folder is no study.
    """
    store = Store(folder)
    study = store.study()
    analysis = analyse(store)
    write_table(_flat(analysis), store.folder / "results.parquet")
    store.write_json("results.json", results(analysis, study))
    write_tables(analysis, store.folder / "tables")
    figures = draw(analysis, store, study, store.folder / "figures")
    write_bytes(page(analysis, study, figures).encode(), store.folder / REPORT)
    return analysis


def results(analysis: Analysis, study: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``results.json``."""
    rows = json.loads(_flat(analysis).to_json(orient="records", double_precision=15))
    ranking = None
    if analysis.ranking is not None:
        ranks = analysis.ranking.friedman
        ranking = {
            "arms": analysis.ranking.arms,
            "splits": len(analysis.ranking.table),
            "average_ranks": None if ranks is None else ranks.average_ranks.tolist(),
            "critical_difference": None if ranks is None else ranks.critical_difference,
            "friedman_p": None if ranks is None else ranks.p,
            "tukey": [
                {
                    "arms": [analysis.ranking.arms[pair.first], analysis.ranking.arms[pair.second]],
                    "difference": pair.difference,
                    "lower": pair.lower,
                    "upper": pair.upper,
                    "p": pair.p,
                }
                for pair in analysis.ranking.tukey
            ],
        }
    return {
        "study": analysis.recipe.name,
        "metric": analysis.metric,
        "verdicts": [{**item.to_dict(), "sentence": sentence(item, analysis)} for item in analysis.comparisons],
        "arms": {arm.name: {"kind": arm.kind, "control": arm.control} for arm in analysis.recipe.arms},
        "runs": rows,
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
    frame = analysis.frame.drop(columns="facts").copy()
    for name in _FACTS:
        frame[name] = [
            float(facts[name]) if isinstance(facts, Mapping) and facts.get(name) is not None else float("nan")
            for facts in analysis.frame["facts"]
        ]
    for name in ("split", "fold", "seed"):
        frame[name] = pd.array(frame[name].tolist(), dtype="Int64")
    numbers = [name for name in frame.columns if frame[name].dtype == object and name not in _TEXTS]
    return frame.astype(dict.fromkeys(numbers, "float64"))


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


def write_tables(analysis: Analysis, folder: Path) -> None:
    """Write ``arms``, ``comparisons`` and ``claims`` as Markdown and LaTeX."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "arms": arms_table(analysis),
        "comparisons": comparisons_table(analysis),
        "claims": claims_table(analysis),
    }
    for name, table in tables.items():
        if len(table):
            write_bytes(to_markdown(table).encode(), folder / f"{name}.md")
            write_bytes(to_latex(table, f"{analysis.recipe.name}: {name}").encode(), folder / f"{name}.tex")


def page(analysis: Analysis, study: Mapping[str, Any], figures: Mapping[str, Path]) -> str:
    """The report as HTML."""
    recipe = analysis.recipe
    sections = [
        f"<h1>{escape(recipe.name)}</h1>",
        f"<p>{escape(recipe.description)}</p>" if recipe.description else "",
        _verdicts(analysis),
        _notes(analysis),
        _failures(analysis),
        _table("Their claims, and what we found", claims_table(analysis), _CLAIMS_CAPTION, "Claim"),
        _table("Arms", arms_table(analysis), _ARMS_CAPTION, "Arm"),
        _table("Comparisons", comparisons_table(analysis), _comparisons_caption(analysis), "Arm"),
        _sources(analysis),
        _figures(figures),
        _provenance(analysis, study),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(recipe.name)}</title>\n<style>{STYLE}{_STUDY_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdicts(analysis: Analysis) -> str:
    if not analysis.comparisons:
        return ""
    decided, undecided = in_order(analysis.comparisons)
    heading = f"<h2>Verdicts</h2>\n<p>{escape(tally(analysis.comparisons))}</p>"
    if len(undecided) <= _MANY:
        return heading + _sentences([*decided, *undecided], analysis)
    # A wall of "cannot tell" would hide what was found.
    folded = f"<summary>The {len(undecided)} that cannot tell</summary>{_sentences(undecided, analysis)}"
    return f"{heading}{_sentences(decided, analysis)}<details>{folded}</details>"


def _sentences(comparisons: Sequence[Comparison], analysis: Analysis) -> str:
    items = "".join(
        f'<li class="{item.word.replace(" ", "-")}">{escape(sentence(item, analysis))}</li>' for item in comparisons
    )
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def _notes(analysis: Analysis) -> str:
    if not analysis.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(analysis.notes))
    return f'<section class="warnings" aria-label="Notes"><strong>Please note</strong><ul>{items}</ul></section>'


def _failures(analysis: Analysis) -> str:
    if not analysis.failures:
        return ""
    items = "".join(
        f"<li><code>{escape(hash_)}</code> {escape(text)}</li>" for hash_, text in analysis.failures.items()
    )
    return (
        f"<h2>Runs that failed</h2>\n<p>Their tracebacks are in <code>failed/</code>; "
        f"<code>moltune study run ... --retry-failed</code> does them again.</p><ul>{items}</ul>"
    )


_ARMS_CAPTION = (
    "Test part; mean ± standard deviation over runs, best first. Errors are in the unit of the target. The interval is "
    "that of the mean over splits, widened for their overlap. Seconds: median. Saved: weights of a run, + those of its "
    "kernel head where it has one. Rows in italics were published by others on other splits: they stand here for "
    "orientation and were not tested against."
)


_CLAIMS_CAPTION = (
    "Confirmed: our verdict is what the claim says. Contradicted: we found the opposite. Not so: the two are "
    "equivalent, or they differ where equality was claimed. Not shown: these runs cannot tell. Intervals are of each "
    "comparison alone; verdicts are corrected for all of them."
)


def _comparisons_caption(analysis: Analysis) -> str:
    settings = analysis.recipe.statistics
    margin = "given in the recipe" if settings.margin else "half the noise floor of the arm compared with"
    return (
        "Differences are arm minus the other, below zero the arm is better. Blocks of one split are averaged first; "
        f"p-values come from the t-test corrected for overlapping training sets (test/train = {analysis.ratio:.3g}) "
        f"and, with Holm's method, for {len(analysis.comparisons)} comparisons (family error {settings.alpha:g}). "
        f"Equivalent: surely closer than the margin, which is {margin}. Detectable: the smallest true difference that "
        f"is found with probability {settings.power:g}."
    )


def _table(title: str, table: pd.DataFrame, caption: str, first: str) -> str:
    if not len(table):
        return ""
    texts = {first, "Kind", "Against", "Verdict", "By", "Their numbers", "Ours, 95 % interval"}
    head = "".join(f'<th scope="col"{"" if name in texts else _NUMBER}>{escape(name)}</th>' for name in table.columns)
    lines = []
    for row in table.to_dict(orient="records"):
        published = ' class="published"' if "(published)" in row[first] else ""
        cells = "".join(
            f'<th scope="row">{escape(text)}</th>'
            if name == first
            else f"<td{'' if name in texts else _NUMBER}>{escape(text)}</td>"
            for name, text in row.items()
        )
        lines.append(f"<tr{published}>{cells}</tr>")
    return (
        f'<h2>{title}</h2>\n<p class="soft">{escape(caption)}</p><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


_NUMBER = ' class="number"'


def _sources(analysis: Analysis) -> str:
    if not analysis.recipe.published:
        return ""
    items = "".join(
        f"<li>{escape(item.label)}: {escape(item.source)}{escape('; ' + item.note if item.note else '')}</li>"
        for item in analysis.recipe.published
    )
    return f'<p class="soft">Published numbers:</p><ul class="soft">{items}</ul>'


def _figures(figures: Mapping[str, Path]) -> str:
    blocks = []
    for text, path in figures.items():
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        caption = escape(text)
        image = f'<img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
        blocks.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f'<h2>Figures</h2>\n<div class="study-figures">{"".join(blocks)}</div>' if blocks else ""


def _provenance(analysis: Analysis, study: Mapping[str, Any]) -> str:
    data, protocol = study["data"], analysis.recipe.protocol
    facts = {
        "Data": data.get("source"),
        "SHA-256 of the source": data.get("sha256"),
        "Molecules": f"{data['n']:,} of {data['rows_in']:,} rows; {data['rejected']:,} left out or merged",
        "Target": data.get("target_column"),
        "Unit": data.get("unit"),
        "Licence": data.get("licence"),
        "Citation": data.get("citation"),
        "Protocol": f"{protocol.name}: {len(protocol.blocks())} blocks, {protocol.kind}, {protocol.split.method}",
        "Runs": analysis.frame["hash"].nunique(),
        **{f"Version of {name}": version for name, version in study["versions"].items()},
        **{f"Machine: {name}": value for name, value in study["machine"].items()},
    }
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "")
    )
    recipe = escape(json.dumps(study["recipe"], indent=1))
    runs = "".join(
        f"<tr><td>{escape(arm)}</td><td>{escape(block)}</td><td><code>{hash_}</code></td></tr>"
        for arm, block, hash_ in analysis.frame[["arm", "block", "hash"]].to_numpy().tolist()
    )
    return (
        f'<h2>How to repeat it</h2>\n<div class="wide"><table class="settings"><tbody>{lines}</tbody></table></div>'
        f"<details><summary>Recipe</summary><pre>{recipe}</pre></details>"
        f'<details><summary>Runs</summary><div class="wide"><table><tbody>{runs}</tbody></table></div></details>'
    )
