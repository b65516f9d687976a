"""Write the reference pages from the code: commands from Typer, settings from pydantic."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import mkdocs_gen_files
import typer.main
from pydantic import BaseModel

from moltune.cli.app import app
from moltune.config import FinetuneConfig


def cell(text: Any) -> str:
    """Text that fits into one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below ``command`` with its full name, in the order of the help."""
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child in children.values():
        if not child.hidden:
            yield from commands(child, f"{name} {child.name}")


def split_help(option: Any) -> tuple[str, str]:
    """Help and default of an option; most have the default at the end of the help, marked up for a terminal."""
    text, found, shown = (option.help or "").partition("[dim]\\[default: ")
    if found:
        return text.strip(), shown.removesuffix("][/]")
    shown = option.show_default if isinstance(option.show_default, str) else option.default
    if shown is None or shown is False or callable(shown) or shown == ():
        return text, ""
    return text, str(shown)


def describe_command(name: str, command: Any) -> Iterator[str]:
    """One command: its help, its arguments and its options."""
    yield f"## {name}\n"
    yield inspect.cleandoc(command.help or "").replace("\b", "").replace("<", "&lt;") + "\n"
    options = [option for option in command.params if not option.hidden and option.name != "help"]
    if not options:
        return
    yield "| option | meaning | default |"
    yield "| --- | --- | --- |"
    for option in options:
        if option.param_type_name == "argument":
            label = f"`{(option.metavar or option.name).upper()}`"
        else:
            label = ", ".join(f"`{text}`" for text in [*option.opts, *option.secondary_opts])
        text, default = split_help(option)
        yield f"| {label} | {cell(text)} | {cell(default)} |"
    yield ""


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Groups of settings: heading and Markdown."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    groups = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            groups.append((f"{prefix}{name}.", kind))
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "" if default is None else f"`{default}`"
        rows.append(f"| `{prefix}{name}` | {cell(shown)} | {cell(field.description or '')} |")
    if len(rows) > 2:
        yield prefix.rstrip(".") or "The run", f"{inspect.getdoc(model)}\n\n" + "\n".join(rows) + "\n"
    for inner, kind in groups:
        yield from settings(kind, inner)


root = typer.main.get_command(app)
with mkdocs_gen_files.open("reference/cli.md", "w") as page:
    print("# Command line\n", file=page)
    print("Made from the commands themselves; `moltune COMMAND --help` prints the same.\n", file=page)
    for name, command in commands(root, "moltune"):
        print("\n".join(describe_command(name, command)), file=page)

with mkdocs_gen_files.open("reference/settings.md", "w") as page:
    print("# Settings\n", file=page)
    print(
        "Every setting of `moltune finetune`. On the command line: `--set training.patience=10`; in a YAML file for "
        "`--config`: nested groups; in Python: nested dictionaries. The defaults stand once, in `moltune.config`.\n",
        file=page,
    )
    for heading, text in settings(FinetuneConfig):
        print(f"## {heading}\n\n{text}", file=page)
