"""``moltune influence``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from moltune.cli.console import facts, out, print_json, set_up_logging, stage_progress
from moltune.cli.options import Json, Quiet, Set, Smiles
from moltune.config import DataSettings, make_settings
from moltune.overrides import apply_overrides


def influence(
    run: Annotated[Path, typer.Argument(help="Finished run folder.")],
    external: Annotated[str, typer.Argument(metavar="EXTERNAL", help="Labelled molecules: file, bundled set, hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for scores.csv, scores.json and figures.")],
    scope: Annotated[str | None, typer.Option("--scope", help="head, last-K, adapter or all. [default: head]")] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="cg, exact, lissa, identity, ekfac or tracin. [default: cg]")
    ] = None,
    curvature: Annotated[
        str | None, typer.Option("--curvature", help="gauss-newton or hessian. [default: gauss-newton]")
    ] = None,
    damping: Annotated[
        float | None, typer.Option("--damping", help="In units of the mean eigenvalue. [default: 0.1]")
    ] = None,
    convention: Annotated[
        str | None, typer.Option("--convention", help="negative-helps or positive-helps. [default: negative-helps]")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--target-part", help="As --target, where a column has such a name.")
    ] = None,
    percentile: Annotated[float, typer.Option(min=0, max=100, help="Threshold shown in the histogram.")] = 33.0,
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="Saved model for tracin; repeatable.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="validation or test: whose error counts; test biases what follows. Any other word: the target column, "
            "found when obvious. [default: validation]",
        ),
    ] = None,
    smiles: Smiles = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0)] = None,
    allow_unconverged: Annotated[
        bool, typer.Option("--allow-unconverged", help="Write scores of a solver that did not converge.")
    ] = False,
    founding_study: Annotated[
        bool,
        typer.Option("--founding-study", help="Zeros for gradients that are not finite, mean gradient of length 1."),
    ] = False,
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict what adding each external molecule would do to the validation error. Negative scores help."""
    set_up_logging(quiet)
    from moltune.attribution.influence import influence as run_influence
    from moltune.attribution.problem import InfluenceSettings
    from moltune.attribution.report import describe_scores, write_influence
    from moltune.attribution.tracin import Checkpoint

    # `--target test` is what the studies' readers type; a column of that name is reached through --target-part.
    if part is None and target in get_args(InfluenceSettings.model_fields["target"].annotation):
        part, target = target, None
    options = {
        "scope": scope,
        "solver": solver,
        "curvature": curvature,
        "damping": damping,
        "convention": convention,
        "target": part,
        "seed": seed,
        "allow_unconverged": allow_unconverged or None,
        "founding_study": founding_study or None,
    }
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    settings = make_settings(InfluenceSettings, apply_overrides(values, overrides or []))
    with stage_progress(quiet) as report:
        found = run_influence(
            run,
            external,
            settings,
            data=DataSettings(smiles=smiles, target=target),
            checkpoints=[Checkpoint(str(path)) for path in checkpoints or []],
            report=report,
        )
    page = write_influence(found, output, percentile=percentile)
    shown = {**found.facts, **describe_scores(found, percentile)}
    if as_json:
        print_json(shown)
        return
    shown.pop("settings")
    out.print(facts(shown))
    out.print(f"\nscores  {output / 'scores.csv'}\nreport  {page}", soft_wrap=True)
