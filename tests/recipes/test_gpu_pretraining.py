"""The packed corpus and the GPU recipe, on a CPU and a few hundred molecules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from moltune import datasets
from moltune.config import ModelSettings
from moltune.features.embedding import Encoder
from moltune.models.molformer import MolformerConfig, MolformerForMaskedLM

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "pretrain"
TOKENIZER = ROOT / "src" / "moltune" / "models" / "bundled" / "mini"
sys.path.insert(0, str(RECIPES))

from gpu_data import choose_lengths, load_tokenizer, padded, tokenise  # noqa: E402
from gpu_network import BatchedMuon, Network, attend, orthogonalise  # noqa: E402
from packed import UNKNOWN, Block, Pack, quantise, read_pack, write_pack  # noqa: E402


@pytest.fixture(scope="module")
def pack() -> Pack:
    """600 molecules with made-up targets that depend on counts of letters, some of them unknown."""
    smiles = sorted(datasets.load("esol")["smiles"].drop_duplicates().tolist()[:600])
    counts = np.array([[one.count(letter) for letter in "CcONn1(=F"] for one in smiles], dtype=np.float32)
    counts = (counts - counts.mean(0)) / (counts.std(0) + 1e-6)
    rng = np.random.default_rng(0)
    teacher = np.tanh(counts @ rng.normal(size=(9, 12)) / 3).astype(np.float32)
    teacher[::3] = np.nan
    ionisation = counts[:, :3] + 0.1 * rng.normal(size=(600, 3))
    ionisation[::50] = np.nan
    blocks = {
        "mtr": Block(quantise(counts, 0.25), 0.25, [f"count {n}" for n in range(9)]),
        "teacher": Block(quantise(teacher, 0.25), 0.25, [f"component {n}" for n in range(12)]),
        "ionisation": Block(quantise(ionisation, 0.1), 0.1, ["acid", "base", "both"], {"clip": 12.0}),
    }
    splits = [{"train": list(range(60)), "validation": list(range(60, 80))}]
    evaluation = {"letters": {"smiles": smiles[:80], "values": counts[:80, 0].tolist(), "splits": splits}}
    return Pack(smiles, blocks, evaluation, {"order": "sorted"})


@pytest.fixture(scope="module")
def file(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "corpus.pack"
    write_pack(pack, path)
    return path


@pytest.fixture(scope="module")
def output(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "out"
    run(file, out)
    return out


def run(file: Path, out: Path, *more: str) -> str:
    command = [sys.executable, str(RECIPES / "gpu.py"), str(file), str(out), "--tokenizer", str(TOKENIZER)]
    command += ["--device", "cpu", "--miniature", "--threads", "1", "--processes", "1", "--molecules", "2000"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def test_a_pack_comes_back_to_the_last_bit(pack: Pack, file: Path) -> None:
    read = read_pack(file)
    assert read.smiles == pack.smiles
    assert read.evaluation == pack.evaluation
    assert list(read.blocks) == list(pack.blocks)
    for name, block in pack.blocks.items():
        assert np.array_equal(read.blocks[name].values, block.values)
        assert (read.blocks[name].step, read.blocks[name].names) == (block.step, block.names)
    assert not read.blocks["teacher"].known()[::3].any()
    assert read.blocks["teacher"].known().sum() == 400


def test_prediction_from_other_columns_makes_a_pack_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4000, 6))
    second = first @ rng.normal(size=(6, 6)) / 2
    blocks = {name: Block(quantise(v, 0.1), 0.1, ["x"] * 6) for name, v in (("mtr", first), ("teacher", second))}
    together = write_pack(Pack(["C"] * 4000, blocks, {}), tmp_path / "a")
    alone = write_pack(Pack(["C"] * 4000, {"teacher": blocks["teacher"]}, {}), tmp_path / "b")
    assert together["teacher"] < 0.6 * alone["teacher"]
    assert np.array_equal(read_pack(tmp_path / "a").blocks["teacher"].values, blocks["teacher"].values)


def test_a_larger_encoder_is_a_target_for_a_smaller_one(tmp_path: Path) -> None:
    smiles = datasets.load("esol")["smiles"].drop_duplicates().tolist()[:40]
    pd.DataFrame({"smiles": smiles}).to_parquet(tmp_path / "corpus.parquet")
    command = [sys.executable, str(RECIPES / "pack.py"), str(tmp_path), str(tmp_path / "pack")]
    subprocess.run([*command, "--distil", "moltune/mini", "--splits", "1"], check=True, capture_output=True, cwd=ROOT)
    read = read_pack(tmp_path / "pack")
    found = read.blocks["embedding"].values * read.blocks["embedding"].step
    wanted = Encoder(ModelSettings(name="moltune/mini"))(read.smiles)
    wanted = (wanted - wanted.mean(0)) / wanted.std(0)
    assert sorted(read.smiles) == sorted(smiles)
    # Half precision and a thirty-second of a standard deviation.
    assert np.abs(found - np.clip(wanted, -127 / 32, 127 / 32)).max() < 0.03


def test_quantising_keeps_what_is_unknown_apart() -> None:
    quanta = quantise(np.array([0.26, -0.1, np.nan, 1e9, -1e9]), 0.25)
    assert quanta.tolist() == [1, 0, UNKNOWN, 127, -127]


def test_lengths_have_the_least_padding() -> None:
    lengths = np.repeat([5, 7, 20, 21, 60], [100, 300, 50, 50, 1])
    assert choose_lengths(lengths, 3, 60) == [8, 24, 60]
    assert choose_lengths(lengths, 1, 60) == [60]


def test_tokens_are_those_of_the_tokenizer() -> None:
    tokenizer = load_tokenizer(TOKENIZER)
    smiles = ["CCO", "c1ccccc1Cl", "C"]
    flat, lengths = tokenise(smiles, tokenizer)
    table = padded(flat, lengths, 12, 2)
    for row, one in zip(table, smiles, strict=True):
        assert [i for i in row.tolist() if i != 2] == tokenizer.encode(one).ids


def small_network(**more: float) -> Network:
    torch.manual_seed(0)
    config = MolformerConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        embedding_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        redraw_features=False,
    )
    weights, steps = {"mlm": 0.2, "mtr": 1.0}, {"mtr": 0.25}
    return Network(config, {"mtr": 5}, weights, steps, list(range(4, 39)), (0, 1, 2, 3), bf16=False, **more)


@pytest.mark.parametrize("length", [12, 60])
def test_attention_of_short_sequences_is_the_published_one(length: int) -> None:
    network = small_network()
    ids = torch.randint(4, 39, (6, length))
    ids[torch.arange(length) >= torch.tensor([3, 5, length, length, 7, 9])[:, None]] = 2
    real = (ids != 2).float()
    published = MolformerForMaskedLM(network.model.config)
    published.load_state_dict(network.model.state_dict())
    assert network.model.molformer.encoder.layer[0].attention.self.forward.__func__ is attend
    ours, theirs = (m.molformer(ids, real).last_hidden_state for m in (network.model.eval(), published.eval()))
    torch.testing.assert_close(ours[real > 0], theirs[real > 0], rtol=1e-4, atol=1e-5)


def test_unknown_values_and_empty_masks_count_for_nothing() -> None:
    network = small_network(mask_share=0.0)
    ids = torch.randint(4, 39, (8, 12))
    targets = torch.full((8, 5), UNKNOWN, dtype=torch.int8)
    total, values = network(ids, {"mtr": targets})
    assert values.tolist() == [0.0, 0.0]
    total.backward()
    targets[4:, 0] = 8
    _, values = network(ids, {"mtr": targets})
    _, pooled = network.encode(ids[2:])
    expected = (network.heads["mtr"](pooled)[2:, 0] - 2.0).square().mean()
    assert values[1] == pytest.approx(expected.item(), rel=1e-4)


def test_batched_muon_is_muon() -> None:
    muon = pytest.importorskip("moltune.pretraining.muon", reason="Muon lives elsewhere")
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (12, 8), (8, 12)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    batched = BatchedMuon(ours, torch.tensor(0.01), 0.1, torch.float32)
    single = muon.Muon(theirs, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        batched.step()
        single.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 8), torch.float32))
    assert 0.6 < singular.min() < singular.max() < 1.3


def test_a_run_learns_and_can_be_loaded(output: Path) -> None:
    points = curve(output)
    first, last = points[0]["held_out"], points[-1]["held_out"]
    assert set(first) == {"mlm", "mtr", "teacher", "ionisation"}
    assert all(last[name] < first[name] for name in first)
    assert last["mtr"] < 0.8 * first["mtr"]
    assert points[-1]["frozen"]["letters"]["rmse"] > 0
    summary = json.loads((output / "summary.json").read_text())
    assert summary["state"] == "finished"
    assert 2000 <= summary["molecules"] < 2100
    assert summary["held_out"] == last
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert all(len(path.relative_to(output).parts) <= 2 for path in files)
    model = MolformerForMaskedLM.from_pretrained(output / "model", dtype="float32")
    assert model.config.vocab_size == 412
    assert torch.isfinite(model(torch.tensor([[0, 5, 6, 1]])).logits).all()


def test_a_run_goes_on_from_another(file: Path, output: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.json"
    variants = [
        {"name": "on", "start_from": str(output), "molecules": 200, "learning_rate": 1e-5},
        {"name": "broken", "start_from": str(tmp_path)},
        {"name": "other", "weights": {"mtr": 1.0}, "rest_share": 0.25, "molecules": 200, "save": True},
        {"name": "twice", "alternative_tokenizers": [str(TOKENIZER)], "molecules": 200},
    ]
    sweep.write_text(json.dumps(variants))
    said = run(file, tmp_path / "out", "--sweep", str(sweep))
    lines = [json.loads(line) for line in (tmp_path / "out" / "sweep.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["on", "broken", "other", "twice"]
    assert [line["state"] == "finished" for line in lines] == [True, False, True, True]
    assert "412 of 412 tokens shared" in said
    begun, ended = lines[0]["curve"][0]["held_out"], curve(output)[-1]["held_out"]
    assert all(begun[name] == pytest.approx(ended[name], rel=1e-3) for name in ended)
    assert list(lines[2]["held_out"]) == ["mtr"]
    assert (tmp_path / "out" / "other" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "on").exists()
