"""What is known of a training while it runs, and the table of it that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

HISTORY_COLUMNS = ["epoch", "train_loss", "validation_loss", "learning_rate"]

EpochReport = Callable[[dict[str, Any]], None]
"""Called after each step with ``step`` and ``steps``, and after each epoch with losses and ``epoch_ended`` as well."""


def make_history(log: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per epoch from Trainer's log, which travels in its checkpoints and so survives a kill."""
    entries = pd.DataFrame(log).reindex(columns=["epoch", "loss", "eval_loss", "learning_rate"])
    entries = entries.set_axis(HISTORY_COLUMNS, axis=1).assign(epoch=entries["epoch"].round().astype(int))
    return entries.groupby("epoch", as_index=False).first()
