"""What frozen embeddings are worth downstream: validation error of support vectors, computed beside the training.

Worker processes import this module, so it needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpu_network import Network
    from tokenizers import Tokenizer

PENALTIES = (2.0, 5.0, 10.0)
_CLIP = 5.0
_BATCH = 512


def svr_error(x: np.ndarray, y: np.ndarray, validation: np.ndarray, truth: np.ndarray, penalty: float) -> float:
    """Validation RMSE of an RBF support vector machine on standardised features and target."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    scaler = StandardScaler().fit(x.astype(np.float64))
    x, validation = (np.clip(scaler.transform(part.astype(np.float64)), -_CLIP, _CLIP) for part in (x, validation))
    mean, spread = y.mean(), y.std()
    machine = SVR(C=penalty, epsilon=0.1, cache_size=500).fit(x, (y - mean) / spread)
    return float(np.sqrt(np.mean((machine.predict(validation) * spread + mean - truth) ** 2)))


Pending = dict[str, dict[float, list["Future[float]"]]]


class Probe:
    """Embeds the molecules of the evaluation sets and hands the fits to other processes.

    Args:
        evaluation: of the pack.
        processes: that fit; they start at once, so that they are ready when they are needed.
    """

    def __init__(self, evaluation: Mapping[str, Any], processes: int) -> None:
        self.evaluation = evaluation
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        self.pool = ProcessPoolExecutor(processes, get_context("spawn"))
        self.encoded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        toy = np.arange(8, dtype=np.float64)
        self._started = [
            self.pool.submit(svr_error, toy[:, None], toy, toy[:, None], toy, 1.0) for _ in range(processes)
        ]

    def read(self, tokenizer: Tokenizer, pad: int, most: int) -> None:
        """Tokenise the molecules for a network that takes up to ``most`` tokens."""
        for name, table in self.evaluation.items():
            rows = [one.ids[:most] for one in tokenizer.encode_batch(table["smiles"])]
            lengths = np.array([len(row) for row in rows])
            ids = np.full((len(rows), int(lengths.max())), pad, dtype=np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(row)] = row
            self.encoded[name] = ids, lengths

    def embed(self, network: Network) -> dict[str, np.ndarray]:
        """Mean of the last hidden states of every molecule, by set, in full single precision."""
        import torch

        device = network.ordinary.device
        result = {}
        network.eval()
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        with torch.no_grad():
            for name, (ids, lengths) in self.encoded.items():
                order = np.argsort(lengths, kind="stable")
                parts = []
                for start in range(0, len(order), _BATCH):
                    rows = order[start : start + _BATCH]
                    part = torch.from_numpy(ids[rows, : lengths[rows].max()]).to(device)
                    parts.append(network.encode(part)[1])
                values = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
                values[order] = torch.cat(parts).cpu().numpy()
                result[name] = values
        torch.set_float32_matmul_precision(precision)
        network.train()
        return result

    def submit(self, network: Network) -> Pending:
        """Embed now; fit later, elsewhere."""
        pending: Pending = {}
        for name, x in self.embed(network).items():
            table = self.evaluation[name]
            y = np.asarray(table["values"], dtype=np.float64)
            pending[name] = {penalty: [] for penalty in PENALTIES}
            if not np.isfinite(x).all():
                continue
            for split in table["splits"]:
                train, validation = np.asarray(split["train"]), np.asarray(split["validation"])
                for penalty in PENALTIES:
                    task = self.pool.submit(svr_error, x[train], y[train], x[validation], y[validation], penalty)
                    pending[name][penalty].append(task)
        return pending

    def close(self) -> None:
        """End the processes."""
        self.pool.shutdown(wait=True, cancel_futures=True)


def finished(pending: Pending) -> bool:
    """Whether every fit is done."""
    return all(task.done() for tasks in pending.values() for fits in tasks.values() for task in fits)


def collect(pending: Pending) -> dict[str, dict[str, Any]]:
    """Mean validation RMSE over the splits with the best of the penalties, by set; waits for what is missing."""
    result: dict[str, dict[str, Any]] = {}
    for name, tasks in pending.items():
        try:
            errors = {penalty: [round(task.result(), 4) for task in fits] for penalty, fits in tasks.items() if fits}
        except Exception as error:  # A dead worker must not end a training run.
            result[name] = {"error": repr(error)}
            continue
        if errors:
            best = min(errors, key=lambda penalty: sum(errors[penalty]))
            rmse = round(float(np.mean(errors[best])), 4)
            result[name] = {"rmse": rmse, "C": best, "splits": errors[best]}
    return result
