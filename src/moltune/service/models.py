"""Which models are served, under which names, and what is said of each."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moltune.errors import RunFolderError
from moltune.evaluation.classification import CLASSIFICATION_METRICS
from moltune.files import unpacked
from moltune.predictors.base import BLEND, MODEL
from moltune.ready import catalogue

if TYPE_CHECKING:
    from moltune.predictors.predictor import Predictor

logger = logging.getLogger(__name__)

_BINS = 30
_DECIMALS = 2
"""Of a probability."""


@dataclass(frozen=True)
class Served:
    """A model of the service.

    Attributes:
        name: that requests use; never a path.
        place: folder, or name of a ready-made model.
        ready: whether it is a ready-made one.
    """

    name: str
    place: str
    ready: bool


def served(models: Sequence[str], only: bool = False) -> list[Served]:
    """Name the models of the service.

    Args:
        models: run folders, exports and ready-made models; a folder of several properties stands for the runs in it.
        only: serve these alone; otherwise beside the best ready-made ones.

    Raises:
        RunFolderError: there is none, or no such run.
    """
    from moltune.run import joint_folders

    ready = [] if only else catalogue.names()
    places = [str(place) for one in models for place in joint_folders(Path(one)).values() or [one]]
    listed = [*ready, *(one for one in dict.fromkeys(places) if one not in ready)]
    if not listed:
        raise RunFolderError("this installation has no ready-made models: name a run with --model")
    found: list[Served] = []
    for one in listed:
        if not Path(one).exists() and catalogue.path_of(one) is not None:
            found.append(Served(one, one, True))
        elif Path(one).is_dir() or Path(one).is_file():
            stem = Path(one).resolve().name.removesuffix(".zip")
            taken = {other.name for other in found}
            name = next(new for new in (stem, *(f"{stem}-{n}" for n in range(2, 1000))) if new not in taken)
            found.append(Served(name, str(unpacked(one).resolve()), False))
        else:
            raise RunFolderError(f"there is no run or ready-made model {one}: moltune models lists the latter")
    return found


def describe(one: Served, predictor: Predictor) -> dict[str, Any]:
    """What the list of models says of one, as :class:`moltune.service.schemas.Model` has it."""
    folder = catalogue.path_of(one.place) if one.ready else Path(one.place)
    card, metrics, classes = _card(folder), _metrics(folder), predictor.model.class_names
    measured = np.empty(0) if predictor.confidence is None else predictor.confidence.measured
    if not len(measured) and predictor.known:
        measured = np.array([value for part, value in predictor.known.values() if part == "train"])
    coverage = _coverage(metrics) if card is None else card.get("intervals", {}).get("coverage")
    return {
        "name": one.name,
        "property": predictor.target_name,
        "unit": predictor.unit,
        "ready": one.ready,
        "predicts": predictor.target_name if card is None else card["predicts"],
        "features": [] if card is None else card["features"],
        "molecules": len(measured) or None if card is None else card["molecules"],
        "date": _date(folder) if card is None else card["date"],
        "classes": classes,
        "prevalence": None if classes is None or not len(measured) else float(measured.mean()),
        "held_out": None if classes is None else _held_out(predictor),
        "rmse": finite(predictor.error),
        "scores": {} if classes is None else _scores(metrics),
        "error_from": "held-out molecules of the run" if card is None else "cross-validation",
        "coverage": finite(coverage),
        "level": predictor.level,
        "decimals": decimals(predictor.error) if classes is None else _DECIMALS,
        "training": histogram(measured) if classes is None else None,
        "caveats": [] if card is None else card["caveats"],
        "data": {} if card is None else card["data"],
        "card": card or {},
    }


def decimals(error: float | None) -> int | None:
    """Digits behind the point that an error deserves, as files of predictions have them."""
    if error is None or not 0 < error < math.inf:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def histogram(values: np.ndarray, limits: tuple[float, float] | None = None) -> dict[str, list[Any]] | None:
    """Counts of finite values between edges, the outer ones at the limits, if any; None where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    counts, edges = np.histogram(values, bins=_BINS, range=limits)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def finite(value: Any) -> float | None:
    """A number, or None where it is not finite or missing."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _card(folder: Path | None) -> dict[str, Any] | None:
    """The card of a ready-made model, or of a folder that looks like one."""
    if folder is None or not (folder / catalogue.CARD).is_file():
        return None
    try:
        values = json.loads((folder / catalogue.CARD).read_text(encoding="utf-8"))
        return asdict(catalogue.Card(**{field.name: values[field.name] for field in fields(catalogue.Card)}))
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s/%s cannot be read, and is left out", folder, catalogue.CARD)
        return None


def _date(folder: Path | None) -> str:
    from datetime import UTC, datetime

    place = folder / "metrics.json" if folder is not None else None
    if place is None or not place.is_file():
        return ""
    return datetime.fromtimestamp(place.stat().st_mtime, UTC).date().isoformat()


def _metrics(folder: Path | None) -> dict[str, Any]:
    """Of a run or its export; empty where there is none."""
    from moltune.run import CONFIG, Run

    return {} if folder is None or not (folder / CONFIG).is_file() else Run.load(folder).metrics


def _coverage(metrics: dict[str, Any]) -> float | None:
    """Of the intervals or prediction sets of a run on molecules that neither model nor calibration has seen."""
    found = metrics.get("intervals") or metrics.get("prediction_sets") or {}
    own = found.get(BLEND) or found.get(MODEL) or {}
    return own.get("coverage")


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics of a classifier on the test part, or else on the validation part, on which its scale was chosen."""
    own = metrics.get(BLEND) or metrics
    found = own.get("test") or own.get("validation") or {}
    scores = {name: finite(value["value"]) for name, value in found.items() if name in CLASSIFICATION_METRICS}
    reliable = metrics.get("reliability") or {}
    scores["calibration_error"] = finite((reliable.get(BLEND) or reliable.get(MODEL) or {}).get("error"))
    return {name: value for name, value in scores.items() if value is not None}


def _held_out(predictor: Predictor) -> dict[str, list[Any]] | None:
    """Probabilities of the molecules behind the prediction sets, by their class."""
    source = MODEL if predictor.blend is None else BLEND
    sets = None if predictor.confidence is None else predictor.confidence.sets.get(source)
    if sets is None:
        return None
    edges = np.linspace(0, 1, _BINS + 1)
    pairs = (("negative", 1 - sets.negative), ("positive", sets.positive))
    return {"edges": edges.tolist(), **{name: np.histogram(own, bins=edges)[0].tolist() for name, own in pairs}}
