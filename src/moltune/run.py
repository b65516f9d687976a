"""The run folder: the only place that knows what a run looks like on disk.

::

    config.yaml      settings, seeds, data checksum, versions, machine: everything needed to repeat the run
    splits.csv       row, smiles, inchikey, split
    rejects.csv      row, input, value, reason
    bounds.csv       with data.bounds: use: row, input, smiles, inchikey, relation and value of censored measurements
    history.csv      epoch, train_loss, validation_loss, learning_rate
    metrics.json     written last: a folder without it holds an unfinished run
    predictions.csv  smiles, split, true, predicted, and one column per baseline
    report.html      the run in one page
    figures/         PNG and SVG
    adapted/         with adapt.objective: the encoder adapted without labels that tuning started from
    blend/           with prediction.blend: the fitted baselines and their weights
    intervals.safetensors  training molecules and held-out errors: what intervals and domain flags are made of
    model/           save_pretrained layout with tokenizer, head and target statistics
    checkpoints/     while the run is unfinished

Several properties that were tuned together have a folder each, as above, in a folder with these files::

    joint.yaml       settings and provenance of all; the folder of each property
    history.csv      of the training that they share
    properties.csv   metrics of every property
    metrics.json     of every property, by name: written last
    report.html      all of it in one page
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from moltune.config import FinetuneConfig, make_config
from moltune.data.molecules import REJECT_COLUMNS, Molecules
from moltune.errors import ConfigError, RunFolderError
from moltune.files import replacing, write_json, write_text
from moltune.overrides import read_yaml

CONFIG, METRICS, MODEL, CHECKPOINTS, FIGURES = "config.yaml", "metrics.json", "model", "checkpoints", "figures"
JOINT, PROPERTIES = "joint.yaml", "properties.csv"
BLENDED, ADAPTED, INTERVALS = "blend", "adapted", "intervals.safetensors"
REPORT, SPLITS, REJECTS, BOUNDS, HISTORY, PREDICTIONS = (
    "report.html",
    "splits.csv",
    "rejects.csv",
    "bounds.csv",
    "history.csv",
    "predictions.csv",
)
_VERSIONED = ("moltune", "torch", "transformers", "peft", "rdkit", "scikit-learn", "numpy", "pandas", "xgboost")


@dataclass(frozen=True)
class Run:
    """A run folder, finished or not.

    Attributes:
        path: the folder.
        config: the settings of the run.
        provenance: what ``config.yaml`` says beside the settings: data, versions, machine.
    """

    path: Path
    config: FinetuneConfig
    provenance: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open an existing folder.

        Raises:
            RunFolderError: it is no run folder, or its run is unfinished.
        """
        run = cls.open(path)
        if not run.finished:
            raise RunFolderError(f"the run in {path} is unfinished: repeat its command with --resume")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing folder, finished or not.

        Raises:
            RunFolderError: it is no run folder.
        """
        path = Path(path)
        if folders := joint_folders(path):
            raise RunFolderError(
                f"{path} holds a run of each of several properties ({', '.join(folders)}), and one is wanted here: "
                f"choose one, such as {next(iter(folders.values()))}"
            )
        if not (path / CONFIG).is_file():
            raise RunFolderError(f"{path} is no run folder: there is no {CONFIG} in it")
        values = read_yaml(path / CONFIG)
        provenance = values.pop("provenance", {})
        return cls(path, make_config(values), provenance)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / METRICS).is_file()

    @property
    def model_path(self) -> Path:
        """The tuned checkpoint."""
        return self.path / MODEL

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        return json.loads((self.path / METRICS).read_text(encoding="utf-8"))

    @property
    def history(self) -> pd.DataFrame:
        """Losses per epoch."""
        return pd.read_csv(self.path / HISTORY)

    @property
    def predictions(self) -> pd.DataFrame:
        """True and predicted values of every molecule."""
        return pd.read_csv(self.path / PREDICTIONS)

    @property
    def splits(self) -> pd.DataFrame:
        """The part that each molecule belongs to."""
        return pd.read_csv(self.path / SPLITS)

    def molecules(self) -> tuple[Molecules, np.ndarray]:
        """Cleaned molecules of the run with their labels, and the part of each, shape (n,)."""
        splits = self.splits
        table = splits[["row", "smiles", "inchikey"]].assign(
            input=splits["smiles"], target=self.predictions["true"].astype(np.float64)
        )[["row", "input", "smiles", "inchikey", "target"]]
        provenance = {**self.provenance.get("data", {}), "source": str(self.path)}
        molecules = Molecules(table, pd.DataFrame(columns=REJECT_COLUMNS), pd.DataFrame(), len(table), provenance)
        return molecules, splits["split"].to_numpy(dtype=object)

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a CSV file of the folder atomically."""
        with replacing(self.path / name) as temporary:
            frame.to_csv(temporary, index=False)

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file of the folder atomically; NaN and infinity are refused."""
        write_json(self.path / name, values)

    def write_folder(self, name: str, fill: Callable[[Path], Any]) -> None:
        """Fill a sub-folder under another name, then put it in place."""
        temporary, final = self.path / f".{name}.tmp", self.path / name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)


def joint_folders(path: Path) -> dict[str, Path]:
    """Property → its run folder, of properties that were tuned together; empty where ``path`` holds no such runs."""
    if not (path / JOINT).is_file():
        return {}
    folders = read_yaml(path / JOINT).get("provenance", {}).get("properties", {})
    return {str(name): path / str(folder) for name, folder in folders.items()}


def start_run(
    path: str | Path,
    config: FinetuneConfig,
    provenance: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    joint: bool = False,
) -> Run:
    """Make a run folder, or take an unfinished one up again.

    Args:
        path: of the folder.
        config: settings of the run.
        provenance: data checksum and cleaning counts; versions and machine are added here.
        resume: go on in an existing folder of the same settings and data; a finished one is returned as it is.
        overwrite: delete an existing run folder first.
        joint: the folder is that of several properties; ``provenance`` names the folder of each.

    Raises:
        RunFolderError: the folder exists and neither was asked for, holds something other than a run, or belongs
            to other settings or data, or cannot be written.
    """
    path = Path(path)
    before = check_run_folder(path, config, resume=resume, overwrite=overwrite)
    if before is not None:
        if before.get("data", {}).get("sha256") != provenance.get("data", {}).get("sha256"):
            raise RunFolderError(f"the data changed since the run in {path} began: choose another --output")
        return Run(path, config, before)
    folder = WorkFolder(path, "run", JOINT if joint else CONFIG, METRICS)
    return Run(path, config, folder.begin(settings_of(config), provenance, overwrite=overwrite))


def check_run_folder(
    path: Path, config: FinetuneConfig, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any] | None:
    """See whether a run may go into a folder; see :meth:`WorkFolder.check`."""

    def today(before: dict[str, Any]) -> dict[str, Any]:
        return settings_of(make_config(before))

    folder = WorkFolder(path, "run", JOINT if (path / JOINT).is_file() else CONFIG, METRICS)
    return folder.check(settings_of(config), today, resume=resume, overwrite=overwrite)


@dataclass(frozen=True)
class WorkFolder:
    """A folder that a piece of work fills, and that the same work takes up again after a kill.

    Attributes:
        path: of the folder.
        kind: of work, such as "run".
        settings: name of the YAML file that is written first.
        result: name of the file that is written last; None where none tells finished work from unfinished.
        ways: options by which an occupied folder can be used.
    """

    path: Path
    kind: str
    settings: str
    result: str | None
    ways: str = "--resume or --overwrite"

    def check(
        self,
        values: dict[str, Any],
        today: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any] | None:
        """See whether work may go into the folder, before anything is read or made.

        Args:
            values: settings of the work.
            today: brings settings that are stored in the folder into the form that ``values`` has.
            resume: take up work of the same settings.
            overwrite: the folder may be deleted if it holds such work.

        Returns:
            Provenance of the work to take up again; None where the folder is free or may be deleted.

        Raises:
            ConfigError: both resume and overwrite are asked for.
            RunFolderError: the folder is taken.
        """
        path, kind = self.path, self.kind
        if resume and overwrite:
            raise ConfigError(f"resume goes on with a {kind} and overwrite deletes it: say one of the two")
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; choose another --output")
        if not path.is_dir() or not any(path.iterdir()):
            return None
        if not (path / self.settings).is_file():
            raise RunFolderError(f"{path} holds files, but is no {kind} folder; choose another --output")
        if overwrite:
            return None
        if not resume:
            finished = self.result is not None and (path / self.result).is_file()
            state = "a finished" if finished else "an unfinished" if self.result else "a"
            raise RunFolderError(f"{path} holds {state} {kind}: choose another --output, or say {self.ways}")
        before = read_yaml(path / self.settings)
        provenance = before.pop("provenance", {})
        different = differences(today(before), values)
        if different:
            raise RunFolderError(f"{path} belongs to other settings ({different}): choose another --output")
        return provenance

    def begin(self, values: dict[str, Any], about: dict[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
        """Make the folder and write the settings; return their provenance, to which versions and machine are added.

        Raises:
            RunFolderError: the folder cannot be made.
        """
        provenance = {**about, "versions": versions(), "machine": machine()}
        try:
            if overwrite and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump({**values, "provenance": provenance}, sort_keys=False, allow_unicode=True)
            write_text(self.path / self.settings, text)
        except OSError as error:
            raise RunFolderError(f"cannot make the {self.kind} folder {self.path}: {error.strerror or error}") from None
        return provenance


def settings_of(config: FinetuneConfig) -> dict[str, Any]:
    """Settings as plain values, ready for YAML and JSON."""
    return config.model_dump(mode="json")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the numbers."""
    return {"python": platform.python_version(), **library_versions(_VERSIONED)}


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions; a ``-cpu`` build counts under its plain name."""
    found = {}
    for name in names:
        for distribution in (name, f"{name}-cpu"):
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def machine() -> dict[str, Any]:
    """What the run ran on."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count() or 1}


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which settings differ, in words; the folder's own name does not change a result. Empty where none does."""
    one, two = _flat(before), _flat(now)
    names = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key) and key != "output")
    return ", ".join(f"{key} was {one.get(key)}, now {two.get(key)}" for key in names)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
