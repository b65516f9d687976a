"""One molecule, one prediction: alone, in any batch, behind any padding; and what training may change."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from molformer_cases import SMILES, batch_of, sharpen, tiny_config
from torch import Tensor

from moltune.models.batches import PadCollator
from moltune.models.molformer import MolformerForMaskedLM, MolformerModel, MolformerTokenizer
from moltune.models.regression import RegressionConfig, RegressionModel

token_lists = st.lists(st.integers(0, 2361).filter(lambda token: token != 2), min_size=1, max_size=40)


def trained_like(**changes: object) -> MolformerModel:
    torch.manual_seed(5)
    model = MolformerModel(tiny_config(**changes)).eval()
    sharpen(model)
    return model


MODEL = trained_like()


def padded(rows: list[list[int]], width: int, left: bool = False) -> dict[str, Tensor]:
    ids, mask = torch.full((len(rows), width), 2), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(token_lists, min_size=2, max_size=6), extra=st.integers(0, 20), data=st.data())
@torch.no_grad()
def test_a_molecule_does_not_notice_its_batch(rows: list[list[int]], extra: int, data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(rows) - 1))
    alone = MODEL(input_ids=torch.tensor([rows[which]]))
    together = MODEL(**padded(rows, max(map(len, rows)) + extra))
    length = len(rows[which])
    # Some twenty units in the last place: sums of another shape are added in another order.
    assert relative(together.pooler_output[which], alone.pooler_output[0]) < 3e-6
    assert relative(together.last_hidden_state[which, :length], alone.last_hidden_state[0]) < 1e-5


@torch.no_grad()
def test_what_stands_in_padding_does_not_matter() -> None:
    batch = batch_of([6, 20])
    other = {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 77)}
    assert torch.equal(MODEL(**batch).pooler_output, MODEL(**other).pooler_output)


@torch.no_grad()
def test_padding_on_the_left_moves_positions_but_nothing_else() -> None:
    # Rotary attention depends on distances alone, up to the random features that stand for its kernel; with
    # every token moved by the same amount the tables differ, so results may differ, but padding stays invisible.
    left = padded([[4, 5, 6]], 10, left=True)
    other = {**left, "input_ids": torch.where(left["attention_mask"].bool(), left["input_ids"], 99)}
    assert torch.equal(MODEL(**left).pooler_output, MODEL(**other).pooler_output)


@torch.no_grad()
def test_two_calls_are_equal_and_leave_no_trace() -> None:
    batch = batch_of([6, 20])
    state = copy.deepcopy(MODEL.state_dict())
    generator = torch.get_rng_state()
    first, second = MODEL(**batch).last_hidden_state, MODEL(**batch).last_hidden_state
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(MODEL.state_dict()[name], tensor) for name, tensor in state.items())


@torch.no_grad()
def test_deterministic_eval_of_the_published_file_makes_no_difference() -> None:
    batch = batch_of([6, 20])
    on, off = (trained_like(deterministic_eval=value)(**batch).pooler_output for value in (True, False))
    assert torch.equal(on, off)


@torch.no_grad()
def test_training_draws_fresh_features_only_when_asked_to() -> None:
    batch = batch_of([6, 20])
    quiet = {"hidden_dropout_prob": 0.0, "embedding_dropout_prob": 0.0}
    redrawn = trained_like(**quiet).train()
    assert relative(redrawn(**batch).pooler_output, redrawn(**batch).pooler_output) > 1e-3
    stored = trained_like(**quiet, redraw_features=False)
    expected = stored(**batch).pooler_output
    stored.train()
    assert torch.equal(stored(**batch).pooler_output, expected)
    torch.manual_seed(1)
    first = redrawn(**batch).pooler_output
    torch.manual_seed(1)
    assert torch.equal(redrawn(**batch).pooler_output, first)


def test_training_leaves_the_stored_features_alone() -> None:
    model = trained_like().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(**batch_of([6, 20])).pooler_output.pow(2).sum().backward()
        optimizer.step()
    assert sum("feature_map" in name for name in before) == 2
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert "feature_map" not in " ".join(name for name, _ in model.named_parameters())


def test_each_layer_has_features_of_its_own_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    model = trained_like(num_hidden_layers=3).train()
    for layer in model.encoder.layer:
        attention = layer.attention.self
        forward = attention.forward

        def spy(x: Tensor, rotary: object, mask: object, weight: Tensor, forward: object = forward) -> Tensor:
            seen.append(weight)
            return forward(x, rotary, mask, weight)  # type: ignore[operator]

        monkeypatch.setattr(attention, "forward", spy)
    model(**batch_of([5]))
    assert len(seen) == 3
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])


@torch.no_grad()
def test_regression_predictions_do_not_depend_on_batches() -> None:
    torch.manual_seed(3)
    model = RegressionModel(RegressionConfig(encoder=tiny_config(), target_mean=3.0, target_std=2.0)).eval()
    sharpen(model)
    tokenizer = MolformerTokenizer()
    rows = [{"input_ids": ids} for ids in tokenizer(SMILES)["input_ids"]]
    collate = PadCollator(2)
    together = model(**collate(rows)).logits[:, 0]
    for row, value in zip(rows, together, strict=True):
        assert float((model(**collate([row])).logits[0, 0] - value).abs()) < 1e-5


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    batch = batch_of([6, 20])
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(4)
        model = MolformerForMaskedLM(tiny_config(redraw_features=False)).train()
        sharpen(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        torch.manual_seed(9)
        model(**batch, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5)


def test_gradient_checkpointing_replays_the_same_drawn_features() -> None:
    """Features are drawn before the blocks, so recomputing a block cannot draw others."""
    batch = batch_of([6, 20])
    gradients = []
    for checkpointing in (False, True):
        model = trained_like().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(9)
        model(**batch).pooler_output.pow(2).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, replayed in zip(*gradients, strict=True):
        torch.testing.assert_close(replayed, plain, atol=1e-6, rtol=1e-4)
