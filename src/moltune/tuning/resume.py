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

from moltune.run import write_atomically

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", _STATE)
_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are deleted.

    The path of the best checkpoint inside it is brought up to date, for a run folder that was moved.
    """
    if not folder.is_dir():
        return None
    found = sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step, reverse=True)
    states = {path: _state_of(path) for path in found}
    for path, state in states.items():
        if state is None:
            logger.warning("%s was not written to its end; an earlier checkpoint is used", path)
            shutil.rmtree(path, ignore_errors=True)
    for path, state in states.items():
        if state is None:
            continue
        if _point_to_best(path, state, folder):
            return path
        logger.warning("%s lacks the best checkpoint so far; an earlier one is used", path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found.group(1)) if found else -1


def _state_of(checkpoint: Path) -> dict[str, Any] | None:
    """Trainer's state, which is written last; ``None`` where a file is missing or cut off."""
    if not all((checkpoint / name).is_file() for name in _NEEDED) or not any(checkpoint.glob("*.safetensors")):
        return None
    try:
        return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except ValueError:
        return None


def _point_to_best(checkpoint: Path, state: dict[str, Any], folder: Path) -> bool:
    written = state.get("best_model_checkpoint")
    if written is None:
        return True
    best = folder / Path(written).name
    if _state_of(best) is None:
        return False
    if written != str(best):
        text = json.dumps({**state, "best_model_checkpoint": str(best)}, indent=2) + "\n"
        write_atomically(checkpoint / _STATE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
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
