"""What others claimed beside our verdicts, and arms that form a grid of settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moltune.errors import ConfigError
from moltune.study.analysis.claims import CONFIRMED, CONTRADICTED, OPEN, REFUTED, judge_claim
from moltune.study.analysis.verdicts import Comparison, analyse
from moltune.study.engine.plan import make_plan
from moltune.study.engine.run import run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import make_recipe
from moltune.study.recipe.recipe import Claim
from moltune.study.report.gallery import grid_table
from moltune.study.report.page import write_study
from moltune.study.report.text import claims_table

GRID = [(C, epsilon) for C in (0.1, 10.0) for epsilon in (0.05, 0.2)]
CLAIM = {"text": "Ridge is worse than an SVR <that hardly fits>", "source": "nobody", "arm": "ridge", "against": "svr"}


def values_with_grid(values: dict[str, Any]) -> dict[str, Any]:
    arms = [
        {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
        {"name": "svr", "kind": "svr", "features": ["rdkit"], "C": 0.001},
    ]
    for C, epsilon in GRID:
        point = {"kind": "svr", "features": ["rdkit"], "C": C, "epsilon": epsilon}
        arms.append({**point, "name": f"svr-{C}-{epsilon}", "grid": {"C": C, "epsilon": epsilon}})
    return {
        **values,
        "arms": arms,
        "reference": "svr",
        "claims": [{**CLAIM, "expect": "worse", "theirs": "0.1 to 0.2"}],
    }


@pytest.fixture
def study(values: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    run_study(make_recipe(values_with_grid(values)), folder, executor=InlineExecutor(folder))
    write_study(folder)
    return folder


def test_a_grid_runs_on_the_first_block_alone_and_is_compared_with_nothing(
    values: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make_recipe(values_with_grid(values))
    plan = make_plan(recipe, Store(tmp_path / "plan"))
    blocks = plan.index.groupby("arm")["block"].nunique()
    assert (blocks["ridge"], blocks["svr"]) == (6, 6)
    names = [f"svr-{C}-{epsilon}" for C, epsilon in GRID]
    assert [blocks[name] for name in names] == [1] * 4
    assert recipe.pairs() == [("ridge", "svr"), ("mean", "svr")]
    everything = recipe.model_copy(update={"comparisons": "all"})
    assert not {name for pair in everything.pairs() for name in pair} & set(names)


def test_an_arm_may_run_with_fewer_seeds_than_the_others(values: dict[str, Any], tmp_path: Path) -> None:
    arms = [{**arm, **({"seeds": 1} if arm["name"] == "forest" else {})} for arm in values["arms"]]
    plan = make_plan(make_recipe({**values, "arms": arms}), Store(tmp_path / "plan"))
    blocks = plan.index.groupby("arm")["block"].apply(list)
    assert blocks["forest"] == ["split0-seed0", "split1-seed0", "split2-seed0"]
    assert len(blocks["ridge"]) == 6


def test_the_map_holds_validation_errors_of_its_runs(study: Path) -> None:
    analysis, store = analyse(Store(study)), Store(study)
    table = grid_table(analysis, store)
    assert table is not None
    assert (list(table.index), list(table.columns)) == ([0.1, 10.0], [0.05, 0.2])
    frame = analysis.frame.set_index("arm")
    for C, epsilon in GRID:
        result = store.result(str(frame.loc[f"svr-{C}-{epsilon}", "hash"]))
        assert result is not None
        assert table.loc[C, epsilon] == result.facts["validation"]["rmse"]
    assert (study / "figures" / "grid.svg").is_file()
    assert analysis.ranking is not None
    assert not set(analysis.ranking.arms) & {f"svr-{C}-{epsilon}" for C, epsilon in GRID}
    assert "svr-10.0" not in (study / "tables" / "arms.md").read_text()


def test_the_report_puts_our_verdict_beside_the_claim(study: Path) -> None:
    analysis = analyse(Store(study))
    table = claims_table(analysis)
    found = next(item for item in analysis.comparisons if item.arm == "ridge")
    assert found.word == "better", "the SVR hardly fits"
    assert table["Verdict"].tolist() == [CONTRADICTED]
    assert table["Their numbers"].tolist() == ["0.1 to 0.2"]
    assert "SVR &lt;that hardly fits&gt;" in (study / "report.html").read_text()
    assert json.loads((study / "results.json").read_text())["claims"][0]["verdict"] == CONTRADICTED
    assert CLAIM["text"] in (study / "tables" / "claims.md").read_text()
    assert table["To decide it"].tolist() == ["–"], "it is decided"


@pytest.mark.parametrize(
    ("more", "told"), [(7, "about 7 more splits"), (1, "about 1 more split "), (None, "no number of")]
)
def test_an_open_claim_says_what_it_would_take(study: Path, more: int | None, told: str) -> None:
    analysis = analyse(Store(study))
    undecided = [replace(item, word="cannot tell", more_units=more) for item in analysis.comparisons]
    table = claims_table(replace(analysis, comparisons=undecided))
    assert table["Verdict"].tolist() == [OPEN]
    assert told in table["To decide it"].iloc[0]


@pytest.mark.parametrize(
    ("expect", "word", "verdict"),
    [
        ("better", "better", CONFIRMED),
        ("better", "worse", CONTRADICTED),
        ("worse", "better", CONTRADICTED),
        ("better", "equivalent", REFUTED),
        ("equivalent", "better", REFUTED),
        ("equivalent", "equivalent", CONFIRMED),
        ("equivalent", "cannot tell", OPEN),
        ("worse", "cannot tell", OPEN),
    ],
)
def test_verdicts_on_claims(expect: Any, word: str, verdict: str) -> None:
    claim = Claim(**{**CLAIM, "expect": expect})
    assert judge_claim(claim, Comparison("ridge", "svr", word=word)) == verdict


def test_a_claim_about_arms_that_are_not_compared_is_refused(values: dict[str, Any]) -> None:
    wrong = {**values_with_grid(values), "claims": [{**CLAIM, "against": "mean"}]}
    with pytest.raises(ConfigError, match=r"add \[ridge, mean\] to the comparisons"):
        make_recipe(wrong)
    arms = [{"name": "x", "kind": "baseline", "baseline": "ridge", "grid": {"C": 1.0}}]
    with pytest.raises(ConfigError, match="two coordinates"):
        make_recipe({**values, "arms": arms})


def test_a_map_with_holes_is_drawn(tmp_path: Path) -> None:
    from moltune.study.report.figures import grid_figure

    table = pd.DataFrame([[1.0, np.nan], [0.5, 2.0]], index=[1.0, 2.0], columns=[4.0, 8.0])
    table.index.name, table.columns.name = "rank", "alpha"
    paths = grid_figure(table, tmp_path / "grid", label="RMSE")
    assert "0.500" in next(path for path in paths if path.suffix == ".svg").read_text()
