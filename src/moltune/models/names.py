"""Names of checkpoints: a bundled one, a folder, a run folder, or a Hugging Face id. Nothing is loaded here."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from moltune.errors import CheckpointError
from moltune.files import members, unpacked

_BUNDLED = "moltune/"
_HUB_ID = re.compile(r"(\w[\w.-]*)/\w[\w.-]*")


def bundled_models() -> dict[str, Path]:
    """Checkpoints inside the package, by name."""
    root = Path(str(resources.files("moltune.models"))) / "bundled"
    return {_BUNDLED + path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def is_export(path: Path) -> bool:
    """Whether a file is a zip file that holds a model; see :func:`moltune.predictors.export.export_run`."""
    return path.suffix.lower() == ".zip" and path.is_file() and "model/config.json" in members(path)


def resolve(name: str | Path) -> str:
    """Turn a model's name into what ``from_pretrained`` takes: a folder, or a Hugging Face id.

    A run folder stands for the ``model`` folder in it, and a zip file for the folder that it holds. A path whose first
    folder exists here (or is ``runs``, where results go by default) is a path, not the id of somebody's model.

    Raises:
        CheckpointError: nothing of this name exists, or the folder holds no checkpoint.
    """
    bundled, folder = bundled_models(), unpacked(name)
    if str(name) in bundled:
        return str(bundled[str(name)])
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return str(candidate)
    if inside := sorted(path.parent.parent for path in folder.glob("*/model/config.json")):
        listed = ", ".join(path.name for path in inside)
        raise CheckpointError(
            f"{name} holds several runs ({listed}), and one is wanted here: choose one, such as {inside[0]}"
        )
    if folder.exists():
        raise CheckpointError(f"{name} holds no checkpoint: there is no config.json in it or in its model folder")
    hub = _HUB_ID.fullmatch(str(name))
    if hub and hub.group(1) not in ("moltune", "runs") and not Path(hub.group(1)).is_dir():
        return str(name)
    raise CheckpointError(
        f"there is no model {str(name)!r}: it is no folder here, no Hugging Face id such as "
        f"ibm-research/MoLFormer-XL-both-10pct, and not bundled ({', '.join(bundled) or 'none is'})"
    )
