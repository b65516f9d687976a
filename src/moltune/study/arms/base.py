"""The contract between the engine and everything that can be compared.

A kind of arm is a subclass of :class:`ArmKind`: it says what its settings are, what decides its result, which shared
steps it needs, which control arms its comparisons need, and how to run one block. The engine finds it by name in
:mod:`moltune.study.arms.registry`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from moltune.config import Settings, make_settings
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split, parts_of
from moltune.errors import ConfigError, MoltuneError
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe

PREDICTIONS, PREDICTION_COLUMNS = "predictions.parquet", ["row", "part", "predicted"]


class ArmUnavailable(MoltuneError):
    """An arm cannot run on this machine (a package or a file is missing); an optional arm is then left out."""


@dataclass(frozen=True)
class Step:
    """Work that several runs share: done once per study folder, then read by each of them.

    Attributes:
        name: key under which a run finds it.
        specification: everything that decides its result, JSON-ready.
        function: ``module:function``, called as ``function(bench, specification)``; returns file name -> array, or
            folder name -> a folder in the scratch, which is moved into the step.
        recorded: name of the function in stored specifications, where it has moved since; unset: ``function``.
    """

    name: str
    specification: dict[str, Any]
    function: str
    recorded: str = ""


@dataclass(frozen=True)
class Workbench:
    """What a run or a step is given.

    Attributes:
        molecules: cleaned, the same for all arms.
        folder: scratch that outlives a kill: an interrupted run finds there what it left.
        threads: how many CPU threads it may use.
        needs: folders of the finished steps, by name, and of the runs of other arms, by :func:`run_need`.
    """

    molecules: Molecules
    folder: Path
    threads: int = 1
    needs: Mapping[str, Path] = field(default_factory=dict)

    def predictions(self, arm: str) -> pd.DataFrame:
        """What another arm predicted on this block: row, part, predicted. See :meth:`ArmKind.uses_arms`."""
        return pd.read_parquet(self.needs[run_need(arm)] / PREDICTIONS)

    def array(self, step: str, name: str = "values") -> np.ndarray:
        """An array of a shared step, memory-mapped."""
        loaded: np.ndarray = np.load(self.needs[step] / f"{name}.npy", mmap_mode="r")
        return loaded


@dataclass(frozen=True)
class Outcome:
    """What one run found.

    Attributes:
        predictions: columns ``row`` (of the source), ``part`` ("validation" or "test"), ``predicted`` (target unit).
        facts: JSON-ready numbers beside the metrics, such as ``trainable_parameters`` or ``best_epoch``.
        history: epoch, train_loss, validation_loss; None where nothing is trained by epochs.
        kept: name -> folder in the scratch that is to be kept with the result.
    """

    predictions: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)
    history: pd.DataFrame | None = None
    kept: dict[str, Path] = field(default_factory=dict)


class ArmKind(ABC):
    """A kind of arm. Instances hold no state: everything comes with the call.

    Attributes:
        name: in recipes.
        description: a few words.
        Options: settings of an arm of this kind.
        version: goes up when the same settings give another result.
        libraries: packages whose versions decide the result.
        uses_external: whether its arms use the external data of the recipe.
        tunes_model: whether its arms tune a language model.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Options: ClassVar[type[Settings]]
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "rdkit")
    uses_external: ClassVar[bool] = False
    tunes_model: ClassVar[bool] = False

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:  # noqa: B027 - most kinds have nothing to add
        """Find what is wrong before anything runs.

        Raises:
            ConfigError: a setting is wrong.
            ArmUnavailable: a package or file is missing here.
        """

    def controls(self, recipe: Recipe) -> list[ArmSpec]:
        """Control arms that the comparisons of a recipe need, each with its reason in ``control``."""
        return []

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """Everything of the arm's own that decides its result on a block, JSON-ready; data and split come on top."""
        return self.options(arm).model_dump(mode="json")

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """Whether another seed may give another result; if not, one run serves all seeds of a split."""
        return True

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """Shared steps that a run of this arm needs."""
        return []

    def uses_arms(self, arm: ArmSpec) -> list[str]:
        """Names of arms whose runs on the same block come first; they must not use arms themselves."""
        return []

    @abstractmethod
    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit on the training part, choose on the validation part, and predict validation and test part once."""

    def draw(self, runs: Mapping[str, Mapping[str, Path]], recipe: Recipe, folder: Path) -> dict[str, Path]:
        """Figures of this kind's own for a study's report.

        Args:
            runs: arm -> block -> folder of its finished run, of the arms of this kind, blocks in their order.
            recipe: of the study.
            folder: to write into.

        Returns:
            Caption -> SVG file.
        """
        return {}

    def options(self, arm: ArmSpec) -> Any:
        """The arm's settings, checked.

        Raises:
            ConfigError: a setting is unknown or wrong.
        """
        try:
            return make_settings(self.Options, arm.options)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name!r} ({self.name}): {error}") from None


def run_need(arm: str) -> str:
    """Under which name a run finds that of another arm among its needs."""
    return f"run {arm}"


def load_object(where: str) -> Any:
    """Import what ``module:name`` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def predict_parts(split: Split, molecules: Molecules, predict: Callable[[list[str]], np.ndarray]) -> pd.DataFrame:
    """Predict the validation and the test part, as the table that an :class:`Outcome` holds.

    Args:
        split: the parts.
        molecules: all molecules.
        predict: SMILES -> predictions, shape (n,).
    """
    rows = molecules.table["row"].to_numpy()
    frames = [
        pd.DataFrame({"row": rows[split.parts()[part]], "part": part, "predicted": np.asarray(predict(smiles), float)})
        for part, (smiles, _) in parts_of(molecules, split).items()
        if part != "train"
    ]
    return pd.concat(frames, ignore_index=True)
