from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moltune.errors import ConfigError, DataError
from moltune.evaluation.power import blocks_needed, minimum_detectable_effect, power
from moltune.evaluation.statistics import (
    corrected_interval,
    corrected_t_test,
    critical_difference,
    friedman,
    holm,
    noise_floor,
    paired_difference,
    tost,
    tukey_hsd,
    wilcoxon,
)

GENERATOR = np.random.default_rng(7)
DIFFERENCES = GENERATOR.normal(-0.02, 0.05, 12)
TABLE = GENERATOR.normal(0, 0.02, (25, 4)) + GENERATOR.normal(0.6, 0.05, (25, 1)) + np.array([0, 0.01, 0.03, 0.03])

# Student's (1908) sleep data: hours gained with either drug by ten patients; t = -4.0621, p = 0.002833.
DRUG_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_noise_floor_is_the_standard_deviation() -> None:
    assert noise_floor(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(math.sqrt(5 / 3))
    with pytest.raises(DataError, match="at least two"):
        noise_floor(np.array([1.0]))


def test_t_test_without_overlap_is_students_published_example() -> None:
    result = corrected_t_test(DRUG_1 - DRUG_2, 0.0)
    assert result.statistic == pytest.approx(-4.0621, abs=5e-5)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    assert result.df == 9


def test_corrected_t_test_follows_the_formula() -> None:
    plain, corrected = corrected_t_test(DIFFERENCES, 0.0), corrected_t_test(DIFFERENCES, 0.25)
    # The variance of the mean grows from 1/n to 1/n + ratio.
    assert corrected.statistic == pytest.approx(plain.statistic / math.sqrt(1 + 12 * 0.25))
    assert corrected.p > plain.p


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95]))
def test_interval_and_t_test_say_the_same(values: list[float], ratio: float, confidence: float) -> None:
    """Zero lies outside the interval where the test finds a difference; without overlap it is scipy's interval."""
    array = np.array(values)
    lower, upper = corrected_interval(array, ratio, confidence=confidence)
    p = corrected_t_test(array, ratio).p
    if abs(p - (1 - confidence)) > 1e-6 and array.std() > 1e-6:
        assert (lower > 0 or upper < 0) == (p < 1 - confidence)
        plain = stats.t.interval(confidence, len(array) - 1, array.mean(), stats.sem(array))
        np.testing.assert_allclose(corrected_interval(array, 0.0, confidence=confidence), plain, atol=1e-12)
        assert upper - lower >= (plain[1] - plain[0]) * (1 - 1e-12)
    with pytest.raises(ConfigError, match="n_test / n_train"):
        corrected_interval(array, -0.1)


def test_correction_holds_the_error_rate_where_the_plain_test_does_not() -> None:
    """Blocks of resampled data share an error: correlation ratio / (1 + ratio), as Nadeau & Bengio assume."""
    generator, ratio, n = np.random.default_rng(3), 0.25, 15
    wrong = np.zeros(2)
    for _ in range(1500):
        values = math.sqrt(ratio) * generator.normal() + generator.normal(size=n)
        wrong += [corrected_t_test(values, used).p < 0.05 for used in (0.0, ratio)]
    assert wrong[0] / 1500 > 0.2
    assert 0.03 < wrong[1] / 1500 < 0.07


def test_constant_differences_are_certain() -> None:
    assert corrected_t_test(np.full(5, 0.1), 0.2).p == 0.0
    assert corrected_t_test(np.zeros(5), 0.2).p == 1.0
    assert tost(np.zeros(5), 0.1) == 0.0
    assert tost(np.full(5, 0.2), 0.1) == 1.0


def test_wilcoxon_agrees_with_the_exact_table() -> None:
    # All of n = 6 differences of one sign: two-sided exact p = 2 / 2^6.
    assert wilcoxon(np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])).p == pytest.approx(2 / 64)
    assert wilcoxon(np.zeros(4)).p == 1.0


