"""Arms of other programs: their predictions are read from files, one per block.

``moltune study splits RECIPE -o DIR`` writes the molecules and parts of every block, which is what the other program
needs. A file holds the columns ``predicted`` and ``row`` (as in those split files) or ``smiles``; molecules
of other parts than the validation and the test part are ignored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from moltune.config import Settings
from moltune.data.splitting.split import Split
from moltune.errors import ConfigError, DataError
from moltune.study.arms.base import PREDICTION_COLUMNS, ArmKind, ArmUnavailable, Outcome, Workbench
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe


class ExternalOptions(Settings):
    """Where the predictions lie."""

    files: str = Field(description="path with {split}, {fold} and {seed}, relative to the recipe")
    seeded: bool = Field(True, description="whether there is one file per seed")
    about: str = Field("", description="program, version and settings that made them; shown in the report")


class ExternalKind(ArmKind):
    """Predictions of another program."""

    name = "external"
    description = "predictions read from files"
    Options = ExternalOptions

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ArmUnavailable where no file is there, ConfigError where some are missing."""
        paths = {self._path(arm, recipe, block) for block in recipe.protocol.blocks()}
        missing = sorted(str(path) for path in paths if not path.is_file())
        if len(missing) == len(paths):
            raise ArmUnavailable(f"there is no prediction file, such as {missing[0]}")
        if missing:
            raise ConfigError(
                f"arm {arm.name!r}: {len(missing)} of {len(paths)} prediction files are missing, such as {missing[0]}"
            )

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """As the settings say."""
        return bool(self.options(arm).seeded)

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """The checksum of the block's file."""
        path = self._path(arm, recipe, block)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"arm {arm.name!r}: cannot read {path}: {error.strerror or error}") from None
        return {"sha256": digest, "about": self.options(arm).about, "_path": str(path)}

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Read the file and match its lines with the molecules."""
        path = Path(specification["_path"])
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != specification["sha256"]:
            raise DataError(f"{path} changed since the study was planned; start the study again")
        frame = pd.read_csv(io.BytesIO(content))
        key = next((name for name in ("row", "smiles") if name in frame), None)
        if key is None or "predicted" not in frame:
            raise DataError(
                f"{path} needs the columns predicted and row (or smiles); it has {', '.join(map(str, frame.columns))}"
            )
        doubled = frame.loc[frame[key].duplicated(), key]
        if len(doubled):
            raise DataError(f"{path} predicts {key} {doubled.iloc[0]} twice")
        table = bench.molecules.table
        if key == "smiles" and table["smiles"].duplicated().any():
            raise DataError(f"the data hold one SMILES several times, so {path} must name rows instead")
        values = table[key].map(frame.set_index(key)["predicted"])
        frames = [
            pd.DataFrame({"row": table["row"].iloc[at], "part": part, "predicted": values.iloc[at]}).dropna()
            for part, at in split.parts().items()
            if part != "train"
        ]
        return Outcome(pd.concat(frames, ignore_index=True)[PREDICTION_COLUMNS])

    def _path(self, arm: ArmSpec, recipe: Recipe, block: Block) -> Path:
        pattern = self.options(arm).files
        try:
            name = pattern.format(split=block.split, fold=block.fold, seed=block.seed)
        except (KeyError, IndexError, ValueError):
            raise ConfigError(f"arm {arm.name!r}: {pattern!r} may use {{split}}, {{fold}} and {{seed}} only") from None
        return (recipe.folder or Path()) / name
