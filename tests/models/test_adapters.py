"""Adapters: exact counts, no-op at the start, own tensors alone, strict loading onto the named base, merging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaModel

from moltune.config import MethodSettings, ModelSettings
from moltune.errors import CheckpointError, ConfigError
from moltune.models.checkpoints import load_encoder, load_regression, make_regression
from moltune.models.digest import tensor_digest
from moltune.models.methods.adapters import merge_adapter, save_adapter
from moltune.models.methods.registry import count_parameters, make_method
from moltune.models.molformer import MolformerModel
from moltune.models.regression import RegressionConfig, RegressionModel

NAMED = ["bitfit", "lora", "dora", "ia3", "ln"]
# Settings that fit layers as narrow as these.
SMALL = {
    "c3a": {"block_size": 8}, "road": {"group_size": 8}, "vblora": {"vector_length": 8, "num_vectors": 16},
}  # fmt: skip
# By the library's own names; every one of them was tried once (see peft_tuners), these cover what is particular.
OTHERS = ["loha", "oft", "vera", "fourierft", "c3a", "randlora", "lily", "vblora", "ln_tuning"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    encoder = MolformerModel(tiny_config(redraw_features=False), add_pooling_layer=False)
    sharpen(encoder)
    encoder.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def settings(name: str, **changes: object) -> MethodSettings:
    return MethodSettings.model_validate({"name": name, "peft": SMALL.get(name, {}), **changes})


def switched_on(base: Path, name: str, **changes: object) -> RegressionModel:
    model = make_regression(base, target_mean=2.0, target_std=3.0)
    sharpen(model.head, seed=5)
    return make_method(settings(name, **changes)).switch_on(model).eval()


def disturb(model: RegressionModel) -> None:
    """Train in one blow."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def predictions(model: RegressionModel) -> torch.Tensor:
    return model(**batch_of([5, 9, 3])).logits[:, 0]


# --- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "adapter"),
    [
        ({"name": "lora", "peft": {"r": 4, "lora_alpha": 64}}, 147_456),
        ({"name": "ia3", "ia3_start": 0.8}, 18_432),
        ({"name": "bitfit"}, 55_296),
        ({"name": "bitfit", "layer_norm_biases": True}, 55_296 + 25 * 768),
        ({"name": "ln"}, 25 * 2 * 768),
        ({"name": "dora", "peft": {"r": 4}}, 147_456 + 24 * 768),
    ],
)
def test_counts_of_the_published_size(values: dict[str, object], adapter: int) -> None:
    """The first three are the counts of the founding studies: 148,225, 19,201 and 55,296 without the head."""
    counted = count_parameters(ModelSettings(), MethodSettings.model_validate(values), "molformer-xl")
    assert (counted.adapter, counted.head, counted.trainable) == (adapter, 769, adapter + 769)
    assert counted.total >= 44_375_809
    assert counted.to_dict().keys() == {"method", "adapter", "head", "trainable", "total", "share"}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_trained_is_what_is_counted(base: Path, name: str) -> None:
    model = switched_on(base, name)
    disturb(model)  # a fresh LoRA has gradients of zero in half of its factors
    model.train()
    model(**batch_of([5, 9]), labels=torch.tensor([1.0, 2.0])).loss.backward()
    touched = sum(p.numel() for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0)
    assert touched == make_method(settings(name)).count(model).trainable


# --- start, save, load, merge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMED, *OTHERS])
def test_a_tuner_starts_as_the_base_model_travels_alone_and_merges(base: Path, tmp_path: Path, name: str) -> None:
    plain = make_regression(base, target_mean=2.0, target_std=3.0).eval()
    sharpen(plain.head, seed=5)
    model = switched_on(base, name)
    if name != "vblora":  # its vector bank starts random
        torch.testing.assert_close(predictions(model), predictions(plain), rtol=0, atol=2e-6)
    disturb(model)
    tuned = predictions(model)
    assert (tuned - predictions(plain)).abs().max() > 1e-2
    save_adapter(model, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "config.json",
    }  # fmt: skip
    loaded = load_regression(tmp_path / "adapter")
    torch.testing.assert_close(predictions(loaded), tuned, rtol=0, atol=1e-6)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    base_names = {f"base_model.model.encoder.{key}" for key in plain.encoder.state_dict()}
    own = {key for key in base_names if key.endswith("bias")} if name == "bitfit" else set()
    norms = {key for key in base_names if "LayerNorm" in key} if name.startswith("ln") else set()
    assert not (stored.keys() & base_names) - own - norms, "the base must not travel"
    if name == "lily":
        with pytest.raises(ConfigError, match="lily cannot be merged"):
            merge_adapter(loaded)
        return
    merged = merge_adapter(loaded)
    torch.testing.assert_close(predictions(merged), tuned, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = load_regression(tmp_path / "merged")
    assert again.adapter is None
    torch.testing.assert_close(predictions(again), tuned, rtol=0, atol=1e-5)
    encoder = load_encoder(tmp_path / "adapter")
    assert encoder.state_dict().keys() == plain.encoder.state_dict().keys()


@pytest.mark.parametrize("name", ["lora", "ia3", "dora", "ln", "vera", "loha"])
def test_peft_alone_loads_our_folder(base: Path, tmp_path: Path, name: str) -> None:
    model = switched_on(base, name)
    disturb(model)
    save_adapter(model, tmp_path / "adapter")
    plain = RegressionModel(RegressionConfig.from_pretrained(tmp_path / "adapter"), encoder=load_encoder(base)).eval()
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = loaded(**batch_of([5, 9, 3])).logits[:, 0]
    torch.testing.assert_close(theirs, predictions(model), rtol=0, atol=1e-6)


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    model = switched_on(base, "lora")
    disturb(model)
    save_adapter(model, tmp_path / "adapter")
    expected = predictions(model)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="needs the checkpoint that it was trained on"):
        load_regression(tmp_path / "adapter")
    moved = load_regression(tmp_path / "adapter", base=tmp_path / "elsewhere")
    torch.testing.assert_close(predictions(moved), expected, rtol=0, atol=1e-6)
    other = load_encoder(tmp_path / "elsewhere")
    with torch.no_grad():
        other.LayerNorm.bias[3] += 1e-6
    other.save_pretrained(base)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        load_regression(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["lora", "bitfit"])
