"""Options that several commands share, and how options become settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moltune.config import (
    AdaptConfig,
    FinetuneConfig,
    make_config,
    make_settings,
)
from moltune.overrides import apply_overrides, read_yaml, set_nested

Smiles = Annotated[str | None, typer.Option("--smiles", help="SMILES column; found by name if not given.")]
Target = Annotated[str | None, typer.Option("--target", help="Target column; found when obvious.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notices and no progress bar; warnings stay.")]
SplitName = Annotated[
    str | None,
    typer.Option("--split", help="random, stratified, scaffold, cluster, column or index. [default: stratified]"),
]
Ratios = Annotated[
    str | None, typer.Option("--ratios", help="Training/validation/test. [default: 70/10/20]", metavar="A/B/C")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random. [default: 0]")]
Tta = Annotated[
    int | None,
    typer.Option("--tta", min=1, help="Average each prediction over this many SMILES of the molecule."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; options override it.")]
Base = Annotated[
    str | None,
    typer.Option("--base", help="Where the checkpoint under an adapter or a probe is now, if it was moved."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting by name, such as training.patience=10; repeatable."),
]


def settings_from(config: Path | None, options: dict[str, Any], overrides: list[str] | None) -> FinetuneConfig:
    """Settings from a YAML file, then named options (those that were given), then ``--set`` texts.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    return make_config(values_from(config, options, overrides))


def adapt_settings_from(config: Path | None, options: dict[str, Any], overrides: list[str] | None) -> AdaptConfig:
    """As :func:`settings_from`, for an adaptation; ``adapt.yaml`` of an earlier one can be used as it is.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    values = values_from(config, options, overrides)
    values.setdefault("adapt", {}).setdefault("objective", "mtr")
    return make_settings(AdaptConfig, values)


def values_from(config: Path | None, options: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    """Values from a YAML file, then named options (those that were given), then ``--set`` texts, unchecked."""
    values = read_yaml(config) if config else {}
    # The config.yaml of a finished run can be used as it is; where it ran then says nothing about this run.
    values.pop("provenance", None)
    for dotted, value in options.items():
        if value is not None:
            set_nested(values, dotted, value)
    return apply_overrides(values, overrides or [])
