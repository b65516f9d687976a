"""``moltune merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import set_up_logging
from moltune.cli.options import Quiet


def merge(
    run: Annotated[Path, typer.Argument(help="Run of an adapter method, or its model folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the plain model, made if missing.")],
    base: Annotated[
        str | None, typer.Option("--base", help="Where the adapter's base checkpoint is now, if it was moved.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fold an adapter into its base: a plain model with the same predictions, which needs no base any more."""
    set_up_logging(quiet)
    from moltune.models.checkpoints import merge_checkpoint

    merge_checkpoint(run, output, base)
