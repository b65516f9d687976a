from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from moltune.attribution.influence import BIASED, SCORE_COLUMNS, Influence, NotConverged, influence, score
from moltune.attribution.problem import make_setting
from moltune.attribution.report import findings, write_influence
from moltune.config import InfluenceSettings
from moltune.data.load import molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import ConfigError
from moltune.evaluation.normality import anderson_darling
from moltune.evaluation.repeatability import lengthened, stepped_up
from moltune.run import Run


@pytest.fixture(scope="session")
def external() -> Molecules:
    from moltune import datasets

    table = datasets.load("freesolv").iloc[110:170]
    return molecules_from_lists(table["smiles"].tolist(), table["hydration_free_energy"].tolist())


def settings_of(**changes: object) -> InfluenceSettings:
    return InfluenceSettings.model_validate({"solver": "exact", "damping": 1e-6, "damping_unit": "absolute", **changes})


@pytest.fixture(scope="session")
def exact(finished: Run, external: Molecules) -> Influence:
    return influence(finished, external, settings_of())


def test_scores_are_the_truth_of_retraining_a_ridge_head_with_the_molecule_added(
    finished: Run, external: Molecules
) -> None:
    """The optimum of the head is put into the model first, as influence functions assume."""
    decay = 0.05
    molecules, parts = finished.molecules()
    setting = make_setting(finished, molecules, parts, external, settings_of())
    penalty = np.diag(np.r_[np.full(32, decay), 0.0])

    def features(made: object) -> np.ndarray:
        return made.jacobian(range(len(made))).double().numpy()  # type: ignore[attr-defined]

    x, x_val, x_new = features(setting.train), features(setting.target), features(setting.external)
    y, y_val, y_new = (made.target.numpy() for made in (setting.train, setting.target, setting.external))
    n = len(y)

    def optimum(extra: int, weight: float) -> np.ndarray:
        """With one more molecule of this weight, in closed form."""
        gram = 2 / n * (x.T @ x + weight * np.outer(x_new[extra], x_new[extra])) + penalty
        return np.linalg.solve(gram, 2 / n * (x.T @ y + weight * x_new[extra] * y_new[extra]))

    start = optimum(0, 0.0)

    with torch.no_grad():
        setting.model.head.out_proj.weight.copy_(torch.as_tensor(start[:-1]).view(1, -1))
        setting.model.head.out_proj.bias.fill_(start[-1])
    setting = type(setting)(
        setting.model,
        *_again(finished, setting, molecules, parts, external),
    )
    unit = setting.model.config.target_std**2

    def error(weights: np.ndarray) -> float:
        return unit * float(np.mean((x_val @ weights - y_val) ** 2))

    derivative, _ = score(setting, settings_of(damping=0.0), decay)
    tiny = 1e-4
    truth = np.array([(error(optimum(i, tiny)) - error(start)) / tiny for i in range(len(y_new))])
    assert stats.pearsonr(derivative, truth).statistic > 0.9999
    np.testing.assert_allclose(derivative, truth, rtol=0.02, atol=1e-4)
    whole, _ = score(setting, settings_of(damping=0.0, step="whole"), decay)
    truth = np.array([error(optimum(i, 1.0)) - error(start) for i in range(len(y_new))])
    assert stats.pearsonr(whole, truth).statistic > 0.999
    np.testing.assert_allclose(whole, truth, rtol=0.02, atol=1e-3)


def _again(run: Run, setting: object, molecules: Molecules, parts: np.ndarray, external: Molecules) -> tuple:
    """Linearise anew, at the head's new weights."""
    from moltune.attribution.inputs import Inputs
    from moltune.attribution.linearised import Linearised
    from moltune.attribution.scope import choose_scope

    model = setting.model  # type: ignore[attr-defined]
    scope = choose_scope(model, "head")
    made = []
    for old in (setting.train, setting.target, setting.external):  # type: ignore[attr-defined]
        inputs = Inputs(model, scope, old.inputs.tokenizer, old.inputs.smiles)
        made.append(Linearised(inputs, scope, old.target))
    return scope, *made


