"""Our forward pass against the published one, written out in benchmarks/reference_molformer.py, and by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config
from reference_molformer import ReferenceMolformer, Sizes, average, classifier_logits, lm_logits
from torch import Tensor

from moltune.models.molformer import (
    MolformerConfig,
    MolformerForMaskedLM,
    MolformerForSequenceClassification,
    MolformerModel,
)
from moltune.models.molformer.attention import MolformerSelfAttention, draw_feature_maps, rotary_tables
from moltune.models.regression import RegressionConfig, RegressionModel

LENGTHS = [9, 1, 17, 33]


def reference_of(model: MolformerModel) -> ReferenceMolformer:
    sizes = Sizes(**{field.name: getattr(model.config, field.name) for field in fields(Sizes)})
    reference = ReferenceMolformer(Sizes(**{**sizes.__dict__, "deterministic_eval": True})).eval()
    reference.load_state_dict(model.state_dict(), strict=True)
    return reference


@pytest.mark.parametrize("features", [3, 6, 8, 11, 20])
@torch.no_grad()
def test_states_pooling_and_heads_agree_with_the_published_forward_pass(features: int) -> None:
    config = tiny_config(num_random_features=features, num_labels=3)
    masked_lm, classifier = MolformerForMaskedLM(config).eval(), MolformerForSequenceClassification(config).eval()
    sharpen(masked_lm)
    sharpen(classifier)
    batch = batch_of(LENGTHS, width=40)
    real = batch["attention_mask"].bool()

    *states, last = reference_of(classifier.molformer)(**batch)
    ours = classifier.molformer(**batch, output_hidden_states=True)
    assert len(ours.hidden_states) == config.num_hidden_layers + 1
    for own, expected in zip(ours.hidden_states, states, strict=True):
        torch.testing.assert_close(own[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.last_hidden_state[real], last[real], atol=1e-5, rtol=1e-5)
    pooled = average(last, batch["attention_mask"])
    torch.testing.assert_close(ours.pooler_output, pooled, atol=1e-5, rtol=1e-5)
    logits = classifier_logits(classifier.state_dict(), pooled)
    torch.testing.assert_close(classifier(**batch).logits, logits, atol=1e-5, rtol=1e-5)

    *_, last = reference_of(masked_lm.molformer)(**batch)
    expected = lm_logits(masked_lm.state_dict(), last)
    torch.testing.assert_close(masked_lm(**batch).logits[real], expected[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_classifier_without_skip_connections_agrees() -> None:
    model = MolformerForSequenceClassification(tiny_config(classifier_skip_connection=False)).eval()
    sharpen(model)
    batch = batch_of(LENGTHS)
    pooled = average(reference_of(model.molformer)(**batch)[-1], batch["attention_mask"])
    expected = classifier_logits(model.state_dict(), pooled, skip=False)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_reference_notices_a_change_in_any_tensor() -> None:
    model = MolformerModel(tiny_config()).eval()
    sharpen(model)
    batch = batch_of([7, 5])
    before = reference_of(model)(**batch)[-1]
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor.mul_(1.5).add_(0.1)
        after = reference_of(model)(**batch)[-1]
        ours = model(**batch).last_hidden_state
        tensor.copy_(kept)
        assert (after - before).abs().max() > 1e-4, name
        torch.testing.assert_close(ours, after, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_is_the_weighted_mean_that_the_paper_defines() -> None:
    """out_t = Σ_s w_ts v_s / Σ_s w_ts with w_ts = φ(R_t q_t)·φ(R_s k_s), in float64 and one number at a time."""
    config = tiny_config(hidden_size=12, num_attention_heads=3, num_random_features=5)
    attention = MolformerSelfAttention(config)
    sharpen(attention)
    attention.feature_map.weight.copy_(draw_feature_maps(1, 4, 5)[0])
    x, real = torch.randn(1, 6, 12), 4
    mask = (torch.arange(6) < real).float()[None, None, :, None]
    ours = attention(x, rotary_tables(4, 6), mask)[0]
    rows = x[0].double()
    weights = attention.feature_map.weight.double()

    def project(layer: torch.nn.Linear, t: int, head: int) -> list[float]:
        full = layer.weight.double() @ rows[t] + layer.bias.double()
        return full[4 * head : 4 * head + 4].tolist()

    def rotated(u: list[float], t: int) -> list[float]:
        result = [0.0] * 4
        for j in range(2):
            angle = t * 10000.0 ** (-2 * j / 4)
            result[j] = u[j] * math.cos(angle) - u[j + 2] * math.sin(angle)
            result[j + 2] = u[j + 2] * math.cos(angle) + u[j] * math.sin(angle)
        return result

    def features(u: list[float]) -> list[float]:
        return [max(0.0, sum(u[i] * float(weights[i, f]) for i in range(4))) for f in range(5)]

    for head in range(3):
        keys = [features(rotated(project(attention.key, s, head), s)) for s in range(real)]
        values = [project(attention.value, s, head) for s in range(real)]
        for t in range(6):
            query = features(rotated(project(attention.query, t, head), t))
            w = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
            total = max(sum(w), 1e-6)
            expected = [sum(w[s] * values[s][i] for s in range(real)) / total for i in range(4)]
            torch.testing.assert_close(
                ours[t, 4 * head : 4 * head + 4], torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5
            )


@torch.no_grad()
def test_all_features_dead_gives_zeros_not_nan() -> None:
    config = tiny_config()
    attention = MolformerSelfAttention(config)
    attention.feature_map.weight.fill_(0.0)
    out = attention(torch.randn(2, 5, 32), rotary_tables(8, 5))
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize(("width", "count"), [(8, 3), (8, 8), (8, 13), (64, 32), (16, 48)])
def test_feature_maps_are_orthogonal_within_blocks(width: int, count: int) -> None:
    maps = draw_feature_maps(5, width, count)
    assert maps.shape == (5, width, count)
    for weight in maps:
        for start in range(0, count, width):
            block = weight[:, start : start + width].double()
            block = block / block.norm(dim=0)
            torch.testing.assert_close(
                block.T @ block, torch.eye(block.shape[1], dtype=torch.float64), atol=1e-5, rtol=0
            )


def test_feature_columns_have_the_length_of_gaussian_vectors() -> None:
    maps = draw_feature_maps(2000, 16, 24).double()
    squared = maps.pow(2).sum(dim=1).flatten()
    # A sum of 16 squared standard normals: mean 16, variance 32.
    assert squared.mean().item() == pytest.approx(16, rel=0.01)
    assert squared.var().item() == pytest.approx(32, rel=0.05)
    # Direction without preference: each coordinate carries the same share.
    torch.testing.assert_close(maps.pow(2).mean(dim=(0, 2)), torch.ones(16, dtype=torch.float64), atol=0.05, rtol=0)


def test_a_feature_map_is_the_q_of_a_gaussian_scaled_by_its_row_norms() -> None:
    torch.manual_seed(3)
    drawn = draw_feature_maps(1, 6, 6)[0]
    torch.manual_seed(3)
    gaussian = torch.randn(6, 6)
    expected = torch.linalg.qr(gaussian).Q * torch.tensor([row.norm() for row in gaussian])
    torch.testing.assert_close(drawn, expected, atol=1e-6, rtol=0)


def test_maps_of_layers_and_blocks_are_independent_draws() -> None:
    maps = draw_feature_maps(3, 8, 16)
    pieces = [maps[i, :, start : start + 8] for i in range(3) for start in (0, 8)]
    for first in range(6):
        for second in range(first):
            assert not torch.allclose(pieces[first], pieces[second], atol=1e-2)


def test_parameter_counts_of_the_published_size() -> None:
    with torch.device("meta"):
        bare = MolformerModel(MolformerConfig())
        tuned = RegressionModel(RegressionConfig(encoder=MolformerConfig(), head="mean"))
        masked_lm = MolformerForMaskedLM(MolformerConfig())
    count = {type(m).__name__: sum(p.numel() for p in m.parameters()) for m in (bare, tuned, masked_lm)}
    assert count["MolformerModel"] == 44_375_040
    assert count["RegressionModel"] == 44_375_809
    assert count["MolformerForMaskedLM"] == 44_375_040 + 768 * 768 + 3 * 768 + 2362 * 768


def test_tensor_names_are_the_published_ones() -> None:
    config = tiny_config(num_hidden_layers=1)
    layer = "encoder.layer.0"
    expected = {"embeddings.word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"}
    expected |= {f"{layer}.attention.self.{n}.{k}" for n in ("query", "key", "value") for k in ("weight", "bias")}
    expected |= {f"{layer}.attention.self.feature_map.weight", f"{layer}.intermediate.dense.weight"}
    expected |= {f"{layer}.intermediate.dense.bias"}
    expected |= {
        f"{layer}.{part}.{n}.{k}"
        for part in ("attention.output", "output")
        for n in ("dense", "LayerNorm")
        for k in ("weight", "bias")
    }
    assert set(MolformerModel(config).state_dict()) == expected
    lm = {f"lm_head.transform.{n}.{k}" for n in ("dense", "LayerNorm") for k in ("weight", "bias")}
    prefixed = {f"molformer.{name}" for name in expected}
    assert set(MolformerForMaskedLM(config).state_dict()) == prefixed | lm | {"lm_head.decoder.weight"}
    head = {f"classifier.{n}.{k}" for n in ("dense", "dense2", "out_proj") for k in ("weight", "bias")}
    assert set(MolformerForSequenceClassification(config).state_dict()) == prefixed | head


@torch.no_grad()
def test_embeddings_in_place_of_ids(encoder: MolformerModel) -> None:
    batch = batch_of([5, 8])
    direct = encoder(**batch).last_hidden_state
    embedded: Tensor = encoder.get_input_embeddings()(batch["input_ids"])
    again = encoder(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.equal(direct, again)
    with pytest.raises(ValueError, match="either"):
        encoder(**batch, inputs_embeds=embedded)
    with pytest.raises(ValueError, match="either"):
        encoder(attention_mask=batch["attention_mask"])


def test_too_long_an_input_is_named(encoder: MolformerModel) -> None:
    with pytest.raises(ValueError, match="65 tokens, but this model takes 64"):
        encoder(**batch_of([65]))


def test_losses_are_what_they_say() -> None:
    batch = batch_of([6, 4])
    masked_lm = MolformerForMaskedLM(tiny_config()).eval()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 2], labels[1, 1] = 7, 9
    out = masked_lm(**batch, labels=labels)
    logp = out.logits.log_softmax(-1)
    torch.testing.assert_close(out.loss, -(logp[0, 2, 7] + logp[1, 1, 9]) / 2)

    one = MolformerForSequenceClassification(tiny_config(num_labels=1)).eval()
    out = one(**batch, labels=torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(out.loss, (out.logits.squeeze(1) - torch.tensor([1.0, -2.0])).pow(2).mean())

    three = MolformerForSequenceClassification(tiny_config(num_labels=3)).eval()
    out = three(**batch, labels=torch.tensor([0, 2]))
    logp = out.logits.log_softmax(-1)
    torch.testing.assert_close(out.loss, -(logp[0, 0] + logp[1, 2]) / 2)

    many = MolformerForSequenceClassification(tiny_config(num_labels=3, problem_type="multi_label_classification"))
    marks = torch.tensor([[1, 0, 1], [0, 0, 1]])
    out = many.eval()(**batch, labels=marks)
    p = out.logits.sigmoid()
    torch.testing.assert_close(out.loss, -torch.where(marks.bool(), p, 1 - p).log().mean())


def test_tuples_on_request(encoder: MolformerModel) -> None:
    batch = batch_of([5])
    last, pooled = encoder(**batch, return_dict=False)
    assert last.shape == (1, 5, 32)
    assert pooled.shape == (1, 32)
