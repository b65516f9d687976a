"""A digest of a network's tensors: the same weights have the same one, whatever file they came from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def tensor_digest(network: nn.Module) -> str | None:
    """SHA-256 over name, type, shape and bytes of every stored tensor, in the order of names; None without memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_meta:
            return None
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
