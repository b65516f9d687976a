from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from moltune.evaluation.statistics import corrected_interval, corrected_t_test, noise_floor
from moltune.study.analysis.verdicts import Analysis, Comparison, compare, rank
from moltune.study.recipe.recipe import Recipe

RATIO = 0.2 / 0.7


def recipe_of(arms: list[str], **changes: Any) -> Recipe:
    values = {
        "name": "a",
        "data": {"source": "none"},
        "protocol": "P",
        "arms": [{"name": name, "kind": "any"} for name in arms],
        "statistics": {"bootstrap": 200, **changes.pop("statistics", {})},
    }
    return Recipe.model_validate({**values, **changes})


def frame_of(errors: dict[str, np.ndarray], seedless: tuple[str, ...] = ()) -> pd.DataFrame:
    """Errors of shape (splits, seeds); a seedless arm has one run, and one hash, per split."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "unit": f"split{i}",
                "block": f"split{i}-seed{j}",
                "hash": f"{arm}{i}" + ("" if arm in seedless else f"-{j}"),
                "rmse": value,
            }
            for arm, values in errors.items()
            for (i, j), value in np.ndenumerate(values)
        ]
    )


def judge(
    a: np.ndarray, b: np.ndarray, seedless: tuple[str, ...] = (), plan: bool = True, **changes: Any
) -> Comparison:
    frame = frame_of({"b": b, "a": a}, seedless)
    return compare(frame, recipe_of(["b", "a"], **changes), RATIO, plan=plan)[0]


def draw(seed: int, shape: tuple[int, int] = (5, 3), scale: float = 0.02) -> np.ndarray:
    return 0.65 + np.random.default_rng(seed).normal(0, scale, shape)


def test_an_arms_interval_is_over_splits_and_counts_a_run_once() -> None:
    errors, once = draw(0), np.repeat(draw(1, (5, 1)), 3, axis=1)
    frame = frame_of({"a": errors, "once": once}, ("once",))
    found = Analysis(recipe_of(["a", "once"]), frame, [], None, RATIO)
    means = errors.mean(axis=1)
    reach = stats.t.isf(0.025, 4) * means.std(ddof=1) * np.sqrt(1 / 5 + RATIO)
    assert found.interval("a") == pytest.approx((means.mean() - reach, means.mean() + reach))
    assert found.interval("once") == pytest.approx(corrected_interval(once[:, 0], RATIO))
    one_split = Analysis(
        recipe_of(["a", "once"], protocol={"splits": 1, "seeds": 3}), frame[frame["unit"] == "split0"], [], None, RATIO
    )
    # Seeds of one split share no resampling, and one run has no spread.
    assert one_split.interval("a") == pytest.approx(corrected_interval(errors[0], 0.0))
    assert one_split.interval("once") is None


def test_seeds_of_a_split_are_averaged_before_the_test() -> None:
    a, b = draw(0), draw(1)
    found = judge(a, b)
    assert (found.blocks, found.units) == (15, 5)
    expected = corrected_t_test((a - b).mean(axis=1), RATIO)
    assert found.p == pytest.approx(expected.p)
    assert found.difference == pytest.approx((a - b).mean())


def test_repeating_a_deterministic_arm_over_seeds_buys_no_evidence() -> None:
    a, b = draw(0, (5, 1)), draw(1, (5, 1))
    once = judge(a, b)
    thrice = judge(np.repeat(a, 3, axis=1), np.repeat(b, 3, axis=1), seedless=("a", "b"))
    assert thrice.p == pytest.approx(once.p)
    assert thrice.interval == pytest.approx(once.interval)
    assert thrice.noise_floor == pytest.approx(once.noise_floor)
    assert thrice.word == once.word


def test_the_interval_agrees_with_the_p_value() -> None:
    for seed in range(8):
        found = judge(draw(seed), draw(seed + 100) + 0.01, plan=False)
        assert found.interval is not None
        assert found.p is not None
        assert (found.interval[0] > 0 or found.interval[1] < 0) == (found.p < 0.05)


def test_clear_differences_have_their_words_and_directions() -> None:
    b = draw(0)
    assert judge(b - 0.1, b + draw(1, scale=0.001) - 0.65).word == "better"
    assert judge(b + 0.1, b + draw(1, scale=0.001) - 0.65).word == "worse"
    same = judge(b + draw(2, scale=0.0001) - 0.65, b)
    assert same.word == "equivalent"
    assert same.margin == pytest.approx(noise_floor(b.ravel()) / 2)
    assert same.more_units == 0


def test_a_sure_but_negligible_difference_is_equivalent() -> None:
    b = draw(0)
    found = judge(b - 0.004 + draw(2, scale=0.0001) - 0.65, b, statistics={"margin": 0.02})
    assert found.p is not None
    assert found.p < 0.05
    assert found.word == "equivalent"


def test_two_arms_within_noise_cannot_be_told_apart_and_it_says_what_would() -> None:
    found = judge(draw(0), draw(1), statistics={"margin": 0.02})
    assert found.word == "cannot tell"
    assert found.detectable is not None
    assert found.detectable > abs(found.difference or 0)
    assert found.more_units is None or found.more_units >= 1


def test_holm_spans_the_family() -> None:
    rng = np.random.default_rng(3)
    b = draw(0)
    # One difference that is significant alone, but not among many.
    shifts = {f"a{i}": b + 0.001 * rng.normal(size=b.shape) for i in range(12)}
    for values in shifts.values():
        values -= (values - b).mean()
    noise = np.array([[0.011], [0.018], [0.009], [0.021], [0.013]])
    shifts["a0"] = b - noise
    alone = compare(frame_of({"b": b, "a0": shifts["a0"]}), recipe_of(["b", "a0"], statistics={"margin": 1e-6}), RATIO)
    many = compare(frame_of({"b": b, **shifts}), recipe_of(["b", *shifts], statistics={"margin": 1e-6}), RATIO)
    assert alone[0].word == "better"
    assert many[0].p == pytest.approx(alone[0].p)
    assert many[0].p_holm == pytest.approx(12 * (many[0].p or 0))
    assert many[0].word == "cannot tell"
    assert (many[0].detectable or 0) > (alone[0].detectable or 0)


def test_unfinished_blocks_are_left_out() -> None:
    a, b = draw(0), draw(1)
    frame = frame_of({"b": b, "a": a})
    frame.loc[(frame["arm"] == "a") & frame["unit"].isin(["split3", "split4"]), "rmse"] = np.nan
    found = compare(frame, recipe_of(["b", "a"]), RATIO)[0]
    assert (found.blocks, found.units) == (9, 3)
    assert found.difference == pytest.approx((a - b)[:3].mean())


def test_one_block_or_none_says_cannot_tell() -> None:
    assert judge(draw(0, (1, 1)), draw(1, (1, 1))).word == "cannot tell"
    frame = frame_of({"b": draw(0)})
    found = compare(frame, recipe_of(["b", "a"]), RATIO)[0]
    assert (found.word, found.p, found.units) == ("cannot tell", None, 0)


def test_seeds_of_one_fixed_split_are_tested_without_the_correction() -> None:
    a, b = draw(0, (1, 6)), draw(1, (1, 6))
    assert judge(a, b).word == "cannot tell"
    assert judge(a, b).p is None  # five splits were promised, one is there
    found = judge(a, b, protocol={"splits": 1, "seeds": 6})
    assert found.p == pytest.approx(stats.ttest_rel(a[0], b[0]).pvalue)


def test_a_reference_that_never_varies_has_no_margin() -> None:
    found = judge(draw(0), np.full((5, 3), 0.65))
    assert found.margin is None
    assert found.word == "cannot tell"


def test_ranking_leaves_controls_and_unfinished_arms_out() -> None:
    recipe = recipe_of(["x", "y", "z"])
    recipe.arms.append(recipe.arms[0].model_copy(update={"name": "mean", "control": "why"}))
    errors = {"x": draw(0), "y": draw(1) + 0.1, "z": draw(2) + 0.2, "mean": draw(3) + 1}
    found = rank(frame_of(errors), recipe)
    assert found is not None
    assert found.arms == ["x", "y", "z"]
    assert found.table.shape == (5, 3)
    assert found.friedman is not None
    assert found.friedman.average_ranks.tolist() == [1, 2, 3]
    assert rank(frame_of({"x": draw(0)}), recipe) is None


def test_no_difference_is_rarely_declared_where_there_is_none() -> None:
    """Blocks whose splits differ between arms that are equal on average: seeds must not pass for evidence."""
    rng = np.random.default_rng(0)
    correlation = RATIO / (1 + RATIO)
    declared, naive, repetitions = 0, 0, 100
    for _ in range(repetitions):
        shared, own = rng.normal(size=(1, 1)), rng.normal(size=(5, 1))
        interaction = 0.02 * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
        a, b = 0.65 + interaction + rng.normal(0, 0.01, (5, 3)), 0.65 + rng.normal(0, 0.01, (5, 3))
        declared += judge(a, b, plan=False).word in ("better", "worse")
        naive += stats.ttest_rel(a.ravel(), b.ravel()).pvalue < 0.05
    # Three standard errors above 5 %; the naive test is far beyond.
    assert declared / repetitions < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
    assert naive / repetitions > 0.25
