"""Several properties tuned together: one encoder, a run of each, and what asks for one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny import RunSettings, assert_same_run, table_with_gaps, weights_of, without_seconds

from moltune.config import TrainingSettings, make_config
from moltune.data.reading.read import read_table
from moltune.errors import CheckpointError, ConfigError, DataError, RunFolderError
from moltune.models.batches import SmilesDataset
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.joint import JointModel
from moltune.predictors.base import TunedModel
from moltune.predictors.load import load_model
from moltune.predictors.predictor import Predictor
from moltune.predictors.several import OneOfSeveral, Predictors
from moltune.run import Run
from moltune.service.models import served
from moltune.tuning.finetune import finetune
from moltune.tuning.loop import fit, planned_epochs
from moltune.tuning.several import finetune_several, folder_names

NAMES = ["dG", "logS", "polar"]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundled sets side by side: hydration, solubility, and two classes of the former for half of it."""
    path = tmp_path_factory.mktemp("gaps") / "gaps.csv"
    table_with_gaps().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def of_several(tiny_model: Path, gaps: Path) -> RunSettings:
    def make(output: Path | None = None, **changes: Any) -> dict[str, Any]:
        usual = {"data.target": "dG,logS,polar", "split.ratios": "60/20/20", "prediction.blend": []}
        return RunSettings(tiny_model, gaps)(output, **{**usual, "evaluation.baselines": [], **changes})

    return make  # type: ignore[return-value]


