"""MolGpKa's graph networks, for many sites of many molecules at once.

Five graph convolutions (Kipf and Welling 2017, arXiv 1609.02907) over the molecule with all its hydrogens, then a pool
by attention. After ``l`` convolutions an atom's vector depends on nothing but what lies within ``l`` bonds of it. Atoms
whose surroundings agree (the hydrogens of a methyl group, both ortho positions of a phenyl ring, the same substituent
in another molecule) therefore have the same vector, and each vector is computed once: surroundings are numbered as in
the colour refinement of Weisfeiler and Leman, over the whole batch, before anything is multiplied.

References:
    Pan et al. 2021, J. Chem. Inf. Model. 61, 3159, doi:10.1021/acs.jcim.1c00075.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np
from safetensors.numpy import load as load_safetensors
from scipy.sparse import csr_array, dia_array, eye_array

from moltune.features.ionisation.graphs import DEGREE, DISTANCE, FEATURES, IS_SITE, TYPES, Graphs, join
from moltune.features.ionisation.molecules import Kind

_LAYERS = 5
Room = dict[int, np.ndarray]
"""Width of an array → the array."""
# A larger batch shares more, and holds about seven kilobytes for each node.
_NODES_AT_ONCE = 32_000
_NODES_POOLED_AT_ONCE = _ROWS_AT_ONCE = 2_000
_TERMS, _MOST_TERMS = 64, 512


class PkaNetwork:
    """One of the two networks, with batch normalisation folded into the weights that follow it.

    Args:
        tensors: MolGpKa's parameters by name, of any floating type; computed in single precision.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        wide = {name: value.astype(np.float64) for name, value in tensors.items()}
        scale, shift = np.ones(FEATURES), np.zeros(FEATURES)
        self.layers: list[tuple[np.ndarray, ...]] = []
        for layer in range(1, _LAYERS + 1):
            weight = wide[f"conv{layer}.weight"]
            self.layers.append(_single(scale[:, None] * weight, shift @ weight, wide[f"conv{layer}.bias"]))
            scale = wide[f"bn{layer}.weight"] / np.sqrt(wide[f"bn{layer}.running_var"] + 1e-5)
            shift = wide[f"bn{layer}.bias"] - wide[f"bn{layer}.running_mean"] * scale
        # The constant part of the gate does not change the softmax.
        (self.gate,) = _single(wide["att.gate_nn.weight"][0] * scale)
        self.dense = [_single((wide["fc2.weight"] * scale).T, wide["fc2.bias"] + wide["fc2.weight"] @ shift)]
        self.dense += [_single(wide[f"{name}.weight"].T, wide[f"{name}.bias"]) for name in ("fc3", "fc4")]

    def __call__(self, parts: Iterable[Graphs]) -> np.ndarray:
        """The pKa of each site graph, shape (sites,); a part may hold several sites of equal size."""
        results, waiting, size = [], [], 0
        room: Room = {}
        for part in parts:
            waiting.append(part)
            size += part.type.size
            if size >= _NODES_AT_ONCE:
                results.append(self._forward(waiting, room))
                waiting, size = [], 0
        if waiting:
            results.append(self._forward(waiting, room))
        return np.concatenate(results) if results else np.zeros(0, np.float32)

    def _forward(self, parts: list[Graphs], room: Room) -> np.ndarray:
        nodes = join(parts)
        features = TYPES.rows()
        strength = _strength(nodes.bonds, features[nodes.type, DEGREE])
        finer, chosen = _number(nodes.type + (nodes.distance << 32))
        hidden = features[nodes.type[chosen]]
        hidden[:, DISTANCE] = nodes.distance[chosen]
        hidden[:, IS_SITE] = nodes.distance[chosen] == 0
        weight, carried, _ = self.layers[0]
        messages = hidden @ weight + carried
        for (_, _, bias), (weight, carried, _) in pairwise(self.layers):
            colour = finer
            finer, chosen = _refine(colour, nodes.bonds)
            sent = _rows_in(room, len(chosen), weight.shape[1])
            for start in range(0, len(sent), _ROWS_AT_ONCE):
                # A few rows at a time, so that the vectors in between stay in the processor's cache.
                rows = slice(start, start + _ROWS_AT_ONCE)
                hidden = _receive(messages, strength[chosen[rows]], colour, bias)
                _multiply(hidden, weight, out=sent[rows])
                sent[rows] += carried
            messages = sent
        colour, bias = finer, self.layers[-1][2]
        finer, chosen = _refine(colour, nodes.bonds)
        # The last and widest vectors of all nodes at once would not fit into the processor's cache.
        pooled = []
        for graphs in _stretches(nodes.starts):
            begins = nodes.starts[graphs]
            part = slice(begins[0], nodes.starts[graphs.stop])
            own, local = np.unique(finer[part], return_inverse=True)
            hidden = _receive(messages, strength[chosen[own]], colour, bias)
            begins = begins - begins[0]
            shares = _softmax((hidden @ self.gate)[local], nodes.copies[part], begins)
            places = np.append(begins, len(local))
            pooled.append(csr_array((shares.astype(np.float32), local, places), (len(begins), len(own))) @ hidden)
        values = np.concatenate(pooled).astype(np.float64)
        for weight, bias in self.dense[:-1]:
            values = np.maximum(values @ weight + bias, 0)
        weight, bias = self.dense[-1]
        return (values @ weight + bias)[:, 0].astype(np.float32)


