"""Predictions of many molecules, linearised in the parameters: products with their Jacobian.

For n molecules and p parameters the Jacobian J = ∂f/∂θ of the raw predictions f (standardised, or the logits of a
classifier) has shape (n, p). A product J v takes one forward-mode pass per batch and Jᵀ w one reverse pass, without
gradients of single molecules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from moltune.attribution.inputs import Inputs
from moltune.attribution.loss import Loss, SquaredError
from moltune.attribution.scope import Scope
from moltune.errors import NumericsError

# Their stubs declare a third value, which they return with has_aux only.
jvp: Any = torch.func.jvp
vjp: Any = torch.func.vjp

# Raw predictions of a batch, from parameters.
Predict = Callable[[dict[str, Tensor]], Tensor]


class Linearised:
    """Molecules, their targets, and the Jacobian of their raw predictions at the model's parameters.

    Args:
        inputs: the molecules.
        scope: the parameters.
        target: standardised targets, or classes 0 and 1, float64, shape (n,); NaN where there is none.
        tokens: padded tokens per batch, which bounds memory.
        loss: of a molecule.
    """

    def __init__(
        self, inputs: Inputs, scope: Scope, target: Tensor, tokens: int = 8192, loss: Loss | None = None
    ) -> None:
        self.inputs, self.scope, self.tokens = inputs, scope, tokens
        self.loss = loss or SquaredError()
        self.target = target.double().to(inputs.model.device)
        self._predicted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def predicted(self) -> Tensor:
        """Raw predictions, float64, shape (n,).

        Raises:
            NumericsError: one is not finite; the molecule is named.
        """
        if self._predicted is None:
            result = torch.empty(len(self), dtype=torch.float64, device=self.target.device)
            with torch.no_grad():
                for chunk, predict in self._functions(range(len(self))):
                    result[chunk] = predict(self.scope.parameters).double()
            bad = torch.nonzero(~torch.isfinite(result))
            if len(bad):
                raise NumericsError(f"the prediction for {self.inputs.smiles[int(bad[0])]} is not finite")
            self._predicted = result
        return self._predicted

    @property
    def residuals(self) -> Tensor:
        """Raw prediction minus target, float64, shape (n,)."""
        return self.predicted - self.target

    @property
    def slopes(self) -> Tensor:
        """Derivative of each molecule's loss in its raw prediction, float64, shape (n,)."""
        return self.loss.slope(self.predicted, self.target)

    @property
    def curvatures(self) -> Tensor:
        """Second derivative of each molecule's loss in its raw prediction, float64, shape (n,)."""
        return self.loss.curvature(self.predicted, self.target)

    def half_curvatures(self, positions: Sequence[int]) -> Tensor | None:
        """Half of the curvatures of some molecules; None where all are 1, as with squared errors."""
        return None if isinstance(self.loss, SquaredError) else self.curvatures[list(positions)] / 2

    def jvp(self, vector: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """J v of some molecules, float64, shape (len(positions),), in the order of ``positions``.

        Raises:
            NumericsError: a value is not finite; molecule and tensor are named.
        """
        order = list(range(len(self)) if positions is None else positions)
        tangents = self.scope.unflatten(vector)
        found = torch.empty(len(self), dtype=torch.float64, device=self.target.device)
        for chunk, predict in self._functions(order):
            with sdpa_kernel(SDPBackend.MATH):
                _, tangent = jvp(predict, (self.scope.parameters,), (tangents,))
            found[chunk] = tangent.detach().double()
        result = found[order]
        bad = torch.nonzero(~torch.isfinite(result))
        if len(bad):
            position = order[int(bad[0])]
            # Names the tensor, where it is the gradient itself that is not finite.
            self.jacobian([position])
            raise NumericsError(f"the product of the gradient of {self.inputs.smiles[position]} is not finite")
        return result

    def vjp(self, weights: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """Jᵀ w over some molecules, float64, shape (p,); ``weights`` in the order of ``positions``."""
        order = list(range(len(self)) if positions is None else positions)
        by_position = torch.zeros(len(self), dtype=torch.float64, device=self.target.device)
        by_position[order] = weights.double()
        total = torch.zeros(self.scope.size, dtype=torch.float64, device=self.target.device)
        for chunk, predict in self._functions(order):
            with sdpa_kernel(SDPBackend.MATH):
                values, pull = vjp(predict, self.scope.parameters)
                (pulled,) = pull(by_position[chunk].to(values.dtype))
            total += self.scope.flatten(pulled).double()
        return total

    def jacobian(self, positions: Sequence[int], progress: Callable[[int], None] | None = None) -> Tensor:
        """Gradients of single predictions, float32, shape (len(positions), p), vectorised over molecules.

        ``progress`` receives the number of molecules of each finished batch.

        Raises:
            NumericsError: a gradient is not finite; molecule and tensor are named.
        """
        result = torch.empty(len(positions), self.scope.size, device=self.target.device)
        rows = {position: row for row, position in enumerate(positions)}
        # A few molecules at a time: the gradients of a batch take as much memory as its activations, or more.
        tokens = max(1, min(self.tokens, 2**29 // max(1, self.scope.size)))

        def one(parameters: dict[str, Tensor], first: Tensor, mask: Tensor) -> Tensor:
            return self.inputs.predict(parameters, first[None], mask[None]).squeeze(0)

        for chunk, first, mask in self.inputs.batches(positions, tokens):
            with sdpa_kernel(SDPBackend.MATH):
                gradients = vmap(grad(one), in_dims=(None, 0, 0))(self.scope.parameters, first, mask)
            self.scope.fill_rows(result, [rows[position] for position in chunk], gradients)
            if progress is not None:
                progress(len(chunk))
        # Row by row, because a mask of the whole matrix would take much memory.
        for row, position in zip(result, positions, strict=True):
            self.scope.check_finite(row, f"the gradient of {self.inputs.smiles[position]}")
        return result

    def weighted_jacobian(self, positions: Sequence[int], progress: Callable[[int], None] | None = None) -> Tensor:
        """W^½ J with half of the curvatures on the diagonal of W, so that 2/n JᵀWJ is the Gauss-Newton matrix.

        Otherwise as :meth:`jacobian`, which it is where errors are squared.
        """
        rows, half = self.jacobian(positions, progress), self.half_curvatures(positions)
        return rows if half is None else rows.mul_(half.sqrt().to(rows.dtype)[:, None])

    def loss_jvp(self, vector: Tensor) -> Tensor:
        """Derivative of each molecule's loss along ``vector``: ℓ' J v, float64, shape (n,)."""
        return self.slopes * self.jvp(vector)

    def loss_gradient(self, positions: Sequence[int] | None = None) -> Tensor:
        """Gradient of the mean loss over some molecules, float64, shape (p,)."""
        order = list(range(len(self)) if positions is None else positions)
        return self.vjp(self.slopes[order] / len(order), order)

    def loss_hessian_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """Hessian of the mean loss over some molecules times a vector, forward over reverse; float64, (p,)."""
        tangents = self.scope.unflatten(vector)
        total = torch.zeros(self.scope.size, dtype=torch.float64, device=self.target.device)
        for chunk, predict in self._functions(positions):
            loss = partial(_sum, loss=self.loss, predict=predict, target=self.target[chunk].float())
            with sdpa_kernel(SDPBackend.MATH):
                _, product = jvp(grad(loss), (self.scope.parameters,), (tangents,))
            total += self.scope.flatten(product).detach().double()
        return total / len(positions)

    def _functions(self, positions: Sequence[int]) -> Iterator[tuple[list[int], Predict]]:
        """Positions of each batch, and its predictions as a function of the parameters."""
        for chunk, first, mask in self.inputs.batches(positions, self.tokens):
            yield chunk, partial(self.inputs.predict, first=first, mask=mask)


def _sum(parameters: dict[str, Tensor], loss: Loss, predict: Predict, target: Tensor) -> Tensor:
    return loss.value(predict(parameters), target).sum()
