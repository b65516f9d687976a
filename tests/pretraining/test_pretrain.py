"""``moltune pretrain``: from a file to a checkpoint; alone, resumed, and in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rdkit import Chem
from safetensors.torch import load_file

from moltune import datasets
from moltune.errors import ConfigError, DataError, RunFolderError
from moltune.models.checkpoints import load_encoder, load_tokenizer
from moltune.pretraining import loop as module
from moltune.pretraining.corpus.store import read_corpus
from moltune.pretraining.learner import Shard
from moltune.pretraining.loop import PretrainModel, make_batch
from moltune.pretraining.pretrain import PretrainConfig, build, load, prepare, pretrain_corpus

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
    """No dropout and fixed features: then two processes can be compared with one."""
    training = {"steps": 12, "tokens_per_batch": 400, "warmup_steps": 3, "learning_rate": 3e-3, "log_every": 1}
    return {
        "corpus": str(corpus_file),
        "architecture": {**SIZES, "hidden_dropout_prob": 0.0},
        "training": {**training, "save_every": 1e-9},
        "augment": 1,
        "threads": 1,
        # Looking for benchmark molecules takes half a minute; one test does it.
        "exclude_benchmarks": False,
    }


@pytest.fixture(scope="module")
def alone(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "alone"
    assert pretrain_corpus({**values, "output": str(folder)}).step == 12
    return folder


def losses(folder: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    return np.array([[line["losses"]["mlm"], line["losses"]["mtr"]] for line in lines])


def test_checkpoint_corpus_and_targets(alone: Path, values: dict[str, Any], corpus_file: Path) -> None:
    corpus = read_corpus(alone / "corpus")
    counts = corpus.manifest["sources"]["user"]["counts"]
    assert counts["duplicate"] == 1
    assert len(corpus.smiles) == counts["kept"]
    tokens = load(PretrainConfig(**values), alone)[0]
    assert len(tokens) == len(corpus.smiles)
    assert len(tokens.tokens) == 2 * len(corpus.smiles)
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


def test_epochs_take_turns_with_the_spellings(alone: Path, values: dict[str, Any]) -> None:
    config = PretrainConfig(**values)
    corpus, tokenizer = load(config, alone)
    settings = config.training.model_copy(update={"weights": {"mtr": 1.0}})
    model = build(config, settings, corpus, tokenizer)
    targets, texts = [], []
    for epoch in (0, 1):
        rows = np.sort(np.concatenate(list(module.epoch_batches(corpus, settings, epoch))))
        batch = make_batch(corpus, rows, settings, model.vocabulary, [0, 0])
        targets.append(batch["targets"]["mtr"])
        texts.append(["".join(t.split()) for t in tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)])
    assert torch.equal(*targets)
    own = read_corpus(alone / "corpus").smiles
    assert texts[0] == own
    assert sum(a != b for a, b in zip(*texts, strict=True)) > len(own) / 2
    assert [Chem.CanonSmiles(text) for text in texts[1]] == own


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
            pretrain_corpus(settings)
    with pytest.raises(RunFolderError, match="say --resume"):
        pretrain_corpus(settings)
    with pytest.raises(RunFolderError, match="augment was 1, now 0"):
        pretrain_corpus({**settings, "augment": 0}, resume=True)
    pretrain_corpus(settings, resume=True)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone, tmp_path / "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_mistakes_are_explained(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs corpus"):
        pretrain_corpus({"output": str(tmp_path / "o")})
    with pytest.raises(DataError, match="there is no corpus"):
        pretrain_corpus({"corpus": str(tmp_path / "no.smi"), "output": str(tmp_path / "o")})
    broken = {**values, "architecture": {**SIZES, "num_attention_heads": 3}, "output": str(tmp_path / "o")}
    with pytest.raises(ConfigError, match="heads of even size"):
        pretrain_corpus({**broken, "objectives": ["mlm"]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(RunFolderError, match="no pretraining"):
        pretrain_corpus({**values, "output": str(tmp_path / "full")})


def test_shards_add_up_to_the_whole_batch(alone: Path, values: dict[str, Any]) -> None:
    """Losses and gradients, averaged over shards, are those of the whole batch, also when shards are uneven."""
    config = PretrainConfig(**values)
    corpus, tokenizer = load(config, alone)
    settings = config.training.model_copy(update={"weights": {"mlm": 0.2, "mtr": 1.0}, "masked_share": 0.5})
    model: PretrainModel = build(config, settings, corpus, tokenizer).eval()
    for rows, count in ((np.arange(13), 2), (np.arange(13), 5), (np.arange(1), 3)):
        batch = make_batch(corpus, rows, settings, model.vocabulary, [0, 1])
        found = []
        for shards in ([Shard()], [Shard(rank, count) for rank in range(count)]):
            model.zero_grad()
            totals = dict.fromkeys(settings.weights, 0.0)
            for shard in shards:
                part, factors = shard.cut(batch, model.heads)
                parts = {name: loss * factors[name] / len(shards) for name, loss in model(**part).items()}
                sum(parts.values()).backward()  # type: ignore[union-attr]
                totals = {name: totals[name] + float(parts[name].detach()) for name in totals}
            gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            found.append((totals, gradients))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-7)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(alone: Path, values: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in values.items() if name != "corpus"}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [
        "--module",
        "moltune",
        "pretrain",
        values["corpus"],
        "-o",
        str(tmp_path / "two"),
        "--config",
        str(config),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es)" in done.stderr
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(alone), rtol=1e-4)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone, tmp_path / "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-3)
