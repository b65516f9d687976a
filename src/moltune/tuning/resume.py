"""Going on after a kill: which checkpoint is whole, and early stopping that remembers.

Trainer takes the checkpoint with the highest number, whole or not, looks for the best one at the path where it was
written, and forgets how long early stopping has waited. A resumed run has to end with the numbers of one that was
never interrupted, so all three are done here.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moltune.files import write_text

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", _STATE)
_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are deleted.

    The path of the best checkpoint inside it is brought up to date, for a run folder that was moved.
    """
    found = {int(name.group(1)): path for path in folder.glob("*") if (name := _NAME.fullmatch(path.name))}
    states = {path: _state_of(path) for _, path in sorted(found.items(), reverse=True)}
    for path, state in states.items():
        if state is not None and _point_to_best(path, state, states):
            return path
        why = "was not written to its end" if state is None else "lacks the best checkpoint so far"
        logger.warning("%s %s; an earlier checkpoint is used", path, why)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _state_of(checkpoint: Path) -> dict[str, Any] | None:
    """Trainer's state, which is written last; ``None`` where a file is missing or cut off."""
    if not all((checkpoint / name).is_file() for name in _NEEDED) or not any(checkpoint.glob("*.safetensors")):
        return None
    try:
        return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except ValueError:
        return None


def _point_to_best(checkpoint: Path, state: dict[str, Any], states: dict[Path, dict[str, Any] | None]) -> bool:
    written = state.get("best_model_checkpoint")
    if written is None:
        return True
    best = checkpoint.with_name(Path(written).name)
    if states.get(best) is None:
        return False
    if written != str(best):
        write_text(checkpoint / _STATE, json.dumps({**state, "best_model_checkpoint": str(best)}, indent=2) + "\n")
    return True


class StopEarly(TrainerCallback):
    """Stop after ``patience`` epochs without a lower validation loss, counted in the log that checkpoints carry."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count after each evaluation."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        if len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            control.should_training_stop = True
            # A run resumed from the last epoch's checkpoint would train on; from the one before, it stops here again.
            control.should_save = False
