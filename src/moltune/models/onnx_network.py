"""A network as an ONNX graph with its tokenizer: embeddings and predictions without torch and transformers.

The graph lies beside the checkpoint that it was made from, as ``encoder.onnx``, and reads its weights there;
:mod:`moltune.models.onnx_graph` writes it. What else must be known of the network stands in the graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moltune.errors import CheckpointError, DataError, one_line
from moltune.files import sha256_of
from moltune.models.coverage import Issue, find_issues

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

GRAPH, WEIGHTS, TOKENIZER = "encoder.onnx", "model.safetensors", "tokenizer.json"
MEAN, FIRST, PREDICTION = "mean", "first", "prediction"
"""Outputs of a graph: both pooled embeddings, and of a tuned model its prediction."""
INPUTS = ("input_ids", "attention_mask")
FACTS = "moltune"
ENGINE = "MOLTUNE_ENGINE"
"""Environment variable: ``torch`` leaves the graphs aside."""


@dataclass(frozen=True)
class GraphFacts:
    """What a graph says of its network.

    Attributes:
        digest: of the encoder's tensors; see :mod:`moltune.models.digest`.
        specials: ids of the tokenizer's special tokens.
        pad: id of the one that fills a batch up.
        limit: longest input in tokens, special ones included; None: nothing bounds it.
        side: which end of a longer one is cut off.
        weights: SHA-256 of the file that the graph reads its weights from; empty: they are in the graph.
        target: name of what it predicts; None: it is an encoder alone.
        head: of the tuned model: ``mean``, ``cls`` or ``molformer``.
        classes: negative and positive class, where it predicts the probability of the latter, calibration included.
    """

    digest: str
    specials: list[int]
    pad: int
    limit: int | None
    side: str
    weights: str
    target: str | None
    head: str
    classes: list[str] | None = None

    def to_text(self) -> str:
        """As it stands in the graph."""
        return json.dumps(asdict(self))


def has_graph(folder: str | Path) -> bool:
    """Whether a checkpoint folder holds a graph, and the environment does not ask for torch."""
    return os.environ.get(ENGINE, "") != "torch" and (Path(folder) / GRAPH).is_file()


class OnnxNetwork:
    """The graph and the tokenizer of a checkpoint folder.

    Args:
        folder: that holds them.

    Attributes:
        facts: what the graph says of itself.

    Raises:
        CheckpointError: a file is missing, damaged, or does not belong to the others.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._session = _open(self.folder / GRAPH)
        try:
            self.facts = GraphFacts(**json.loads(self._session.get_modelmeta().custom_metadata_map[FACTS]))
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{self.folder / GRAPH} is not of this version of moltune: remove it, or export the model again"
            ) from None
        weights = self.folder / WEIGHTS
        if self.facts.weights and sha256_of(weights) != self.facts.weights:
            raise CheckpointError(
                f"{weights} holds other weights than those that {GRAPH} beside it was made for: copy both again, or "
                f"remove {GRAPH} to use torch"
            )
        self._tokenizer = _read_tokenizer(self.folder / TOKENIZER)

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that the network cannot read, or not wholly, with the reason."""
        return find_issues(self._tokenizer, self.facts.specials, smiles, self.facts.limit)

    def tokens(self, smiles: Sequence[str], truncate: bool = False) -> list[list[int]]:
        """Ids of n SMILES, special tokens included; with ``truncate`` no more than the network reads."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if truncate and self.facts.limit is not None:
            self._tokenizer.enable_truncation(self.facts.limit, direction=self.facts.side)
        return [encoded.ids for encoded in self._tokenizer.encode_batch(list(smiles))]

    def run(
        self,
        output: str,
        smiles: Sequence[str],
        *,
        batch_size: int = 32,
        truncate: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Compute an output for n SMILES, in batches of similar length.

        Args:
            output: ``mean``, ``first`` or ``prediction``.
            smiles: n SMILES.
            batch_size: molecules at a time.
            truncate: cut SMILES that are longer than the network reads.
            progress: takes how many molecules more are done.

        Returns:
            float64, shape (n, hidden_size) or, of predictions, (n,); (0,) for none.

        Raises:
            DataError: a SMILES is too long.
        """
        ids = self.tokens(smiles, truncate)
        lengths, limit = np.array([len(one) for one in ids]), self.facts.limit
        if limit is not None and len(ids) and lengths.max() > limit:
            longest = int(lengths.argmax())
            raise DataError(f"{smiles[longest]} has {lengths[longest]} tokens, but the model takes {limit}")
        result = np.empty(0)
        order = np.argsort(-lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            values = self._session.run([output], self._batch([ids[at] for at in chosen]))[0]
            if not len(result):
                result = np.empty((len(ids), *values.shape[1:]))
            result[chosen] = values
            if progress is not None:
                progress(len(chosen))
        return result

    def _batch(self, ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Fill up to the longest; int64, shape (batch, length) each."""
        lengths = np.array([len(one) for one in ids])
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.full(mask.shape, self.facts.pad, dtype=np.int64)
        tokens[mask] = np.concatenate(ids)
        return dict(zip(INPUTS, (tokens, mask.astype(np.int64)), strict=True))


def _open(path: Path) -> InferenceSession:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    # ONNX Runtime takes every core unless it is told; torch and the linear algebra listen to this variable.
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # The runtime has an error of its own for each kind of damage, none derived from another.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}): copy its folder again") from None


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    # The library raises plain exceptions.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}): copy it again") from None
