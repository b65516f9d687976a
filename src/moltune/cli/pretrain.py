"""``moltune pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moltune.cli.console import out, print_json, set_up_logging, step_progress
from moltune.cli.options import ConfigFile, Json, Quiet, Seed, Set, values_from


def pretrain(
    corpus: Annotated[Path, typer.Argument(help="SMILES or CSV file (also .gz), wheel, or corpus folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; the checkpoint is model/ in it.")],
    objectives: Annotated[str | None, typer.Option("--objectives", help="mlm,mtr or one. [default: mlm,mtr]")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps. [default: 20000]")] = None,
    tokens_per_batch: Annotated[
        int | None, typer.Option("--tokens-per-batch", help="Token budget of a step. [default: 5120]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    seed: Seed = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes that prepare the corpus.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a MoLFormer on your own molecules by masked tokens and descriptors; benchmark molecules are left out."""
    set_up_logging(quiet)
    values = values_from(
        config,
        {
            "corpus": str(corpus),
            "output": str(output),
            "objectives": None if objectives is None else [name.strip() for name in objectives.split(",")],
            "jobs": jobs,
            "threads": threads,
            "training.steps": steps,
            "training.tokens_per_batch": tokens_per_batch,
            "training.learning_rate": learning_rate,
            "training.seed": seed,
        },
        overrides,
    )
    from moltune.config import PretrainConfig, make_settings
    from moltune.pretraining.pretrain import MODEL
    from moltune.pretraining.pretrain import pretrain as run_pretrain

    settings = make_settings(PretrainConfig, values)
    with step_progress("pretraining", quiet) as show:

        def report(progress: Any) -> None:
            rate = round(progress.molecules / max(progress.seconds, 1e-9))
            show({"step": progress.step, "steps": settings.training.steps, **progress.losses, "molecules/s": rate})

        progress = run_pretrain(settings, resume=resume, report=report)
    if as_json:
        print_json({**vars(progress), "checkpoint": str(output / MODEL)})
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    out.print(f"{progress.step} steps, {progress.molecules:,} molecules, {progress.seconds:.0f} s: {losses}")
    out.print(f"checkpoint: {output / MODEL}", markup=False, soft_wrap=True)
