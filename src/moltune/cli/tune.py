"""Tune: ``moltune finetune``, ``tune``, ``merge``, ``export`` and ``params``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from moltune.cli.console import err, facts, out, print_json, set_up_logging, step_progress
from moltune.cli.options import (
    Base,
    Given,
    Json,
    Output,
    Overwrite,
    Quiet,
    Resume,
    argument,
    files,
    flags,
    option,
    sets,
    table_flags,
    with_settings,
)
from moltune.config import FinetuneConfig, SearchSettings
from moltune.errors import ConfigError

_TASK = {
    "data.source": "[DATA]",
    **table_flags("data."),
    **flags("data.task", "split.ratios", "seed"),
    "split.method": "--split",
    "model.name": "--model",
    "method.name": "--method",
}


@with_settings(
    {
        FinetuneConfig: {
            **_TASK,
            **flags("data.add", "data.bounds", "method.probe.features", "training.epochs", "training.batch_size"),
            **flags(
                "training.ensemble", "training.class_weights", "training.freeze_encoder_epochs", "adapt.transductive"
            ),
            "training.learning_rate": "--learning-rate --lr",
            "adapt.objective": "--adapt",
            "split.seed": "--split-seed",
            "output": "--output -o",
        }
    },
    more=files("training.patience=10"),
)
def finetune(
    given: Given,
    head: Annotated[
        str | None,
        option(
            "--head",
            help="Regression head: mean, cls or molformer; with --method probe: ridge, svr or gp.",
            default="mean; gp with probe",
            rich_help_panel="Model",
        ),
    ] = None,
    no_blend: Annotated[
        bool,
        option(
            "--no-blend",
            help="Leave the tuned model alone. Otherwise it is averaged with a Gaussian process on frozen embeddings, "
            "descriptors and ionisation, where validation data can say how; prediction.blend=[...] names others.",
        ),
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on one property, compare it with simple baselines, and write a run folder.

    With several target columns, such as --target logD,logS, one model is tuned on all of them, and each gets a run
    folder inside the output folder.

    Example: moltune finetune my.csv --target pIC50 --output runs/mine
    """
    of_probe = head in ("ridge", "svr", "gp")
    settings = given.settings(
        FinetuneConfig,
        {
            "method.probe.head" if of_probe else "model.head": head,
            "prediction.blend": [] if no_blend else None,
        },
    )
    features = given.options[FinetuneConfig]["method.probe.features"]
    if (of_probe or features is not None) and settings.method.name != "probe":
        wrong = f"--head {head}" if of_probe else "--features"
        raise ConfigError(f"{wrong} belongs to --method probe, not to {settings.method.name}")
    from moltune.tuning.check import check_request

    check_request(settings, resume=resume, overwrite=overwrite)
    from moltune.cli.show import show_run, show_runs

    if "," in (settings.data.target or ""):
        from moltune.tuning.several import finetune_several

        with step_progress("training", quiet, epochs=True) as report:
            runs = finetune_several(settings, resume=resume, overwrite=overwrite, report=report)
        return show_runs(runs, as_json)
    from moltune.tuning.finetune import finetune as run_finetune

    with step_progress("training", quiet, epochs=True) as report:
        run = run_finetune(settings, resume=resume, overwrite=overwrite, report=report)
    show_run(run, as_json)


