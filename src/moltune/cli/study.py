"""``moltune study``: honest comparisons of any arms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from moltune.cli.console import err, out, print_json, set_up_logging
from moltune.cli.help import Command, Group
from moltune.cli.options import Json, Output, Quiet, argument, option

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Compare arms over the same splits and seeds; resumable at any time."
)

RecipeName = Annotated[str, argument("RECIPE", "YAML file or bundled recipe; `moltune study list` shows those.")]
Folder = Annotated[Path, argument("FOLDER", "Study folder.")]
Source = Annotated[str | None, option("--data", help="Other data.", default="the recipe's")]
External = Annotated[
    str | None,
    option("--external", help="Labelled molecules that selection arms draw on.", default="the recipe's"),
]
Model = Annotated[str | None, option("--model", help="Another language model.", default="the recipe's")]


@app.command("list", cls=Command)
def list_recipes(as_json: Json = False) -> None:
    """List the bundled recipes.

    Example: moltune study list
    """
    from moltune.study.load import bundled_recipes, load_recipe

    recipes = [load_recipe(name) for name in bundled_recipes()]
    if as_json:
        return print_json(
            [{"name": r.name, "description": r.description, "arms": [a.name for a in r.arms]} for r in recipes]
        )
    table = Table(box=None, pad_edge=False)
    for column in ("Recipe", "Blocks", "Arms", "Description"):
        table.add_column(column)
    for recipe in recipes:
        table.add_row(recipe.name, str(len(recipe.protocol.blocks())), str(len(recipe.arms)), recipe.description)
    out.print(table)


@app.command(cls=Command)
def validate(
    recipe: RecipeName, data: Source = None, model: Model = None, external: External = None, as_json: Json = False
) -> None:
    """Check a recipe: settings, target, arms, files and packages; nothing is computed.

    Example: moltune study validate quick
    """
    set_up_logging()
    from moltune.study.engine.plan import find_task
    from moltune.study.load import check_arms

    loaded, notes = check_arms(find_task(_load(recipe, data, model, external)))
    blocks = loaded.protocol.blocks()
    facts: dict[str, Any] = {
        "recipe": loaded.name,
        "valid": True,
        "data": loaded.data.source,
        "task": loaded.task.name,
        "metric": loaded.metric,
        "protocol": loaded.protocol.name,
        "blocks": len(blocks),
        "arms": [arm.name for arm in loaded.arms],
        "controls_added": {arm.name: arm.control for arm in loaded.arms if arm.control},
        "comparisons": [f"{one} against {other}" for one, other in loaded.pairs()],
        "left_out": notes,
    }
    if as_json:
        return print_json(facts)
    what = f"{loaded.task.name} by {loaded.metric}"
    out.print(f"{loaded.name} is valid: {len(loaded.arms)} arms on {len(blocks)} blocks, {what}")
    for arm in loaded.arms:
        out.print(f"  {arm.name} ({arm.kind})" + (f", control added: {arm.control}" if arm.control else ""))
    for line in [*facts["comparisons"], *notes]:
        out.print(f"  {line}", markup=False)


@app.command(cls=Command)
def splits(recipe: RecipeName, output: Output, data: Source = None) -> None:
    """Write the molecules and parts of every split, for programs whose predictions become an external arm.

    Example: moltune study splits quick -o runs/splits
    """
    set_up_logging()
    from moltune.study.engine.plan import write_splits
    from moltune.study.engine.store import Store

    for path in write_splits(_load(recipe, data, None), Store(output)):
        out.print(str(path), markup=False, soft_wrap=True)


@app.command(cls=Command)
def run(
    recipe: RecipeName,
    output: Output,
    workers: Annotated[int, option("--workers", min=1, help="Local processes.")] = 1,
    threads: Annotated[
        int | None,
        option("--threads", min=1, help="CPU threads of each worker.", default="cores / workers"),
    ] = None,
    ray: Annotated[
        str | None, option("--ray", metavar="ADDRESS", help="Work on a Ray cluster; local starts one.")
    ] = None,
    data: Source = None,
    model: Model = None,
    external: External = None,
    splits: Annotated[int | None, option("--splits", min=1, help="Number of splits.", default="the recipe's")] = None,
    seeds: Annotated[int | None, option("--seeds", min=1, help="Number of seeds.", default="the recipe's")] = None,
    reuse: Annotated[
        list[Path] | None,
        option("--reuse", help="Study folder from which equal runs are copied; repeatable."),
    ] = None,
    retry_failed: Annotated[bool, option("--retry-failed", help="Do again what failed before.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing of a study, then write its report; finished runs are never repeated.

    Example: moltune study run quick -o runs/quick --workers 2
    """
    set_up_logging(quiet)
    loaded = _load(recipe, data, model, external, splits=splits, seeds=seeds)
    from moltune.study.engine.run import run_study
    from moltune.study.report.page import write_study

    executor = None
    if ray is not None:
        from moltune.study.engine.cluster import RayExecutor

        executor = RayExecutor(output, ray, threads or 1)
    with _progress(quiet or as_json) as report:
        ran = run_study(
            loaded,
            output,
            workers=workers,
            threads=threads,
            retry_failed=retry_failed,
            executor=executor,
            reuse=reuse or [],
            report=report,
        )
    analysis = write_study(output)
    if as_json:
        from moltune.study.report.text import sentence

        verdicts = [{**item.to_dict(), "sentence": sentence(item, analysis)} for item in analysis.comparisons]
        print_json({**ran.to_dict(), "verdicts": verdicts, "notes": analysis.notes})
    else:
        _print(analysis, output)
    if ran.failed or ran.missing:
        err.print(f"{len(ran.failed)} runs failed and {len(ran.missing)} were not begun", style="bold red")
        raise typer.Exit(1)


