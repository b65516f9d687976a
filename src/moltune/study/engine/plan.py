"""From a recipe to the list of everything that has to be computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune import __version__
from moltune.config import DataSettings
from moltune.data.classes import CLASSES, find_classes
from moltune.data.load import clean_table
from moltune.data.molecules import Molecules
from moltune.data.reading.read import read_table
from moltune.data.splitting.split import Split
from moltune.errors import DataError
from moltune.run import library_versions, machine, versions
from moltune.study.arms.base import Step, run_need
from moltune.study.arms.registry import find_kind
from moltune.study.engine.store import Store, Task, digest
from moltune.study.load import check_arms
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe

FORMAT = 1
# The version whose results these still are; a later one here makes every stored run another run.
RESULTS_OF = "0.3.0"
_SHOWN = ("source", "sha256", "smiles_column", "target_column", "unit", "licence", "citation", "cleaning", "rdkit")


@dataclass(frozen=True)
class Plan:
    """Everything that a study computes.

    Steps come first among its tasks, then runs block by block, so that a study that is cut short has whole blocks.
    """

    recipe: Recipe  # with its controls, without optional arms that cannot run here
    notes: list[str]  # what was added or left out
    data_key: str  # checksum under which the store keeps the molecules
    molecules: Molecules
    tasks: list[Task]
    index: pd.DataFrame  # one line per arm and block: arm, split, fold, seed, block, unit, hash

    @property
    def runs(self) -> list[Task]:
        """Runs without the shared steps."""
        return [task for task in self.tasks if task.kind == "run"]

    def to_dict(self) -> dict[str, Any]:
        """Content of ``study.json``."""
        return {
            "format": FORMAT,
            "moltune": __version__,
            "recipe": self.recipe.model_dump(mode="json"),
            "notes": self.notes,
            "data": {
                "key": self.data_key,
                "n": len(self.molecules),
                "rows_in": self.molecules.rows_in,
                "rejected": len(self.molecules.rejected),
                "conflicts": len(self.molecules.conflicts),
                **{name: self.molecules.provenance.get(name) for name in _SHOWN},
            },
            "index": self.index.to_dict(orient="records"),
            "versions": versions(),
            "machine": machine(),
        }


def make_plan(recipe: Recipe, store: Store) -> Plan:
    """Check the arms, clean the data (once per folder), divide them, and list the runs.

    Raises:
        ConfigError, ArmUnavailable: an arm is wrong or cannot run.
        DataError: the data cannot be used, or a split has no test part.
    """
    key, molecules = load_data(recipe.data, store)
    recipe, notes = check_arms(for_classes(recipe, molecules.classes))
    notes = [f"Control arm added: {arm.title} – {arm.control}." for arm in recipe.arms if arm.control] + notes
    data = hashlib.sha256(
        molecules.table[["row", "smiles", "target"]].to_csv(index=False, float_format="%.17g").encode()
    ).hexdigest()
    common = {"format": FORMAT, "data": data, "moltune": RESULTS_OF, "_data_key": key}
    if molecules.classes is not None:
        # The same 0 and 1 as numbers are another task.
        common["classes"] = list(molecules.classes)
    splits = {unit: _split_digest(split) for unit, split in _splits(recipe, molecules, store).items()}
    steps: dict[str, Task] = {}
    runs: dict[str, Task] = {}
    index: list[dict[str, Any]] = []
    # An arm that uses others comes after them.
    arms = sorted(recipe.arms, key=lambda arm: bool(find_kind(arm.kind).uses_arms(arm)))
    for number, block in enumerate(recipe.protocol.blocks()):
        of_block: dict[str, str] = {}
        for arm in arms:
            if (arm.grid and number) or not _has_seed(arm, recipe, block):
                continue
            kind = find_kind(arm.kind)
            needs = {run_need(name): of_block[name] for name in kind.uses_arms(arm)}
            for step in kind.steps(arm, recipe, block):
                task = _step_task(step, common)
                steps[task.hash] = task
                needs[step.name] = task.hash
            task = _run_task(arm, recipe, block, needs, {**common, "split": splits[block.unit]})
            runs.setdefault(task.hash, task)
            of_block[arm.name] = task.hash
            entry = {"arm": arm.name, **block.model_dump(), "block": block.name, "unit": block.unit, "hash": task.hash}
            index.append(entry)
    return Plan(recipe, notes, key, molecules, [*steps.values(), *runs.values()], pd.DataFrame(index, dtype=object))


def for_classes(recipe: Recipe, classes: tuple[str, str] | None) -> Recipe:
    """The recipe as it is for a target with these classes; None: it holds numbers."""
    recipe = recipe.model_copy(update={"classes": classes})
    return recipe.model_copy(update={"statistics": recipe.statistics.model_copy(update={"metric": recipe.metric})})


def find_task(recipe: Recipe) -> Recipe:
    """The recipe with the classes of its target, for which the table is read but no molecule is looked at."""
    raw = read_table(str(recipe.data.source), recipe.data)
    found = find_classes(raw, recipe.data).provenance.get(CLASSES)
    return for_classes(recipe, None if found is None else (found[0], found[1]))


def load_data(settings: DataSettings, store: Store) -> tuple[str, Molecules]:
    """Cleaned molecules from the store, or from their source; with the key under which they are kept."""
    raw = read_table(str(settings.source), settings)
    rows = pd.util.hash_pandas_object(raw.frame.astype(str), index=False).to_numpy()
    specification = {
        "settings": settings.model_dump(mode="json"),
        "table": hashlib.sha256(rows.tobytes()).hexdigest(),
        "libraries": library_versions(("rdkit",)),
        "moltune": __version__,
    }
    key = digest(specification)
    molecules = store.molecules(key)
    if molecules is None:
        molecules = clean_table(raw, settings)
        store.save_molecules(molecules, key)
    return key, molecules


def write_splits(recipe: Recipe, store: Store) -> list[Path]:
    """Write row, smiles, inchikey, split and target of every split of a recipe, without running anything.

    Returns:
        The CSV files, one per split.
    """
    store.occupy(recipe.name)
    _, molecules = load_data(recipe.data, store)
    return [store.split_path(unit) for unit in _splits(recipe, molecules, store)]


def _splits(recipe: Recipe, molecules: Molecules, store: Store) -> dict[str, Split]:
    splits = {}
    for block in {block.unit: block for block in recipe.protocol.blocks()}.values():
        split = splits[block.unit] = recipe.protocol.make_split(molecules, block)
        if len(split.test) < 2:
            raise DataError("a study needs a test part of two molecules or more; change the protocol's ratios")
        if molecules.classes is not None and np.ptp(molecules.target[split.test]) == 0:
            raise DataError(
                f"the test part of {block.unit} holds one class alone, and no ranking can be measured on it: give the "
                "protocol larger test parts or another kind of split"
            )
        store.save_split(block.unit, split, molecules)
    return splits


def _split_digest(split: Split) -> str:
    parts = hashlib.sha256()
    for name, positions in split.parts().items():
        parts.update(name.encode())
        parts.update(positions.astype("<i8").tobytes())
    return parts.hexdigest()


def _has_seed(arm: ArmSpec, recipe: Recipe, block: Block) -> bool:
    # In a cross-validation the seed is the number of the repetition, and there is one of it.
    return arm.seeds is None or recipe.protocol.folds is not None or block.seed in recipe.protocol.seeds[: arm.seeds]


def _step_task(step: Step, common: dict[str, Any]) -> Task:
    specification = {
        **common,
        "step": step.name,
        "function": step.recorded or step.function,
        "specification": step.specification,
        "_function": step.function,
    }
    return Task(digest(specification), "step", step.name, step.name, specification)


def _run_task(arm: ArmSpec, recipe: Recipe, block: Block, needs: dict[str, str], common: dict[str, Any]) -> Task:
    kind = find_kind(arm.kind)
    uses_seed = kind.uses_seed(arm, recipe)
    specification = {
        **common,
        "kind": kind.name,
        "kind_version": kind.version,
        "arm": kind.specification(arm, recipe, block),
        "seed": block.seed if uses_seed else None,
        "steps": needs,
        "libraries": library_versions(kind.libraries),
    }
    title = f"{arm.name} {block.name if uses_seed else block.unit}"
    return Task(digest(specification), "run", title, arm.name, specification, block.unit, needs)
