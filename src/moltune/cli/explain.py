"""Explain a prediction: ``moltune explain``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from moltune.cli.console import out, print_json
from moltune.cli.options import Base, Json, argument, option
from moltune.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from moltune.explanation.explain import Explanation

logger = logging.getLogger(__name__)


def explain(
    inputs: Annotated[list[str], argument("[RUN] SMILES", "The molecule; first perhaps a run or a ready-made model.")],
    svg: Annotated[
        Path | None, option("--svg", help="Draw the molecule with its contributions into this file.", default="none")
    ] = None,
    output: Annotated[
        Path | None,
        option("--output", "-o", help="The contributions as .csv, or everything as one page, .html.", default="none"),
    ] = None,
    neighbours: Annotated[int, option("--neighbours", help="Measured molecules to compare with.", min=0)] = 3,
    edits: Annotated[int, option("--edits", help="Edited molecules to predict at most.", min=10)] = 200,
    seed: Annotated[int, option("--seed", help="Seed of what is random about edits.")] = 0,
    blend: Annotated[
        bool | None,
        option(
            "--blend/--no-blend",
            help="Explain the prediction of the run's blend of language model and classical models.",
            default="where the run has one",
        ),
    ] = None,
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Explain a prediction: what each atom contributes, and how the nearest measured molecules differ.

    Example: moltune explain runs/mine 'CC(=O)Oc1ccccc1C(=O)O' -o aspirin.html
    """
    from moltune.cli.console import set_up_logging
    from moltune.explanation.explain import explain as explain_one
    from moltune.files import write_text
    from moltune.predictors.predictor import Predictor

    set_up_logging(as_json)
    if output is not None and output.suffix.lower() not in (".csv", ".html"):
        raise DataError(f"an explanation is written as .csv or .html, and not as {output.name}")
    run, smiles = _run_and_molecule(inputs)
    found = explain_one(Predictor.load(run, base, blend=blend), smiles, neighbours=neighbours, edits=edits, seed=seed)
    if svg is not None:
        write_text(svg, found.drawing())
    if output is not None:
        csv = output.suffix.lower() == ".csv"
        write_text(output, found.table().to_csv(index=False) if csv else found.page())
    if as_json:
        return print_json(found.to_dict())
    for path in filter(None, (svg, output)):
        logger.info("written to %s", path)
    _show(found)


def _run_and_molecule(inputs: list[str]) -> tuple[str, str]:
    """Without a run, the first ready-made model is explained."""
    from moltune.ready import catalogue

    *runs, smiles = inputs
    if len(runs) > 1:
        raise DataError("one molecule is explained at a time: give [RUN] SMILES")
    ready = catalogue.names()
    if not runs and not ready:
        raise RunFolderError("this installation has no ready-made models: name a run before the molecule")
    return (runs or ready)[0], smiles


def _show(found: Explanation) -> None:
    from rich.markup import escape
    from rich.table import Table

    from moltune.explanation.explain import decimals, signed

    out.print(f"[bold]{escape(found.smiles)}[/]", soft_wrap=True)
    if found.note:
        out.print(f"[yellow]{escape(found.note)}[/]", soft_wrap=True)
    out.print(found.summary(), soft_wrap=True)
    digits = decimals(found.contributions.values)
    table = Table(
        box=None, pad_edge=False, title=f"contributions to the {escape(found.scale)}" if found.scale else None
    )
    for heading in ("Atom", "Element", "Contribution", "Standard error"):
        table.add_column(heading, justify="left" if heading == "Element" else "right")
    for atom, element, value, error in found.table().itertuples(index=False, name=None):
        table.add_row(str(atom), element, signed(value, digits), f"{error:.{digits}f}")
    out.print(table)
    for at, one in enumerate(found.neighbours, 1):
        near = f"[bold]Nearest measured {at}[/] (similarity {one.similarity:.2f}): {escape(found.measured(one))}, "
        out.print(f"{near}{escape(one.smiles)}\n   {escape(found.compared(one))}", soft_wrap=True)
    if found.sites is not None:
        listed = ", ".join(f"{found.symbols[one.atom]} {one.atom} {one.kind} {one.pka:.1f}" for one in found.sites)
        out.print(f"[bold]Ionisable sites[/] (pKa): {listed or 'none'}", soft_wrap=True)
