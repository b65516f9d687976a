"""From an adapter and its base to one plain checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from moltune.errors import CheckpointError, RunFolderError
from moltune.models.checkpoints import load_regression, load_tokenizer, save_regression
from moltune.models.methods.adapters import merge_adapter

logger = logging.getLogger(__name__)


def merge_checkpoint(name: str | Path, folder: str | Path, base: str | Path | None = None) -> Path:
    """Write a tuned model with its adapter merged, in ``save_pretrained`` layout.

    Args:
        name: run or model folder that holds an adapter.
        folder: for the plain model.
        base: where the base checkpoint is now; unset: where it was in training.

    Raises:
        CheckpointError: there is no adapter, or its base is not there.
        ConfigError: the tuner cannot be merged.
        RunFolderError: the folder holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists already; choose another folder")
    model = load_regression(name, base)
    if model.adapter is None:
        raise CheckpointError(f"{name} is a whole model already: there is no adapter to merge")
    save_regression(merge_adapter(model), load_tokenizer(name), folder)
    logger.info("the merged model is in %s", folder)
    return folder
