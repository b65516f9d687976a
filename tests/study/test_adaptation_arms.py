"""Arms with adaptation, random weights and blends: what is shared, and what decides a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny import save_tiny_molformer

from moltune.config import make_config
from moltune.data.splitting.split import write_index_file
from moltune.errors import ConfigError
from moltune.pretraining import loop as pretraining
from moltune.study.arms.registry import find_kind
from moltune.study.engine.plan import make_plan
from moltune.study.engine.run import Ran, run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import check_arms, load_recipe, make_recipe
from moltune.tuning.finetune import finetune

FAST = {"training.epochs": 1, "training.learning_rate": 1e-3}
ADAPT = {"adapt.objective": "mtr", "adapt.epochs": 2, "adapt.tokens_per_batch": 200, "adapt.learning_rate": 3e-3}


def run(values: dict[str, Any], folder: Path, **options: Any) -> Ran:
    return run_study(make_recipe(values), folder, executor=InlineExecutor(folder), **options)


def arm(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "kind": "finetune", "settings": {**FAST, **settings}}


@pytest.fixture
def tuned(values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Plain; adapted, twice with the same adaptation; random weights; blend."""
    values["model"] = {"name": str(save_tiny_molformer(tmp_path / "tiny"))}
    values["protocol"] = {"splits": 1, "seeds": 2, "split": {"bins": 3}}
    values["arms"] = [
        arm("plain"),
        arm("mtr", **ADAPT),
        arm("mtr-fast", **ADAPT, **{"training.learning_rate": 2e-2}),
        arm("random", **{"model.weights": "random"}),
        arm("blend", **{"prediction.blend": ["ridge"]}),
    ]
    return values


def test_adaptation_is_shared_and_equals_that_of_a_run(tuned: dict[str, Any], tmp_path: Path) -> None:
    ran = run(tuned, tmp_path / "study")
    assert ran.failed == {}
    store = Store(ran.folder)
    steps = sorted(task.arm for task in ran.plan.tasks if task.kind == "step")
    # One per split, though two arms and two seeds use it; the probe that comes by itself and the ridge bring features.
    assert steps == [
        "adaptation",
        *(f"features {name}" for name in ("embedding", "ionisation", "morgan", "rdkit-fast")),
    ]
    found: dict[str, Any] = {}
    for task in ran.plan.runs:
        result = store.result(task.hash)
        assert result is not None
        found[task.title] = result
    facts = found["mtr split0-seed1"].facts["facts"]
    assert facts["adaptation"]["molecules"] == len(store.split("split0", ran.plan.molecules).train)
    assert "adaptation" not in found["plain split0-seed1"].facts["facts"]
    weights = found["blend split0-seed0"].facts["facts"]["blend_weights"]
    assert sum(weights.values()) == pytest.approx(1)
    titles = ("plain", "mtr", "mtr-fast", "random", "blend")
    tables = [found[f"{name} split0-seed0"].predictions["predicted"].to_numpy() for name in titles]
    for one in range(len(tables)):
        for other in range(one):
            assert not np.allclose(tables[one], tables[other]), (titles[one], titles[other])

    index = write_index_file(ran.plan.molecules, store.split("split0", ran.plan.molecules), tmp_path / "split.json")
    settings: dict[str, Any] = {
        "data": {"source": tuned["data"]["source"]},
        "model": tuned["model"],
        "split": {"method": "index", "index_file": str(index)},
        "seed": 0,
        "output": str(tmp_path / "run"),
        "evaluation": {"baselines": [], "figures": False, "bootstrap": 0},
        "training": {"epochs": 1, "learning_rate": 1e-3, "threads": 1},
        "adapt": {name.removeprefix("adapt."): value for name, value in ADAPT.items()},
    }
    by_hand = finetune(make_config(settings))
    parts = by_hand.predictions["split"]
    assert sorted(by_hand.predictions.loc[parts == "test", "predicted"]) == pytest.approx(
        sorted(found["mtr split0-seed0"].predictions.query("part == 'test'")["predicted"]), rel=1e-5
    )


def test_adaptation_that_was_killed_goes_on(
    tuned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned["arms"], tuned["protocol"]["seeds"] = tuned["arms"][1:2], 1
    original = pretraining._step

    def stop(*args: Any) -> dict[str, float]:
        if args[-1] == 3:
            raise RuntimeError("killed")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_step", stop)
        ran = run(tuned, tmp_path / "killed")
    assert any("'adaptation', which it needs, failed" in text for text in ran.failed.values())
    resumed, peaceful = run(tuned, tmp_path / "killed", retry_failed=True), run(tuned, tmp_path / "peaceful")
    assert resumed.failed == {}
    for task in peaceful.plan.runs:
        one, two = Store(peaceful.folder).result(task.hash), Store(resumed.folder).result(task.hash)
        assert one is not None
        assert two is not None
        pd.testing.assert_frame_equal(one.predictions, two.predictions, check_exact=True)


def test_what_decides_the_adaptation_and_what_does_not(tuned: dict[str, Any], tmp_path: Path) -> None:
    def steps(folder: str, **change: Any) -> set[str]:
        values = {**tuned, "arms": [arm("mtr", **{**ADAPT, **change})]}
        plan = make_plan(make_recipe(values), Store(tmp_path / folder))
        return {task.hash for task in plan.tasks if task.arm == "adaptation"}

    base = steps("a")
    assert len(base) == 1
    assert steps("b", **{"training.epochs": 7}) == base
    assert not steps("c", **{"adapt.epochs": 3}) & base
    assert not steps("d", **{"adapt.transductive": True}) & base
    tuned["protocol"]["seeds"] = 3
    assert steps("e") == base
    tuned["protocol"]["splits"] = 2
    assert steps("f") > base
    tuned["protocol"]["splits"] = 1
    tuned["protocol"]["split"] = {"bins": 2}
    assert not steps("f") & base


def test_settings_that_came_later_leave_older_runs_alone(tuned: dict[str, Any]) -> None:
    recipe = make_recipe(tuned)
    kind, block = find_kind("finetune"), recipe.protocol.blocks()[0]
    settings = {a.name: kind.specification(a, recipe, block)["settings"] for a in recipe.arms if a.kind == "finetune"}
    assert "adapt" not in settings["plain"]
    assert "prediction" not in settings["plain"]
    assert "weights" not in settings["plain"]["model"]
    assert "augment" not in settings["plain"]["training"]
    assert settings["mtr"]["adapt"]["objective"] == "mtr"
    assert settings["random"]["model"]["weights"] == "random"
    assert settings["blend"]["prediction"]["blend"] == ["ridge"]


def test_recipes_name_the_arms_that_answer_their_question(tuned: dict[str, Any]) -> None:
    for name in ("adaptation", "checkpoint"):
        assert load_recipe(name).protocol.name == "P"
    assert [a.name for a in load_recipe("adaptation").arms[:4]] == ["plain", "mlm", "mtr", "both"]
    pairs = load_recipe("checkpoint").pairs()
    assert ("random", "mini") in pairs
    tuned["arms"] = [arm("bad", **{"prediction.blend": ["random-forest"]})]
    with pytest.raises(ConfigError, match="without pickle"):
        check_arms(make_recipe(tuned))
