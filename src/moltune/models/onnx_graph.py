"""Write a network as an ONNX graph that :class:`moltune.models.onnx_network.OnnxNetwork` runs."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moltune.errors import CheckpointError, ConfigError, one_line
from moltune.files import replacing, sha256_of
from moltune.models.checkpoints import max_length
from moltune.models.digest import tensor_digest
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.onnx_network import (
    FACTS,
    FIRST,
    GRAPH,
    INPUTS,
    MEAN,
    PREDICTION,
    WEIGHTS,
    GraphFacts,
    OnnxNetwork,
)
from moltune.models.pooling import mean_pool
from moltune.models.regression import RegressionModel

_OPSET = 18
_SMALLEST = 1024
_STORED = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16}
# They differ in length, in atoms and in what stands beside them in a batch.
_PROBES = (
    *("C", "CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"),
    *("[Na+].[Cl-]", "O=C(Nc1ccc(Cl)cc1)c1ccc(F)cc1", "CC(C)(C)OC(=O)N1CCC(CC1)c1nc2ccccc2[nH]1", "BrCCCCCCCCCCCBr"),
)
TOLERANCE = 1e-4


class _Outputs(nn.Module):
    """Token ids and mask (batch, length) → both pooled embeddings, and of a tuned model its prediction (batch,)."""

    def __init__(self, network: RegressionModel, tuned: bool) -> None:
        super().__init__()
        self.network, self.tuned = network, tuned

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        hidden = network.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = mean_pool(hidden, attention_mask), hidden[:, 0].float()
        return (*pooled, network.in_unit(network.standardised(hidden, attention_mask))) if self.tuned else pooled


def write_graph(
    network: RegressionModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, *, tuned: bool = True
) -> Path:
    """Write ``encoder.onnx`` into a checkpoint folder, and compare what it computes with the network.

    Weights that ``model.safetensors`` in the folder holds are not written again: the graph reads them there, in single
    or half precision. It computes in single precision, a kernel head in double.

    Args:
        network: in evaluation mode.
        tokenizer: that belongs to it; its ``tokenizer.json`` lies in the folder.
        folder: of the checkpoint.
        tuned: give predictions, too; otherwise the head is left out.

    Raises:
        ConfigError: the network cannot be written as such a graph.
    """
    folder = Path(folder)
    graph = _trace(network, tokenizer, tuned)
    _refer_to(graph, folder / WEIGHTS)
    outside = any(one.data_location == TensorProto.EXTERNAL for one in graph.graph.initializer)
    facts = GraphFacts(
        digest=str(tensor_digest(network.encoder)),
        specials=sorted(tokenizer.all_special_ids),
        pad=int(tokenizer.pad_token_id),
        limit=max_length(network.encoder, tokenizer),
        side=str(tokenizer.truncation_side),
        weights=sha256_of(folder / WEIGHTS) if outside else "",
        target=str(network.config.target_name) if tuned else None,
        head=network.config.head,
        classes=network.config.classes if tuned else None,
    )
    helper.set_model_props(graph, {FACTS: facts.to_text()})
    with replacing(folder / GRAPH) as temporary:
        temporary.write_bytes(graph.SerializeToString(deterministic=True))
    try:
        _compare(OnnxNetwork(folder), network, tokenizer, tuned)
    except (ConfigError, CheckpointError):
        (folder / GRAPH).unlink()
        raise
    return folder / GRAPH


def _trace(network: RegressionModel, tokenizer: PreTrainedTokenizerBase, tuned: bool) -> ModelProto:
    """Follow the network through one batch; lengths and numbers of molecules stay open."""
    device = network.device
    batch = tokenizer(list(_PROBES[:4]), padding=True, return_tensors="pt")
    names = [MEAN, FIRST, *([PREDICTION] if tuned else [])]
    open_axes = {name: {0: "batch", 1: "length"} for name in INPUTS} | {name: {0: "batch"} for name in names}
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"), torch.no_grad():
        path = Path(folder) / GRAPH
        try:
            torch.onnx.export(
                _Outputs(network, tuned).eval(),
                tuple(batch[name].to(device) for name in INPUTS),
                path,
                input_names=list(INPUTS),
                output_names=names,
                dynamic_axes=open_axes,
                opset_version=_OPSET,
                # Folded weights would no longer be those of the checkpoint; the runtime folds them when it loads.
                do_constant_folding=False,
                # The other exporter needs more packages and knows fewer encoders.
                dynamo=False,
            )
        # Every operation that ONNX lacks has an error of its own.
        except Exception as error:
            raise ConfigError(f"this network cannot be written as an ONNX graph: {one_line(error)}") from error
        graph = onnx.load(path)
    for node in graph.graph.node:
        node.ClearField("doc_string")
    return graph


def _refer_to(graph: ModelProto, weights: Path) -> None:
    """Replace large weights in the graph by references into a safetensors file, where that holds the same numbers."""
    places = _places(weights) if weights.is_file() else {}
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < _SMALLEST:
            continue
        place = places.get(_key(numpy_helper.to_array(tensor)))
        if place is None:
            continue
        kind, offset, length = place
        if kind == TensorProto.FLOAT16:
            casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            tensor.name += ".half"
        tensor.data_type, tensor.data_location = kind, TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for name, value in {"location": weights.name, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=name, value=str(value))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _places(weights: Path) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """Content of each tensor of a safetensors file → its type in ONNX, where it begins, and its length in bytes."""
    with open(weights, "rb") as handle:
        start = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(start))
    found: dict[tuple[Any, ...], tuple[int, int, int]] = {}
    with safe_open(weights, framework="np") as tensors:
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] in _STORED:
                begin, end = about["data_offsets"]
                place = _STORED[about["dtype"]], 8 + start + begin, end - begin
                found[_key(tensors.get_tensor(name).astype(np.float32))] = place
    return found


def _key(values: np.ndarray) -> tuple[Any, ...]:
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def _compare(graph: OnnxNetwork, network: RegressionModel, tokenizer: PreTrainedTokenizerBase, tuned: bool) -> None:
    """See whether tokens, embeddings and predictions of a few molecules are those of the network.

    Raises:
        ConfigError: they are not.
    """
    if graph.tokens(_PROBES) != tokenizer(list(_PROBES))["input_ids"]:
        raise ConfigError("tokenizer.json alone gives other tokens than the tokenizer, so the model cannot be exported")
    embedded = embed_smiles(network, tokenizer, _PROBES, batch_size=4)
    pairs = {FIRST if network.config.head == "cls" else MEAN: embedded}
    if tuned:
        pairs[PREDICTION] = predict_smiles(network, tokenizer, _PROBES, batch_size=4)
    for output, expected in pairs.items():
        # Other batches than those of the network, and than the one that was traced.
        off = np.abs(graph.run(output, _PROBES, batch_size=3) - expected).max()
        if not off <= TOLERANCE * max(1.0, np.abs(expected).max()):
            raise ConfigError(
                f"the ONNX graph of this network does not compute what the network does: {output} is off by {off:.2g}"
            )
