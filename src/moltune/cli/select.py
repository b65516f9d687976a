"""``moltune select``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moltune.cli.console import facts, out, print_json, set_up_logging
from moltune.cli.options import Json, Quiet, Smiles, Target
from moltune.config import DataSettings, make_settings


def select(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="scores.csv, uncertainty.csv, or labelled molecules.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV that `moltune finetune --add` takes.")],
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="influence, influence-reversed, uncertainty, similarity, diversity, cluster, residual, "
            "random, all or none.",
        ),
    ] = "influence",
    count: Annotated[int | None, typer.Option("--count", "-n", min=0, help="Take this many.")] = None,
    percentile: Annotated[float | None, typer.Option("--percentile", help="Take this share, in percent.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Take those at least this good.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Exclude what its validation and test parts hold; for similarity.")
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option("--convention", help="Of influence scores. [default: scores.json's, or negative-helps]"),
    ] = None,
    space: Annotated[str, typer.Option("--space", help="fingerprint or embedding.")] = "fingerprint",
    clusters: Annotated[int, typer.Option("--clusters", min=1)] = 10,
    target: Target = None,
    smiles: Smiles = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Select molecules to add, by influence, uncertainty, similarity, diversity, or as a control."""
    set_up_logging(quiet)
    from moltune.data.reading.write import check_output, write_table
    from moltune.selection.select import select as run_select
    from moltune.selection.strategies import SelectSettings

    values: dict[str, Any] = {
        "strategy": strategy,
        "count": count,
        "percentile": percentile,
        "threshold": threshold,
        "convention": convention or _convention(table),
        "space": space,
        "clusters": clusters,
        "seed": seed,
    }
    check_output(output, table)
    # Tables of ours call the label so; a file of the user's own is left to the column finder.
    wanted = target or ("label" if _is_ours(table) else None)
    settings = make_settings(SelectSettings, values)
    found = run_select(table, settings, run=run, data=DataSettings(smiles=smiles, target=wanted))
    write_table(found.table, output)
    if as_json:
        print_json(found.facts)
        return
    shown = {name: value for name, value in found.facts.items() if name not in ("settings", "excluded_smiles")}
    out.print(facts({**shown, "output": str(output)}))


def _convention(table: str) -> str:
    beside = Path(table).with_name("scores.json")
    if Path(table).name == "scores.csv" and beside.is_file():
        return str(json.loads(beside.read_text(encoding="utf-8")).get("convention", "negative-helps"))
    return "negative-helps"


def _is_ours(table: str) -> bool:
    return Path(table).name in ("scores.csv", "uncertainty.csv")
