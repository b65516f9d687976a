"""Checkpoints in the published layout, in and out, without remote code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from molformer_cases import SMILES, batch_of, sharpen, tiny_config
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from moltune.models.checkpoints import load_config, load_encoder, load_regression, load_tokenizer, make_regression
from moltune.models.molformer import (
    MolformerConfig,
    MolformerForMaskedLM,
    MolformerForSequenceClassification,
    MolformerModel,
    MolformerTokenizer,
)

KINDS = {
    "MolformerModel": (MolformerModel, AutoModel),
    "MolformerForMaskedLM": (MolformerForMaskedLM, AutoModelForMaskedLM),
    "MolformerForSequenceClassification": (MolformerForSequenceClassification, AutoModelForSequenceClassification),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_saved_and_loaded_models_are_equal(kind: str, tmp_path: Path) -> None:
    own, auto = KINDS[kind]
    model = own(tiny_config()).eval()
    sharpen(model)
    model.save_pretrained(tmp_path)
    batch = batch_of([7, 3, 12])
    expected = model(**batch)[0]
    for loader in (own, auto):
        again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is own
        assert not again.training
        assert not any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(again(**batch)[0], expected)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind]


def test_the_feature_map_travels_and_the_tables_do_not(tmp_path: Path, encoder: MolformerModel) -> None:
    encoder.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
    assert {f"encoder.layer.{i}.attention.self.feature_map.weight" for i in range(2)} <= names
    assert not any("cos" in name or "sin" in name for name in names)
    again = MolformerModel.from_pretrained(tmp_path)
    for name, buffer in encoder.named_buffers():
        assert torch.equal(dict(again.named_buffers())[name], buffer), name


_LOAD = """
import sys
{imports}
folders = dict(item.split("=", 1) for item in sys.argv[1:])
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
pairs = [("MolformerModel", AutoModel), ("MolformerForMaskedLM", AutoModelForMaskedLM),
         ("MolformerForSequenceClassification", AutoModelForSequenceClassification)]
for name, auto in pairs:
    folder = folders[name]
    config = AutoConfig.from_pretrained(folder)
    assert type(config).__module__.startswith("moltune."), type(config)
    model = auto.from_pretrained(folder)
    assert type(model).__name__ == name and type(model).__module__.startswith("moltune."), type(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == "MolformerTokenizer", type(tokenizer)
    assert tokenizer("C")["input_ids"] == [0, 4, 1]
    model(**tokenizer(["CCO", "c1ccccc1"], padding=True, return_tensors="pt"))
assert not [m for m in sys.modules if m.startswith("transformers_modules")]
print("all loaded")
"""


@pytest.mark.parametrize(
    "imports", ["import transformers\nimport moltune", "import moltune\nimport transformers"], ids=["after", "before"]
)
@pytest.mark.slow
def test_auto_classes_load_published_folders_in_a_fresh_process(
    imports: str, published_folders: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [f"{name}={folder}" for name, folder in published_folders.items()]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD.format(imports=imports), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all loaded"


def test_auto_map_is_ignored_and_not_passed_on(published_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = published_folders["MolformerForMaskedLM"]
    config = AutoConfig.from_pretrained(folder)
    assert not hasattr(config, "auto_map")
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "again" / name).read_text()), name


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_published_kind_is_an_encoder_for_us(kind: str, published_folders: dict[str, Path]) -> None:
    folder = published_folders[kind]
    assert isinstance(load_config(folder), MolformerConfig)
    assert isinstance(load_tokenizer(folder), MolformerTokenizer)
    encoder = load_encoder(folder)
    saved = KINDS[kind][0].from_pretrained(folder)
    bare = saved if isinstance(saved, MolformerModel) else saved.molformer
    assert not encoder.training
    assert encoder.state_dict().keys() == bare.state_dict().keys()
    for name, tensor in bare.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name


@torch.no_grad()
def test_bare_weights_go_into_head_models_and_back(tmp_path: Path, encoder: MolformerModel) -> None:
    sharpen(encoder)
    encoder.save_pretrained(tmp_path / "bare")
    batch = batch_of([5, 9])
    expected = encoder(**batch)[0]
    for kind in (MolformerForMaskedLM, MolformerForSequenceClassification):
        with_head = kind.from_pretrained(tmp_path / "bare")
        assert torch.equal(with_head.molformer(**batch)[0], expected)
        with_head.save_pretrained(tmp_path / kind.__name__)
        back = MolformerModel.from_pretrained(tmp_path / kind.__name__)
        assert torch.equal(back(**batch)[0], expected)


@torch.no_grad()
def test_the_masked_lm_decoder_is_not_tied(tmp_path: Path) -> None:
    model = MolformerForMaskedLM(tiny_config())
    assert model.lm_head.decoder.weight.data_ptr() != model.molformer.get_input_embeddings().weight.data_ptr()
    model.lm_head.decoder.weight.fill_(0.25)
    model.save_pretrained(tmp_path)
    again = MolformerForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.decoder.weight, model.lm_head.decoder.weight)
    assert not torch.equal(again.molformer.get_input_embeddings().weight, again.lm_head.decoder.weight)


@torch.no_grad()
def test_a_tuned_model_is_saved_and_loaded_whole(published_folders: dict[str, Path], tmp_path: Path) -> None:
    source = published_folders["MolformerForMaskedLM"]
    model = make_regression(source, target_mean=2.5, target_std=1.7, target_name="logD", head="molformer").eval()
    sharpen(model)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer = load_tokenizer(source)
    tokenizer.save_pretrained(tmp_path / "tuned")
    batch = tokenizer(SMILES, padding=True, return_tensors="pt")
    expected = model(**batch).logits
    assert expected.shape == (len(SMILES), 1)
    again = load_regression(tmp_path / "tuned")
    # Mapped tensors lie elsewhere in memory, which may change the last bit.
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-6, rtol=1e-6)
    assert (again.config.target_mean, again.config.target_std, again.config.target_name) == (2.5, 1.7, "logD")
    assert again.config.base_model == str(source)
    by_auto = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(by_auto(**batch).logits, expected, atol=1e-6, rtol=1e-6)
    # The encoder of a tuned model starts a second tuning.
    encoder = load_encoder(tmp_path / "tuned")
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name
    assert type(load_tokenizer(tmp_path / "tuned")).__name__ == "MolformerTokenizer"


def test_half_precision_files_are_loaded_as_float32(tmp_path: Path, encoder: MolformerModel) -> None:
    encoder.to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["LayerNorm.weight"].dtype == torch.bfloat16
    assert {p.dtype for p in load_encoder(tmp_path).parameters()} == {torch.float32}
