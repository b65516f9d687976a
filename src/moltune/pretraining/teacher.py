"""A teacher's fingerprints of many molecules, computed once and kept on disk.

A cache is a folder: ``teacher.json`` names the teacher and its dimension, and each ``shard-*.npz`` holds some thousand
molecules (``smiles``: UTF-8 bytes joined by newlines; ``fingerprints``: float16, one row each; a row of NaN where the
teacher failed). A shard appears whole or not at all, so a run can be killed at any moment and started again: it goes on
with the molecules that no shard holds. Rows are found by SMILES, so the cache outlives a corpus that is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from moltune.errors import DataError
from moltune.files import replacing, write_json

logger = logging.getLogger(__name__)

SHARD_SIZE = 2048
_INFO = "teacher.json"


class Teacher(Protocol):
    """Anything that turns SMILES into fixed numbers, such as :class:`moltune.features.minimol.MiniMol`."""

    name: str
    dimension: int

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Fingerprints, float32, shape (n, dimension); a row of NaN for a molecule that the teacher cannot take."""


@dataclass(frozen=True)
class TeacherRun:
    """What one call of :func:`run_teacher` did.

    Attributes:
        asked, known: molecules in the list, and those of them that were in the cache before.
        computed: molecules added now, failures included.
        failed: molecules of the list, old and new, that the teacher cannot take.
        seconds: wall-clock time.
    """

    asked: int
    known: int
    computed: int
    failed: int
    seconds: float


class TeacherCache:
    """The fingerprints in a folder.

    Args:
        folder: of the cache; it is made on the first :meth:`add`.
        teacher: when given, the cache must be this teacher's (or be new).

    Raises:
        DataError: the folder belongs to another teacher, or a shard is damaged.
    """

    def __init__(self, folder: str | Path, teacher: Teacher | None = None) -> None:
        self.folder = Path(folder)
        self._rows: dict[str, tuple[Path, int]] = {}
        info = self._read_info()
        wanted = info if teacher is None else (teacher.name, teacher.dimension)
        if wanted is None:
            raise DataError(f"{self.folder} holds no teacher fingerprints ({_INFO} is missing)")
        self.name, self.dimension = wanted
        if info is not None and info != wanted:
            raise DataError(
                f"{self.folder} holds {info[1]} numbers of {info[0]}, not {self.dimension} of {self.name}; "
                "use another folder"
            )
        for path in sorted(self.folder.glob("shard-*.npz")):
            for row, smiles in enumerate(_read_shard(path, self.dimension)[0]):
                self._rows.setdefault(smiles, (path, row))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, smiles: str) -> bool:
        return smiles in self._rows

    def add(self, smiles: Sequence[str], fingerprints: np.ndarray) -> Path:
        """Write one shard, atomically. Shape of ``fingerprints``: (n, dimension)."""
        if fingerprints.shape != (len(smiles), self.dimension):
            raise DataError(
                f"{len(smiles)} molecules need shape {(len(smiles), self.dimension)}, not {fingerprints.shape}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _INFO).is_file():
            values = {"teacher": self.name, "dimension": self.dimension, "dtype": "float16"}
            write_json(self.folder / _INFO, values)
        text = "\n".join(smiles).encode()
        path = self.folder / f"shard-{hashlib.sha256(text).hexdigest()[:16]}.npz"
        with replacing(path) as temporary:
            np.savez(temporary, smiles=np.frombuffer(text, np.uint8), fingerprints=_to_half(fingerprints))
        for row, one in enumerate(smiles):
            self._rows.setdefault(one, (path, row))
        return path

    def lookup(self, smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Fingerprints of those molecules of a list that the cache has.

        Returns:
            Positions in ``smiles`` (int64, ascending, shape (m,)) and their fingerprints (float16, shape
            (m, dimension)); molecules that are missing or that the teacher could not take are in neither.
        """
        wanted: dict[Path, list[tuple[int, int]]] = {}
        positions = np.array([at for at, one in enumerate(smiles) if one in self._rows], dtype=np.int64)
        for place, at in enumerate(positions):
            path, row = self._rows[smiles[at]]
            wanted.setdefault(path, []).append((place, row))
        result = np.empty((len(positions), self.dimension), dtype=np.float16)
        for path, pairs in wanted.items():
            places, rows = (list(column) for column in zip(*pairs, strict=True))
            result[places] = _read_shard(path, self.dimension)[1][rows]
        good = np.isfinite(result).all(axis=1)
        return (positions, result) if good.all() else (positions[good], result[good])

    def _read_info(self) -> tuple[str, int] | None:
        path = self.folder / _INFO
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return str(values["teacher"]), int(values["dimension"])
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path} is damaged; delete the folder and run the teacher again") from None


def run_teacher(
    smiles: Sequence[str], folder: str | Path, teacher: Teacher, *, shard_size: int = SHARD_SIZE
) -> TeacherRun:
    """Compute the fingerprints that ``folder`` does not hold yet, in the order of the list.

    Args:
        smiles: molecules, best in a shuffled order: then whatever is finished is a random sample.
        folder: of the cache.
        teacher: the model.
        shard_size: molecules written at a time; a killed run loses at most this many.

    Raises:
        DataError: the folder belongs to another teacher, or a shard is damaged.
    """
    cache = TeacherCache(folder, teacher)
    missing = [one for one in dict.fromkeys(smiles) if one not in cache]
    known = sum(one in cache for one in smiles)
    started = time.monotonic()
    for start in range(0, len(missing), shard_size):
        shard = missing[start : start + shard_size]
        cache.add(shard, teacher(shard))
        done = start + len(shard)
        rate = done / max(time.monotonic() - started, 1e-9)
        left = (len(missing) - done) / rate / 60
        logger.info("%d of %d molecules, %.1f/s, %.0f min left", done, len(missing), rate, left)
    failed = sum(one in cache for one in smiles) - len(cache.lookup(smiles)[0])
    if failed:
        logger.warning("%s could not take %d of %d molecules", teacher.name, failed, len(smiles))
    return TeacherRun(len(smiles), known, len(missing), failed, time.monotonic() - started)


def _to_half(fingerprints: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.asarray(fingerprints, dtype=np.float32).astype(np.float16)
    # A number that float16 cannot hold must not come back as infinity: the row counts as a failure.
    half[~np.isfinite(half).all(axis=1)] = np.nan
    return half


def _read_shard(path: Path, dimension: int) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            smiles = arrays["smiles"].tobytes().decode().split("\n")
            fingerprints = arrays["fingerprints"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"the shard {path} is damaged ({error}); delete it and run the teacher again") from None
    if fingerprints.shape != (len(smiles), dimension):
        raise DataError(
            f"the shard {path} is damaged: {len(smiles)} molecules, {fingerprints.shape} numbers; delete it"
        )
    return smiles, fingerprints
