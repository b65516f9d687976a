"""Other libraries of data attribution on one problem: a linear layer over fixed embeddings, squared error.

Each function gives one number per candidate, higher is more harmful. ``PEERS`` runs where the package is installed.
All get the same damping where they take one: the weight decay and the damping of ours, on every parameter.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Problem:
    """A linear head, and embeddings with standardised labels.

    Attributes:
        weights: shape (d + 1,), the bias last.
        train, validation, pool: (x (n, d), y (n,)) of the curvature, of the loss that counts, and to score; float32.
        damping: added to the diagonal of the curvature.
    """

    weights: Tensor
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    pool: tuple[Tensor, Tensor]
    damping: float

    def model(self) -> nn.Sequential:
        """The head as a torch model."""
        layer = nn.Linear(len(self.weights) - 1, 1)
        with torch.no_grad():
            layer.weight.copy_(self.weights[:-1].view(1, -1))
            layer.bias.fill_(float(self.weights[-1]))
        return nn.Sequential(OrderedDict(head=layer))


def _loader(part: tuple[Tensor, Tensor], size: int | None = None) -> DataLoader[Any]:
    return DataLoader(TensorDataset(part[0], part[1][:, None]), batch_size=size or len(part[1]))


def _dattri_task(problem: Problem) -> Any:
    from dattri.task import AttributionTask

    model = problem.model()

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return ((torch.func.functional_call(model, parameters, (data[0],)) - data[1]) ** 2).mean()

    return AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())


def _dattri(name: str, **options: Any) -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        from dattri.algorithm import influence_function

        given = {key: value(problem) if callable(value) else value for key, value in options.items()}
        attributor = getattr(influence_function, name)(task=_dattri_task(problem), **given)
        attributor.cache(_loader(problem.train, 64 if name.endswith("EKFAC") else None))
        # One test item that holds the whole part: its gradient is that of the mean loss.
        whole = DataLoader(TensorDataset(problem.validation[0][None], problem.validation[1][None, :, None]))
        return -attributor.attribute(_loader(problem.pool), whole).detach().numpy().ravel()

    return run


def _dattri_self(problem: Problem) -> np.ndarray:
    from dattri.algorithm.influence_function import IFAttributorExplicit

    attributor = IFAttributorExplicit(task=_dattri_task(problem), regularization=problem.damping)
    attributor.cache(_loader(problem.train))
    return attributor.self_attribute(_loader(problem.pool)).detach().numpy()


def _dattri_tracin(normalized: bool) -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        from dattri.algorithm.tracin import TracInAttributor

        task = _dattri_task(problem)
        attributor = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=normalized)
        found = attributor.attribute(_loader(problem.pool), _loader(problem.validation))
        return -found.detach().numpy().sum(axis=1)

    return run


def _captum(kind: str, own: bool) -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        from captum.influence import TracInCPFast
        from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

        model = problem.model()
        pool = TensorDataset(problem.pool[0], problem.pool[1][:, None])
        reduction = "sum" if kind == "tracin" else "none"
        common: dict[str, Any] = {"loss_fn": nn.MSELoss(reduction=reduction), "batch_size": 256}
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.pt")
            torch.save(model.state_dict(), path)
            if kind == "tracin":
                made: Any = TracInCPFast(model, "head", pool, [path], **common)
            else:
                # Its curvature is of the sum over the training part, so the damping is scaled alike.
                made = ArnoldiInfluenceFunction(
                    model,
                    pool,
                    path,
                    hessian_dataset=TensorDataset(problem.train[0], problem.train[1][:, None]),
                    hessian_reg=problem.damping * len(problem.train[1]),
                    **common,
                )
            if own:
                return made.self_influence().detach().numpy()
            whole = problem.validation[0], problem.validation[1][:, None]
            return -made.influence(whole, k=None).detach().numpy().sum(axis=0)

    return run


def _kronfluence(own: bool) -> Callable[[Problem], np.ndarray]:
    def run(problem: Problem) -> np.ndarray:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task

        class Squared(Task):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                predicted, wanted = model(batch[0]), batch[1]
                if sample:
                    wanted = (predicted + 0.5**0.5 * torch.randn_like(predicted)).detach()
                return ((predicted - wanted) ** 2).sum()

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

        task = Squared()
        model = prepare_model(problem.model(), task)
        sets = [TensorDataset(x, y[:, None]) for x, y in (problem.train, problem.pool, problem.validation)]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer("peer", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
            analyzer.fit_all_factors("f", sets[0], per_device_batch_size=256, factor_args=FactorArguments("ekfac"))
            arguments = ScoreArguments(damping_factor=problem.damping)
            if own:
                analyzer.compute_self_scores("s", "f", sets[1], per_device_train_batch_size=256, score_args=arguments)
                return analyzer.load_self_scores("s")["all_modules"].numpy()
            analyzer.compute_pairwise_scores(
                "s",
                "f",
                sets[2],
                sets[1],
                per_device_query_batch_size=256,
                per_device_train_batch_size=256,
                score_args=arguments,
            )
            return -analyzer.load_pairwise_scores("s")["all_modules"].numpy().sum(axis=0)

    return run


def lissa_scale(problem: Problem) -> float:
    """dattri's LiSSA contracts where this is above the largest eigenvalue of single molecules, 2 (|x|² + 1)."""
    return float(2.2 * ((problem.train[0] ** 2).sum(dim=1) + 1).max())


PEERS: dict[str, Callable[[Problem], np.ndarray]] = {
    "kronfluence EK-FAC": _kronfluence(False),
    "kronfluence EK-FAC self": _kronfluence(True),
    "dattri IF explicit": _dattri("IFAttributorExplicit", regularization=lambda p: p.damping),
    "dattri IF explicit self": _dattri_self,
    "dattri IF CG": _dattri("IFAttributorCG", regularization=lambda p: p.damping, max_iter=100),
    "dattri IF LiSSA": _dattri(
        "IFAttributorLiSSA",
        scaling=lissa_scale,
        damping=lambda p: p.damping / lissa_scale(p),
        recursion_depth=1000,
        batch_size=64,
    ),
    "dattri IF Arnoldi": _dattri("IFAttributorArnoldi", regularization=lambda p: p.damping),
    "dattri DataInf": _dattri("IFAttributorDataInf", regularization=lambda p: p.damping),
    "dattri EK-FAC": _dattri("IFAttributorEKFAC", damping=lambda p: p.damping),
    "dattri TracIn": _dattri_tracin(False),
    "dattri Grad-Cos": _dattri_tracin(True),
    "captum TracInCPFast": _captum("tracin", False),
    "captum TracInCPFast self": _captum("tracin", True),
    "captum Arnoldi": _captum("arnoldi", False),
}


SLOW = ("captum Arnoldi", "dattri IF LiSSA", "dattri DataInf")


def run_peers(problem: Problem, *, slow: bool = True) -> dict[str, np.ndarray | str]:
    """Scores of every peer, or what it failed with; without ``slow`` only of those that take seconds."""
    results: dict[str, np.ndarray | str] = {}
    for name, peer in PEERS.items():
        if name in SLOW and not slow:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.asarray(peer(problem), dtype=np.float64)
            results[name] = values if np.isfinite(values).all() else "not finite"
        except Exception as problem_met:  # a peer's failure is a result, and must not stop the others
            results[name] = f"{type(problem_met).__name__}: {str(problem_met).splitlines()[0][:160]}"
    return results
