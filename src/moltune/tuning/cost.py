"""What a piece of work costs: wall-clock time and peak memory."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import torch

_INTERVAL = 0.02


@dataclass(frozen=True)
class Cost:
    """What a training took, in this process (an interrupted one counts from where it went on).

    Attributes:
        seconds: wall-clock time.
        molecules_per_second: training molecules that went forward, backward and through the optimiser, per second of
            those steps; for a probe, training molecules per second of featurising and fitting.
        peak_memory_bytes: largest resident memory of the process, libraries included; on a GPU, of torch's tensors.
        memory_growth_bytes: the peak less what was in use at the beginning. In a process that has trained before,
            freed memory that the process still holds makes it too small.
        precision: arithmetic of the training steps, bf16 or fp32; None where there are none.
    """

    seconds: float
    molecules_per_second: float | None
    peak_memory_bytes: int
    memory_growth_bytes: int
    precision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Meter:
    """Measures the time and the peak memory of a ``with`` block; memory is looked at fifty times a second."""

    def __enter__(self) -> Self:
        self._gpu, self._process = torch.cuda.is_available(), psutil.Process()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        self._started, self._before = time.monotonic(), self._now()
        self._peak, self._done = self._before, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._started

    def cost(self, molecules_per_second: float | None, precision: str | None = None) -> Cost:
        """The result, once the block is over."""
        growth = max(0, self._peak - self._before)
        return Cost(round(self.seconds, 3), molecules_per_second, self._peak, growth, precision)

    def _watch(self) -> None:
        done = False
        while not done:
            done = self._done.wait(_INTERVAL)
            self._peak = max(self._peak, torch.cuda.max_memory_allocated() if self._gpu else self._now())

    def _now(self) -> int:
        return int(torch.cuda.memory_allocated() if self._gpu else self._process.memory_info().rss)


def folder_bytes(folder: Path, suffix: str = "") -> int:
    """Size of a folder's files, those with the suffix."""
    return sum(path.stat().st_size for path in folder.rglob(f"*{suffix}") if path.is_file())
