"""``moltune pretrain``: from a file to a checkpoint, at once or resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rdkit import Chem
from safetensors.torch import load_file

from moltune import datasets
from moltune.config import PretrainConfig
from moltune.errors import ConfigError, DataError, RunFolderError
from moltune.models.checkpoints import load_encoder, load_tokenizer
from moltune.pretraining import loop as module
from moltune.pretraining.corpus.store import read_corpus
from moltune.pretraining.pretrain import prepare, pretrain

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chains, rings and amides, none of them in a benchmark set, and one that is."""
    ends = ("OC(=O)C1CC1", "N(C)C(=O)c1ccncc1", "Sc1ccc(F)cc1", "C(=O)N1CCOCC1", "c1ccc2[nH]ccc2c1", "[C@H](F)CBr")
    smiles = [f"{'C' * n}{end}" for n in range(3, 17) for end in ends]
    path = tmp_path_factory.mktemp("own") / "own.smi"
    path.write_text("\n".join([*smiles, smiles[0]]) + "\n")
    return path


@pytest.fixture(scope="module")
def values(corpus_file: Path) -> dict[str, Any]:
    training = {"steps": 12, "tokens_per_batch": 400, "warmup_steps": 3, "learning_rate": 3e-3, "log_every": 1}
    return {
        "corpus": str(corpus_file),
        "architecture": {**SIZES, "hidden_dropout_prob": 0.0},
        "training": {**training, "save_every": 1e-9},
        "threads": 1,
        # Looking for benchmark molecules takes half a minute; one test does it.
        "exclude_benchmarks": False,
    }


@pytest.fixture(scope="module")
def alone(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "alone"
    assert pretrain({**values, "output": str(folder)}).step == 12
    return folder


def test_checkpoint_corpus_and_targets(alone: Path, values: dict[str, Any], corpus_file: Path) -> None:
    corpus = read_corpus(alone / "corpus")
    counts = corpus.manifest["sources"]["user"]["counts"]
    assert counts["duplicate"] == 1
    assert len(corpus.smiles) == counts["kept"]
    data = prepare(PretrainConfig(**values), alone)[0]
    assert len(data) == len(corpus.smiles)
    assert data.targets["mtr"].shape == (len(corpus.smiles), data.sizes["mtr"])
    encoder, tokenizer = load_encoder(alone / "model"), load_tokenizer(alone / "model")
    assert encoder.config.vocab_size == len(tokenizer)
    ids = tokenizer(corpus.smiles)["input_ids"]
    assert tokenizer.unk_token_id not in {token for one in ids for token in one}
    assert json.loads((alone / "model" / "descriptors.json").read_text())["names"]
    assert yaml.safe_load((alone / "pretrain.yaml").read_text())["training"]["steps"] == 12


def test_benchmark_molecules_are_left_out(
    values: dict[str, Any], corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = datasets.load("freesolv")["smiles"].tolist()[:30]
    monkeypatch.setattr("moltune.pretraining.pretrain.benchmark_sets", lambda: {"freesolv": judged})
    mixed = tmp_path / "mixed.smi"
    mixed.write_text(corpus_file.read_text() + "\n".join(judged) + "\n")
    config = PretrainConfig(**{**values, "corpus": mixed, "exclude_benchmarks": True, "objectives": ["mlm"]})
    (tmp_path / "out").mkdir()
    prepare(config, tmp_path / "out")
    corpus = read_corpus(tmp_path / "out" / "corpus")
    assert corpus.manifest["sources"]["user"]["counts"]["in freesolv"] == 30
    assert not set(corpus.smiles) & {Chem.CanonSmiles(text) for text in judged}
    assert PretrainConfig().exclude_benchmarks


def test_resumed_equals_uninterrupted(
    values: dict[str, Any], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module._step

    def stop(*args: Any) -> dict[str, float]:
        if args[-1] == 7:
            raise Stopped
        return original(*args)

    settings = {**values, "output": str(tmp_path / "out")}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_step", stop)
        with pytest.raises(Stopped):
            pretrain(settings)
    with pytest.raises(RunFolderError, match="say --resume"):
        pretrain(settings)
    with pytest.raises(RunFolderError, match="objectives was"):
        pretrain({**settings, "objectives": ["mlm"]}, resume=True)
    # Settings that version 0.1 wrote beside today's change nothing.
    text = (tmp_path / "out" / "pretrain.yaml").read_text()
    (tmp_path / "out" / "pretrain.yaml").write_text(f"augment: 0\n{text}")
    pretrain(settings, resume=True)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone, tmp_path / "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_mistakes_are_explained(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs corpus"):
        pretrain({"output": str(tmp_path / "o")})
    with pytest.raises(DataError, match="there is no corpus"):
        pretrain({"corpus": str(tmp_path / "no.smi"), "output": str(tmp_path / "o")})
    broken = {**values, "architecture": {**SIZES, "num_attention_heads": 3}, "output": str(tmp_path / "o")}
    with pytest.raises(ConfigError, match="heads of even size"):
        pretrain({**broken, "objectives": ["mlm"]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(RunFolderError, match="no pretraining"):
        pretrain({**values, "output": str(tmp_path / "full")})
