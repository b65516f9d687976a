"""``moltune params``."""

from __future__ import annotations

from typing import Annotated

import typer

from moltune.cli.console import out, print_json, set_up_logging
from moltune.cli.options import Json, Set, settings_from


def params(
    model: Annotated[str | None, typer.Option("--model", help="Bundled name, folder or hub id.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="One method; unset: all of them.")] = None,
    head: Annotated[str | None, typer.Option("--head", help="mean, cls or molformer.")] = None,
    config_only: Annotated[
        str | None,
        typer.Option("--config-only", metavar="NAME", help="A size by name, such as molformer-xl; needs no weights."),
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Count parameters: how many a method trains, in the encoder and in the head."""
    set_up_logging(quiet=True)
    settings = settings_from(None, {"model.name": model, "model.head": head, "method.name": method}, overrides)
    from rich.table import Table

    from moltune.models.methods.registry import METHODS, count_parameters

    names = [settings.method.name] if method or as_json else list(METHODS)
    counts = [
        count_parameters(settings.model, settings.method.model_copy(update={"name": name}), config_only)
        for name in names
    ]
    if as_json:
        print_json(counts[0].to_dict())
        return
    table = Table(title=config_only or settings.model.name, title_justify="left")
    for heading in ("method", "adapter", "head", "trainable", "total", "share"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for count in counts:
        numbers = (f"{value:,}" for value in (count.adapter, count.head, count.trainable, count.total))
        table.add_row(count.method, *numbers, f"{count.share:.4%}")
    out.print(table)