@app.command(cls=Command)
def show(folder: Folder, as_json: Json = False) -> None:
    """Show the verdicts and tables of a study, finished or not; its report is written anew.

    Example: moltune study show runs/quick
    """
    set_up_logging(quiet=True)
    from moltune.study.engine.store import Store

    facts = Store(folder).study()
    from moltune.study.report.page import results, write_study

    analysis = write_study(folder)
    if as_json:
        print_json(results(analysis, facts))
    else:
        _print(analysis, folder)


@app.command(cls=Command)
def compare(
    first: Annotated[Path, argument("FIRST", "Study folder.")],
    second: Annotated[Path, argument("SECOND", "Study folder.")],
    as_json: Json = False,
) -> None:
    """Compare the arms that two studies share; in pairs where data and splits are the same.

    Example: moltune study compare runs/first runs/second
    """
    set_up_logging(quiet=True)
    from moltune.study.analysis.compare import compare_studies

    lines = compare_studies(first, second)
    if as_json:
        return print_json([line.to_dict() for line in lines])
    for line in lines:
        out.print(f"{line.arm}: {line.words}", markup=False)


def _load(recipe: str, data: str | None, model: str | None, external: str | None = None, **blocks: int | None) -> Any:
    from moltune.study.load import load_recipe
    from moltune.study.recipe.recipe import change_recipe

    return change_recipe(load_recipe(recipe), data=data, model=model, external=external, **blocks)


def _print(analysis: Any, folder: Path) -> None:
    from moltune.study.report.page import REPORT
    from moltune.study.report.text import arms_table, in_order, sentence, tally

    if analysis.comparisons:
        out.print(tally(analysis.comparisons), markup=False)
    for item in chain(*in_order(analysis.comparisons)):
        out.print(f"• {sentence(item, analysis)}", markup=False)
    shown = fit_columns(arms_table(analysis), out.width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in shown.columns:
        table.add_column(column, no_wrap=column != "Arm", justify="left" if column == "Arm" else "right")
    for row in shown.to_numpy().tolist():
        table.add_row(*row)
    out.print(table)
    for note in dict.fromkeys(analysis.notes):
        out.print(f"note: {note}", markup=False)
    for hash_, text in analysis.failures.items():
        out.print(f"failed {hash_}: {text}", markup=False)
    out.print(f"report: {folder / REPORT}", markup=False, soft_wrap=True)


def fit_columns(table: pd.DataFrame, width: int) -> pd.DataFrame:
    """The columns that say something and that a terminal has room for; the report has them all.

    Args:
        table: texts, as :func:`moltune.study.report.text.arms_table` makes it.
        width: of the terminal, in characters.
    """
    first, *others = [name for name in table.columns if name not in ("Kind", "Runs") and (table[name] != "–").any()]
    # Three words of an arm's name on a line of their own still read well.
    room = width - min(28, int(table[first].str.len().max())) - 2
    kept = []
    for name in others:
        room -= max(len(name), int(table[name].str.len().max())) + 2
        if room < 0:
            break
        kept.append(name)
    return table[[first, *kept]]


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A bar over runs with what is under way and the time left; lines where standard error is no terminal."""
    columns = (TextColumn("study"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    log = logging.getLogger("moltune.study")
    with Progress(*columns, TimeElapsedColumn(), console=err, disable=quiet) as progress:
        bar = progress.add_task("study", total=None, state="")

        def report(state: Any) -> None:
            left = "" if state.seconds_left is None else f"  {timedelta(seconds=round(state.seconds_left))} left"
            failed = f"  {state.failed} failed" if state.failed else ""
            text = f"{', '.join(state.running)}{failed}{left}"
            progress.update(bar, completed=state.done + state.failed, total=state.total, state=text)
            if state.last is not None and not err.is_terminal and not quiet:
                task, event = state.last
                log.info(
                    "%d of %d: %s %s, %.1f s%s", state.done, state.total, task.title, event.status, event.seconds, left
                )

        yield report
