"""Influence on the log loss of two classes: against retraining, finite differences, and in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit
from tests.tiny import RunSettings

from moltune import datasets
from moltune.attribution.curvature import GaussNewton, Hessian
from moltune.attribution.influence import Influence, influence, score
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.loss import LogLoss
from moltune.attribution.problem import Setting, make_setting
from moltune.attribution.report import write_influence
from moltune.attribution.scope import choose_scope
from moltune.attribution.solvers import make_solver
from moltune.config import DataSettings, InfluenceSettings, SolverSettings, make_config
from moltune.data.load import molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import DataError
from moltune.evaluation.classification import log_loss
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.inference import predict_smiles
from moltune.run import Run
from moltune.tuning.classify import class_weights
from moltune.tuning.finetune import finetune

WEIGHTS, SCALE = (0.7, 1.8), (1.6, -0.4)
DECAY = 0.05


def settings_of(**changes: object) -> InfluenceSettings:
    return InfluenceSettings.model_validate({"solver": "exact", "damping": 1e-6, "damping_unit": "absolute", **changes})


@pytest.fixture(scope="module")
def others() -> pd.DataFrame:
    """Rows 110 to 169 of the set; ten of them are the run's own."""
    table = datasets.load("freesolv").iloc[110:170]
    label = np.where(table["hydration_free_energy"] < -4.5, "soluble", "insoluble")
    return pd.DataFrame({"id": table["id"], "smiles": table["smiles"], "solvation": label}).reset_index(drop=True)


