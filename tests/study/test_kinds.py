from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny import save_tiny_molformer

from moltune.errors import ConfigError
from moltune.study.arms.base import ArmUnavailable
from moltune.study.engine.plan import write_splits
from moltune.study.engine.run import Ran, run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import check_arms, load_recipe, make_recipe


def run(values: dict[str, Any], folder: Path, where: Path | None = None) -> Ran:
    return run_study(make_recipe(values, where), folder, executor=InlineExecutor(folder))


def external(values: dict[str, Any], folder: Path, key: str = "row", **change: Any) -> dict[str, Any]:
    """A recipe with an external arm that is off by exactly 0.5, its files, and no other arm."""
    arm = {"name": "theirs", "kind": "external", "files": "theirs-{split}.csv", "seeded": False}
    values = {**values, "arms": [arm]}
    for path in write_splits(make_recipe(values, folder), Store(folder / "study")):
        frame = pd.read_csv(path)
        frame["predicted"] = frame["target"] + 0.5
        number = path.stem.removeprefix("split")
        frame.assign(**change)[[key, "predicted"]].to_csv(folder / f"theirs-{number}.csv", index=False)
    return values


@pytest.mark.parametrize("key", ["row", "smiles"])
def test_external_predictions_are_matched_with_their_molecules(
    values: dict[str, Any], tmp_path: Path, key: str
) -> None:
    ran = run(external(values, tmp_path, key), tmp_path / "study", tmp_path)
    assert ran.failed == {}
    # One file per split serves both seeds.
    assert len([task for task in ran.plan.runs if task.arm == "theirs"]) == 3
    for task in ran.plan.runs:
        result = Store(ran.folder).result(task.hash)
        assert result is not None
        if task.arm == "theirs":
            assert result.facts["test"]["rmse"] == pytest.approx(0.5)
            assert result.facts["test"]["n"] == 12


def test_a_changed_file_is_another_run(values: dict[str, Any], tmp_path: Path) -> None:
    values = external(values, tmp_path)
    first = run(values, tmp_path / "study", tmp_path)
    path = tmp_path / "theirs-0.csv"
    pd.read_csv(path).assign(predicted=lambda frame: frame["predicted"] + 0.1).to_csv(path, index=False)
    second = run(values, tmp_path / "study", tmp_path)
    assert second.computed == 1
    assert len(set(first.done) & set(second.done)) == len(first.done) - 1


def test_bad_external_files_are_named(values: dict[str, Any], tmp_path: Path) -> None:
    values = external(values, tmp_path)
    (tmp_path / "theirs-2.csv").unlink()
    with pytest.raises(ConfigError, match=r"1 of 3 prediction files are missing, such as .*theirs-2.csv"):
        check_arms(make_recipe(values, tmp_path))
    pd.DataFrame({"row": [1, 1], "predicted": [0.0, 0.0]}).to_csv(tmp_path / "theirs-2.csv", index=False)
    pd.DataFrame({"molecule": [1], "predicted": [0.0]}).to_csv(tmp_path / "theirs-1.csv", index=False)
    pd.DataFrame({"row": [1], "predicted": [0.0]}).to_csv(tmp_path / "theirs-0.csv", index=False)
    errors = "\n".join(run(values, tmp_path / "study", tmp_path).failed.values())
    assert "theirs-2.csv predicts row 1 twice" in errors
    assert "theirs-1.csv needs the columns predicted and row (or smiles); it has molecule, predicted" in errors
    assert "of 12 test molecules are predicted" in errors
    values["arms"][0]["files"] = "{fold_}.csv"
    with pytest.raises(ConfigError, match=r"may use \{split\}, \{fold\} and \{seed\} only"):
        check_arms(make_recipe(values, tmp_path))


def test_svr_learns_and_shares_its_features(values: dict[str, Any], tmp_path: Path) -> None:
    values["arms"] = [
        {"name": "one", "kind": "svr", "features": ["rdkit"]},
        {"name": "two", "kind": "svr", "features": ["rdkit", "morgan"], "C": 1},
    ]
    ran = run(values, tmp_path / "study")
    assert ran.failed == {}
    assert sorted(task.arm for task in ran.plan.tasks if task.kind == "step") == ["features morgan", "features rdkit"]
    rmse = {}
    for task in ran.plan.runs:
        result = Store(ran.folder).result(task.hash)
        assert result is not None
        rmse.setdefault(task.arm, []).append(result.facts["test"]["rmse"])
    assert np.mean(rmse["one"]) < np.mean(rmse["mean"]) / 2
    values["arms"][0]["features"] = ["smell"]
    with pytest.raises(ConfigError, match="no features 'smell'"):
        check_arms(make_recipe(values))


def test_the_same_study_elsewhere_gives_the_same_predictions(values: dict[str, Any], tmp_path: Path) -> None:
    values["protocol"]["splits"] = 1
    for name in ("one", "two"):
        run(values, tmp_path / name)
    runs = sorted(path.name for path in (tmp_path / "one" / "runs").iterdir())
    assert runs == sorted(path.name for path in (tmp_path / "two" / "runs").iterdir())
    for name in runs:
        frames = [pd.read_parquet(tmp_path / which / "runs" / name / "predictions.parquet") for which in ("one", "two")]
        pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.slow
