"""What ready-made models there are. Each is a folder like that of a run, with a ``card.json`` that says what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from moltune.errors import CheckpointError

CARD = "card.json"
FAST = "-fast"


@dataclass(frozen=True)
class Card:
    """What a user should know of a ready-made model.

    Attributes:
        name: as ``--model`` takes it; that of a fast model ends in ``-fast``.
        predicts: the property, in words.
        target, unit: name and unit of the predicted values.
        features: what its head sees.
        data: the training set, its licence and citation.
        molecules: that it was trained on.
        date: of the training.
        error: cross-validated RMSE and MAE, in the unit, and R².
        intervals: cross-validated coverage of 90 % intervals, mean width, and the same by domain flag.
        caveats: where not to trust it.
        made_with: versions and machine.
    """

    name: str
    predicts: str
    target: str
    unit: str
    features: list[str]
    data: dict[str, str]
    molecules: int
    date: str
    error: dict[str, float]
    intervals: dict[str, Any]
    caveats: list[str]
    made_with: dict[str, Any]

    @property
    def fast(self) -> bool:
        """Whether the language model's embedding is all that it sees."""
        return self.name.endswith(FAST)


@cache
def cards(folder: Path | None = None) -> dict[str, Card]:
    """Cards of the ready-made models by name.

    Args:
        folder: that holds them; unset: those of the package.

    Raises:
        CheckpointError: a card is damaged.
    """
    found, known = {}, {field.name for field in fields(Card)}
    for path in sorted((folder or _package()).glob(f"*/{CARD}")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = Card(**{name: values[name] for name in known})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): install moltune again") from None
    return found


def names(fast: bool = False) -> list[str]:
    """Names of the best model of each property, or of the fast one."""
    return [name for name, card in cards().items() if card.fast == fast]


def path_of(name: str) -> Path | None:
    """The folder of the ready-made model of that name; None: there is none."""
    return _package() / name if name in cards() else None


def _package() -> Path:
    return Path(str(resources.files("moltune.ready"))) / "models"
