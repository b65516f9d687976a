"""A kernel machine on the pooled embedding, in place of the linear head once training has ended."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moltune.models import MOST_DEVIATIONS

KERNEL_FILE = "kernel_head.safetensors"


class KernelHead(nn.Module):
    """f(p) = Σᵢ aᵢ exp(−γ‖z(p) − zᵢ‖²) + b, with z the embedding standardised and clipped at five deviations.

    All of it is buffers, which :func:`moltune.tuning.head.refit_head` fits in closed form and the optimiser never sees.
    The sum is taken in float64: a thousand terms of both signs cancel.

    Args:
        hidden_size: width of the embedding.
        points: how many training molecules (support vectors) are kept.
    """

    mean: Tensor
    scale: Tensor
    points: Tensor
    dual: Tensor
    gamma: Tensor
    intercept: Tensor

    def __init__(self, hidden_size: int, points: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("scale", torch.ones(hidden_size))
        self.register_buffer("points", torch.zeros(points, hidden_size))
        self.register_buffer("dual", torch.zeros(points))
        self.register_buffer("gamma", torch.ones(1))
        self.register_buffer("intercept", torch.zeros(1))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KernelHead:
        """Build it from what :meth:`torch.nn.Module.state_dict` gives."""
        points, width = tensors["points"].shape
        head = cls(width, points)
        head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
        return head

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (batch, width) to standardised predictions (batch,), float32."""
        with torch.autocast(device_type=pooled.device.type, enabled=False):
            # Apple's GPUs have no float64.
            wide = torch.float32 if pooled.device.type == "mps" else torch.float64
            scaled = (pooled.to(wide) - self.mean.to(wide)) / self.scale.to(wide)
            scaled, points = scaled.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS), self.points.to(wide)
            squares = scaled.square().sum(1, keepdim=True) - 2 * scaled @ points.T + points.square().sum(1)
            near = torch.exp(-self.gamma.to(wide) * squares.clamp(min=0))
            return (near @ self.dual.to(wide) + self.intercept.to(wide)).float()
