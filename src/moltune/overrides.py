"""Settings as people write them: YAML files, and ``key.sub=value`` on the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from moltune.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 (no dot) as text; whoever writes it means the number. In quotes it stays text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something other than a mapping.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    return values


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of ``values`` with ``key.sub=value`` texts applied; values are read as YAML scalars or lists.

    Raises:
        ConfigError: a text has no ``=``, or goes below a setting that is no group.
    """
    result = copy.deepcopy(values)
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes key=value, such as training.epochs=5; got {text!r}")
        try:
            value = yaml.load(raw, _Loader) if raw.strip() else None
        except yaml.YAMLError:
            value = raw
        set_nested(result, key.strip(), value)
    return result


def set_nested(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``values["a"]["b"] = value`` for ``dotted == "a.b"``, making the groups on the way.

    Raises:
        ConfigError: a name on the way holds a plain value.
    """
    *groups, last = dotted.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{dotted}: {group} is a value, not a group of settings")
    values[last] = value
