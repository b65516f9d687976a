"""The head of a model in closed form: where training starts it, and the kernel machine that may take its place."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from transformers import PreTrainedTokenizerBase

from moltune.config import ProbeSettings
from moltune.errors import NumericsError
from moltune.features.registry import EMBEDDING, FeatureTable
from moltune.models.heads import MeanHead, fit_by_ridge
from moltune.models.inference import embed_smiles
from moltune.models.regression import RegressionModel
from moltune.predictors.gaussian_process import MOST_MOLECULES
from moltune.predictors.language import LanguageModel
from moltune.predictors.probe import Probe
from moltune.predictors.probe_heads import Scaler

Part = tuple[Sequence[str], np.ndarray]
"""SMILES, and targets in their own unit, shape (n,)."""

LEAST_VALIDATION, FOLDS = 20, 5
TRAINED, LINEAR, GP = "trained", "linear", "gp:"

logger = logging.getLogger(__name__)


def start_head(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    target: np.ndarray,
    *,
    max_length: int | None = None,
) -> bool:
    """Fit the head's linear layer by ridge regression on pooled training embeddings, in place.

    Targets, shape (n,), are in their own unit; inputs are cut to ``max_length`` tokens.

    Returns:
        Whether the head was fitted; a head that is not one linear layer stays as it is.

    Raises:
        NumericsError: an embedding is not finite.
    """
    if not isinstance(model.head, MeanHead):
        return False
    embedded = embed_smiles(model, tokenizer, smiles, max_length=max_length, noisy=True)
    standardised = (np.asarray(target, dtype=np.float64) - model.config.target_mean) / model.config.target_std
    fit_by_ridge(model.head.out_proj, embedded, standardised)
    return True


@dataclass(frozen=True)
class Refit:
    """Which head predicts, and on what evidence.

    Attributes:
        head: "linear" where the trained head was kept, "gp" where a kernel machine took its place.
        features: what it reads.
        bytes: what the kernel machine adds to a saved model.
        validation: root mean squared error on the validation part in the target's unit, of the "trained" head and of
            kernel machines by what they read, such as "gp:embedding+rdkit"; empty where the part is missing or too
            small to choose on.
        cross_validation: the same over folds of the training and validation molecules, with a "linear" head in the
            trained one's place; empty where the validation part chose, or for too few molecules.
        validation_molecules: size of the validation part.
    """

    head: str
    features: list[str]
    bytes: int
    validation: dict[str, float]
    cross_validation: dict[str, float] = field(default_factory=dict)
    validation_molecules: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def refit_head(
    model: LanguageModel, train: Part, validation: Part | None, names: Sequence[str], features: FeatureTable, seed: int
) -> tuple[LanguageModel, LanguageModel, Refit]:
    """Fit kernel machines on the tuned embedding, with and without further features, and keep what is best.

    The tuned encoder is a learned kernel: a machine that looks at neighbours in its space uses more of it than one
    direction does. The validation part chooses among the trained head, the machine on the embedding, and the one on
    embedding and features. Where it is missing or below 20 molecules, five-fold cross-validation over the training and
    validation molecules chooses, on the embeddings as they are, with ridge regression in the trained head's place;
    below ten molecules the trained head stays, and above 8,000 too, since the machine is dense. Whatever is kept has
    learned from the training part alone.

    Args:
        model: tuned, with its own head.
        train, validation: SMILES and targets in their own unit.
        names: of the further features.
        features: where they are computed.
        seed: of the draw of molecules that choose a large machine's kernel.

    Returns:
        The model with the head that was chosen, the best that reads nothing but the language model, and the evidence.

    Raises:
        NumericsError: an embedding is not finite.
    """
    known: Part = ([], np.empty(0)) if validation is None else validation
    if len(train[0]) > MOST_MOLECULES:
        logger.warning("more than %d training molecules are too many for a kernel machine", MOST_MOLECULES)
        return model, model, Refit(LINEAR, [EMBEDDING], 0, {}, validation_molecules=len(known[0]))
    table = FeatureTable({EMBEDDING: model.embed, **{name: partial(features.get, name) for name in names}})
    if not np.isfinite(table.get(EMBEDDING, train[0])).all():
        raise NumericsError("training left embeddings that are not finite; lower training.learning_rate")
    reads = [[EMBEDDING]] if not names else [[EMBEDDING], [EMBEDDING, *names]]
    machines = {
        GP + "+".join(one): Probe(ProbeSettings(head="gp", features=one), table, model.target_name) for one in reads
    }
    count = len(known[0])
    if count >= LEAST_VALIDATION:
        errors = {TRAINED: _rmse(model.predict(known[0]), known[1])}
        errors |= {name: _rmse(one.fit(train, seed=seed).predict(known[0]), known[1]) for name, one in machines.items()}
        evidence = {"validation": errors, "cross_validation": {}}
    else:
        everything = [*train[0], *known[0]], np.concatenate([train[1], known[1]])
        errors = cross_validate(machines, everything, seed)
        for machine in machines.values():
            machine.fit(train, seed=seed)
        evidence = {"validation": {}, "cross_validation": errors}

    def best(names: Iterable[str]) -> LanguageModel:
        name = min((one for one in errors if one in names), key=errors.__getitem__, default=TRAINED)
        return replace(model, head=machines[name]) if name in machines else model

    chosen, alone = best(errors), best([TRAINED, LINEAR, GP + EMBEDDING])
    # In the saved model the features are computed anew, the embedding by the network beside it.
    for machine in machines.values():
        machine.features = FeatureTable({EMBEDDING: model.embed}, remember=False)
    if chosen.head is None:
        return model, alone, Refit(LINEAR, [EMBEDDING], 0, **evidence, validation_molecules=count)
    arrays = [*chosen.head.head.arrays.values(), *chosen.head.scaler.arrays.values()]
    size = sum(array.nbytes for array in arrays)
    return chosen, alone, Refit("gp", [*chosen.head.settings.features], size, **evidence, validation_molecules=count)


def cross_validate(machines: Mapping[str, Probe], everything: Part, seed: int = 0) -> dict[str, float]:
    """Root mean squared error over five folds of "linear" (ridge regression on the embedding) and of each machine.

    Empty below ten molecules.
    """
    smiles, target = everything
    if len(target) < 2 * FOLDS:
        return {}
    predicted = {name: np.empty(len(target)) for name in (LINEAR, *machines)}
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(target):
        part, others = ([smiles[row] for row in train], target[train]), [smiles[row] for row in test]
        seen, unseen = (machines[GP + EMBEDDING].features.get(EMBEDDING, one) for one in (part[0], others))
        scaler = Scaler().fit(seen)
        seen, unseen = scaler.transform(seen), scaler.transform(unseen)
        predicted[LINEAR][test] = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(seen, part[1]).predict(unseen)
        for name, machine in machines.items():
            predicted[name][test] = machine.fit(part, seed=seed).predict(others)
    return {name: _rmse(values, target) for name, values in predicted.items()}


def _rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - true) ** 2)))
