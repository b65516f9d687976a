"""A tiny random MoLFormer checkpoint and a small table, on which a whole run takes a second."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings as hypothesis_settings

from moltune import datasets
from moltune.config import make_config
from moltune.run import Run
from moltune.tuning.finetune import finetune
from tests.tiny import RunSettings, save_tiny_molformer

torch.set_num_threads(1)
# Trainer collects garbage at its end, which takes longer than a tiny run when it walks through every library.
gc.collect()
gc.freeze()
# A busy machine is no failure.
hypothesis_settings.register_profile("moltune", deadline=None)
hypothesis_settings.load_profile("moltune")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_molformer(tmp_path_factory.mktemp("tiny-molformer"))


@pytest.fixture(scope="session")
def small_table() -> pd.DataFrame:
    """The first 120 molecules of FreeSolv: id, smiles, hydration_free_energy."""
    return datasets.load("freesolv").iloc[:120].reset_index(drop=True)


@pytest.fixture(scope="session")
def small_csv(tmp_path_factory: pytest.TempPathFactory, small_table: pd.DataFrame) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.csv"
    small_table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def settings(tiny_model: Path, small_csv: Path) -> RunSettings:
    """Call it with dotted settings to get the nested settings of a small run."""
    return RunSettings(tiny_model, small_csv)


@pytest.fixture(scope="session")
def finished(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run with figures; read it, do not change it."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    return finetune(make_config(settings(output=output, **{"evaluation.figures": True})))


@pytest.fixture(scope="session")
def classes_table(small_table: pd.DataFrame) -> pd.DataFrame:
    """Is the molecule well solvated? 43 of 120 are."""
    label = np.where(small_table["hydration_free_energy"] < -4.5, "soluble", "insoluble")
    return small_table[["id", "smiles"]].assign(solvation=label)


@pytest.fixture(scope="session")
def classes_csv(classes_table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "classes.csv"
    classes_table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def of_classes(tiny_model: Path, classes_csv: Path) -> RunSettings:
    """As ``settings``, with two classes as the target."""

    def make(output: Path | None = None, **changes: Any) -> dict[str, Any]:
        usual = {"data.target": "solvation", "split.ratios": "50/25/25", "prediction.blend": []}
        return RunSettings(tiny_model, classes_csv)(output, **{**usual, **changes})

    return make  # type: ignore[return-value]


@pytest.fixture(scope="session")
def finished_classes(of_classes: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run on classes with figures, a baseline of each kind and a blend; read it, do not change it."""
    changes = {
        "evaluation.baselines": ["mean", "xgboost"],
        "prediction.blend": ["svr:rdkit-fast"],
        "evaluation.figures": True,
    }
    return finetune(make_config(of_classes(tmp_path_factory.mktemp("runs") / "classes", **changes)))
