from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from moltune.config import Settings
from moltune.data.splitting.split import Split
from moltune.errors import ConfigError, RunFolderError
from moltune.study.arms.base import ArmKind, Outcome, Step, Workbench, predict_parts
from moltune.study.arms.registry import KINDS, register_kind
from moltune.study.engine import run as runner
from moltune.study.engine.run import Ran, run_study
from moltune.study.engine.store import Store, Task
from moltune.study.engine.task import Event
from moltune.study.engine.workers import Executor, InlineExecutor
from moltune.study.load import make_recipe
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe


class ProbeOptions(Settings):
    behaviour: str = "good"
    bias: float = 0.0
    broken_step: bool = False


class Probe(ArmKind):
    """Predicts the truth plus a bias, or misbehaves; counts how often it ran."""

    name = "trial"
    description = "for tests"
    Options: ClassVar[type[Settings]] = ProbeOptions
    ran: ClassVar[list[str]] = []
    broken: ClassVar[bool] = True

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        options = self.options(arm)
        function = "broken_step" if options.broken_step else "good_step"
        return [Step("shift", {"function": function}, f"{__name__}:{function}")]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        behaviour = specification["behaviour"]
        self.ran.append(f"{behaviour} {seed}")
        if behaviour == "raises" and Probe.broken:
            raise ValueError("the flask broke")
        noise = np.random.default_rng(seed).normal(0, 0.1, len(bench.molecules))
        values = bench.molecules.target + specification["bias"] + noise + bench.array("shift")[0]
        if behaviour == "nan":
            values[split.test[0]] = np.nan
        place = {smiles: at for at, smiles in enumerate(bench.molecules.smiles)}
        table = predict_parts(split, bench.molecules, lambda smiles: values[[place[text] for text in smiles]])
        return Outcome(table.iloc[:-5] if behaviour == "lazy" else table, {"seed": seed})


