"""A plain one-page HTML report for analyses that are no training run: sentence, findings, tables, figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from moltune.reports.style import STYLE

_STYLE = """
.findings { list-style: none; padding: 0; } .findings li { padding: .55rem 1rem; margin: .4rem 0;
  background: var(--card); border-left: .35rem solid #4D4D4D; }
.findings li.bad { border-color: #D55E00; } .findings li.good { border-color: #009E73; }
.findings li.note { border-color: #E69F00; }
"""
_WORDS = {"bad": "Warning", "note": "Note", "good": "Fine"}


def html_page(
    title: str,
    verdict: str,
    findings: Sequence[tuple[str, str]],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Path],
) -> str:
    """Make the page; nothing in it is loaded from elsewhere, and no script runs.

    Args:
        title: heading.
        verdict: the sentence under it.
        findings: level ("good", "note", "bad") and sentence.
        tables: heading → table; numbers are shown with three significant digits.
        figures: caption → PNG file, embedded.
    """
    items = "".join(
        f'<li class="{level}"><strong>{_WORDS[level]}.</strong> {escape(text)}</li>' for level, text in findings
    )
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(verdict)}</p>',
        f'<ul class="findings">{items}</ul>' if findings else "",
        *(_table(heading, frame) for heading, frame in tables.items() if len(frame)),
        _figures(figures),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _table(heading: str, frame: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in frame)
    lines = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in frame.itertuples(index=False, name=None)
    )
    return (
        f'<h2>{escape(heading)}</h2>\n<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{"–" if value != value else f"{value:.3g}"}</td>'
    return f"<td>{escape(str(value))}</td>"


def _figures(figures: Mapping[str, Path]) -> str:
    if not figures:
        return ""
    blocks = []
    for caption, path in figures.items():
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        text = escape(caption)
        image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
        blocks.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return f'<h2>Figures</h2>\n<div class="figures">{"".join(blocks)}</div>'
