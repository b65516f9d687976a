"""An exported run predicts what the run predicts, wherever a run can be used, and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny import RunSettings

from moltune.errors import CheckpointError, ConfigError, RunFolderError
from moltune.features.embedding import OnnxEncoder
from moltune.files import unpacked
from moltune.models.names import is_export
from moltune.models.onnx_network import ENGINE, GRAPH
from moltune.predictors.export import export_run
from moltune.predictors.language import LanguageModel, OnnxModel
from moltune.predictors.predictor import Predictor
from moltune.predictors.probe import Probe
from moltune.run import ADAPTED, MODEL, Run
from moltune.tuning.finetune import finetune

HEAVY = ("torch", "transformers", "peft", "sklearn", "xgboost", "scipy", "matplotlib", "onnx")
ODD = ["CCO", "xx", "c1ccccc1", "", "OCC", "C" * 210, "C[Og]C", "CC(=O)[O-].[Na+]", "CaC"]

KINDS = {
    "full": {},
    "cut": {"model.too_long": "truncate", "model.head": "molformer", "training.refit_head": "none"},
    **{name: {"method.name": name} for name in ("bitfit", "lora", "ia3")},
    "probe": {"method": {"name": "probe", "probe": {"head": "svr", "features": ["embedding", "rdkit"]}}},
    # Embeddings of a random network hardly differ, and what magnifies their differences magnifies rounding.
    "process": {
        "method": {"name": "probe", "probe": {"head": "gp", "features": ["embedding"]}},
        "model.name": "moltune/mini",
    },
    "plain": {"method": {"name": "probe", "probe": {"features": ["rdkit"]}}},
    "blend": {"method.name": "lora", "prediction.blend": ["xgboost", "ridge", "svr:embedding+rdkit"]},
    # Two classes: a temperature with a shift, trees and a probe that give probabilities, sets in place of intervals.
    "classes": {"training.class_weights": "balanced", "prediction.blend": ["xgboost", "svr:embedding+rdkit-fast"]},
    "classes-probe": {"method": {"name": "probe", "probe": {"head": "svr", "features": ["embedding", "rdkit"]}}},
}


@pytest.fixture(scope="module")
def runs(settings: RunSettings, of_classes: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("exported")
    kinds = {kind: of_classes if kind.startswith("classes") else settings for kind in KINDS}
    return {kind: finetune(kinds[kind](output=folder / kind, **changes)) for kind, changes in KINDS.items()}


@pytest.fixture(scope="module")
def exports(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read them, do not change them."""
    folder = tmp_path_factory.mktemp("exports")
    return {kind: export_run(run.path, folder / kind) for kind, run in runs.items()}


