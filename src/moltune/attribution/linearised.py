"""Predictions of many molecules, linearised in the parameters: products with their Jacobian, never the whole of it.

For n molecules and p parameters J = ∂f/∂θ has shape (n, p), f being standardised predictions. A product J v is one
forward-mode pass, Jᵀ w one reverse pass, however many molecules there are: no gradient per molecule is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from moltune.attribution.inputs import Inputs
from moltune.attribution.scope import Scope
from moltune.errors import NumericsError

# Their stubs promise a third value, which only has_aux returns.
jvp: Any = torch.func.jvp
vjp: Any = torch.func.vjp


class Linearised:
    """Molecules, their standardised targets, and the Jacobian of their predictions at the model's parameters.

    Args:
        inputs: the molecules.
        scope: the parameters.
        target: standardised targets, float64, shape (n,); NaN where there is none.
        tokens: padded tokens per batch, which bounds memory.
    """

    def __init__(self, inputs: Inputs, scope: Scope, target: Tensor, tokens: int = 8192) -> None:
        self.inputs, self.scope, self.tokens = inputs, scope, tokens
        self.target = target.double().to(inputs.model.device)
        self._predicted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def predicted(self) -> Tensor:
        """Standardised predictions, float64, shape (n,).

        Raises:
            NumericsError: one is not finite; the molecule is named.
        """
        if self._predicted is None:
            result = torch.empty(len(self), dtype=torch.float64, device=self.target.device)
            self.inputs.prepare(range(len(self)))
            with torch.no_grad():
                for chunk in self.inputs.chunks(None, self.tokens):
                    result[chunk] = self.inputs.predict(self.scope.parameters, *self.inputs.batch(chunk)).double()
            self._name_bad(result, "the prediction")
            self._predicted = result
        return self._predicted

    @property
    def residuals(self) -> Tensor:
        """Prediction minus target, standardised, float64, shape (n,)."""
        return self.predicted - self.target

    def jvp(self, vector: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """J v of some molecules, float64, shape (len(positions),), in the order of ``positions``.

        Raises:
            NumericsError: a value is not finite; molecule and tensor are named.
        """
        order = list(range(len(self))) if positions is None else list(positions)
        tangents = self.scope.unflatten(vector)
        self.inputs.prepare(order)
        found = torch.empty(len(self), dtype=torch.float64, device=self.target.device)
        for chunk in self.inputs.chunks(order, self.tokens):
            batch = self.inputs.batch(chunk)
            with sdpa_kernel(SDPBackend.MATH):
                _, tangent = jvp(
                    lambda parameters, batch=batch: self.inputs.predict(parameters, *batch),
                    (self.scope.parameters,),
                    (tangents,),
                )
            found[chunk] = tangent.detach().double()
        result = found[order]
        if not torch.isfinite(result).all():
            self._explain(order[int(torch.nonzero(~torch.isfinite(result))[0])])
        return result

    def vjp(self, weights: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """Jᵀ w over some molecules, float64, shape (p,); ``weights`` in the order of ``positions``."""
        order = list(range(len(self))) if positions is None else list(positions)
        self.inputs.prepare(order)
        by_position = torch.zeros(len(self), dtype=torch.float64, device=self.target.device)
        by_position[order] = weights.double()
        total = torch.zeros(self.scope.size, dtype=torch.float64, device=self.target.device)
        for chunk in self.inputs.chunks(order, self.tokens):
            batch = self.inputs.batch(chunk)
            with sdpa_kernel(SDPBackend.MATH):
                values, pull = vjp(
                    lambda parameters, batch=batch: self.inputs.predict(parameters, *batch), self.scope.parameters
                )
                (pulled,) = pull(by_position[chunk].to(values.dtype))
            total += self.scope.flatten(pulled).double()
        return total

    def jacobian(self, positions: Sequence[int], progress: Callable[[int], None] | None = None) -> Tensor:
        """Gradients of single predictions, float32, shape (len(positions), p), vectorised over molecules.

        ``progress`` is told how many more molecules are done.
        """
        order = list(positions)
        self.inputs.prepare(order)
        result = torch.empty(len(order), self.scope.size, device=self.target.device)
        place = {position: row for row, position in enumerate(order)}
        # A few molecules at a time: the gradients of a batch take as much memory as its activations, or more.
        tokens = max(1, min(self.tokens, 2**29 // max(1, self.scope.size)))

        def one(parameters: dict[str, Tensor], first: Tensor, mask: Tensor) -> Tensor:
            return self.inputs.predict(parameters, first[None], mask[None]).squeeze(0)

        for chunk in self.inputs.chunks(order, tokens):
            first, mask = self.inputs.batch(chunk)
            with sdpa_kernel(SDPBackend.MATH):
                rows = vmap(grad(one), in_dims=(None, 0, 0))(self.scope.parameters, first, mask)
            self.scope.fill_rows(result, [place[position] for position in chunk], rows)
            if progress is not None:
                progress(len(chunk))
        return result

    def loss_jvp(self, vector: Tensor) -> Tensor:
        """Derivative of each molecule's squared error (standardised) along ``vector``: 2 r J v, float64, shape (n,)."""
        return 2 * self.residuals * self.jvp(vector)

    def loss_gradient(self, positions: Sequence[int] | None = None) -> Tensor:
        """Gradient of the mean squared error (standardised) over some molecules, float64, shape (p,)."""
        order = list(range(len(self))) if positions is None else list(positions)
        return self.vjp(2 * self.residuals[order] / len(order), order)

    def loss_hessian_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """Hessian of the mean squared error (standardised) times a vector, forward over reverse; float64, (p,)."""
        tangents = self.scope.unflatten(vector)
        self.inputs.prepare(positions)
        total = torch.zeros(self.scope.size, dtype=torch.float64, device=self.target.device)
        for chunk in self.inputs.chunks(positions, self.tokens):
            batch, target = self.inputs.batch(chunk), self.target[chunk].float()

            def loss(
                parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor] = batch, target: Tensor = target
            ) -> Tensor:
                return ((self.inputs.predict(parameters, *batch) - target) ** 2).sum()

            with sdpa_kernel(SDPBackend.MATH):
                _, product = jvp(grad(loss), (self.scope.parameters,), (tangents,))
            total += self.scope.flatten(product).detach().double()
        return total / len(positions)

    def _explain(self, position: int) -> None:
        gradient = self.jacobian([position])[0]
        self.scope.check_finite(gradient, f"the gradient of {self.inputs.smiles[position]}")
        raise NumericsError(f"the product of the gradient of {self.inputs.smiles[position]} is not finite")

    def _name_bad(self, values: Tensor, what: str) -> None:
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            raise NumericsError(f"{what} for {self.inputs.smiles[int(bad[0])]} is not finite")
