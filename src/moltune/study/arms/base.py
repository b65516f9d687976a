"""What an arm is: the contract between the engine and everything that can be compared.

The engine knows no kind of arm by name. A kind is one class in ``study/kinds/`` with a line in ``ARM_KINDS`` (see
:func:`register_kind`); it says what its settings are, what decides its result, which shared steps it needs, and how to
run one block. A control rule (:func:`control_rule`) looks at a recipe and names the arms that its comparisons lack.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from moltune.config import Settings
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split
from moltune.errors import ConfigError, MoltuneError
from moltune.study.engine.store import PREDICTIONS
from moltune.study.recipe.protocol import Block

if TYPE_CHECKING:
    from moltune.study.recipe.recipe import Recipe

PREDICTION_COLUMNS = ["row", "part", "predicted"]
_RUN = "run"


class ArmUnavailable(MoltuneError):
    """An arm cannot run on this machine (a package or a file is missing); an optional arm is then left out."""


class ArmSpec(Settings):
    """One arm of a recipe: a name, a kind, and beside them the kind's own settings."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[\w.+()@ -]+$", description="unique in the recipe")
    kind: str
    label: str = Field("", description="shown to readers; unset: the name")
    optional: bool = Field(False, description="leave the arm out, and say so, where it cannot run")
    control: str = Field("", description="why a control arm is there; filled by the engine")
    seeds: int | None = Field(None, ge=1, description="run with this many seeds of each split only; unset: all")
    grid: dict[str, float] = Field(
        default_factory=dict,
        description="two coordinates in a grid of settings: such an arm runs on the first block only, is drawn as a "
        "point of a map, and compared with nothing",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The kind's own settings."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name


@dataclass(frozen=True)
class Step:
    """Work that several runs share: done once per study folder, then read by each of them.

    Attributes:
        name: key under which a run finds it.
        specification: everything that decides its result, JSON-ready.
        function: ``module:function``, called as ``function(workbench, specification)``; returns file name -> array,
            or folder name -> a folder in the scratch, which is moved into the step.
    """

    name: str
    specification: dict[str, Any]
    function: str

    def compute(self, bench: Workbench) -> dict[str, np.ndarray | Path]:
        """Do the work."""
        module, _, function = self.function.partition(":")
        result: dict[str, np.ndarray | Path] = getattr(importlib.import_module(module), function)(
            bench, self.specification
        )
        return result


@dataclass(frozen=True)
class Workbench:
    """What a run finds on its bench.

    Attributes:
        molecules: cleaned, the same for all arms.
        folder: scratch that outlives a kill: an interrupted run finds there what it left.
        threads: how many CPU threads it may use.
        steps: folders of the finished shared steps and of the runs that come first, by name.
    """

    molecules: Molecules
    folder: Path
    threads: int = 1
    steps: Mapping[str, Path] = field(default_factory=dict)

    def predictions(self, arm: str) -> pd.DataFrame:
        """What another arm predicted on this block: row, part, predicted. See :meth:`ArmKind.uses_arms`."""
        return pd.read_parquet(self.steps[run_need(arm)] / PREDICTIONS)

    def array(self, step: str, name: str = "values") -> np.ndarray:
        """An array of a shared step, memory-mapped."""
        loaded: np.ndarray = np.load(self.steps[step] / f"{name}.npy", mmap_mode="r")
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
    """A kind of arm. Instances hold no state: everything comes with the call."""

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
        from pydantic import ValidationError

        from moltune.config import explain

        try:
            return self.Options.model_validate(arm.options)
        except ValidationError as error:
            raise ConfigError(f"arm {arm.name!r} ({self.name}): {explain(error)}") from None


def run_need(arm: str) -> str:
    """Under which name a run finds that of another arm among its needs."""
    return f"{_RUN} {arm}"


def need_folder(name: str) -> str:
    """In which folder of a study a need lies: that of runs or that of shared steps."""
    return "runs" if name.startswith(f"{_RUN} ") else "steps"


ARM_KINDS: dict[str, ArmKind] = {}

ControlRule = Callable[["Recipe"], list[ArmSpec]]
CONTROL_RULES: list[ControlRule] = []


def register_kind(kind: type[ArmKind]) -> type[ArmKind]:
    """Class decorator: put a kind into the registry."""
    ARM_KINDS[kind.name] = kind()
    return kind


def control_rule(rule: ControlRule) -> ControlRule:
    """Function decorator: a rule returns the control arms that a recipe needs, each with its reason in ``control``."""
    CONTROL_RULES.append(rule)
    return rule


def find_kind(name: str) -> ArmKind:
    """Find a kind of arm.

    Raises:
        ConfigError: there is none of this name; the message lists those there are.
    """
    import moltune.study.arms  # noqa: F401 - fills the registry

    if name not in ARM_KINDS:
        raise ConfigError(f"there is no kind of arm {name!r}; choose one of: {', '.join(ARM_KINDS)}")
    return ARM_KINDS[name]


def parts_of(split: Split, molecules: Molecules) -> dict[str, tuple[list[str], np.ndarray]]:
    """SMILES and targets of each part that has molecules."""
    smiles, target = np.array(molecules.smiles, dtype=object), molecules.target
    return {name: (smiles[at].tolist(), target[at]) for name, at in split.parts().items() if len(at)}


def prediction_table(split: Split, molecules: Molecules, predicted: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Predictions of validation and test part as the table that an :class:`Outcome` holds.

    Args:
        split: the parts.
        molecules: all molecules.
        predicted: part -> predictions in the order of the part's positions.
    """
    rows = molecules.table["row"].to_numpy()
    frames = [
        pd.DataFrame({"row": rows[split.parts()[part]], "part": part, "predicted": np.asarray(values, dtype=float)})
        for part, values in predicted.items()
        if part in ("validation", "test") and len(split.parts()[part])
    ]
    return pd.concat(frames, ignore_index=True)[PREDICTION_COLUMNS]
