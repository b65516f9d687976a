"""``moltune uncertainty``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import facts, out, print_json, set_up_logging, stage_progress
from moltune.cli.options import Json, Quiet, Smiles, Target
from moltune.config import DataSettings, make_settings


def uncertainty(
    run: Annotated[Path, typer.Argument(help="Finished run folder.")],
    molecules: Annotated[str, typer.Argument(metavar="MOLECULES", help="File, bundled set or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for uncertainty.csv and the figure.")],
    method: Annotated[
        str | None, typer.Option("--method", help="dropout or ensemble. [default: dropout, or ensemble with members]")
    ] = None,
    members: Annotated[
        list[Path] | None, typer.Option("--member", help="Further run of a deep ensemble; repeatable.")
    ] = None,
    passes: Annotated[int, typer.Option(min=2, help="Stochastic passes of Monte-Carlo dropout.")] = 30,
    percentile: Annotated[float, typer.Option(min=0, max=100, help="Marked in the figure.")] = 90.0,
    target: Target = None,
    smiles: Smiles = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate how sure a tuned model is of each molecule."""
    set_up_logging(quiet)
    from moltune.uncertainty.estimate import UncertaintySettings
    from moltune.uncertainty.estimate import uncertainty as run_uncertainty
    from moltune.uncertainty.report import write_uncertainty

    chosen = method or ("ensemble" if members else "dropout")
    settings = make_settings(UncertaintySettings, {"method": chosen, "passes": passes, "seed": seed})
    columns = DataSettings(smiles=smiles, target=target)
    with stage_progress(quiet) as report:
        found = run_uncertainty(run, molecules, settings, members=members or [], data=columns, report=report)
    table = write_uncertainty(found, output, percentile=percentile)
    if as_json:
        print_json(found.facts)
        return
    out.print(facts(found.facts))
    out.print(f"\nscores  {table}", soft_wrap=True)