def good_step(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    Probe.ran.append("step")
    return {"values": np.zeros(1)}


def broken_step(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    raise RuntimeError("no water")


@pytest.fixture(autouse=True)
def _probe() -> Iterator[None]:
    register_kind(Probe)
    Probe.ran.clear()
    Probe.broken = True
    yield
    KINDS.pop("trial")


def recipe_of(values: dict[str, Any], *arms: dict[str, Any], **changes: Any) -> Recipe:
    return make_recipe({**values, "arms": [{"kind": "trial", **arm} for arm in arms], **changes})


def run(recipe: Recipe, folder: Path, **options: Any) -> Ran:
    return run_study(recipe, folder, executor=InlineExecutor(folder), **options)


def test_finished_runs_and_steps_are_never_repeated(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    ran = run(recipe_of(values, {"name": "a"}), folder)
    # Six runs of the probe, one step, and one mean per split.
    assert (len(ran.done), ran.computed, ran.failed, ran.missing) == (9, 10, {}, [])
    assert sorted(Probe.ran) == ["good 0"] * 3 + ["good 1"] * 3 + ["step"]
    again = run(recipe_of(values, {"name": "a"}), folder)
    assert (len(again.done), again.computed) == (9, 0)
    assert len(Probe.ran) == 7


def test_another_arm_or_seed_adds_only_what_is_new(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    run(recipe_of(values, {"name": "a"}), folder)
    Probe.ran.clear()
    run(recipe_of(values, {"name": "renamed"}, {"name": "b", "bias": 0.5}), folder)
    assert sorted(Probe.ran) == ["good 0"] * 3 + ["good 1"] * 3
    Probe.ran.clear()
    values["protocol"] = {**values["protocol"], "seeds": 3}
    run(recipe_of(values, {"name": "a"}), folder)
    assert Probe.ran == ["good 2"] * 3


def test_equal_runs_are_taken_over_from_other_studies(values: dict[str, Any], tmp_path: Path) -> None:
    run(recipe_of(values, {"name": "a"}), tmp_path / "first")
    Probe.ran.clear()
    second = recipe_of(values, {"name": "the same"}, {"name": "b", "bias": 1.0}, name="second")
    ran = run(second, tmp_path / "second", reuse=[tmp_path / "first"])
    # The step, and runs of the first arm, are there; its name is no part of what decides the result.
    assert (len(ran.done), ran.failed, sorted(Probe.ran)) == (15, {}, ["good 0"] * 3 + ["good 1"] * 3)
    for folder in (tmp_path / "first" / "runs").iterdir():
        taken = tmp_path / "second" / "runs" / folder.name
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in taken.iterdir()
        }
    with pytest.raises(RunFolderError, match="no study folder"):
        run(second, tmp_path / "third", reuse=[tmp_path / "nothing"])


def test_changed_labels_are_other_data(values: dict[str, Any], csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    run(recipe_of(values, {"name": "a"}), folder)
    Probe.ran.clear()
    table = pd.read_csv(csv)
    table.loc[3, "y"] += 1e-9
    table.to_csv(csv, index=False)
    assert run(recipe_of(values, {"name": "a"}), folder).computed == 10


def test_a_failure_is_kept_listed_and_retried_on_request_only(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    recipe = recipe_of(values, {"name": "bad", "behaviour": "raises"}, {"name": "good"})
    ran = run(recipe, folder)
    assert (len(ran.failed), len(ran.done)) == (6, 9)
    assert set(ran.failed.values()) == {"ValueError: the flask broke"}
    stored = json.loads(next((folder / "failed").glob("*.json")).read_text())
    assert "Traceback" in stored["traceback"]
    assert 'raise ValueError("the flask broke")' in stored["traceback"]
    Probe.ran.clear()
    assert len(run(recipe, folder).failed) == 6
    assert Probe.ran == []
    Probe.broken = False
    assert run(recipe, folder, retry_failed=True).failed == {}
    assert list((folder / "failed").iterdir()) == []


@pytest.mark.parametrize(
    ("behaviour", "words"), [("nan", "NumericsError.*not finite"), ("lazy", "DataError.*only 7 of 12 test molecules")]
)
def test_predictions_that_cannot_be_compared_fail(
    values: dict[str, Any], tmp_path: Path, behaviour: str, words: str
) -> None:
    ran = run(recipe_of(values, {"name": "a", "behaviour": behaviour}), tmp_path / "study")
    assert len(ran.failed) == 6
    assert all(re.search(words, error) for error in ran.failed.values())


def test_runs_whose_step_failed_fail_with_its_reason(values: dict[str, Any], tmp_path: Path) -> None:
    ran = run(recipe_of(values, {"name": "a", "broken_step": True}), tmp_path / "study")
    assert len(ran.failed) == 6
    assert set(ran.failed.values()) == {"'shift', which it needs, failed: RuntimeError: no water"}
    assert Probe.ran == []


def test_a_spent_budget_begins_nothing_new(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    ran = run(recipe_of(values, {"name": "a"}, budget={"hours": 1e-9}), folder)
    assert (ran.computed, len(ran.missing)) == (0, 9)
    assert run(recipe_of(values, {"name": "a"}), folder).missing == []


class Fragile(InlineExecutor):
    """Loses its worker at the first attempts of each run of seed 1."""

    def __init__(self, folder: Path, deaths: int) -> None:
        super().__init__(folder)
        self.left: dict[str, int] = {}
        self.deaths = deaths

    def submit(self, task: Task) -> Event:
        left = self.left.setdefault(task.hash, self.deaths if task.title.endswith("seed1") else 0)
        if left:
            self.left[task.hash] -= 1
            return Event(task.hash, "died", message="its worker process was killed")
        return super().submit(task)


def test_a_run_whose_worker_died_is_done_again_but_not_forever(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(values, {"name": "a"})
    once = run_study(recipe, tmp_path / "once", executor=Fragile(tmp_path / "once", 1))
    assert (once.failed, len(once.done)) == ({}, 9)
    always = run_study(recipe, tmp_path / "always", executor=Fragile(tmp_path / "always", 99))
    assert (len(always.failed), len(always.done)) == (3, 6)
    assert all("was killed, 3 times" in error for error in always.failed.values())


class Elsewhere(InlineExecutor):
    """Another process has every run when it is asked for, and finishes it meanwhile."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.other = InlineExecutor(folder)

    def submit(self, task: Task) -> Event:
        with Store(self._store.folder).claim(task) as mine:
            assert mine
            event = super().submit(task)
            assert event.status == "busy"
        self.other.submit(task)
        return event


def test_what_another_process_does_is_not_done_here(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PAUSE_WHEN_BUSY", 0.0)
    folder = tmp_path / "study"
    ran = run_study(recipe_of(values, {"name": "a"}), folder, executor=Elsewhere(folder))
    assert (ran.computed, len(ran.done)) == (0, 9)
    assert len(Probe.ran) == 7


def test_progress_counts_and_estimates(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    seen: list[tuple[int, int, float | None]] = []
    recipe = recipe_of(values, {"name": "a"})
    run(recipe, folder, report=lambda state: seen.append((state.done, state.total, state.seconds_left)))
    assert seen[0] == (0, 10, None)
    assert seen[-1][:2] == (10, 10)
    assert seen[-1][2] == 0
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_workers_and_threads_are_checked(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(values, {"name": "a"})
    with pytest.raises(ConfigError, match="at least one worker"):
        run_study(recipe, tmp_path / "study", workers=0)


def test_executors_share_one_interface(tmp_path: Path) -> None:
    with InlineExecutor(tmp_path) as executor:
        assert isinstance(executor, Executor)
        assert executor.wait(0.0) == []
