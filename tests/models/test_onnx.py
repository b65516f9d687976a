"""Graphs compute what their networks do, read molecules as transformers does, and say when they are damaged."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from molformer_cases import SMILES, sharpen, tiny_config
from safetensors.torch import load_file, save_file
from test_coverage import byte_level, texts
from test_pieces import ODD
from test_pieces import TOKENIZER as PIECES
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from moltune import datasets
from moltune.config import ModelSettings
from moltune.errors import CheckpointError, ConfigError, DataError
from moltune.features.embedding import Encoder, OnnxEncoder
from moltune.models import onnx_graph
from moltune.models.checkpoints import max_length, save_regression
from moltune.models.coverage import check_smiles
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.kernel import KernelHead
from moltune.models.molformer import MolformerTokenizer
from moltune.models.names import bundled_models
from moltune.models.onnx_graph import write_graph
from moltune.models.onnx_network import ENGINE, FIRST, GRAPH, MEAN, PREDICTION, TOKENIZER, WEIGHTS, OnnxNetwork
from moltune.models.regression import RegressionConfig, RegressionModel

BYTES = byte_level(pre_tokenizers.ByteLevel.alphabet())
DRUGS = datasets.load("lipophilicity")["smiles"].tolist()
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ENCODERS: dict[str, PreTrainedConfig] = {
    "molformer": tiny_config(max_position_embeddings=300),
    "bert": BertConfig(vocab_size=400, pad_token_id=1, **SIZES),
    "roberta": RobertaConfig(vocab_size=400, pad_token_id=1, **SIZES),
    "modernbert": ModernBertConfig(
        vocab_size=400, pad_token_id=1, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2, **SIZES
    ),
    "deberta": DebertaV2Config(vocab_size=400, pad_token_id=1, pos_att_type=["c2p"], relative_attention=True, **SIZES),
}


def network_of(kind: str = "molformer", head: str = "mean", kernel: bool = False) -> RegressionModel:
    torch.manual_seed(0)
    encoder = copy.deepcopy(ENCODERS[kind])
    config = RegressionConfig(encoder=encoder, head=head, target_mean=-3.0, target_std=2.0, target_name="logD")
    network = RegressionModel(config).eval()
    sharpen(network)
    if kernel:
        points = KernelHead(32, 9)
        for name, scale in {"mean": 0.1, "points": 1.0, "dual": 1.0, "gamma": 0.01, "intercept": 0.1}.items():
            buffer = getattr(points, name)
            buffer.copy_(scale * torch.randn(buffer.shape).abs())
        network.set_kernel(points)
    return network


def written(
    folder: Path, network: RegressionModel, tokenizer: PreTrainedTokenizerFast, *, tuned: bool = True
) -> OnnxNetwork:
    save_regression(network, tokenizer, folder)
    write_graph(network, tokenizer, folder, tuned=tuned)
    return OnnxNetwork(folder)


@functools.cache
def graph_of(name: str) -> tuple[OnnxNetwork, PreTrainedTokenizerFast]:
    """A network with each kind of tokenizer."""
    tokenizer = {"atoms": MolformerTokenizer(), "pieces": PIECES, "bytes": BYTES}[name]
    return written(Path(mkdtemp()), network_of("roberta" if name == "bytes" else "molformer"), tokenizer), tokenizer


@pytest.mark.parametrize(
    ("kind", "head", "kernel"),
    [
        ("molformer", "mean", False),
        ("molformer", "cls", False),
        ("molformer", "molformer", False),
        ("molformer", "mean", True),
        *((kind, "mean", False) for kind in ENCODERS if kind != "molformer"),
    ],
)
def test_a_graph_computes_what_the_network_does(tmp_path: Path, kind: str, head: str, kernel: bool) -> None:
    network, tokenizer = network_of(kind, head, kernel), MolformerTokenizer() if kind == "molformer" else BYTES
    graph = written(tmp_path, network, tokenizer)
    smiles = [*SMILES, *DRUGS[:40]]
    expected = predict_smiles(network, tokenizer, smiles)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(graph.run(PREDICTION, smiles), expected, atol=1e-4)
    embedded = embed_smiles(network, tokenizer, smiles)
    np.testing.assert_allclose(graph.run(FIRST if head == "cls" else MEAN, smiles), embedded, atol=1e-4)
    assert graph.facts.target == "logD"
    # The numbers do not depend on what else is in a batch.
    for batch_size in (1, 5, 100):
        np.testing.assert_allclose(graph.run(PREDICTION, smiles, batch_size=batch_size), expected, atol=1e-4)


def test_weights_are_not_stored_twice_and_half_precision_is_read(tmp_path: Path) -> None:
    network = network_of()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    single = written(tmp_path / "single", network, MolformerTokenizer())
    shutil.copytree(single.folder, tmp_path / "half")
    tensors = load_file(tmp_path / "half" / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "half" / WEIGHTS, {"format": "pt"})
    write_graph(network, MolformerTokenizer(), tmp_path / "half")
    half = OnnxNetwork(tmp_path / "half")
    np.testing.assert_array_equal(half.run(PREDICTION, SMILES), single.run(PREDICTION, SMILES))
    for graph, kind in ((single, onnx.TensorProto.FLOAT), (half, onnx.TensorProto.FLOAT16)):
        proto = onnx.load(graph.folder / GRAPH, load_external_data=False)
        outside = [one for one in proto.graph.initializer if one.external_data]
        assert {one.data_type for one in outside} == {kind}
        inside = sum(len(one.raw_data) for one in proto.graph.initializer if not one.external_data)
        # Rotary tables, which no checkpoint holds, and vectors.
        assert inside < 2 * 300 * 8 * 4 + 20_000
        assert sum(one.numel() for one in network.parameters()) * 4 > 8 * inside
    assert single.facts.digest == half.facts.digest
    # A network without such a file keeps its weights in the graph.
    (single.folder / WEIGHTS).unlink()
    write_graph(network, MolformerTokenizer(), single.folder)
    np.testing.assert_array_equal(OnnxNetwork(single.folder).run(PREDICTION, SMILES), half.run(PREDICTION, SMILES))


def test_writing_again_gives_the_same_file(tmp_path: Path) -> None:
    graph = written(tmp_path, network_of(), MolformerTokenizer())
    before = (graph.folder / GRAPH).read_bytes()
    write_graph(network_of(), MolformerTokenizer(), tmp_path)
    assert (graph.folder / GRAPH).read_bytes() == before


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of()
    save_regression(network, MolformerTokenizer(), tmp_path)
    monkeypatch.setattr(onnx_graph, "predict_smiles", lambda *_, **__: predict_smiles(network, *_[1:], **__) + 0.01)
    with pytest.raises(ConfigError, match="prediction is off"):
        write_graph(network, MolformerTokenizer(), tmp_path)
    assert not (tmp_path / GRAPH).exists()


# --- tokens ----------------------------------------------------------------------------------------------------------


def assert_reads_alike(name: str, smiles: Sequence[str]) -> None:
    graph, tokenizer = graph_of(name)
    smiles = list(smiles)
    limit = max_length(network_of("roberta" if name == "bytes" else "molformer").encoder, tokenizer)
    assert graph.facts.limit == limit
    assert graph.tokens(smiles) == tokenizer(smiles)["input_ids"]
    assert graph.tokens(smiles, truncate=True) == tokenizer(smiles, truncation=True, max_length=limit)["input_ids"]
    assert graph.tokens(smiles) == tokenizer(smiles)["input_ids"]
    assert graph.issues(smiles) == check_smiles(tokenizer, smiles, limit)


@pytest.mark.parametrize("name", ["atoms", "pieces", "bytes"])
def test_molecules_are_read_as_transformers_reads_them(name: str) -> None:
    long = ["C" * length for length in (295, 298, 299, 300, 301, 302, 600)]
    wrong = ["", " ", "CaaC", "C C", "C[Xx+9]C", "<pad>", "C<unk>C", "<bos>C<eos>", "Cé", "\u2028", "C\n", "[", "%1"]
    assert_reads_alike(name, [*DRUGS[::3], *ODD, *long, *wrong])
    graph, _ = graph_of(name)
    assert graph.tokens([]) == []
    assert graph.run(MEAN, []).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, min_size=1, max_size=4))
def test_texts_are_read_as_transformers_reads_them(smiles: list[str]) -> None:
    for name in ("atoms", "pieces", "bytes"):
        assert_reads_alike(name, smiles)


def test_long_molecules_are_cut_or_refused() -> None:
    graph, tokenizer = graph_of("atoms")
    long = ["C" * 400, "CCO"]
    with pytest.raises(DataError, match="has 402 tokens, but the model takes 300"):
        graph.run(PREDICTION, long)
    expected = predict_smiles(network_of(), tokenizer, long, max_length=300)
    np.testing.assert_allclose(graph.run(PREDICTION, long, truncate=True), expected, atol=1e-4)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_graphs_belong_to_their_checkpoints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = OnnxEncoder.find(ModelSettings(name=name))
    assert graph is not None
    encoder = Encoder(ModelSettings(name=name))
    assert graph.facts == encoder.facts
    smiles = DRUGS[::40]
    expected = encoder(smiles)
    np.testing.assert_allclose(graph(smiles), expected, atol=1e-4)
    alone = np.concatenate([graph([one]) for one in smiles[:20]])
    np.testing.assert_allclose(alone, expected[:20], atol=1e-4)
    assert graph.issues(["C" * 600, "CaC", *smiles]) == encoder.issues(["C" * 600, "CaC", *smiles])
    assert OnnxEncoder.find(ModelSettings(name=name), "another") is None
    monkeypatch.setenv(ENGINE, "torch")
    assert OnnxEncoder.find(ModelSettings(name=name)) is None


def test_damage_is_named(tmp_path: Path) -> None:
    good = written(tmp_path / "good", network_of(), MolformerTokenizer()).folder

    def fails(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            OnnxNetwork(bad)

    def copy_of_it(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    bad = copy_of_it("cut")
    (bad / GRAPH).write_bytes((good / GRAPH).read_bytes()[:-5000])
    fails("encoder.onnx cannot be read")
    bad = copy_of_it("no weights")
    (bad / WEIGHTS).unlink()
    fails("encoder.onnx cannot be read")
    bad = copy_of_it("other weights")
    damaged = bytearray((bad / WEIGHTS).read_bytes())
    damaged[-1000] ^= 1
    (bad / WEIGHTS).write_bytes(damaged)
    fails("holds other weights than those that encoder.onnx")
    bad = copy_of_it("no tokenizer")
    (bad / TOKENIZER).unlink()
    fails("tokenizer.json cannot be read")
    bad = copy_of_it("half a tokenizer")
    (bad / TOKENIZER).write_text(json.dumps({"version": "1.0"}))
    fails("tokenizer.json cannot be read")
    bad = copy_of_it("foreign")
    proto = onnx.load(bad / GRAPH, load_external_data=False)
    del proto.metadata_props[:]
    (bad / GRAPH).write_bytes(proto.SerializeToString())
    fails("is not of this version of moltune")
