"""Where the command line prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from moltune.errors import MoltuneError
from moltune.progress import StageReport

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

# What transformers calls the losses of an epoch, and what they are.
_LOSSES = {"loss": "train", "eval_loss": "validation"}


class _Lines(logging.Handler):
    """One line per notice, never wrapped: logs are searched and cut by other programs."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "cyan"
        err.print(f"[{style}]{record.levelname.lower()}:[/] {escape(record.getMessage())}", soft_wrap=True)


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
    err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)


def facts(values: Mapping[str, Any], title: str = "") -> Table:
    """A two-column table of names and values; nested groups are indented."""
    table = Table(title=title or None, show_header=False, box=None, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _lines(values):
        table.add_row(escape(name), escape(value))
    return table


@contextmanager
def step_progress(title: str, quiet: bool = False, epochs: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar over optimiser steps with the last losses; yields the callback that feeds it.

    Where standard error is no terminal, a line is printed after each epoch or, without ``epochs``, at every tenth of
    the way.
    """
    known: dict[str, Any] = {}
    with _bar(quiet, TextColumn(title), MofNCompleteColumn(), TextColumn("{task.fields[losses]}")) as progress:

        def report(state: dict[str, Any]) -> None:
            step, steps = state["step"], state["steps"]
            # Loading and cleaning come first; a bar that stands still, or above an error, would mislead.
            if not progress.tasks:
                progress.start()
                progress.add_task(title, total=steps, losses="")
            names = _LOSSES if epochs else {name: name for name in state if name not in ("step", "steps")}
            known.update({label: state[name] for name, label in names.items() if name in state})
            losses = "  ".join(
                f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in known.items()
            )
            progress.update(progress.tasks[0].id, completed=step, losses=losses)
            if err.is_terminal or quiet:
                return
            if epochs and state.get("epoch_ended"):
                err.print(f"epoch {state['epoch']:g}  {losses}")
            elif not epochs and step * 10 // steps > (step - 1) * 10 // steps:
                err.print(f"step {step} of {steps}  {losses}")

        yield report


@contextmanager
def stage_progress(quiet: bool = False) -> Iterator[StageReport]:
    """A bar that names what is being done; yields the callback that feeds it.

    Where standard error is no terminal, each stage is a line instead.
    """
    with _bar(quiet, TextColumn("{task.description}")) as progress:
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

        yield report


@contextmanager
def _bar(quiet: bool, *columns: ProgressColumn) -> Iterator[Progress]:
    title, *others = columns
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(title, BarColumn(), *others, *times, console=err, disable=quiet or not err.is_terminal)
    try:
        yield progress
    finally:
        progress.stop()


def _lines(values: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}", ""
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not (float("-inf") < values < float("inf")):
        return None
    return values