@cache
def networks() -> dict[Kind, PkaNetwork]:
    """Both networks with the weights that moltune ships."""
    folder = resources.files(__package__) / "weights"
    kinds: tuple[Kind, Kind] = ("acid", "base")
    return {kind: PkaNetwork(load_safetensors((folder / f"{kind}.safetensors").read_bytes())) for kind in kinds}


def _single(*tensors: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(tensor, np.float32) for tensor in tensors)


def _rows_in(room: Room, rows: int, width: int) -> np.ndarray:
    """An array that later batches use again: to get fresh memory takes a tenth of the time of all that is computed."""
    if len(room.get(width, ())) < rows:
        room[width] = np.empty((rows, width), np.float32)
    return room[width][:rows]


def _multiply(vectors: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """A product; where many large terms cancel, sums of a few terms first, since rounding would reach 1e-5."""
    step = _TERMS if len(weight) > _MOST_TERMS else len(weight)
    np.matmul(vectors[:, :step], weight[:step], out=out)
    for start in range(step, len(weight), step):
        out += vectors[:, start : start + step] @ weight[start : start + step]


def _strength(bonds: csr_array, degree: np.ndarray) -> csr_array:
    """The symmetrically normalised adjacency of Kipf and Welling, own atom counted, shape (nodes, nodes)."""
    scale = dia_array((1 / np.sqrt(1 + degree.astype(np.float64))[None], [0]), bonds.shape)
    return csr_array(scale @ (bonds + eye_array(len(degree))) @ scale, dtype=np.float32)


def _refine(colour: np.ndarray, bonds: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Number the nodes by their own colour and those around them; also one node of each new colour.

    A surrounding is told by a sum of 64-bit random numbers, so that two different ones meet with a probability of
    about 1e-10 in a batch.
    """
    random = np.random.default_rng(0).integers(0, 2**64, (2, int(colour.max()) + 1), dtype=np.uint64)
    return _number(random[0][colour] + bonds @ random[1][colour])


def _number(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers 0, 1, ... for distinct keys in the order of their first appearance, and where each appears first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order, np.int32)
    rank[order] = np.arange(len(order))
    return rank[inverse], first[order]


def _stretches(ends: np.ndarray) -> Iterator[slice]:
    """Cut graphs into stretches of few nodes; ``ends`` has the first node of each graph and the number of nodes."""
    graph, last = 0, len(ends) - 1
    while graph < last:
        stop = int(np.searchsorted(ends, ends[graph] + _NODES_POOLED_AT_ONCE))
        yield slice(graph, graph := min(max(stop, graph + 1), last))


def _softmax(gates: np.ndarray, copies: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Share of each node in its graph, in double precision; a node counts as often as it has atoms."""
    sizes = np.diff(begins, append=len(gates))
    below_top = gates.astype(np.float64) - np.repeat(np.maximum.reduceat(gates, begins), sizes)
    shares: np.ndarray = copies * np.exp(below_top)
    shares /= np.repeat(np.add.reduceat(shares, begins), sizes)
    return shares


def _receive(messages: np.ndarray, strength: csr_array, colour: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Vectors of some nodes after a convolution; ``messages`` has one row for each colour."""
    shape = (strength.shape[0], len(messages))
    received: np.ndarray = csr_array((strength.data, colour[strength.indices], strength.indptr), shape) @ messages
    received += bias
    return np.maximum(received, 0, out=received)
