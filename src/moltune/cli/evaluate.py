"""``moltune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import facts, out, print_json, set_up_logging
from moltune.cli.options import Base, Json, Quiet, Smiles, Target


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or its model folder.")],
    data: Annotated[str, typer.Argument(help="Labelled molecules: a file, bundled set or hub id.")],
    target: Target = None,
    smiles: Smiles = None,
    blend: Annotated[
        bool | None, typer.Option("--blend/--no-blend", help="Also the blend. [default: where the run has one]")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples behind each interval; 0: none.")] = 1000,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a tuned model's predictions with the measurements of other molecules."""
    set_up_logging(quiet)
    from moltune.predictors.predictor import Predictor
    from moltune.reports.summary import METRIC_LABELS, format_estimate

    metrics = Predictor.load(run, base, blend=blend).evaluate_source(
        data, smiles=smiles, target=target, bootstrap=bootstrap
    )
    if as_json:
        print_json(metrics)
        return
    rows = metrics["rows"]
    out.print(f"{rows['evaluated']} of {rows['in']} rows evaluated, {rows['left_out']} left out or merged")
    out.print(facts({label: format_estimate(metrics[name]) for name, label in METRIC_LABELS.items()}))
    if "blend" in metrics:
        values = {label: format_estimate(metrics["blend"][name]) for name, label in METRIC_LABELS.items()}
        out.print(facts(values, title="blend with classical baselines"))
