"""The kinds of arms by name; each is imported when it is first needed.

Another package brings kinds of its own through entry points of the group ``moltune.arm_kinds``: the name of the kind
and ``module:Class``.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata

from moltune.errors import ConfigError
from moltune.study.arms.base import ArmKind, load_object

ENTRY_POINTS = "moltune.arm_kinds"

KINDS: dict[str, str | type[ArmKind]] = {
    "baseline": "moltune.study.arms.baseline:BaselineKind",
    "svr": "moltune.study.arms.svr:SvrKind",
    "probe": "moltune.study.arms.probe:ProbeKind",
    "finetune": "moltune.study.arms.finetune:FinetuneKind",
    "selection": "moltune.study.arms.selection:SelectionKind",
    "blend": "moltune.study.arms.blend:BlendKind",
    "external": "moltune.study.arms.external:ExternalKind",
}


def kind_names() -> list[str]:
    """Names of all kinds."""
    return [*KINDS, *(name for name in _installed() if name not in KINDS)]


def find_kind(name: str) -> ArmKind:
    """Find a kind of arm.

    Raises:
        ConfigError: there is none of this name, or the package that brings it cannot be imported.
    """
    kind = KINDS.get(name) or _installed().get(name)
    if kind is None:
        raise ConfigError(f"there is no kind of arm {name!r}; choose one of: {', '.join(kind_names())}")
    if isinstance(kind, str):
        try:
            kind = load_object(kind)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the kind of arm {name!r} cannot be loaded from {kind}: {error}") from None
    return kind()


def register_kind(kind: type[ArmKind]) -> type[ArmKind]:
    """Class decorator: make a kind known to this process; worker processes know those of entry points alone."""
    KINDS[kind.name] = kind
    return kind


@cache
def _installed() -> dict[str, str]:
    return {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
