"""``moltune finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import epoch_progress, set_up_logging
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
    Tta,
    settings_from,
)
from moltune.config import DEFAULT_BLEND
from moltune.errors import ConfigError


def finetune(
    data: Annotated[
        str | None, typer.Argument(help="File, bundled set (lipophilicity, esol, freesolv) or hub id.")
    ] = None,
    target: Target = None,
    smiles: Smiles = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Bundled name, folder or hub id. [default: moltune/mini]")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Which parameters are trained. [default: full]")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="mean, cls or molformer; with --method probe: ridge, svr or gp. [default: mean]"),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="A,B", help="Of a probe: any of embedding, rdkit, morgan, minimol."),
    ] = None,
    freeze_encoder_epochs: Annotated[
        int | None,
        typer.Option("--freeze-encoder-epochs", min=0, help="Train the head alone for so many epochs first."),
    ] = None,
    split: SplitName = None,
    ratios: Ratios = None,
    seed: Seed = None,
    split_seed: Annotated[int | None, typer.Option("--split-seed", min=0, help="Unset: --seed.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="At most this many.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    augment: Annotated[
        int | None,
        typer.Option("--augment", min=0, help="Fresh random SMILES of each molecule per epoch. [default: 0]"),
    ] = None,
    tta: Tta = None,
    adapt: Annotated[
        str | None, typer.Option("--adapt", help="First learn the molecules without labels: mlm, mtr or both.")
    ] = None,
    transductive: Annotated[
        bool | None,
        typer.Option("--transductive", help="--adapt also learns from the SMILES of validation and test part."),
    ] = None,
    blend: Annotated[
        bool, typer.Option("--blend", help="Also average with XGBoost; --set prediction.blend=[...] names others.")
    ] = False,
    add: Annotated[
        str | None, typer.Option("--add", help="Labelled molecules to add to the training part, such as selected ones.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder, made if missing.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on one property, compare it with simple baselines, and write a run folder."""
    set_up_logging(quiet)
    of_probe = head in ("ridge", "svr", "gp")
    settings = settings_from(
        config,
        {
            "data.source": data,
            "data.target": target,
            "data.smiles": smiles,
            "data.add": add,
            "model.name": model,
            "model.head": None if of_probe else head,
            "method.probe.head": head if of_probe else None,
            "method.probe.features": features,
            "training.freeze_encoder_epochs": freeze_encoder_epochs,
            "method.name": method,
            "split.method": split,
            "split.ratios": ratios,
            "split.seed": split_seed,
            "seed": seed,
            "training.epochs": epochs,
            "training.batch_size": batch_size,
            "training.learning_rate": learning_rate,
            "training.augment": augment,
            "prediction.tta": tta,
            "prediction.blend": DEFAULT_BLEND if blend else None,
            "adapt.objective": adapt,
            "adapt.transductive": transductive or None,
            "output": output,
        },
        overrides,
    )
    if (of_probe or features is not None) and settings.method.name != "probe":
        option = f"--head {head}" if of_probe else "--features"
        raise ConfigError(f"{option} belongs to --method probe, not to {settings.method.name}")
    from moltune.cli.show import show_run
    from moltune.tuning.finetune import finetune as run_finetune

    with epoch_progress(quiet) as report:
        run = run_finetune(settings, resume=resume, overwrite=overwrite, report=report)
    show_run(run, as_json)