@pytest.fixture(scope="module")
def weighted(of_classes: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose classes have weights, so that its probabilities are scaled and shifted."""
    changes = {"training.class_weights": "balanced", "evaluation.baselines": []}
    return finetune(make_config(of_classes(tmp_path_factory.mktemp("weighted") / "run", **changes)))


# --- against retraining -------------------------------------------------------------------------------------------


class Logistic:
    """Weighted logistic regression on the inputs of the head, solved to its optimum by Newton's method."""

    def __init__(self, setting: Setting) -> None:
        made = (setting.train, setting.target, setting.external)
        self.x, self.x_target, self.x_new = (one.jacobian(range(len(one))).double().numpy() for one in made)
        self.y, self.y_target, self.y_new = (one.target.numpy() for one in made)
        assert isinstance(setting.train.loss, LogLoss)
        self.weights = np.array(setting.train.loss.weights)
        self.scale = setting.model.config.calibration
        self.penalty = np.diag(np.r_[np.full(self.x.shape[1] - 1, DECAY), 0.0])

    def optimum(self, x: np.ndarray, y: np.ndarray, amount: np.ndarray) -> np.ndarray:
        """Molecules count as often as ``amount`` says, and the sum is over as many as the training part has."""
        theta, cost = np.zeros(x.shape[1]), amount * self.weights[y.astype(int)] / len(self.y)
        for _ in range(50):
            p = expit(x @ theta)
            gradient = x.T @ (cost * (p - y)) + self.penalty @ theta
            step = np.linalg.solve((x * (cost * p * (1 - p))[:, None]).T @ x + self.penalty, gradient)
            theta = theta - step
            if np.abs(step).max() < 1e-12:
                return theta
        raise AssertionError("Newton's method did not converge")

    def without(self, left_out: int | None = None) -> np.ndarray:
        amount = np.ones(len(self.y))
        if left_out is not None:
            amount[left_out] = 0
        return self.optimum(self.x, self.y, amount)

    def with_one(self, extra: int, amount: float) -> np.ndarray:
        x, y = np.vstack([self.x, self.x_new[extra]]), np.append(self.y, self.y_new[extra])
        return self.optimum(x, y, np.append(np.ones(len(self.y)), amount))

    def loss(self, theta: np.ndarray) -> float:
        """Log loss of the target molecules."""
        return float(log_loss(self.y_target, expit(self.scale[0] * self.x_target @ theta + self.scale[1])))


@pytest.fixture(scope="module")
def at_the_optimum(weighted: Run, others: pd.DataFrame) -> tuple[Setting, Logistic]:
    """The optimum of the head is put into the model first, as influence functions assume."""
    external = molecules_from_lists(others["smiles"], (others["solvation"] == "soluble").astype(float))
    molecules, parts = weighted.molecules()
    setting = make_setting(weighted, molecules, parts, external, settings_of())
    found = Logistic(setting)
    theta = found.without()
    with torch.no_grad():
        setting.model.head.out_proj.weight.copy_(torch.as_tensor(theta[:-1]).view(1, -1))
        setting.model.head.out_proj.bias.fill_(theta[-1])
    scope = choose_scope(setting.model, "head")

    def again(old: Linearised) -> Linearised:
        inputs = Inputs(setting.model, scope, old.inputs.tokenizer, old.inputs.smiles)
        return Linearised(inputs, scope, old.target, old.tokens, old.loss)

    made = {name: again(getattr(setting, name)) for name in ("train", "target", "external")}
    return replace(setting, scope=scope, **made), found


def test_scores_are_the_truth_of_retraining_a_logistic_head_with_the_molecule_added(
    at_the_optimum: tuple[Setting, Logistic], weighted: Run
) -> None:
    setting, head = at_the_optimum
    labels = weighted.predictions.query("split == 'train'")["true"].to_numpy()
    assert tuple(head.weights) == class_weights(labels, "balanced") != (1.0, 1.0)
    assert head.scale[1] != 0
    start, tiny = head.loss(head.without()), 1e-4
    derivative, _ = score(setting, settings_of(damping=0.0), DECAY)
    truth = np.array([(head.loss(head.with_one(at, tiny)) - start) / tiny for at in range(len(derivative))])
    assert stats.pearsonr(derivative, truth).statistic > 0.9999
    np.testing.assert_allclose(derivative, truth, rtol=0.02, atol=1e-5)
    whole, _ = score(setting, settings_of(damping=0.0, step="whole"), DECAY)
    truth = np.array([head.loss(head.with_one(at, 1.0)) - start for at in range(len(whole))])
    assert stats.pearsonr(whole, truth).statistic > 0.99
    assert stats.pearsonr(derivative, truth).statistic > 0.95


def test_leaving_a_training_molecule_out_does_what_its_score_says(at_the_optimum: tuple[Setting, Logistic]) -> None:
    setting, head = at_the_optimum
    derivative, _ = score(replace(setting, external=setting.train), settings_of(damping=0.0), DECAY)
    start = head.loss(head.without())
    truth = np.array([head.loss(head.without(at)) - start for at in range(len(derivative))])
    assert stats.pearsonr(-derivative, truth).statistic > 0.95
    assert np.mean(np.sign(-derivative) == np.sign(truth)) > 0.9


# --- products -----------------------------------------------------------------------------------------------------

Make = Callable[..., Linearised]


@pytest.fixture(scope="module")
def linearise(tiny_model: Path, classes_table: pd.DataFrame) -> Make:
    torch.manual_seed(3)
    network = make_regression(tiny_model, head="mean", classes=["insoluble", "soluble"]).eval()
    # A fresh head gives logits of nearly zero, with which every loss would look alike.
    with torch.no_grad():
        network.head.out_proj.weight.mul_(30)
    tokenizer = load_tokenizer(tiny_model)

    def make(scope: str, start: int = 0, stop: int = 80, loss: LogLoss | None = None) -> Linearised:
        rows = classes_table.iloc[start:stop]
        chosen = choose_scope(network, scope)
        target = torch.as_tensor((rows["solvation"] == "soluble").to_numpy(dtype=np.float64))
        inputs = Inputs(network, chosen, tokenizer, rows["smiles"].tolist())
        return Linearised(inputs, chosen, target, 256, loss or LogLoss(WEIGHTS, SCALE))

    return make


@pytest.mark.parametrize("scope", ["head", "last-1", "all"])
def test_raw_predictions_are_logits(linearise: Make, scope: str) -> None:
    made = linearise(scope, 0, 12)
    model = made.inputs.model
    direct = predict_smiles(model, made.inputs.tokenizer, made.inputs.smiles)
    np.testing.assert_allclose(expit(made.predicted.numpy()), direct, atol=1e-5)
    assert np.ptp(direct) > 0.05


@pytest.mark.parametrize("scope", ["head", "last-1", "all"])
def test_products_are_those_of_finite_differences(linearise: Make, scope: str) -> None:
    made = linearise(scope, 0, 12)
    v = torch.randn(made.scope.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, step = v / v.norm(), 1e-2

    def at(distance: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Each molecule's loss, and the gradient of their mean, some way along v."""
        moved = {
            name: value + distance * part
            for (name, value), part in zip(made.scope.parameters.items(), made.scope.unflatten(v).values(), strict=True)
        }
        there = Linearised(made.inputs, replace(made.scope, parameters=moved), made.target, 256, made.loss)
        return made.loss.value(there.predicted, made.target), there.loss_gradient()

    (above, slope_above), (below, slope_below) = at(step), at(-step)
    along = made.loss_jvp(v)
    assert float((along - (above - below) / (2 * step)).norm() / along.norm()) < 0.01
    torch.testing.assert_close(along.mean(), made.loss_gradient() @ v, rtol=1e-3, atol=1e-5)
    # The attention's features have kinks, at which a derivative of a derivative is none of the differences.
    if scope == "head":
        product, difference = made.loss_hessian_product(v, range(12)), (slope_above - slope_below) / (2 * step)
        assert float((product - difference).norm() / product.norm()) < 0.02


def test_hessian_product_is_that_of_two_backward_passes(linearise: Make) -> None:
    made = linearise("last-1", 0, 8)
    v = torch.randn(made.scope.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = {name: value.clone().requires_grad_() for name, value in made.scope.parameters.items()}
    losses = []
    for [position], first, mask in made.inputs.batches(range(8), 1):
        logit, label = SCALE[0] * made.inputs.predict(parameters, first, mask) + SCALE[1], int(made.target[position])
        losses.append(-WEIGHTS[label] * torch.nn.functional.logsigmoid(logit if label else -logit))
    wanted = list(parameters.values())
    first_order = torch.autograd.grad(torch.cat(losses).mean(), wanted, create_graph=True)
    along = sum((g * part).sum() for g, part in zip(first_order, made.scope.unflatten(v).values(), strict=True))
    second = torch.autograd.grad(along, wanted, allow_unused=True)
    expected = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(second, wanted, strict=True)]
    ).double()
    product = made.loss_hessian_product(v, range(8))
    assert float((product - expected).norm() / expected.norm()) < 1e-3


def test_the_curvature_has_p_times_1_minus_p_and_is_the_hessian_where_the_logit_is_linear(linearise: Make) -> None:
    made = linearise("head", 0, 40)
    rows = made.jacobian(range(40)).double()
    p = torch.sigmoid(SCALE[0] * made.predicted + SCALE[1])
    w = torch.where(made.target > 0.5, WEIGHTS[1], WEIGHTS[0]).double() * SCALE[0] ** 2 * p * (1 - p)
    expected = rows.T @ (rows * w[:, None]) / 40 + torch.diag(made.scope.decay(0.01) + 1e-3)
    for kept in (None, made.weighted_jacobian(range(40))):
        curvature = GaussNewton(made, made.scope.decay(0.01), 1e-3, jacobian=kept)
        torch.testing.assert_close(curvature.dense(), expected, rtol=1e-4, atol=1e-5)
    hessian = Hessian(made, made.scope.decay(0.01), 1e-3)
    torch.testing.assert_close(hessian.dense(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["head", "last-1"])
@pytest.mark.parametrize("kept", [True, False])
def test_solvers_agree(linearise: Make, scope: str, kept: bool) -> None:
    made, other = linearise(scope, 0, 60), linearise(scope, 80, 120, LogLoss())
    curvatures = [
        GaussNewton(made, made.scope.decay(0.01), 0.05, jacobian=made.weighted_jacobian(range(60)) if keep else None)
        for keep in (True, kept)
    ]
    v = other.loss_gradient()
    exact = make_solver("exact").solve(curvatures[0], v)
    assert exact.residual < 1e-5
    truth = other.loss_jvp(exact.x).numpy()
    for name in ("cg", "lissa") if kept or scope == "head" else ("cg",):
        settings = SolverSettings(depth=600, batch_size=30, repeats=1, precondition=20)
        found = make_solver(name, settings).solve(curvatures[1], v)
        assert found.residual < 1e-2, name
        assert stats.spearmanr(other.loss_jvp(found.x).numpy(), truth).statistic > 0.99, name


# --- in words -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(finished_classes: Run, others: pd.DataFrame) -> Influence:
    return influence(finished_classes, others, settings_of())


def test_scores_of_a_file_with_words_for_classes(found: Influence, others: pd.DataFrame) -> None:
    table = found.table
    assert found.classes == ("insoluble", "soluble")
    assert table["label"].tolist() == others["solvation"].tolist()
    assert table["prediction"].between(0, 1).all()
    np.testing.assert_allclose(table["residual"], table["prediction"] - (others["solvation"] == "soluble"))
    assert found.facts["loss"] == "log loss"
    assert found.facts["converged"]
    assert table["id"].tolist() == others["id"].tolist()
    flagged = table["flags"].iloc[:10]
    assert flagged.str.contains("same molecule in").all()
    for flag, label in zip(flagged, others["solvation"], strict=False):
        assert flag.endswith(f", {label})")


def test_numbers_and_exchanged_names_are_the_same_classes(
    found: Influence, finished_classes: Run, others: pd.DataFrame
) -> None:
    positive = (others["solvation"] == "soluble").astype(float)
    as_numbers = molecules_from_lists(others["smiles"], positive)
    exchanged: Molecules = replace(
        molecules_from_lists(others["smiles"], 1 - positive), provenance={"classes": ["Soluble", "insoluble"]}
    )
    for external in (as_numbers, exchanged):
        again = influence(finished_classes, external, settings_of())
        np.testing.assert_array_equal(again.table["score"], found.table["score"])
        assert again.table["label"].tolist() == found.table["label"].tolist()


def test_labels_that_are_no_classes_of_the_model_are_refused(
    finished_classes: Run, finished: Run, others: pd.DataFrame
) -> None:
    renamed, named = others.assign(solvation=["wet", "dry"] * 30), DataSettings(target="solvation")
    with pytest.raises(DataError, match="holds wet, dry, and the classes are 'insoluble' and 'soluble'"):
        influence(finished_classes, renamed, settings_of(), data=named)
    with pytest.raises(DataError, match="No column holds these classes"):
        influence(finished_classes, others.assign(solvation=np.arange(60.0)), settings_of())
    with pytest.raises(DataError, match="a label is 2, not 0 or 1"):
        influence(finished_classes, molecules_from_lists(others["smiles"], [2.0] + [0.0, 1.0] * 29 + [1.0]))
    classes = replace(molecules_from_lists(["C", "CC"], [0.0, 1.0]), provenance={"classes": ["no", "yes"]})
    with pytest.raises(DataError, match="the labels are no and yes"):
        influence(finished_classes, classes, settings_of())
    with pytest.raises(DataError, match="those of the model are numbers"):
        influence(finished, classes, settings_of())


def test_molecules_of_one_class_may_be_scored(finished_classes: Run, others: pd.DataFrame, found: Influence) -> None:
    soluble = others["solvation"] == "soluble"
    alone = influence(finished_classes, others[soluble], settings_of())
    np.testing.assert_allclose(alone.table["score"], found.table["score"][soluble], rtol=1e-4, atol=1e-7)


def test_the_page_speaks_of_log_loss_and_names_classes(found: Influence, tmp_path: Path) -> None:
    page = write_influence(found, tmp_path).read_text()
    assert "predicted to lower the validation log loss" in page
    assert "of the validation log loss" in (tmp_path / "figures" / "scores.svg").read_text().replace("\n", " ")
    assert json.loads((tmp_path / "scores.json").read_text())["loss"] == "log loss"
    assert set(pd.read_csv(tmp_path / "scores.csv")["label"]) == {"insoluble", "soluble"}
