"""Pretrain: ``moltune pretrain`` and ``moltune adapt``."""

from __future__ import annotations

from typing import Any

from moltune.cli.console import out, print_json, step_progress
from moltune.cli.options import Given, Json, Output, Overwrite, Quiet, Resume, files, flags, with_settings
from moltune.config import AdaptConfig, PretrainConfig


@with_settings(
    {
        PretrainConfig: {
            "corpus": "CORPUS",
            **flags("objectives", "training.steps", "training.tokens_per_batch", "training.seed", "jobs", "threads"),
            "training.learning_rate": "--learning-rate --lr",
        }
    },
    more=files("training.optimizer=adamw"),
)
def pretrain(
    given: Given,
    output: Output,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a MoLFormer on your own molecules by masked tokens and descriptors; benchmark molecules are left out.

    Example: moltune pretrain molecules.smi -o runs/pretrained --steps 20000
    """
    settings = given.settings(PretrainConfig, {"output": output})
    from moltune.pretraining.check import check_pretraining

    check_pretraining(settings, resume=resume)
    from moltune.pretraining.pretrain import MODEL
    from moltune.pretraining.pretrain import pretrain as run_pretrain

    with step_progress("pretraining", quiet) as show:

        def report(progress: Any) -> None:
            rate = round(progress.molecules / max(progress.seconds, 1e-9))
            show({"step": progress.step, "steps": settings.training.steps, **progress.losses, "molecules/s": rate})

        progress = run_pretrain(settings, resume=resume, report=report)
    if as_json:
        return print_json({**vars(progress), "checkpoint": str(output / MODEL)})
    losses = ", ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    out.print(f"{progress.step} steps, {progress.molecules:,} molecules, {progress.seconds:.0f} s: {losses}")
    out.print(f"checkpoint: {output / MODEL}", markup=False, soft_wrap=True)


@with_settings(
    {
        AdaptConfig: {
            "model.name": "MODEL",
            "data.source": "DATA",
            **flags("data.target", "data.smiles", "split.ratios", "adapt.objective", "adapt.epochs", "seed"),
            "split.method": "--split",
            "split.seed": "--split-seed",
            "adapt.learning_rate": "--learning-rate --lr",
            "adapt.transductive": "--transductive/--training-part",
        }
    },
    more=files("adapt.warmup=0.2"),
)
def adapt(
    given: Given,
    output: Output,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue training a checkpoint on a task's own molecules, without labels; `finetune --model` takes the result.

    Example: moltune adapt moltune/mini my.csv -o runs/adapted
    """
    settings = given.settings(AdaptConfig, {"output": output})
    from moltune.pretraining.check import check_adaptation

    check_adaptation(settings, resume=resume, overwrite=overwrite)
    from moltune.pretraining.adapt import adapt as run_adapt

    with step_progress("adapting", quiet) as report:
        adapted = run_adapt(settings, resume=resume, overwrite=overwrite, report=report)
    if as_json:
        return print_json(adapted.to_dict())
    out.print(f"{adapted.result.words}\nlearnt from: {adapted.part}", markup=False, soft_wrap=True)
    out.print(f"checkpoint: {adapted.path}", markup=False, soft_wrap=True)
    next_ = f"moltune finetune {settings.data.source} --model {adapted.path}"
    out.print(f"next:       {next_}", markup=False, soft_wrap=True)