def test_holm_matches_a_worked_example() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.5, 1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    adjusted, raw = holm(p), np.array(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()


def test_friedman_agrees_with_scipy_and_its_own_formula() -> None:
    result = friedman(TABLE)
    n, k = TABLE.shape
    by_hand = 12 * n / (k * (k + 1)) * ((result.average_ranks**2).sum() - k * (k + 1) ** 2 / 4)
    assert result.statistic == pytest.approx(by_hand)
    assert result.p == pytest.approx(stats.chi2.sf(by_hand, k - 1))
    assert result.average_ranks.sum() == pytest.approx(k * (k + 1) / 2)
    assert result.average_ranks.argmin() == 0


def test_friedman_of_equal_methods_and_of_too_few() -> None:
    assert friedman(np.ones((5, 3))).p == 1.0
    with pytest.raises(DataError, match=r"3 or more methods.*\(25, 2\)"):
        friedman(TABLE[:, :2])


def test_critical_difference_is_that_of_demsar() -> None:
    # Demšar 2006, section 3.2.2: four classifiers on 14 data sets; and his table 5 of q at 0.05,
    # which cuts 2.3437 off to 2.343.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    for methods, q in {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 10: 3.164}.items():
        scale = math.sqrt(methods * (methods + 1) / (6 * 30))
        assert critical_difference(methods, 30) / scale == pytest.approx(q, abs=1e-3)


def test_tukey_of_two_methods_is_the_paired_t_test() -> None:
    (pair,) = tukey_hsd(np.column_stack([DRUG_1, DRUG_2]))
    expected = stats.ttest_rel(DRUG_1, DRUG_2)
    interval = expected.confidence_interval()
    assert pair.p == pytest.approx(expected.pvalue, rel=1e-4)
    assert (pair.lower, pair.upper) == pytest.approx((interval.low, interval.high), rel=1e-4)
    # The residual SD of a block is the SD of its difference over the root of two.
    assert pair.effect_size == pytest.approx(-1.58 / ((DRUG_1 - DRUG_2).std(ddof=1) / math.sqrt(2)))


def test_tukey_residual_is_that_of_a_repeated_measures_anova() -> None:
    n, k = TABLE.shape
    blocks, methods = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    design = np.column_stack([np.eye(n)[blocks], np.eye(k)[methods][:, 1:]])
    _, residual, *_ = np.linalg.lstsq(design, TABLE.ravel(), rcond=None)
    sd = math.sqrt(residual[0] / ((n - 1) * (k - 1)))
    pairs = tukey_hsd(TABLE)
    assert len(pairs) == 6
    for pair in pairs:
        gap = TABLE[:, pair.first].mean() - TABLE[:, pair.second].mean()
        assert pair.effect_size == pytest.approx(gap / sd)
        assert (pair.p < 0.05) == (pair.lower > 0 or pair.upper < 0)


@pytest.mark.parametrize(("blocks", "methods", "q"), [(11, 3, 3.578), (6, 4, 4.076), (5, 5, 4.333)])
def test_tukey_intervals_use_the_tabled_studentised_range(blocks: int, methods: int, q: float) -> None:
    # Upper 5 % points for (methods, degrees of freedom): (3, 20), (4, 15) and (5, 16).
    table = GENERATOR.normal(size=(blocks, methods))
    pair = tukey_hsd(table)[0]
    residual_sd = pair.difference / pair.effect_size
    assert (pair.upper - pair.difference) / (residual_sd / math.sqrt(blocks)) == pytest.approx(q, abs=6e-4)


def test_tukey_without_residual_is_certain() -> None:
    pairs = tukey_hsd(np.arange(5.0)[:, None] + np.array([0.0, 0.0, 1.0]))
    assert [pair.p for pair in pairs] == [1.0, 0.0, 0.0]


def test_tost_is_the_larger_of_two_one_sided_tests() -> None:
    sides = [
        stats.ttest_1samp(DIFFERENCES, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(DIFFERENCES, 0.05, alternative="less").pvalue,
    ]
    assert tost(DIFFERENCES, 0.05) == pytest.approx(max(sides))
    assert tost(DIFFERENCES, 0.05, ratio=0.25) > tost(DIFFERENCES, 0.05)
    with pytest.raises(ConfigError, match="above zero"):
        tost(DIFFERENCES, 0.0)


def test_paired_difference_has_mean_sd_and_interval() -> None:
    baseline = TABLE[:, 0]
    result = paired_difference(TABLE[:, 2], baseline, seed=1)
    assert result == paired_difference(TABLE[:, 2], baseline, seed=1)
    differences = TABLE[:, 2] - baseline
    assert (result.value, result.sd, result.n) == pytest.approx((differences.mean(), differences.std(ddof=1), 25))
    reach = 1.96 * result.sd / 5
    assert (result.lower, result.upper) == pytest.approx((result.value - reach, result.value + reach), abs=0.15 * reach)
    with pytest.raises(DataError, match="must match"):
        paired_difference(baseline, baseline[:3])


@pytest.mark.parametrize(("effect", "blocks"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_blocks_needed_are_those_of_the_published_tables(effect: float, blocks: int) -> None:
    # Paired t-test, two-sided 0.05, power 0.8 (G*Power).
    assert blocks_needed(effect, 1.0) == blocks
    assert power(effect, 1.0, blocks) >= 0.8 > power(effect, 1.0, blocks - 1)


@given(st.floats(0.05, 3), st.integers(3, 60), st.sampled_from([0.0, 0.1, 0.25]))
def test_minimum_detectable_effect_has_the_wanted_power(sd: float, blocks: int, ratio: float) -> None:
    effect = minimum_detectable_effect(sd, blocks, ratio=ratio)
    assert power(effect, sd, blocks, ratio=ratio) == pytest.approx(0.8, abs=1e-6)


def test_power_agrees_with_simulation() -> None:
    values = np.random.default_rng(0).normal(0.6, 1.0, (20_000, 12))
    found = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05)
    assert power(0.6, 1.0, 12) == pytest.approx(found, abs=0.015)


def test_overlap_can_make_an_effect_out_of_reach() -> None:
    assert blocks_needed(0.5, 1.0, ratio=0.25) is None
    needed, free = blocks_needed(2.0, 1.0, ratio=0.1), blocks_needed(2.0, 1.0)
    assert needed is not None
    assert free is not None
    assert needed > free


def test_certain_effects_need_two_blocks() -> None:
    assert blocks_needed(0.1, 0.0) == 2
    assert minimum_detectable_effect(0.0, 5) == 0.0
    assert power(1e6, 1.0, 5) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="effect of zero"):
        blocks_needed(0.0, 1.0)
    with pytest.raises(ConfigError, match="above alpha"):
        blocks_needed(1.0, 1.0, wanted_power=0.01)
