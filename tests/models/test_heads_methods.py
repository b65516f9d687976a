"""Heads, the regression model's unit, methods and their counts, names of checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config
from torch import nn

from moltune.config import MethodSettings, ModelSettings, make_settings
from moltune.errors import CheckpointError, ConfigError
from moltune.models import names
from moltune.models.checkpoints import (
    load_config,
    load_encoder,
    load_regression,
    load_tokenizer,
    make_regression,
    max_length,
)
from moltune.models.heads import HEADS, make_head
from moltune.models.methods.registry import METHODS, count_parameters, make_method
from moltune.models.molformer import MolformerConfig, MolformerModel, MolformerTokenizer
from moltune.models.names import bundled_models, resolve
from moltune.models.pooling import mean_pool
from moltune.models.regression import RegressionConfig, RegressionModel


def tuned(**changes: object) -> RegressionModel:
    model = RegressionModel(RegressionConfig(encoder=tiny_config(redraw_features=False), **changes)).eval()
    sharpen(model)
    return model


@pytest.mark.parametrize("name", HEADS)
def test_heads_ignore_padding_and_return_float32(name: str) -> None:
    head = make_head(name, 16, 0.5).eval()
    hidden, mask = torch.randn(3, 6, 16), torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])
    noisy = torch.where(mask[..., None].bool(), hidden, 1e3)
    assert torch.equal(head(hidden, mask), head(noisy, mask))
    assert head(hidden, mask).shape == (3,)
    assert head.pool(hidden.bfloat16(), mask).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(hidden, mask), head(hidden, mask).float(), rtol=0, atol=0)
        assert head(hidden.bfloat16(), mask).dtype == torch.float32


def test_pooling_by_hand() -> None:
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    expected = torch.stack([(hidden[0, 0] + hidden[0, 1] + hidden[0, 2]) / 3, hidden[1, 0]])
    torch.testing.assert_close(mean_pool(hidden, mask), expected)
    torch.testing.assert_close(mean_pool(hidden, None), hidden.mean(1))
    assert torch.equal(mean_pool(hidden, torch.zeros(2, 4)), torch.zeros(2, 3))
    assert torch.equal(make_head("cls", 3, 0.0).pool(hidden, mask), hidden[:, 0])


def test_the_molformer_head_is_the_published_one_with_a_single_output() -> None:
    head = make_head("molformer", 8, 0.3).eval()
    sharpen(head)
    p = torch.randn(4, 8)

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    first = gelu(p @ head.dense.weight.T + head.dense.bias) + p
    second = gelu(first @ head.dense2.weight.T + head.dense2.bias) + first
    expected = (second * head.out_proj.weight[0]).sum(1) + head.out_proj.bias
    torch.testing.assert_close(head.predict(p), expected)


def test_an_unknown_head_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mean, cls, molformer"):
        make_head("max", 8, 0.1)


@torch.no_grad()
def test_predictions_are_in_the_targets_unit_and_the_loss_is_standardised() -> None:
    plain, scaled = tuned(), tuned(target_mean=-3.0, target_std=2.5)
    scaled.load_state_dict(plain.state_dict())
    batch = batch_of([5, 9, 3])
    z = plain(**batch).logits
    torch.testing.assert_close(scaled(**batch).logits, z * 2.5 - 3.0)
    labels = torch.tensor([1.0, -4.0, 0.5])
    expected = (z[:, 0] - (labels + 3.0) / 2.5).pow(2).mean()
    torch.testing.assert_close(scaled(**batch, labels=labels).loss, expected)
    torch.testing.assert_close(scaled(**batch, labels=labels[:, None]).loss, expected)
    assert plain(**batch).loss is None
    torch.testing.assert_close(scaled.embed(**batch), plain.embed(**batch))


def test_a_fresh_head_keeps_the_encoder(tmp_path: Path, encoder: MolformerModel) -> None:
    sharpen(encoder)
    encoder.save_pretrained(tmp_path)
    model = make_regression(tmp_path, head="molformer", head_dropout=0.3)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name
    assert model.head.dense.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not model.head.out_proj.bias.any()
    assert model.config.head_dropout == model.head.dropout.p == 0.3


@pytest.mark.parametrize(("head", "expected"), [("mean", 33), ("cls", 33), ("molformer", 2 * 32 * 33 + 33)])
def test_method_counts(head: str, expected: int) -> None:
    model = tuned(head=head)
    encoder = sum(p.numel() for p in model.encoder.parameters())
    full = make_method(MethodSettings(name="full"))
    counted = full.count(full.switch_on(model))
    assert (counted.adapter, counted.head) == (encoder, expected)
    assert counted.trainable == counted.total == encoder + expected
    assert counted.share == 1
    alone = make_method(MethodSettings(name="head"))
    counted = alone.count(alone.switch_on(model))
    assert (counted.adapter, counted.head, counted.trainable) == (0, expected, expected)
    assert counted.total == encoder + expected
    assert counted.to_dict()["share"] == pytest.approx(expected / (encoder + expected))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "probe"])
def test_switching_a_method_on_changes_no_prediction_and_trains_what_it_counts(name: str) -> None:
    model = tuned()
    batch = batch_of([5, 9])
    expected = model(**batch).logits.detach()
    method = make_method(MethodSettings(name=name))
    model = method.switch_on(model)
    torch.testing.assert_close(model(**batch).logits, expected)
    # Half of a low-rank update starts at zero, and the other half then has gradients of zero: what counts is that
    # a gradient arrives.
    model(**batch, labels=torch.tensor([1.0, 2.0])).loss.backward()
    touched = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert touched == method.count(model).trainable


def test_counting_without_weights() -> None:
    full = count_parameters(ModelSettings(), MethodSettings(name="full"), "molformer-xl")
    assert (full.total, full.head) == (44_375_809, 769)
    alone = count_parameters(ModelSettings(), MethodSettings(name="head"), "molformer-xl")
    assert (alone.trainable, alone.total) == (769, 44_375_809)
    with pytest.raises(ConfigError, match="molformer-xl, molformer-mini"):
        count_parameters(ModelSettings(), MethodSettings(), "molformer-xxl")


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="full, head"):
        make_settings(MethodSettings, {"name": "magic"})


def test_names_of_checkpoints(tmp_path: Path, encoder: MolformerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder.save_pretrained(tmp_path / "run" / "model")
    assert resolve(tmp_path / "run" / "model") == str(tmp_path / "run" / "model")
    assert resolve(tmp_path / "run") == str(tmp_path / "run" / "model")
    assert resolve("ibm-research/MoLFormer-XL-both-10pct") == "ibm-research/MoLFormer-XL-both-10pct"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve(tmp_path / "empty")
    monkeypatch.setattr(names, "bundled_models", lambda: {"moltune/mini": tmp_path, "moltune/other": tmp_path})
    assert resolve("moltune/mini") == str(tmp_path)
    for name in ("moltune/mimi", "nothing", str(tmp_path / "gone")):
        with pytest.raises(CheckpointError, match="moltune/mini, moltune/other"):
            resolve(name)


def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("runs/nope", "models/nope", "./nope", "/nope", "../nope/x", "models/deep/nope"):
        with pytest.raises(CheckpointError, match="there is no model"):
            resolve(name)
    assert resolve("owner/models") == "owner/models"


def test_bundled_models_are_whole() -> None:
    for name, folder in bundled_models().items():
        assert resolve(name) == str(folder)
        encoder, tokenizer = load_encoder(name), load_tokenizer(name)
        assert len(tokenizer) <= encoder.config.vocab_size


def test_a_hub_id_without_network_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="needs a network"):
        load_config("nobody/no-such-model-at-all")


def test_an_encoder_is_no_tuned_model(tmp_path: Path, encoder: MolformerModel) -> None:
    encoder.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="molformer checkpoint, not a tuned regression model"):
        load_regression(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_longest_inputs(encoder: MolformerModel) -> None:
    tokenizer = MolformerTokenizer()
    assert max_length(encoder, tokenizer) == 64
    tokenizer.model_max_length = 32
    assert max_length(encoder, tokenizer) == 32
    unbounded = nn.Module()
    unbounded.config = type("Config", (), {})()
    tokenizer.model_max_length = int(1e30)
    assert max_length(unbounded, tokenizer) is None  # type: ignore[arg-type]


def test_roberta_counts_positions_from_behind_the_padding_index() -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12, pad_token_id=1,
    )  # fmt: skip
    model = RobertaModel(config, add_pooling_layer=False).eval()
    limit = max_length(model, MolformerTokenizer())
    assert limit == 10
    model(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


def test_a_width_that_rotary_positions_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match="heads of even size"):
        MolformerConfig(hidden_size=36, num_attention_heads=4)
    with pytest.raises(ValueError, match="heads of even size"):
        MolformerConfig(hidden_size=33, num_attention_heads=4)
