"""moltune: adapt a chemical language model to one property; learn which data and which method really helped.

``import moltune`` makes MoLFormer known to transformers' Auto classes and imports neither transformers nor torch: what
is named here is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moltune.models.register import register_when_imported

__version__ = "0.2.0"

if TYPE_CHECKING:
    from moltune import datasets
    from moltune.classifier import MolClassifier
    from moltune.config import FinetuneConfig
    from moltune.predictors.predictor import Predictor
    from moltune.pretraining.adapt import adapt
    from moltune.regressor import MolRegressor
    from moltune.run import Run
    from moltune.tuning.finetune import finetune
    from moltune.tuning.several import finetune_several

__all__ = [
    "FinetuneConfig",
    "MolClassifier",
    "MolRegressor",
    "Predictor",
    "Run",
    "__version__",
    "adapt",
    "datasets",
    "finetune",
    "finetune_several",
]

_HOMES = {
    "FinetuneConfig": "moltune.config",
    "MolClassifier": "moltune.classifier",
    "MolRegressor": "moltune.regressor",
    "Predictor": "moltune.predictors.predictor",
    "Run": "moltune.run",
    "adapt": "moltune.pretraining.adapt",
    "finetune": "moltune.tuning.finetune",
    "finetune_several": "moltune.tuning.several",
}


def __getattr__(name: str) -> Any:
    if name == "datasets":
        return importlib.import_module("moltune.datasets")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'moltune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_imported()