def assert_equal_tables(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_says_what_the_run_says(
    runs: dict[str, Run],
    exports: dict[str, Path],
    kind: str,
    small_table: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, smiles = runs[kind], [*ODD, *small_table["smiles"][:40]]
    exported = Predictor.load(exports[kind])
    monkeypatch.setenv(ENGINE, "torch")
    original = Predictor.load(run.path)
    expected = original.predict(smiles)
    assert np.ptp(expected["predicted"].dropna()) > 0.01
    assert_equal_tables(exported.predict(smiles), expected)
    assert_equal_tables(exported.predict(smiles, batch_size=3), expected)
    assert (exported.unit, exported.known, exported.cleaning) == (original.unit, original.known, original.cleaning)
    assert exported.error == original.error
    assert exported.target_name == original.target_name
    assert exported.model.class_names == original.model.class_names
    if kind.startswith("classes"):
        assert original.model.class_names == ("insoluble", "soluble")
        assert set(expected["predicted_set"]) - {""} <= {"soluble", "insoluble", "soluble or insoluble", "none"}
    if isinstance(original.model, LanguageModel):
        assert isinstance(exported.model, OnnxModel)
        embedded = original.model.embed(["CCO", "c1ccccc1"])
        np.testing.assert_allclose(exported.model.embed(["CCO", "c1ccccc1"]), embedded, atol=1e-4)
    elif kind != "plain":
        assert isinstance(exported.model, Probe)
        assert isinstance(exported.model.encoder, OnnxEncoder)
    # The same folder in torch: adapters are merged, and the checkpoint is not needed any more.
    assert_equal_tables(Predictor.load(exports[kind]).predict(smiles), expected)


def test_an_export_needs_nothing_but_itself(
    settings: RunSettings, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.symlink_to(tiny_model)
    values = settings(output=tmp_path / "run", **KINDS["blend"], **{"model.name": str(base)})
    run = finetune(values)
    export_run(run.path, tmp_path / "export.zip")
    expected = Predictor.load(run.path).predict(ODD)
    base.unlink()
    with pytest.raises(CheckpointError):
        Predictor.load(run.path)
    assert_equal_tables(Predictor.load(tmp_path / "export.zip").predict(ODD), expected)
    again = export_run(tmp_path / "export.zip", tmp_path / "again")
    assert_equal_tables(Predictor.load(again).predict(ODD), expected)
    assert is_export(tmp_path / "export.zip")
    assert unpacked(tmp_path / "export.zip") == unpacked(tmp_path / "export.zip")


@pytest.mark.parametrize("kind", ["full", "blend", "probe", "classes"])
def test_torch_is_not_imported(exports: dict[str, Path], kind: str) -> None:
    code = (
        "import sys, contextlib; from moltune.cli.app import app\n"
        f"with contextlib.suppress(SystemExit): app(['predict', {str(exports[kind])!r}, 'CCO', 'C[Og]C', '-q'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    *table, heavy = done.stdout.strip().splitlines()
    # Ionisation, which XGBoost reads, multiplies sparse matrices.
    assert heavy == ("['scipy']" if kind in ("blend", "classes") else "[]"), done.stderr
    assert len(table) == 3


@pytest.mark.parametrize(("kind", "place"), [("full", MODEL), ("probe", ADAPTED)])
def test_half_precision(
    runs: dict[str, Run], exports: dict[str, Path], kind: str, place: str, small_table: pd.DataFrame, tmp_path: Path
) -> None:
    smiles = small_table["smiles"].tolist()[:40]
    whole, half = exports[kind], export_run(runs[kind].path, tmp_path / "half", half=True)
    sizes = [(folder / place / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    expected = Predictor.load(whole).predict(smiles)["predicted"]
    off = (Predictor.load(half).predict(smiles)["predicted"] - expected).abs().max()
    assert 0 < off < 0.02 * np.ptp(expected)


def test_a_model_folder_alone(runs: dict[str, Run], tmp_path: Path) -> None:
    exported = Predictor.load(export_run(runs["lora"].model_path, tmp_path / "export"))
    expected = Predictor.load(runs["lora"].model_path).predict(["CCO", "c1ccccc1"])
    assert_equal_tables(exported.predict(["CCO", "c1ccccc1"]), expected)
    with pytest.raises(ConfigError, match="export the run folder"):
        export_run(runs["probe"].model_path, tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_wrong_requests(runs: dict[str, Run], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="exists already"):
        export_run(runs["full"].path, tmp_path / "taken")
    with pytest.raises(CheckpointError, match="there is no model"):
        export_run(tmp_path / "nothing", tmp_path / "export")
    with pytest.raises(CheckpointError, match="not a tuned regression model"):
        export_run("moltune/mini", tmp_path / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_damaged_exports_are_named(runs: dict[str, Run], tmp_path: Path) -> None:
    whole = export_run(runs["full"].path, tmp_path / "whole.zip")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(RunFolderError, match=r"cut\.zip cannot be unpacked"):
        Predictor.load(tmp_path / "cut.zip")
    assert not is_export(tmp_path / "cut.zip")
    damaged = bytearray(whole.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(RunFolderError, match=r"damaged\.zip cannot be unpacked"):
        Predictor.load(tmp_path / "damaged.zip")
    for name in ("../outside", "/outside"):
        path = tmp_path / "evil.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
            archive.writestr("model/config.json", "{}")
        with pytest.raises(RunFolderError, match="outside of its folder"):
            Predictor.load(path)
    folder = export_run(runs["probe"].path, tmp_path / "folder")
    (folder / ADAPTED / GRAPH).write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx cannot be read"):
        Predictor.load(folder)


def test_a_probe_of_other_weights_does_not_take_the_graph(runs: dict[str, Run], tmp_path: Path) -> None:
    folder = export_run(runs["probe"].path, tmp_path / "folder")
    path = folder / MODEL / "config.json"
    values = json.loads(path.read_text())
    values["base"]["digest"] = "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="fitted on other weights"):
        Predictor.load(folder)