@with_settings(
    {
        FinetuneConfig: _TASK,
        SearchSettings: {**flags("trials", "splits", "space", "hours"), "prune": "--prune/--no-prune"},
    },
    more=files("training.patience=10"),
)
def tune(
    given: Given,
    output: Annotated[
        Path | None,
        option("--output", "-o", help="Folder of the search.", default="runs/tune-<data>-<model>-<method>"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search for a method's best settings on validation data; the same command goes on with an interrupted search.

    Example: moltune tune my.csv --target pIC50 --method lora
    """
    settings, wanted = given.settings(FinetuneConfig), given.settings(SearchSettings)
    wanted = wanted.model_copy(update={"space": [*_fixed(given.overrides, wanted.space), *wanted.space]})
    from moltune.tuning.check import check_files

    check_files(settings)
    from moltune.tuning.search.search import search

    def say(state: dict[str, Any]) -> None:
        value, best = ("–" if state[name] is None else f"{state[name]:.4f}" for name in ("value", "best"))
        err.print(f"trial {state['number']} {state['state']} {value}  best {best}  ({state['done']}/{state['trials']})")

    found = search(settings, wanted, output=output, report=None if quiet else say)
    values = found.to_dict()
    if as_json:
        return print_json(values)
    before = found.default
    out.print(
        f"\nbest mean validation {found.label} {found.value:.4f}"
        + (f" (settings as given: {before:.4f})" if before is not None else "")
        + "; chosen among many, so expect a little worse on new molecules\n"
    )
    out.print(facts(values["best"]))
    out.print(f"\nmoltune finetune --config {values['config']}", soft_wrap=True)


def _fixed(overrides: list[str], space: list[str]) -> list[str]:
    """What ``--set`` gives is not searched: texts of ``--space`` that leave these settings as they are.

    Raises:
        ConfigError: a setting is set and to be searched, too.
    """
    names = [text.partition("=")[0].strip() for text in overrides]
    names = [name.removeprefix("method.") if name.startswith("method.peft.") else name for name in names]
    searched = {name.strip() for name, _, values in (text.partition("=") for text in space) if values.strip()}
    if both := sorted(searched & set(names)):
        raise ConfigError(f"{both[0]} is given by --set and searched by --space; leave one of them out")
    return [f"{name}=" for name in names]


def merge(
    run: Annotated[Path, argument("RUN", "Run of an adapter method, or its model folder.")],
    output: Output,
    base: Base = None,
    quiet: Quiet = False,
) -> None:
    """Fold an adapter into its base: a plain model with the same predictions, which needs no base any more.

    Example: moltune merge runs/lora -o merged
    """
    set_up_logging(quiet)
    from moltune.files import check_free
    from moltune.models.names import resolve

    resolve(run)
    check_free(output)
    from moltune.models.checkpoints import merge_checkpoint

    merge_checkpoint(run, output, base)


def export(
    run: Annotated[Path, argument("RUN", "Run folder, its model folder, or an export.")],
    output: Annotated[Path, option("--output", "-o", help="Folder, or a file that ends in .zip.")],
    half: Annotated[
        bool, option("--half", help="Round the encoder's weights to half precision, which halves the size.")
    ] = False,
    base: Base = None,
    quiet: Quiet = False,
) -> None:
    """Write all that a run needs to predict into one folder or zip file, which starts fast: PyTorch is not used.

    It can be used wherever a run can.

    Example: moltune export runs/mine -o mine.zip
    """
    set_up_logging(quiet)
    from moltune.files import check_free
    from moltune.models.names import resolve

    resolve(run)
    check_free(output)
    from moltune.predictors.export import export_run

    export_run(run, output, base=base, half=half)
    if not quiet:
        out.print(f"moltune predict {output} molecules.csv", markup=False, soft_wrap=True)


@with_settings(
    {FinetuneConfig: {"model.name": "--model", **flags("model.head")}},
    more=sets("peft.r=4"),
)
def params(
    given: Given,
    method: Annotated[str | None, option("--method", help="This method alone.", default="all of them")] = None,
    config_only: Annotated[
        str | None,
        option("--config-only", help="A size by name, such as molformer-xl; needs no weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count parameters: how many each method, or the one named, trains in the encoder and in the head.

    Example: moltune params --method lora
    """
    set_up_logging(quiet=True)
    settings = given.settings(FinetuneConfig, {"method.name": method})
    from moltune.models.names import resolve

    if config_only is None:
        resolve(settings.model.name)
    from moltune.models.methods.registry import METHODS, count_parameters

    counts = [
        count_parameters(settings.model, settings.method.model_copy(update={"name": name}), config_only)
        for name in ([settings.method.name] if method or as_json else METHODS)
    ]
    if as_json:
        return print_json(counts[0].to_dict())
    table = Table(title=config_only or settings.model.name, title_justify="left")
    for heading in ("method", "adapter", "head", "trainable", "total", "share"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for count in counts:
        numbers = (f"{value:,}" for value in (count.adapter, count.head, count.trainable, count.total))
        table.add_row(count.method, *numbers, f"{count.share:.4%}")
    out.print(table)
