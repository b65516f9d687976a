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

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torch.nn import functional

from moltune.features.ionisation.graphs import DEGREE, DISTANCE, IS_SITE, TYPES, Nodes, join
from moltune.features.ionisation.molecules import Kind

_LAYERS = 5
# A larger batch shares more, and holds about two kilobytes for each node.
_NODES_AT_ONCE = 64_000
_NODES_POOLED_AT_ONCE = 4_000


class PkaNetwork:
    """One of the two networks, with batch normalisation folded into the weights that follow it.

    Args:
        tensors: MolGpKa's parameters by name, of any floating type; computed in single precision.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        wide = {name: value.double() for name, value in tensors.items()}
        scale, shift = torch.ones(1, dtype=torch.double), torch.zeros(1, dtype=torch.double)
        self.layers: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in range(1, _LAYERS + 1):
            weight = wide[f"conv{layer}.weight"]
            carried = shift.expand(len(weight)) @ weight
            folded = scale.expand(len(weight))[:, None] * weight
            self.layers.append((folded.float(), carried.float(), wide[f"conv{layer}.bias"].float()))
            scale = wide[f"bn{layer}.weight"] / (wide[f"bn{layer}.running_var"] + 1e-5).sqrt()
            shift = wide[f"bn{layer}.bias"] - wide[f"bn{layer}.running_mean"] * scale
        self.gate = (wide["att.gate_nn.weight"][0] * scale).float()
        # The constant part of the gate does not change the softmax.
        self.dense = [((wide["fc2.weight"] * scale).float(), (wide["fc2.bias"] + wide["fc2.weight"] @ shift).float())]
        self.dense += [(wide[f"{name}.weight"].float(), wide[f"{name}.bias"].float()) for name in ("fc3", "fc4")]

    @torch.inference_mode()
    def __call__(self, parts: Iterable[Nodes]) -> np.ndarray:
        """The pKa of each site graph, shape (sites,); a part may hold several sites of equal size."""
        results, waiting, size = [], [], 0
        for part in parts:
            waiting.append(part)
            size += part.type.size
            if size >= _NODES_AT_ONCE:
                results.append(self._forward(waiting))
                waiting, size = [], 0
        if waiting:
            results.append(self._forward(waiting))
        return np.concatenate(results) if results else np.zeros(0, np.float32)

    def _forward(self, parts: list[Nodes]) -> np.ndarray:
        nodes, starts = join(parts)
        degree = 1 + TYPES.rows()[nodes.type, DEGREE].astype(np.float64)
        strength = nodes.bonds / np.sqrt(degree[:, None] * degree[nodes.neighbours])
        finer, chosen = _number(nodes.type + (nodes.distance << 32))
        rows = TYPES.rows()[nodes.type[chosen]]
        rows[:, DISTANCE] = nodes.distance[chosen]
        rows[:, IS_SITE] = nodes.distance[chosen] == 0
        hidden = torch.from_numpy(rows)
        for layer, (weight, carried, bias) in enumerate(self.layers, 1):
            messages = torch.addmm(carried, hidden, weight)
            colour = finer
            finer, chosen = _refine(colour, nodes)
            if layer < _LAYERS:
                hidden = _gather(messages, nodes, strength, colour, chosen).add_(bias).relu_()
        # The last and widest vectors of all nodes at once would not fit into the processor's cache.
        ends = np.append(starts, len(colour))
        pooled = []
        for graphs in _stretches(ends):
            part = slice(ends[graphs.start], ends[graphs.stop])
            own, local = np.unique(finer[part], return_inverse=True)
            hidden = _gather(messages, nodes, strength, colour, chosen[own]).add_(bias).relu_()
            begins = ends[graphs] - ends[graphs.start]
            shares = _softmax((hidden @ self.gate).numpy()[local], nodes.copies[part], begins)
            pooled.append(_weighted_sum(hidden, local, begins, shares))
        values = torch.cat(pooled)
        for weight, bias in self.dense[:-1]:
            values = functional.linear(values, weight, bias).relu_()
        return functional.linear(values, *self.dense[-1])[:, 0].numpy()


@cache
def networks() -> dict[Kind, PkaNetwork]:
    """Both networks with the weights that moltune ships."""
    folder = resources.files(__package__) / "weights"
    kinds: tuple[Kind, Kind] = ("acid", "base")
    return {kind: PkaNetwork(load_safetensors((folder / f"{kind}.safetensors").read_bytes())) for kind in kinds}


def _refine(colour: np.ndarray, nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Number the nodes by their own colour and those around them; also one node of each new colour.

    A surrounding is told by a sum of 64-bit random numbers, so that two different ones meet with a probability of
    about 1e-10 in a batch.
    """
    random = np.random.default_rng(0).integers(0, 2**63, (2, int(colour.max()) + 1), dtype=np.int64)
    with np.errstate(over="ignore"):
        key = random[0][colour] + (random[1][colour[nodes.neighbours[:, 1:]]] * nodes.bonds[:, 1:]).sum(axis=1)
    return _number(key)


def _number(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers 0, 1, ... for distinct keys in the order of their first appearance, and where each appears first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
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


def _gather(messages: Tensor, nodes: Nodes, strength: np.ndarray, colour: np.ndarray, chosen: np.ndarray) -> Tensor:
    """What the chosen nodes receive from themselves and their neighbours; ``messages`` has one row for each colour."""
    used = nodes.bonds[chosen] > 0
    offsets = np.concatenate([[0], np.cumsum(used.sum(axis=1))[:-1]])
    return _weighted_sum(messages, colour[nodes.neighbours[chosen]][used], offsets, strength[chosen][used])


def _weighted_sum(rows: Tensor, indices: np.ndarray, offsets: np.ndarray, weights: np.ndarray) -> Tensor:
    """For each stretch of ``indices`` that begins at ``offsets``: the sum of those rows, each times its weight."""
    return functional.embedding_bag(
        torch.from_numpy(indices),
        rows,
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.astype(np.float32)),
    )
