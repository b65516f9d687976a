"""What can be refused at once: before any data are read, and before torch or transformers are imported."""

from __future__ import annotations

import re
from pathlib import Path

from moltune.config import AdaptConfig, FinetuneConfig
from moltune.data.reading.read import source_kind
from moltune.errors import ConfigError, DataError
from moltune.models.names import resolve
from moltune.run import check_run_folder


def check_request(
    config: FinetuneConfig, *, resume: bool = False, overwrite: bool = False, loaded: bool = False
) -> Path:
    """See whether a run can begin: its files are there, and its folder may be used.

    Args:
        config: the settings.
        resume: go on with an unfinished run.
        overwrite: replace an existing run folder.
        loaded: the molecules are at hand already.

    Returns:
        The run folder.

    Raises:
        ConfigError: there is no source, or both resume and overwrite are asked for.
        DataError: a file of molecules or of a split does not exist.
        CheckpointError: a local model does not exist.
        RunFolderError: the output folder is taken, or belongs to other settings.
    """
    path = config.output or default_output(config)
    check_files(config, loaded=loaded)
    if config.data.add is not None:
        source_kind(config.data.add)
    if config.method.name != "probe" or "embedding" in config.method.probe.features:
        resolve(config.model.name)
    check_run_folder(path, config, resume=resume, overwrite=overwrite)
    return path


def check_files(config: FinetuneConfig | AdaptConfig, *, loaded: bool = False) -> None:
    """See whether the source of molecules (unless they are loaded) and the file of the split exist.

    Raises:
        ConfigError: there is no source.
        DataError: they do not.
    """
    if config.data.source is None:
        raise ConfigError("data.source is missing: name a file, a bundled set or a Hugging Face dataset")
    if not loaded:
        source_kind(config.data.source)
    index = config.split.index_file if config.split.method == "index" else None
    if index is not None and not Path(index).is_file():
        raise DataError(f"split.index_file: there is no file {index}")


def default_output(config: FinetuneConfig) -> Path:
    """``runs/<data>-<model>-<method>-seed<seed>``."""
    source = Path(str(config.data.source)).name.split(".")[0]
    model = Path(config.model.name).name
    name = f"{source}-{model}-{config.method.name}-seed{config.seed}"
    return Path("runs") / re.sub(r"[^\w.-]+", "-", name)
