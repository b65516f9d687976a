"""EK-FAC influence (Grosse et al. 2023, arXiv:2308.03296) by the kronfluence library, an extra."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from moltune.attribution.linearised import Linearised
from moltune.errors import ConfigError, NumericsError
from moltune.models.regression import RegressionModel


class _Padded(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Tokens, mask and standardised target of each molecule, all padded to one width."""

    def __init__(self, made: Linearised, width: int) -> None:
        self.rows = []
        pad = made.inputs._collate.pad_token_id
        for position, target in enumerate(made.target.tolist()):
            ids = torch.tensor(made.inputs.dataset.input_ids[position])
            padded = torch.full((width,), pad, dtype=torch.long)
            padded[: len(ids)] = ids
            self.rows.append((padded, (torch.arange(width) < len(ids)).long(), torch.tensor(target).float()))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.rows[index]


def ekfac_products(
    train: Linearised,
    external: Linearised,
    target: Linearised,
    *,
    damping: float | None,
    seed: int,
    batch_size: int = 64,
) -> np.ndarray:
    """∇ℓ(z)ᵀ (F + δ)⁻¹ ∇L(target) of each external molecule, losses standardised; float64, shape (n,).

    F is the eigenvalue-corrected Kronecker-factored Fisher of the linear layers in scope; other parameters (norms,
    embeddings) are left out.

    Args:
        train: molecules of the curvature.
        external: molecules to score.
        target: molecules whose mean loss counts.
        damping: δ; None: a tenth of each layer's mean eigenvalue.
        seed: of the Fisher's sampled targets.
        batch_size: molecules per batch.

    Raises:
        ConfigError: kronfluence is not installed, or no linear layer is in scope.
        NumericsError: a score is not finite.
    """
    try:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task
    except ImportError:
        raise ConfigError("the solver ekfac needs the kronfluence package: pip install moltune[ekfac]") from None
    model: RegressionModel = copy.deepcopy(train.inputs.model)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in train.scope.parameters
    ]
    if not layers:
        raise ConfigError(f"the scope {train.scope.name!r} holds no linear layer, which EK-FAC needs")
    config = model.config

    def predict(network: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        ids, mask, wanted = batch
        logits = network(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
        return (logits - config.target_mean) / config.target_std, wanted

    class Regression(Task):
        """Squared error; sampled targets have variance 1/2, the Gaussian whose Fisher is that loss's Gauss-Newton."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            predicted, wanted = predict(model, batch)
            if sample:
                wanted = (predicted + 0.5**0.5 * torch.randn_like(predicted)).detach()
            return ((predicted - wanted) ** 2).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            predicted, wanted = predict(model, batch)
            return ((predicted - wanted) ** 2).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

        def get_attention_mask(self, batch: Any) -> Tensor | dict[str, Tensor]:
            # The head sees one pooled vector per molecule, so only the encoder's layers have a mask.
            return {name: batch[1] for name in layers if not name.startswith("head.")}

    task = Regression()
    model = prepare_model(model, task)
    width = max(max(made.inputs.lengths) for made in (train, external, target))
    sets = [_Padded(made, width) for made in (train, external, target)]
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory(prefix="moltune-ekfac-") as folder:
        analyzer = Analyzer(
            "moltune", model, task, cpu=model.device.type == "cpu", disable_tqdm=True, output_dir=folder
        )
        analyzer.fit_all_factors(
            "factors", sets[0], per_device_batch_size=batch_size, factor_args=FactorArguments(strategy="ekfac")
        )
        arguments = ScoreArguments(damping_factor=damping)
        arguments.aggregate_query_gradients = True
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=sets[2],
            train_dataset=sets[1],
            per_device_query_batch_size=batch_size,
            per_device_train_batch_size=batch_size,
            score_args=arguments,
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    values = scores.double().cpu().numpy().reshape(-1) / len(target)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise NumericsError(f"the EK-FAC score of {external.inputs.smiles[bad[0]]} is not finite")
    return values