@pytest.fixture(scope="module")
def joint(of_several: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of three properties, with a baseline and a blend; read them, do not change them."""
    changes = {"evaluation.baselines": ["mean"], "prediction.blend": ["gp:rdkit-fast"]}
    return finetune_several(of_several(tmp_path_factory.mktemp("joint") / "multi", **changes))


# --- runs ---------------------------------------------------------------------------------------------------------


def test_each_property_has_an_ordinary_run(joint: dict[str, Run], gaps: Path) -> None:
    assert list(joint) == NAMES
    table = pd.read_csv(gaps)
    part_of: dict[str, str] = {}
    for name, run in joint.items():
        loaded = Run.load(run.path)
        assert loaded.config.data.target == name
        assert len(loaded.splits) + len(pd.read_csv(run.path / "rejects.csv")) == table[name].notna().sum()
        for smiles, part in zip(loaded.splits["smiles"], loaded.splits["split"], strict=True):
            assert part_of.setdefault(smiles, part) == part
        others = [other for other in NAMES if other != name]
        assert loaded.provenance["together_with"] == others
        assert f"learned together with {', '.join(others)}:" in (run.path / "report.html").read_text()
        assert not (run.path.parent / "checkpoints").exists()
        assert set(loaded.metrics["blend"]["weights"]) == {"model", "gp:rdkit-fast"}
        stored = loaded.predictions[:20]
        found = Predictor.load(run.path).predict(stored["smiles"].tolist())
        np.testing.assert_allclose(found["predicted"], stored["predicted_blend"], atol=1e-4)
    assert "rmse" in joint["dG"].metrics["test"]
    assert joint["polar"].metrics["classes"] == ["no", "yes"]
    assert "roc_auc" in joint["polar"].metrics["test"]


def test_the_encoder_is_one_and_it_was_trained(joint: dict[str, Run], tiny_model: Path) -> None:
    weights = [weights_of(run) for run in joint.values()]
    start = make_regression(tiny_model).state_dict()
    encoder = [name for name in weights[0] if name.startswith("encoder.")]
    assert encoder
    for name in encoder:
        assert torch.equal(weights[0][name], weights[1][name])
        assert torch.equal(weights[0][name], weights[2][name])
    assert any(not torch.equal(weights[0][name], start[name]) for name in encoder)
    assert not torch.equal(weights[0]["head.out_proj.weight"], weights[1]["head.out_proj.weight"])
    histories = [run.history for run in joint.values()]
    pd.testing.assert_frame_equal(histories[0], histories[1])


def test_all_rows_are_in_one_table(joint: dict[str, Run]) -> None:
    folder = joint["dG"].path.parent
    table = pd.read_csv(folder / "properties.csv")
    assert table["property"].unique().tolist() == NAMES
    for name, run in joint.items():
        own = table[(table["property"] == name) & (table["part"] == "test")].set_index(["predicted_by", "metric"])
        metric = "roc_auc" if name == "polar" else "rmse"
        for source, metrics in {"model": run.metrics, "blend": run.metrics["blend"]}.items():
            assert own.loc[(source, metric), "value"] == pytest.approx(metrics["test"][metric]["value"])
            assert own.loc[(source, metric), "n"] == metrics["test"]["n"]
    assert json.loads((folder / "metrics.json").read_text()).keys() == joint.keys()
    page = (folder / "report.html").read_text()
    for words in ("dG: test part", "polar: test part", "ROC AUC", "logS/report.html"):
        assert words in page


def test_the_joint_folder_predicts_every_property_and_its_encoder_runs_once(
    joint: dict[str, Run], small_table: pd.DataFrame
) -> None:
    rows = small_table[["id", "smiles"]].iloc[90:120].reset_index(drop=True)
    predictors = Predictors.load([joint["dG"].path.parent])
    first, *others = (one.model for one in predictors.members)
    assert isinstance(first, OneOfSeveral)
    assert all(one.network.encoder is first.network.encoder for one in others)
    calls: list[int] = []
    first.network.encoder.register_forward_hook(lambda *of: calls.append(1))
    for _ in range(2):
        found = predictors.predict_source(rows)
        assert not first.known
    # The model's encoder in one batch for all properties; members of the blends have features of their own.
    assert len(calls) == 2
    for name, run in joint.items():
        alone = Predictors.load([run.path]).predict_source(rows)
        np.testing.assert_allclose(found[name], alone[name])
    assert set(found["polar_class"]) <= {"yes", "no"}


def test_other_encoders_run_by_themselves(joint: dict[str, Run], finished: Run, small_table: pd.DataFrame) -> None:
    predictors = Predictors.load([joint["dG"].path, finished.path, joint["logS"].path])
    assert [isinstance(one.model, OneOfSeveral) for one in predictors.members] == [True, False, True]
    rows = small_table[["smiles"]].iloc[:5]
    [_, found, _] = predictors.predict_rows(read_table(rows), "smiles")
    np.testing.assert_allclose(found[""], Predictor.load(finished.path).predict(rows["smiles"].tolist())["predicted"])


def test_the_same_runs_twice_also_after_a_kill(of_several: RunSettings, tmp_path: Path) -> None:
    once = finetune_several(of_several(tmp_path / "once"))

    def kill(known: dict[str, Any]) -> None:
        if known.get("epoch_ended") and known["epoch"] >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_several(of_several(tmp_path / "killed"), report=kill)
    with pytest.raises(RunFolderError, match="holds an unfinished run"):
        finetune_several(of_several(tmp_path / "killed"))
    again = finetune_several(of_several(tmp_path / "killed"), resume=True)
    for name, run in once.items():
        assert_same_run(run.path, again[name].path)
    same = finetune_several(of_several(tmp_path / "killed"), resume=True)
    assert [run.path for run in same.values()] == [run.path for run in again.values()]
    with pytest.raises(RunFolderError, match="belongs to other settings"):
        finetune_several(of_several(tmp_path / "killed", seed=5), resume=True)
    fewer = finetune_several(of_several(tmp_path / "killed", **{"data.target": "logS,dG"}), overwrite=True)
    assert list(fewer) == ["logS", "dG"]
    assert not (tmp_path / "killed" / "polar").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"method.name": "lora"},
        {"method.name": "bitfit"},
        {"training.ensemble": 2},
        {"method.name": "probe", "method.probe.features": "rdkit-fast"},
    ],
    ids=["lora", "bitfit", "ensemble", "probe"],
)
def test_other_ways_to_tune(of_several: RunSettings, tmp_path: Path, changes: dict[str, Any]) -> None:
    runs = finetune_several(of_several(tmp_path / "multi", **changes))
    for name, run in runs.items():
        model: TunedModel = load_model(run.path)
        assert model.class_names == (("no", "yes") if name == "polar" else None)
        stored = run.predictions
        np.testing.assert_allclose(model.predict(stored["smiles"].tolist()), stored["predicted"], atol=1e-4)


def test_other_properties_do_not_shorten_the_training(of_several: RunSettings, tmp_path: Path) -> None:
    changes = {"data.target": "dG,logS", "method.name": "head", "training.epochs": None, "training.patience": 50}
    settings = make_config(of_several(tmp_path / "multi", **changes, **{"training.batch_size": 4}))
    runs = finetune_several(settings)
    counts = [(run.splits["split"] == "train").sum() for run in runs.values()]
    together = len(set.union(*(set(run.splits["smiles"][run.splits["split"] == "train"]) for run in runs.values())))
    epochs = planned_epochs(settings.training, round(np.mean(counts)))
    assert len(runs["dG"].history) == epochs > planned_epochs(settings.training, together)


# --- one property -------------------------------------------------------------------------------------------------


def test_one_property_gives_an_ordinary_run(of_several: RunSettings, tmp_path: Path) -> None:
    (run,) = finetune_several(of_several(tmp_path / "several", **{"data.target": "logS,"})).values()
    alone = finetune(of_several(tmp_path / "alone", **{"data.target": "logS"}))
    assert run.path == tmp_path / "several"
    assert_same_run(run.path, alone.path)


def test_a_joint_model_of_one_trains_to_the_same_bits(tiny_model: Path, gaps: Path, tmp_path: Path) -> None:
    table = pd.read_csv(gaps).dropna(subset="logS")
    smiles, target = table["smiles"].tolist(), table["logS"].to_numpy()
    tokenizer = load_tokenizer(tiny_model)
    settings = TrainingSettings(epochs=3, learning_rate=1e-3, threads=1)
    found = []
    for joint in (False, True):
        torch.manual_seed(0)
        network = make_regression(tiny_model, target_mean=float(target.mean()), target_std=float(target.std()))
        labels = target[:, None] if joint else target
        model = JointModel([network], [1.0]) if joint else network
        parts = [SmilesDataset(tokenizer, smiles[at], labels[at]) for at in (slice(0, 75), slice(75, None))]
        fitted = fit(model, *parts, settings, pad_token_id=int(tokenizer.pad_token_id), folder=tmp_path / str(joint))
        found.append((fitted.history, network.state_dict()))
    (history, weights), (joint_history, joint_weights) = found
    pd.testing.assert_frame_equal(history, joint_history, check_exact=True)
    assert history["train_loss"].nunique() == 3
    assert all(torch.equal(weights[name], joint_weights[name]) for name in weights)


def test_a_second_property_changes_the_first(of_several: RunSettings, joint: dict[str, Run], tmp_path: Path) -> None:
    alone = finetune(of_several(tmp_path / "alone", **{"data.target": "dG"}))
    assert without_seconds(alone.metrics)["validation"] != without_seconds(joint["dG"].metrics)["validation"]


# --- what is for one property -------------------------------------------------------------------------------------


def test_whoever_wants_one_run_says_which_there_are(joint: dict[str, Run], of_several: RunSettings) -> None:
    folder = joint["dG"].path.parent
    with pytest.raises(RunFolderError, match=r"several properties \(dG, logS, polar\).*choose one, such as .*multi/dG"):
        Run.load(folder)
    with pytest.raises(CheckpointError, match=r"holds several runs \(dG, logS, polar\).*such as .*multi/dG"):
        Predictor.load(folder)
    with pytest.raises(
        DataError, match=r"One target column is wanted here.*Several at once are for `moltune finetune`"
    ):
        finetune(of_several())


def test_the_service_takes_the_folder_for_the_runs_in_it(joint: dict[str, Run]) -> None:
    found = served([str(joint["dG"].path.parent)], only=True)
    assert {one.name: Path(one.place) for one in found} == {name: run.path for name, run in joint.items()}


def test_what_cannot_be_shared_is_refused(of_several: RunSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`moltune adapt` first"):
        finetune_several(of_several(tmp_path / "a", **{"adapt.objective": "mlm"}))
    with pytest.raises(ConfigError, match=r"data\.bounds=use is for one property"):
        finetune_several(of_several(tmp_path / "b", **{"data.bounds": "use"}))
    assert not any(tmp_path.iterdir())


def test_a_property_with_too_few_values_is_named(of_several: RunSettings, gaps: Path, tmp_path: Path) -> None:
    table = pd.read_csv(gaps)
    table["few"] = np.where(np.arange(len(table)) < 2, np.arange(len(table)) * 1.0, np.nan)
    table["part"] = np.where(np.arange(len(table)) < 2, "test", "train")
    table.to_csv(tmp_path / "few.csv", index=False)
    changes = {"data.source": str(tmp_path / "few.csv"), "data.target": "logS,few", "split.method": "column"}
    with pytest.raises(DataError, match="no molecule with a value of 'few'"):
        finetune_several(of_several(tmp_path / "multi", **changes, **{"split.column": "part"}))


def test_folders_of_properties() -> None:
    names = ["IC50 (nM)", "IC50 [nM]", "LogS", "logS", "µ", "°", "checkpoints"]
    found = folder_names(names)
    assert list(found) == names
    assert found["IC50 (nM)"] == "IC50-nM"
    assert len({folder.casefold() for folder in found.values()} | {"checkpoints"}) == len(names) + 1
    assert all(Path(folder).name == folder for folder in found.values())
