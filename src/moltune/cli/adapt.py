"""``moltune adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import out, print_json, set_up_logging, step_progress
from moltune.cli.options import (
    ConfigFile,
    Json,
    Quiet,
    Ratios,
    Seed,
    Set,
    Smiles,
    SplitName,
    Target,
    adapt_settings_from,
)


def adapt(
    model: Annotated[str, typer.Argument(help="Bundled name, folder, run folder or hub id to go on from.")],
    data: Annotated[str, typer.Argument(help="Molecules: a file, bundled set or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new checkpoint.")],
    objective: Annotated[str | None, typer.Option("--objective", help="mlm, mtr or both. [default: mtr]")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    augment: Annotated[int | None, typer.Option("--augment", help="Random SMILES of each molecule.")] = None,
    transductive: Annotated[
        bool | None,
        typer.Option("--transductive/--training-part", help="Learn from the SMILES of all parts."),
    ] = None,
    target: Target = None,
    smiles: Smiles = None,
    split: SplitName = None,
    ratios: Ratios = None,
    seed: Seed = None,
    split_seed: Annotated[int | None, typer.Option("--split-seed", min=0, help="Unset: --seed.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished adaptation.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier adaptation.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue training a checkpoint on a task's own molecules, without labels; `finetune --model` takes the result."""
    set_up_logging(quiet)
    settings = adapt_settings_from(
        config,
        {
            "model.name": model,
            "data.source": data,
            "data.target": target,
            "data.smiles": smiles,
            "split.method": split,
            "split.ratios": ratios,
            "split.seed": split_seed,
            "seed": seed,
            "adapt.objective": objective,
            "adapt.epochs": epochs,
            "adapt.learning_rate": learning_rate,
            "adapt.augment": augment,
            "adapt.transductive": transductive,
            "output": output,
        },
        overrides,
    )
    from moltune.pretraining.adapt import adapt as run_adapt

    with step_progress("adapting", quiet) as report:
        adapted = run_adapt(settings, resume=resume, overwrite=overwrite, report=report)
    if as_json:
        print_json(adapted.to_dict())
        return
    out.print(f"{adapted.result.words}\nlearnt from: {adapted.part}", markup=False, soft_wrap=True)
    out.print(f"checkpoint: {adapted.path}", markup=False, soft_wrap=True)
    out.print(f"next:       moltune finetune {data} --model {adapted.path}", markup=False, soft_wrap=True)
