"""A checkpoint that does not fit is refused, and the error names the tensor."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from moltune.errors import CheckpointError
from moltune.models.checkpoints import load_encoder, load_regression, make_regression
from moltune.models.molformer import MolformerForMaskedLM, MolformerForSequenceClassification, MolformerModel
from moltune.models.regression import RegressionConfig, RegressionModel

Change = Callable[[dict[str, torch.Tensor], str], None]


def regression(_: Any = None) -> RegressionModel:
    return RegressionModel(RegressionConfig(encoder=tiny_config()))


FEATURES = "encoder.layer.0.attention.self.feature_map.weight"
TUNED_DENSE = "encoder.encoder.layer.1.attention.output.dense.weight"
CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "bare": (MolformerModel, MolformerModel.from_pretrained, "encoder.layer.1.output.dense.weight"),
    "bare, LayerNorm": (MolformerModel, MolformerModel.from_pretrained, "LayerNorm.bias"),
    "bare, feature map": (
        MolformerModel,
        AutoModel.from_pretrained,
        FEATURES,
    ),
    "AutoModel": (MolformerModel, AutoModel.from_pretrained, "embeddings.word_embeddings.weight"),
    "masked LM": (MolformerForMaskedLM, MolformerForMaskedLM.from_pretrained, "lm_head.transform.LayerNorm.bias"),
    "masked LM, encoder": (
        MolformerForMaskedLM,
        MolformerForMaskedLM.from_pretrained,
        "molformer.encoder.layer.1.attention.self.key.bias",
    ),
    "classifier": (
        MolformerForSequenceClassification,
        MolformerForSequenceClassification.from_pretrained,
        "classifier.dense2.weight",
    ),
    "classifier, AutoModel": (
        MolformerForSequenceClassification,
        AutoModelForSequenceClassification.from_pretrained,
        "molformer.LayerNorm.weight",
    ),
    "encoder of a masked LM": (MolformerForMaskedLM, load_encoder, "molformer.encoder.layer.0.intermediate.dense.bias"),
    "regression": (
        regression,
        RegressionModel.from_pretrained,
        TUNED_DENSE,
    ),
    "regression, head": (regression, load_regression, "head.out_proj.weight"),
    "regression, AutoModel": (regression, AutoModel.from_pretrained, "head.out_proj.bias"),
    "regression, encoder only": (regression, load_encoder, "encoder.LayerNorm.weight"),
}


def remove(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def add(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[f"{name.rsplit('.', 1)[0]}.surplus"] = torch.zeros(3)


def reshape(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = torch.zeros(*tensors[name].shape[:-1], tensors[name].shape[-1] + 2)


def altered(folder: Path, change: Change, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors, name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("change", [remove, add, reshape], ids=["missing", "surplus", "misshapen"])
@pytest.mark.parametrize("case", CASES)
def test_a_tensor_that_does_not_fit_is_named(case: str, change: Change, tmp_path: Path) -> None:
    build, load, name = CASES[case]
    build(tiny_config()).save_pretrained(tmp_path)
    load(tmp_path)
    altered(tmp_path, change, name)
    # Inside the prefix of the model that is loaded, a tensor may go by its shorter name.
    word = f"{name.rsplit('.', 1)[0]}.surplus" if change is add else name
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert word.removeprefix("molformer.").removeprefix("encoder.encoder.") in str(caught.value)


def test_a_surplus_layer_is_an_error(tmp_path: Path) -> None:
    MolformerForMaskedLM(tiny_config(num_hidden_layers=3)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 2}))
    for load in (load_encoder, AutoModel.from_pretrained, MolformerForMaskedLM.from_pretrained):
        with pytest.raises(CheckpointError, match=r"layer\.2\."):
            load(tmp_path)


def test_a_config_of_other_sizes_is_an_error(tmp_path: Path) -> None:
    MolformerModel(tiny_config()).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_random_features": 4}))
    with pytest.raises(CheckpointError, match="feature_map"):
        load_encoder(tmp_path)


def test_a_head_of_another_task_is_left_behind_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MolformerForMaskedLM(tiny_config()).save_pretrained(tmp_path / "lm")
    MolformerForSequenceClassification(tiny_config()).save_pretrained(tmp_path / "classifier")
    with caplog.at_level(logging.DEBUG, logger="moltune"):
        MolformerModel.from_pretrained(tmp_path / "lm")
        assert "lm_head is not used" in caplog.text
        caplog.clear()
        MolformerModel.from_pretrained(tmp_path / "classifier")
        assert "classifier is not used" in caplog.text
        caplog.clear()
        MolformerForSequenceClassification.from_pretrained(tmp_path / "lm")
    assert "lm_head is not used" in caplog.text
    assert "holds no classifier" in caplog.text
    assert "fresh weights" in caplog.text


def test_nothing_is_printed_about_a_head_that_nobody_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    MolformerForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    capfd.readouterr()
    with caplog.at_level(logging.INFO):
        load_encoder(tmp_path)
        AutoModel.from_pretrained(tmp_path)
    assert "lm_head" not in caplog.text + "".join(capfd.readouterr())


def test_half_of_a_foreign_head_is_surplus(tmp_path: Path) -> None:
    MolformerForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    altered(tmp_path, remove, "lm_head.transform.dense.bias")
    with pytest.raises(CheckpointError, match=r"lm_head\.decoder\.weight"):
        MolformerModel.from_pretrained(tmp_path)


def test_a_model_without_its_own_head_is_refused(tmp_path: Path) -> None:
    MolformerForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    tensors = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if not k.startswith("lm_head")}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: lm_head\."):
        MolformerForMaskedLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("build", [MolformerModel, MolformerForMaskedLM, regression])
def test_pickled_weights_are_refused(build: Callable[[Any], Any], tmp_path: Path) -> None:
    model = build(tiny_config())
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never pickled"):
        load_encoder(tmp_path)
    with pytest.raises((CheckpointError, OSError), match="safetensors"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises((CheckpointError, OSError), match="safetensors"):
        type(model).from_pretrained(tmp_path, use_safetensors=False)


def test_safetensors_win_over_a_pickle_beside_them(tmp_path: Path, encoder: MolformerModel) -> None:
    encoder.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    again = load_encoder(tmp_path)
    assert torch.equal(again.LayerNorm.weight, encoder.LayerNorm.weight)


@pytest.mark.parametrize("keep", [0, 4, 200, -100])
def test_a_truncated_file_is_an_error_that_names_the_checkpoint(keep: int, tmp_path: Path) -> None:
    MolformerModel(tiny_config()).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} are damaged or cut short"):
        load_encoder(tmp_path)


def test_a_broken_or_foreign_config_is_an_error(tmp_path: Path) -> None:
    MolformerModel(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(CheckpointError, match="never-heard-of"):
        load_encoder(tmp_path)


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 1,
}
OTHERS: dict[str, tuple[type, type, str]] = {
    "roberta": (RobertaConfig, RobertaForMaskedLM, "roberta.encoder.layer.1.output.dense.weight"),
    "modernbert": (ModernBertConfig, ModernBertForMaskedLM, "model.layers.1.mlp.Wo.weight"),
}


def other_encoder(kind: str, folder: Path, **changes: Any) -> None:
    config_class, model_class, _ = OTHERS[kind]
    model_class(config_class(**{**SMALL, **changes})).save_pretrained(folder)


@pytest.mark.parametrize("head", ["mean", "cls", "molformer"])
@pytest.mark.parametrize("kind", OTHERS)
@torch.no_grad()
def test_other_encoders_are_tuned_saved_and_loaded(kind: str, head: str, tmp_path: Path) -> None:
    other_encoder(kind, tmp_path / "base")
    source = OTHERS[kind][1].from_pretrained(tmp_path / "base")
    encoder = load_encoder(tmp_path / "base")
    batch = batch_of([7, 3, 9], vocab=64)
    expected = source.base_model(**batch).last_hidden_state
    torch.testing.assert_close(encoder(**batch).last_hidden_state, expected, atol=1e-6, rtol=1e-6)
    assert not any("pooler" in name for name in encoder.state_dict())

    model = make_regression(tmp_path / "base", head=head, target_mean=-1.0, target_std=2.0).eval()
    torch.testing.assert_close(model.encoder(**batch).last_hidden_state, expected, atol=1e-6, rtol=1e-6)
    sharpen(model.head)
    predicted = model(**batch).logits
    model.save_pretrained(tmp_path / "tuned")
    # Mapped tensors lie elsewhere in memory, which may change the last bit.
    again = load_regression(tmp_path / "tuned")(**batch).logits
    torch.testing.assert_close(again, predicted, atol=1e-6, rtol=1e-6)
    assert predicted.std() > 1e-3


@pytest.mark.parametrize("kind", OTHERS)
def test_other_encoders_are_loaded_strictly_too(kind: str, tmp_path: Path) -> None:
    name = OTHERS[kind][2]
    for change in (remove, reshape):
        other_encoder(kind, tmp_path / change.__name__)
        altered(tmp_path / change.__name__, change, name)
        with pytest.raises(CheckpointError, match="dense" if kind == "roberta" else "mlp"):
            load_encoder(tmp_path / change.__name__)
    other_encoder(kind, tmp_path / "deeper", num_hidden_layers=3)
    config = tmp_path / "deeper" / "config.json"
    values = json.loads(config.read_text())
    values["num_hidden_layers"] = 2
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:2]
    config.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"layers?\.2\."):
        load_encoder(tmp_path / "deeper")
