"""Half precision: where the published arithmetic breaks and ours must not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config
from reference_molformer import SelfAttention, Sizes, average
from test_molformer_reference import reference_of
from torch import Tensor, nn

from moltune.models.molformer import MolformerConfig
from moltune.models.molformer.attention import MolformerSelfAttention, rotary_tables
from moltune.models.regression import RegressionConfig, RegressionModel


@cache
def wide_model(gain: float) -> RegressionModel:
    """XL's width, one block; ``gain`` multiplies query, key and value weights."""
    torch.manual_seed(0)
    model = RegressionModel(RegressionConfig(encoder=MolformerConfig(num_hidden_layers=1), target_std=1.2)).eval()
    sharpen(model)
    with torch.no_grad():
        for layer in model.encoder.encoder.layer:
            for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                part.weight.mul_(gain)
        model.head.out_proj.weight.mul_(4)
    return model


@cache
def wide_batch() -> dict[str, Tensor]:
    lengths = torch.randint(5, 60, (8,), generator=torch.Generator().manual_seed(3)).tolist()
    return batch_of(lengths)


def error_of_range(predicted: Tensor, expected: Tensor) -> float:
    return float((predicted.float() - expected).abs().max() / (expected.max() - expected.min()))


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1.0, 8.0])
@torch.no_grad()
def test_bf16_autocast_stays_close(gain: float) -> None:
    model, batch = wide_model(gain), wide_batch()
    expected = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**batch)
    assert out.logits.dtype == torch.float32
    assert error_of_range(out.logits, expected) < 0.02


@torch.no_grad()
def test_attention_in_fp16_where_the_published_arithmetic_overflows() -> None:
    config = tiny_config(hidden_size=128, num_attention_heads=2, num_random_features=32, max_position_embeddings=202)
    ours = MolformerSelfAttention(config)
    sharpen(ours, scale=4.0)
    naive = SelfAttention(Sizes(hidden_size=128, num_attention_heads=2, deterministic_eval=True)).eval()
    ours.feature_map.weight.copy_(naive.feature_map.weight)
    naive.load_state_dict(ours.state_dict())
    x, mask = torch.randn(3, 150, 128), torch.ones(3, 150)
    tables = rotary_tables(64, 150)
    expected = ours(x, tables)
    torch.testing.assert_close(naive(x, mask, tables), expected, atol=1e-4, rtol=1e-4)

    broken = naive.half()(x.half(), mask.half(), tables)
    assert not torch.isfinite(broken).all() or error_of_range(broken, expected) > 0.1
    halved = ours.half()(x.half(), tables)
    assert halved.dtype == torch.float16
    assert torch.isfinite(halved).all()
    assert error_of_range(halved, expected) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_autocast_and_half_weights_have_no_nan(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = RegressionModel(RegressionConfig(encoder=tiny_config(num_random_features=32))).eval()
    sharpen(model, scale=4.0)
    batch = batch_of([60, 7])
    expected = model(**batch).logits
    with torch.autocast("cpu", dtype=dtype):
        assert torch.isfinite(model(**batch).logits).all()
    halved = model.to(dtype)(**batch).logits
    assert torch.isfinite(halved).all()
    torch.testing.assert_close(halved.float(), expected, atol=0.25, rtol=0.05)


def test_gradients_under_bf16_autocast_are_finite_and_point_the_same_way() -> None:
    torch.manual_seed(0)
    model = RegressionModel(RegressionConfig(encoder=tiny_config(redraw_features=False))).eval()
    sharpen(model)
    batch, labels = batch_of([30, 12, 50, 9]), torch.tensor([0.5, -1.0, 2.0, 0.0])
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model(**batch, labels=labels).loss
        assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.isfinite(gradients[1]).all()
    assert nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


@pytest.mark.slow
@torch.no_grad()
def test_naive_bf16_attention_is_worse_than_ours() -> None:
    """What keeping the features and the normaliser in fp32 buys, on pooled embeddings."""
    model, batch = wide_model(8.0), wide_batch()
    expected = model.embed(**batch)
    reference = reference_of(model.encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = model.embed(**batch)
        naive = average(reference(**batch)[-1].float(), batch["attention_mask"])
    assert float((ours - expected).norm()) < float((naive - expected).norm())
