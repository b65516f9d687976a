"""Boosted trees as plain arrays, which predict without XGBoost: importing it takes longer than a prediction."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from xgboost import XGBRegressor

_CHUNK = 256


@dataclass(frozen=True)
class Trees:
    """Regression trees, side by side; a prediction is the base plus the value of one leaf of each tree.

    Attributes:
        roots: node at which each tree begins, shape (trees,).
        feature: column that a node looks at, shape (nodes,).
        threshold: it goes left below it, float32, shape (nodes,); of a leaf its value.
        left, right: where it goes, shape (nodes,); a leaf stays where it is.
        missing_left: whether it goes left where the column is NaN, shape (nodes,).
        base: float64, shape (1,).
        logistic: whether a prediction is the logistic function of that sum, shape (1,).
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    base: np.ndarray
    logistic: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.bool_))

    @classmethod
    def of(cls, model: XGBRegressor) -> Self:
        """Take the trees up to the best round out of a model fitted with squared error, or with cross-entropy."""
        raw = json.loads(bytes(model.get_booster().save_raw("json")))["learner"]
        best = raw["attributes"].get("best_iteration")
        trees = raw["gradient_booster"]["model"]["trees"][: None if best is None else int(best) + 1]
        sizes = np.array([len(tree["left_children"]) for tree in trees])
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        starts, own = np.repeat(roots, sizes), np.arange(sizes.sum(), dtype=np.int32)

        def column(name: str) -> np.ndarray:
            return np.concatenate([np.asarray(tree[name]) for tree in trees])

        leaf = column("left_children") < 0
        base = np.array(json.loads(raw["learner_model_param"]["base_score"]), dtype=np.float64).reshape(1)
        logistic = raw["objective"]["name"] == "binary:logistic"
        return cls(
            roots=roots,
            feature=np.where(leaf, 0, column("split_indices")).astype(np.int32),
            threshold=column("split_conditions").astype(np.float32),
            left=np.where(leaf, own, column("left_children") + starts).astype(np.int32),
            right=np.where(leaf, own, column("right_children") + starts).astype(np.int32),
            missing_left=column("default_left").astype(np.bool_),
            # XGBoost stores the base as a probability then.
            base=np.log(base / (1 - base)) if logistic else base,
            logistic=np.array([logistic]),
        )

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map features (n, d), float32, to float64 (n,)."""
        result = np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            part = features[start : start + _CHUNK]
            rows = np.arange(len(part))[:, None]
            nodes = np.tile(self.roots, (len(part), 1))
            while True:
                values = part[rows, self.feature[nodes]]
                goes_left = np.where(np.isnan(values), self.missing_left[nodes], values < self.threshold[nodes])
                below = np.where(goes_left, self.left[nodes], self.right[nodes])
                if (below == nodes).all():
                    break
                nodes = below
            result[start : start + len(part)] = self.base + self.threshold[nodes].astype(np.float64).sum(axis=1)
        return 1 / (1 + np.exp(-result)) if self.logistic[0] else result

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_file(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            SafetensorError, TypeError: the file is damaged, or not of this kind.
        """
        return cls(**load_file(path))
