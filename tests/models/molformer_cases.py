"""What several tests of MoLFormer need: a tiny configuration, trained-like weights, batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moltune.models.molformer import MolformerConfig

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "[Na+].[Cl-]"]


def tiny_config(**changes: Any) -> MolformerConfig:
    """Two layers, four heads of width eight, six random features."""
    values: dict[str, Any] = {
        "vocab_size": 2362,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_random_features": 6,
        "max_position_embeddings": 64,
    }
    return MolformerConfig(**{**values, **changes})


def sharpen(model: nn.Module, scale: float = 1.0, seed: int = 1) -> None:
    """Give a model weights of a trained model's size: initial ones are so small that every error stays hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, scale / module.in_features**0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 1.0, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.weight.normal_(1.0, 0.2, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)


def batch_of(lengths: list[int], vocab: int = 2362, width: int | None = None, seed: int = 2) -> dict[str, Tensor]:
    """Random token ids (batch, longest or ``width``), padded on the right with id 2."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.randint(4, vocab, (len(lengths), width), generator=generator)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.where(mask.bool(), ids, 2), "attention_mask": mask}
