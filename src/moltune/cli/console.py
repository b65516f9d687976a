"""Where the command line prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from moltune.errors import MoltuneError
from moltune.progress import StageReport

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)


class _Lines(logging.Handler):
    """One line per notice, never wrapped: logs are searched and cut by other programs."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "cyan"
        err.print(f"[{style}]{record.levelname.lower()}:[/] {_escape(record.getMessage())}", soft_wrap=True)


def set_up_logging(quiet: bool = False) -> None:
    """Send notices of moltune to standard error; ``quiet`` leaves warnings only."""
    logger = logging.getLogger("moltune")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.addHandler(_Lines())
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


def print_json(values: Any) -> None:
    """Print one JSON value on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def print_error(error: MoltuneError | OSError) -> None:
    """Print an error without a traceback."""
    err.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)


def facts(values: Mapping[str, Any], title: str = "") -> Table:
    """A two-column table of names and values; nested groups are indented."""
    table = Table(title=title or None, show_header=False, box=None, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _lines(values):
        table.add_row(_escape(name), _escape(value))
    return table


@contextmanager
def epoch_progress(quiet: bool = False) -> Iterator[Any]:
    """A bar over training steps with the losses of the last epoch; yields the callback that feeds it.

    The bar appears with the first report. Where standard error is no terminal, one line is printed per epoch instead.
    """
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"))
    progress = Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, disable=quiet or not err.is_terminal
    )
    task = progress.add_task("training", total=None, losses="", start=False)
    known: dict[str, float] = {}

    def report(state: dict[str, Any]) -> None:
        # Loading and cleaning come first; a bar that stands still, or above an error, would mislead.
        if not progress.live.is_started:
            progress.start()
            progress.start_task(task)
        for key, label in (("loss", "train"), ("eval_loss", "validation")):
            if key in state:
                known[label] = state[key]
        losses = "  ".join(f"{label} {value:.4f}" for label, value in known.items())
        progress.update(task, completed=state["step"], total=state["steps"], losses=losses)
        if state.get("epoch_ended") and not err.is_terminal and not quiet:
            err.print(f"epoch {state['epoch']:g}  {losses}")

    try:
        yield report
    finally:
        progress.stop()


@contextmanager
def step_progress(title: str, quiet: bool = False) -> Iterator[Any]:
    """A bar over optimiser steps with losses by name; yields the callback that feeds it.

    Where standard error is no terminal, a line is printed at every tenth of the way instead.
    """
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=err, disable=quiet or not err.is_terminal)
    task = progress.add_task(title, total=None, losses="")

    def report(state: dict[str, Any]) -> None:
        if not progress.live.is_started:
            progress.start()
        step, steps = state["step"], state["steps"]
        known = {name: value for name, value in state.items() if name not in ("step", "steps")}
        texts = (
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in known.items()
        )
        losses = "  ".join(texts)
        progress.update(task, completed=step, total=steps, losses=losses)
        if not err.is_terminal and not quiet and step * 10 // steps > (step - 1) * 10 // steps:
            err.print(f"step {step} of {steps}  {losses}")

    try:
        yield report
    finally:
        progress.stop()


@contextmanager
def stage_progress(quiet: bool = False) -> Iterator[StageReport]:
    """A bar that names what is being done; yields the callback that feeds it.

    Where standard error is no terminal, each stage is a line instead.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        disable=quiet or not err.is_terminal,
    )
    task, known = progress.add_task("", total=1), ""

    def report(stage: str, share: float) -> None:
        nonlocal known
        if stage != known:
            known = stage
            progress.reset(task, description=stage, total=1)
            progress.start()
            if not err.is_terminal and not quiet:
                err.print(stage, style="dim")
        # A stage that does not know how far it is shows that it moves.
        progress.update(task, completed=share, total=1 if share > 0 else None)

    try:
        yield report
    finally:
        progress.stop()


@contextmanager
def molecule_progress(total: int | None, quiet: bool = False) -> Iterator[Any]:
    """A bar over molecules; yields a callback that takes how many more are done."""
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("predicting", total=total)
        yield lambda done: progress.advance(task, done)


def _lines(values: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    # SMILES are full of brackets, which rich would read as its own markup.
    return text.replace("[", "\\[")


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not (float("-inf") < values < float("inf")):
        return None
    return values
