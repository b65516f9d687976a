"""Options of the commands. One that stands for a setting takes its type, help and default from the setting's field."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from rich.markup import escape

from moltune.cli.console import set_up_logging
from moltune.config import METHOD_TRAINING, FinetuneConfig, Group, Settings, make_settings
from moltune.overrides import apply_overrides, read_yaml, set_nested

_PANELS = {
    "data": "Data",
    "split": "Data",
    "model": "Model",
    "method": "Model",
    "adapt": "Training",
    "training": "Training",
}
_PLAIN = (bool, int, float, Path, list[str])


def flags(*names: str) -> dict[str, str]:
    """Settings with a flag of their own name, such as ``training.batch_size`` with ``--batch-size``."""
    return {name: f"--{name.rpartition('.')[2].replace('_', '-')}" for name in names}


def option(*flags: str, help: str, default: str = "", **more: Any) -> Any:
    """An option; ``default`` says in words what happens without it, where that is not the parameter's own default."""
    return typer.Option(*flags, help=_help(help, default), **more)


def argument(metavar: str, help: str) -> Any:
    """A positional argument."""
    return typer.Argument(metavar=metavar, help=_help(help), show_default=False)


def setting(defaults: Settings, name: str, flags: str, grouped: bool = False) -> Any:
    """The annotation of a parameter that stands for a setting.

    Args:
        defaults: the settings with their defaults.
        name: such as ``training.learning_rate``.
        flags: such as ``--learning-rate --lr``; ``DATA`` makes an argument, ``[DATA]`` one that may be left out.
        grouped: show it in the help with others of its kind.
    """
    *groups, own = name.split(".")
    group = functools.reduce(getattr, groups, defaults)
    field = type(group).model_fields[own]
    kind, value = _type(field.annotation), getattr(group, own)
    words, _, unset = (field.description or "").partition("; unset: ")
    text = f"{words[:1].upper()}{words[1:]}."
    if not flags.startswith("-"):
        return Annotated[kind | None if flags.startswith("[") else kind, argument(flags.strip("[]"), text)]
    default = unset if value in (None, []) else "" if value is False else _text(value)
    if isinstance(defaults, FinetuneConfig) and groups == ["training"]:
        default += "".join(f"; {_text(other)} with {methods}" for other, methods in _of_methods(own, value).items())
    panel = _PANELS.get(groups[0]) if grouped and groups else None
    return Annotated[kind | None, option(*flags.split(), help=text, default=default, rich_help_panel=panel)]


def _help(text: str, default: str = "") -> str:
    return escape(text) + (f" [dim]\\[default: {escape(default)}][/]" if default else "")


def _type(annotation: Any) -> Any:
    """The type of an option: text for all that typer need not know, since the settings check what they are given."""
    for wrapper in (Union, UnionType, Annotated):
        if get_origin(annotation) is wrapper:
            annotation = get_args(annotation)[0]
    return annotation if annotation in _PLAIN else str


def _text(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return "/".join(f"{100 * part:g}" for part in value)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _of_methods(name: str, value: Any) -> dict[Any, str]:
    """Other defaults that methods have for a training setting, and these methods."""
    found: dict[Any, list[str]] = {}
    for method, defaults in METHOD_TRAINING.items():
        if defaults.get(name, value) != value:
            found.setdefault(defaults[name], []).append(method)
    return {other: ", ".join(methods) for other, methods in found.items()}


def table_flags(prefix: str = "") -> dict[str, str]:
    """Settings that say how a table is read, each with its flag; their names begin with ``prefix``."""
    names = ("smiles", "target", "type", "sheet", "decimal", "clean.unit", "clean.transform")
    return {**flags(*(prefix + name for name in names)), f"{prefix}header": "--header/--no-header"}


Output = Annotated[Path, option("--output", "-o", help="Output folder, made if missing.")]
Json = Annotated[bool, option("--json", help="Print the result as JSON on standard output, and nothing else.")]
Quiet = Annotated[bool, option("--quiet", "-q", help="Print warnings only, and no progress bar.")]
Resume = Annotated[bool, option("--resume", help="Go on with unfinished work of the same settings.")]
Overwrite = Annotated[bool, option("--overwrite", help="Delete what the output folder holds and begin again.")]
Base = Annotated[
    str | None,
    option("--base", help="Where the checkpoint under an adapter or a probe is now.", default="where it was"),
]
ConfigFile = Annotated[
    Path | None,
    option("--config", help="YAML file of settings, such as config.yaml of a run; options override it."),
]


def sets(example: str) -> dict[str, Any]:
    """The option ``--set`` with an example of a setting."""
    words = f"Any setting by name, such as {example}; repeatable."
    return {"overrides": Annotated[list[str] | None, option("--set", metavar="KEY=VALUE", help=words)]}


def files(example: str) -> dict[str, Any]:
    """The options ``--config`` and ``--set``."""
    return {"config": ConfigFile, **sets(example)}


@dataclass(frozen=True)
class Given:
    """What a user gave: options by the setting that each stands for, a YAML file and ``--set`` texts."""

    options: dict[type[Settings], dict[str, Any]]
    config: Path | None
    overrides: list[str]

    def settings(self, kind: type[Group], more: Mapping[str, Any] | None = None) -> Group:
        """Settings from the file, then the options and ``more`` (where not None), then the ``--set`` texts.

        File and texts concern the first kind of settings that a command has.

        Raises:
            ConfigError: a setting is unknown or wrong.
        """
        first = kind is next(iter(self.options))
        values = read_yaml(self.config) if self.config and first else {}
        # The config.yaml of a finished run can be used as it is; where it ran then says nothing about this run.
        values.pop("provenance", None)
        for name, value in {**self.options[kind], **(more or {})}.items():
            if value is not None:
                set_nested(values, name, value)
        return make_settings(kind, apply_overrides(values, self.overrides if first else []))


def with_settings(
    options: Mapping[type[Settings], Mapping[str, str]], more: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings; what the user gives arrives as its first parameter.

    Args:
        options: kind of settings → name of a setting → its flags; see :func:`setting`.
        more: :func:`files` or :func:`sets`, where the command takes a YAML file or ``--set`` texts, too.
    """
    places: dict[str, tuple[type[Settings], str]] = {}
    parameters: list[inspect.Parameter] = []
    grouped = sum(map(len, options.values())) > 10
    for kind, names in options.items():
        for name, flags in names.items():
            parameter = re.split("[ /]", flags.strip("-[]"))[0].lower().replace("-", "_")
            places[parameter] = (kind, name)
            default = None if flags[0] in "-[" else inspect.Parameter.empty
            parameters.append(_parameter(parameter, setting(kind.model_construct(), name, flags, grouped), default))
    parameters += [_parameter(name, annotation, None) for name, annotation in (more or {}).items()]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            set_up_logging(values.get("quiet", False))
            found: dict[type[Settings], dict[str, Any]] = {kind: {} for kind in options}
            for parameter, (kind, name) in places.items():
                found[kind][name] = values.pop(parameter)
            command(Given(found, values.pop("config", None), values.pop("overrides", None) or []), **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        everything = parameters + [_parameter(one.name, one.annotation, one.default) for one in own]
        # In the help, too, what must be given comes first.
        everything.sort(key=lambda one: one.default is not inspect.Parameter.empty)
        run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in everything}
        return run

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    # By keyword alone, so that one without a default may come after one that has it.
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