def test_a_finetune_arm_runs_resumes_and_keeps_its_history(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_molformer(tmp_path / "tiny")
    settings = {"training.epochs": 3, "training": {"learning_rate": 1e-3, "patience": None}}
    values["model"] = {"name": str(model)}
    values["protocol"] = {"splits": 1, "seeds": 2, "split": {"bins": 3}}
    values["arms"] = [{"name": "tiny", "kind": "finetune", "settings": settings, "keep_model": True}]
    peaceful = run(values, tmp_path / "peaceful")
    assert peaceful.failed == {}
    _kill_after_epoch(monkeypatch, 2)
    assert len(run(values, tmp_path / "killed").failed) == 2
    assert list((tmp_path / "killed" / "work").glob("*/run/checkpoints/checkpoint-*"))
    monkeypatch.undo()
    recipe = make_recipe(values)
    folder = tmp_path / "killed"
    resumed = run_study(recipe, folder, retry_failed=True, executor=InlineExecutor(folder))
    assert resumed.failed == {}
    for task in (task for task in peaceful.plan.runs if task.arm == "tiny"):
        one, two = Store(peaceful.folder).result(task.hash), Store(resumed.folder).result(task.hash)
        assert one is not None
        assert two is not None
        pd.testing.assert_frame_equal(one.predictions, two.predictions, check_exact=True)
        assert one.history is not None
        assert one.history["epoch"].tolist() == [1, 2, 3]
        assert one.facts["facts"]["trainable_parameters"] > 0
        assert (peaceful.folder / "runs" / task.hash / "model" / "model.safetensors").is_file()
    assert list((folder / "work").iterdir()) == []


def _kill_after_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    from moltune.tuning import loop

    original = loop.MoleculeTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (self.state.epoch or 0) >= epoch:
            raise RuntimeError("the power went")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(loop.MoleculeTrainer, "training_step", step)


def test_a_model_that_is_not_there_makes_the_arm_unavailable(values: dict[str, Any]) -> None:
    values["arms"].append({"name": "full", "kind": "finetune", "settings": {"model.name": "moltune/gigantic"}})
    with pytest.raises(ArmUnavailable, match="moltune/gigantic"):
        check_arms(make_recipe(values))


def test_probe_arms_share_their_features_and_agree_with_finetune(values: dict[str, Any], tmp_path: Path) -> None:
    model = save_tiny_molformer(tmp_path / "tiny")
    values["model"] = {"name": str(model)}
    values["protocol"] = {"splits": 2, "seeds": 1, "split": {"bins": 3}}
    probe = {"name": "probe", "probe": {"head": "svr", "features": ["embedding", "rdkit"]}}
    values["arms"] = [
        {"name": "one", "kind": "probe", "head": "svr", "features": ["embedding", "rdkit"]},
        {"name": "two", "kind": "probe", "features": ["embedding"]},
        {"name": "run", "kind": "finetune", "settings": {"method": probe}},
    ]
    ran = run(values, tmp_path / "study")
    assert ran.failed == {}
    steps = sorted(task.arm for task in ran.plan.tasks if task.kind == "step")
    assert steps == ["features embedding", "features rdkit"]
    found: dict[str, list[Any]] = {}
    for task in ran.plan.runs:
        result = Store(ran.folder).result(task.hash)
        assert result is not None
        found.setdefault(task.arm, []).append(result)
    for one, other in zip(found["one"], found["run"], strict=True):
        left = one.predictions.sort_values("row")["predicted"].to_numpy()
        np.testing.assert_allclose(left, other.predictions.sort_values("row")["predicted"], rtol=0, atol=1e-5)
        assert one.facts["facts"]["trainable_parameters"] == other.facts["facts"]["trainable_parameters"]
        assert other.facts["facts"]["weights_bytes"] > 0
    values["arms"][0]["model"] = {"name": "moltune/gigantic"}
    with pytest.raises(ArmUnavailable, match="moltune/gigantic"):
        check_arms(make_recipe(values))
    values["arms"][0]["features"] = ["rdkit"]
    with pytest.raises(ConfigError, match="has no effect"):
        check_arms(make_recipe(values))


def test_the_peft_recipe_names_every_method() -> None:
    recipe = load_recipe("peft")
    methods = {arm.options["settings"]["method"]["name"] for arm in recipe.arms if arm.kind == "finetune"}
    assert methods == {"full", "lora", "ia3", "bitfit", "dora", "ln"}
    assert any(arm.kind == "probe" for arm in recipe.arms)
    assert len(recipe.protocol.blocks()) == 15
    assert {arm.name for arm in recipe.arms if arm.seeds == 1} == {"lora-qv", "dora", "ln"}
    assert recipe.reference_arm.name == "full"