def test_table_and_facts(exact: Influence, external: Molecules) -> None:
    table = exact.table
    assert list(table.columns) == SCORE_COLUMNS
    assert len(table) == len(external) == 60
    assert sorted(table["rank"]) == list(range(1, 61))
    assert table.sort_values("rank")["score"].is_monotonic_increasing
    np.testing.assert_allclose(table["residual"], table["prediction"] - table["label"])
    assert exact.facts["residual"] < 1e-6
    assert exact.facts["convention"] == "negative-helps"
    # Rows 110 to 119 of the set are the run's own molecules.
    assert table["flags"].iloc[:10].str.contains("same molecule in").all()
    assert not table["flags"].iloc[10:].str.contains("same molecule in").any()


def test_the_other_convention_turns_sign_and_keeps_ranks(exact: Influence, finished: Run, external: Molecules) -> None:
    other = influence(finished, external, settings_of(convention="positive-helps"))
    np.testing.assert_allclose(other.table["score"], -exact.table["score"], rtol=1e-9)
    assert other.table["rank"].tolist() == exact.table["rank"].tolist()


def test_same_seed_same_scores_and_repeats_are_compared(finished: Run, external: Molecules) -> None:
    settings = settings_of(solver="lissa", damping=1e-2, depth=200, batch_size=30, allow_unconverged=True)
    first, second = (influence(finished, external, settings) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.facts["repeats"] == 3
    assert 0.5 < first.facts["repeats_rank_correlation"] <= 1


def test_a_solver_that_did_not_converge_raises_unless_allowed(finished: Run, external: Molecules) -> None:
    hasty = settings_of(solver="cg", iterations=1, tolerance=1e-6)
    with pytest.raises(NotConverged, match="allow-unconverged"):
        influence(finished, external, hasty)
    found = influence(finished, external, hasty.model_copy(update={"allow_unconverged": True}))
    assert found.facts["converged"] is False


def test_scores_against_the_test_part_are_stamped(finished: Run, external: Molecules, tmp_path: Path) -> None:
    found = influence(finished, external, settings_of(target="test"))
    page = write_influence(found, tmp_path)
    assert found.table["flags"].str.contains(BIASED).all()
    assert json.loads((tmp_path / "scores.json").read_text())["stamp"] == BIASED
    assert BIASED in page.read_text()


def test_files_and_figures(exact: Influence, tmp_path: Path) -> None:
    write_influence(exact, tmp_path, percentile=20)
    facts = json.loads((tmp_path / "scores.json").read_text())
    table = pd.read_csv(tmp_path / "scores.csv")
    assert (table["score"] <= facts["threshold"]).sum() == 12
    assert facts["anderson_darling"]["statistic"] > 0
    for name in ("scores", "score_against_residual", "best", "worst"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000


def test_founding_study_ranks_as_the_plain_gradient_does(exact: Influence, finished: Run, external: Molecules) -> None:
    found = influence(finished, external, settings_of(founding_study=True))
    assert found.facts["founding_study_replaced"] == 0
    assert found.facts["gradient_norm"] == pytest.approx(1)
    assert found.table["rank"].tolist() == exact.table["rank"].tolist()


def test_wrong_settings_are_explained() -> None:
    from moltune.config import make_settings

    for wrong in ({"solver": "newton"}, {"scope": "tail"}, {"damping": -1}, {"step": "whole"}):
        with pytest.raises(ConfigError):
            make_settings(InfluenceSettings, wrong)


def test_anderson_darling_finds_skew_and_passes_normal_samples() -> None:
    rng = np.random.default_rng(0)
    rejected = [anderson_darling(rng.normal(size=100)).p < 0.05 for _ in range(300)]
    assert 0.02 < np.mean(rejected) < 0.09
    assert anderson_darling(rng.exponential(size=200)).p < 1e-6
    # Statistic of a known sample (scipy's, with its small-sample factor taken out).
    x = rng.normal(size=50)
    z = np.sort((x - x.mean()) / x.std(ddof=1))
    i = np.arange(1, 51)
    raw = -50 - np.mean((2 * i - 1) * (np.log(stats.norm.cdf(z)) + np.log(1 - stats.norm.cdf(z[::-1]))))
    assert anderson_darling(x).statistic == pytest.approx(raw * (1 + 0.75 / 50 + 2.25 / 2500))


@pytest.mark.parametrize("solver", ["exact", "cg", "lissa"])
def test_halves_of_the_target_are_compared_as_if_each_were_scored_alone(
    finished: Run, external: Molecules, solver: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(solver=solver, damping=1.0, seed=4, allow_unconverged=True, tolerance=1e-4)
    molecules, parts = finished.molecules()
    setting = make_setting(finished, molecules, parts, external, settings)
    scores, facts = score(setting, settings, 0.0)
    places = np.flatnonzero(parts == settings.target)
    order = np.random.default_rng(4).permutation(len(places))
    found = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        alone = np.full(len(parts), "elsewhere", dtype=object)
        alone[parts == "train"] = "train"
        alone[places[half]] = settings.target
        part = make_setting(finished, molecules, alone, external, settings)
        found.append(score(part, settings.model_copy(update={"halves": False}), 0.0)[0])
    halves = stats.spearmanr(*found).statistic
    assert facts["target_halves_rank_correlation"] == pytest.approx(halves, abs=2e-3)
    assert facts["rank_repeatability"] == pytest.approx(2 * halves / (1 + halves), abs=4e-3)
    warned = [record for record in caplog.records if "would rank these differently" in record.getMessage()]
    assert bool(warned) == (facts["rank_repeatability"] < 0.8)
    plain, without = score(setting, settings.model_copy(update={"halves": False}), 0.0)
    np.testing.assert_array_equal(plain, scores)
    assert "rank_repeatability" not in without


def test_the_page_says_whether_the_ranking_would_repeat(exact: Influence) -> None:
    for halves, repeats, level in ((0.9, 0.95, "good"), (0.1, 0.18, "bad")):
        facts = {**exact.facts, "target_halves_rank_correlation": halves, "rank_repeatability": repeats}
        said = [(kind, text) for kind, text in findings(facts, exact) if f"about {repeats:.2f}" in text]
        assert [kind for kind, _ in said] == [level]


def test_targets_that_agree_are_no_reason_to_warn() -> None:
    assert stepped_up(1.0) == 1.0
    assert stepped_up(-1.0) is None
    for repeats in (0.1, 0.5, 0.9):
        times = lengthened(repeats, 0.8)
        assert times is not None
        # Spearman and Brown's formula for any length leads back to what was wanted.
        assert times * repeats / (1 + (times - 1) * repeats) == pytest.approx(0.8)
    assert lengthened(0.0) is None


def test_what_does_not_fit_into_memory_is_said_with_the_cure(
    finished: Run, external: Molecules, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(**changes: object) -> tuple[np.ndarray, str]:
        caplog.clear()
        with caplog.at_level("INFO"):
            found = influence(finished, external, settings_of(solver="cg", scope="last-1", damping=1e-2, **changes))
        return found.table["score"].to_numpy(), caplog.text

    kept, silent = scores()
    assert "MB" not in silent
    anew, said = scores(jacobian_mb=0.01)
    wanted = re.search(r"--set jacobian_mb=(\d+) keeps them in memory", said)
    assert wanted is not None
    again, silent = scores(jacobian_mb=float(wanted[1]))
    assert "MB" not in silent
    np.testing.assert_array_equal(again, kept)
    assert stats.spearmanr(anew, kept).statistic > 0.99
    memory = type("Memory", (), {"total": 2**20 * float(wanted[1]) * 1.5})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    _, said = scores(jacobian_mb=0.01)
    some = re.search(r"--set curvature_molecules=(\d+) --set jacobian_mb=(\d+) uses fewer molecules", said)
    assert some is not None
    _, silent = scores(curvature_molecules=int(some[1]), jacobian_mb=float(some[2]))
    assert "MB" not in silent


def test_stages_are_reported_in_order(finished: Run, external: Molecules) -> None:
    told: list[str] = []
    influence(finished, external, settings_of(solver="cg"), report=lambda stage, share: told.append(stage))
    assert list(dict.fromkeys(told)) == [
        "gradient of the validation loss",
        "gradients of the training molecules",
        "solving",
        "scoring",
        "solving for half of the validation molecules",
    ]