def test_loading_is_strict(base: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "adapter"
    save_adapter(switched_on(base, name), folder)
    path = folder / "adapter_model.safetensors"
    whole = load_file(path)
    first = next(key for key in sorted(whole) if ".layer." in key)
    for change, words in (
        ({key: value for key, value in whole.items() if key != first}, "missing: " + first),
        ({**whole, "base_model.model.encoder.more": torch.zeros(2)}, "surplus: base_model.model.encoder.more"),
        ({**whole, first: torch.zeros(3, 3)}, "of another shape: " + first),
        ({key: value for key, value in whole.items() if "head" not in key}, "missing: base_model.model.head"),
    ):
        save_file(change, path)
        with pytest.raises(CheckpointError, match=words.replace(".", r"\.")):
            load_regression(folder)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_regression(folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    save_file(whole, path)
    (folder / "adapter_config.json").write_text(json.dumps({**values, "peft_type": "MAGIC"}))
    with pytest.raises(CheckpointError, match="names the tuner 'MAGIC'"):
        load_regression(folder)


def test_scaling_vectors_may_start_elsewhere_and_say_so(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = switched_on(base, "ia3", ia3_start=0.8)
    vectors = [p for name, p in model.named_parameters() if "ia3_l" in name]
    assert len(vectors) == 4
    assert all(bool((vector == 0.8).all()) for vector in vectors)
    assert "does not start from the base model" in caplog.text


def test_bitfit_changes_biases_only(base: Path) -> None:
    model = switched_on(base, "bitfit")
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    disturb(model)
    changed = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith("bias") and "LayerNorm" not in name for name in changed)
    assert len(changed) == 2 * 6


def test_only_an_adapter_of_peft_needs_peft(base: Path, tmp_path: Path) -> None:
    """Loading and predicting must not wait for libraries that only training needs."""
    make_regression(base).save_pretrained(tmp_path / "full")
    for name in ("lora", "bitfit"):
        save_adapter(switched_on(base, name), tmp_path / name)
    code = (
        "import sys\n"
        "from moltune.models.checkpoints import load_regression\n"
        "load_regression(sys.argv[1])\n"
        "print(*(name in sys.modules for name in ('peft', 'transformers.trainer')))\n"
    )
    for name, loaded in (("full", "False False"), ("bitfit", "False False"), ("lora", "True False")):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)
        assert done.stdout.split() == loaded.split(), (name, done.stderr)


# --- other encoders, settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_another_architecture(tmp_path: Path, name: str) -> None:
    config = RobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    model = make_method(settings(name)).switch_on(make_regression(tmp_path / "base", head="molformer")).eval()
    disturb(model)
    save_adapter(model, tmp_path / "adapter")
    ids = torch.tensor([[5, 9, 13, 20], [6, 7, 8, 30]])
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(load_regression(tmp_path / "adapter")(ids).logits, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(merge_adapter(model)(ids).logits, expected, rtol=0, atol=1e-5)


def test_settings_reach_peft_and_wrong_ones_are_named(base: Path) -> None:
    chosen = {"target_modules": ["dense"], "r": 2}
    model = make_method(MethodSettings(name="lora", peft=chosen)).switch_on(make_regression(base, head="molformer"))
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted
    assert all(name.startswith("encoder.") and name.endswith(".dense") for name in adapted), "the head is trained whole"
    for values, words in (
        ({"name": "lora", "peft": {"rank": 4}}, r"lora has no setting peft\.rank; it has .*lora_alpha.* r,"),
        ({"name": "full", "peft": {"r": 4}}, r"full is no method of peft, so peft\.r means nothing"),
        ({"name": "lora", "ia3_start": 0.8}, "ia3_start belongs to ia3"),
        ({"name": "ia3", "layer_norm_biases": True}, "layer_norm_biases belongs to bitfit"),
        ({"name": "p_tuning"}, "there is no method 'p_tuning'; .* or a tuner of peft: .*vera"),
        ({"name": "lora", "peft": {"inference_mode": True}}, "no setting peft.inference_mode"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_method(MethodSettings.model_validate(values))
    with pytest.raises(ConfigError, match="peft cannot put LORA on this encoder: No modules"):
        make_method(MethodSettings(name="lora", peft={"target_modules": ["nowhere"]})).switch_on(make_regression(base))


def test_the_digest_sees_every_tensor(base: Path) -> None:
    one, two = load_encoder(base), load_encoder(base)
    assert tensor_digest(one) == tensor_digest(two)
    for name, value in two.state_dict().items():
        value.view(-1)[0] += 1
        assert tensor_digest(one) != tensor_digest(two), name
        value.view(-1)[0] -= 1
