"""One compact file with a corpus: SMILES text, quantised targets, and what the quick downstream check needs.

A zip archive of entries that are compressed here rather than by zip:

- ``smiles``: the molecules, one per line (lzma);
- ``<block>/known``: one bit per molecule, does the block hold its row (lzma);
- ``<block>/<column>``: one byte per known molecule, by the shortest of four codecs of the standard library;
- ``meta.json``: names, steps, codecs and prediction weights of each block, and free notes;
- ``evaluation``: the bundled benchmark sets (lzma of JSON).

A quantised column is close to Gaussian noise to a dictionary coder, so what counts is its entropy given the columns
before it. Each column is therefore predicted linearly from all earlier ones, of earlier blocks too, and the difference
modulo 256 is stored where that is shorter. Weights are multiples of 2**-12 and everything else is an integer, so that
float64 holds every sum exactly: the prediction is the same on any machine, and a column comes back to the last bit.
"""

from __future__ import annotations

import bz2
import json
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

UNKNOWN = -128
_SCALE = 2.0**12
_MOST = 2.0**20
_FIT_ROWS = 150_000
_CHUNK = 8192


@dataclass(frozen=True)
class Block:
    """Targets of one kind.

    Attributes:
        values: quantised, int8, shape (n, k); ``UNKNOWN`` where there is none.
        step: size of one quantum, in the unit of the target.
        names: of the k columns.
        notes: anything a reader may want to know (means, scales, where it came from).
    """

    values: np.ndarray
    step: float
    names: list[str]
    notes: dict[str, Any] = field(default_factory=dict)

    def known(self) -> np.ndarray:
        """Rows with any value, bool, shape (n,)."""
        return (self.values != UNKNOWN).any(axis=1)


@dataclass(frozen=True)
class Pack:
    """A corpus in memory.

    Attributes:
        smiles: canonical SMILES.
        blocks: targets by objective name.
        evaluation: set name to ``smiles``, ``values`` and ``splits`` (lists of ``train`` and ``validation`` indices).
        notes: anything else.
    """

    smiles: list[str]
    blocks: dict[str, Block]
    evaluation: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)


def quantise(values: np.ndarray, step: float) -> np.ndarray:
    """Round to multiples of ``step``, int8; NaN becomes ``UNKNOWN`` and the rest is clipped to ±127 steps."""
    quanta = np.clip(np.round(np.asarray(values, dtype=np.float32) / step), -127, 127)
    return np.where(np.isnan(quanta), UNKNOWN, quanta).astype(np.int8)


def _huffman(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def _shortest(data: bytes, huffman: bytes) -> tuple[str, bytes]:
    tried = {"deflate": huffman}
    # The others win only where a column hardly varies; they are slow, so the rest is spared them.
    if len(huffman) < 0.35 * len(data):
        tried |= {"bz2": bz2.compress(data), "lzma": lzma.compress(data, preset=6)}
    return min(tried.items(), key=lambda pair: len(pair[1]))


def _expand(codec: str, data: bytes) -> np.ndarray:
    plain = {"deflate": lambda d: zlib.decompress(d, -15), "bz2": bz2.decompress, "lzma": lzma.decompress}[codec](data)
    return np.frombuffer(plain, dtype=np.int8)


def _context(values: np.ndarray) -> np.ndarray:
    return np.where(values == UNKNOWN, 0, values)


def _weights(columns: np.ndarray, given: int) -> list[np.ndarray]:
    """Integer weights (a constant, then each earlier column) of every column after the first ``given`` ones."""
    rows = np.random.default_rng(0).permutation(len(columns))[:_FIT_ROWS]
    gram = np.zeros((columns.shape[1] + 1, columns.shape[1] + 1))
    for start in range(0, len(rows), _CHUNK):
        part = columns[np.sort(rows[start : start + _CHUNK])].astype(np.float64)
        part = np.hstack([np.ones((len(part), 1)), part])
        gram += part.T @ part
    gram[np.diag_indices(len(gram))] += 1e-6 * len(rows)
    result = []
    for last in range(1 + given, len(gram)):
        weights = np.linalg.solve(gram[:last, :last], gram[:last, last]) if len(rows) else np.zeros(last)
        result.append(np.clip(np.round(weights * _SCALE), -_MOST, _MOST))
    return result


def _predict(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Predictions (n,), int64, from float64 columns (n, k) and integer weights (k + 1,); exact."""
    return np.floor((columns @ weights[1:] + (weights[0] + _SCALE / 2)) / _SCALE).astype(np.int64)


def _encode_block(block: Block, earlier: np.ndarray) -> tuple[dict[str, Any], dict[str, bytes]]:
    rows = np.flatnonzero(block.known())
    values = block.values[rows]
    order = np.argsort([_entropy(column) for column in values.T], kind="stable")
    columns = np.hstack([earlier[rows], _context(values[:, order])])
    weights = _weights(columns, earlier.shape[1])
    meta: list[dict[str, Any]] = []
    entries = {"known": lzma.compress(np.packbits(block.known()).tobytes())}

    def encode(number: int) -> tuple[dict[str, Any], bytes]:
        plain = values[:, order[number]]
        predicted = np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), _CHUNK):
            part = columns[start : start + _CHUNK, : earlier.shape[1] + number].astype(np.float64)
            predicted[start : start + _CHUNK] = _predict(part, weights[number])
        data, other = plain.tobytes(), (plain.astype(np.int64) - predicted).astype(np.uint8).tobytes()
        huffman, residual = _huffman(data), _huffman(other)
        if len(residual) + 4 * len(weights[number]) < len(huffman):
            codec, coded = _shortest(other, residual)
            return {"codec": codec, "weights": weights[number].astype(int).tolist()}, coded
        codec, coded = _shortest(data, huffman)
        return {"codec": codec}, coded

    with ThreadPoolExecutor(2) as pool:
        for number, (about, data) in enumerate(pool.map(encode, range(len(order)))):
            meta.append({"column": int(order[number]), **about})
            entries[str(order[number])] = data
    about_block = {"step": block.step, "names": block.names, "notes": block.notes, "columns": meta}
    return about_block, entries


def _entropy(column: np.ndarray) -> float:
    shares = np.bincount(column.view(np.uint8), minlength=256) / max(1, len(column))
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def write_pack(pack: Pack, path: Path) -> dict[str, float]:
    """Write a pack; returns the MiB of each part."""
    meta: dict[str, Any] = {"molecules": len(pack.smiles), "notes": pack.notes, "blocks": {}}
    text = "\n".join(pack.smiles).encode()
    entries = {
        "smiles": lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
        "evaluation": lzma.compress(json.dumps(pack.evaluation).encode(), preset=9),
    }
    earlier = np.empty((len(pack.smiles), 0), dtype=np.int8)
    for name, block in pack.blocks.items():
        meta["blocks"][name], parts = _encode_block(block, earlier)
        entries.update({f"{name}/{part}": data for part, data in parts.items()})
        ordered = block.values[:, [column["column"] for column in meta["blocks"][name]["columns"]]]
        earlier = np.hstack([earlier, _context(ordered)])
        print(f"{name}: {sum(len(part) for part in parts.values()) / 2**20:.2f} MiB", flush=True)
    entries["meta.json"] = lzma.compress(json.dumps(meta).encode(), preset=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    sizes: dict[str, float] = {}
    for entry, data in entries.items():
        part = entry.partition("/")[0]
        sizes[part] = sizes.get(part, 0.0) + len(data) / 2**20
    sizes["whole file"] = path.stat().st_size / 2**20
    return sizes


def read_pack(path: str | Path, threads: int = 8) -> Pack:
    """Read a pack, bit for bit as it was written."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(lzma.decompress(entries["meta.json"]))
    count = meta["molecules"]
    earlier = np.empty((count, 0), dtype=np.int8)
    blocks: dict[str, Block] = {}
    with ThreadPoolExecutor(threads) as pool:
        smiles = pool.submit(lambda: lzma.decompress(entries["smiles"]).decode().split("\n"))
        for name, about in meta["blocks"].items():
            packed = np.frombuffer(lzma.decompress(entries[f"{name}/known"]), np.uint8)
            rows = np.flatnonzero(np.unpackbits(packed, count=count))
            values, ordered = _decode_block(name, about, entries, earlier, rows, pool)
            blocks[name] = Block(values, about["step"], about["names"], about["notes"])
            earlier = np.hstack([earlier, _context(ordered)])
        evaluation = json.loads(lzma.decompress(entries["evaluation"]))
        return Pack(smiles.result(), blocks, evaluation, meta["notes"])


def _decode_block(
    name: str,
    about: Mapping[str, Any],
    entries: Mapping[str, bytes],
    earlier: np.ndarray,
    rows: np.ndarray,
    pool: ThreadPoolExecutor,
) -> tuple[np.ndarray, np.ndarray]:
    """Values as written, and the same with columns in the order of coding."""
    columns, given = about["columns"], earlier.shape[1]
    stored = list(pool.map(lambda c: _expand(c["codec"], entries[f"{name}/{c['column']}"]), columns))
    weights = [np.array(c["weights"], dtype=np.float64) if "weights" in c else None for c in columns]
    ordered = np.full((len(earlier), len(columns)), UNKNOWN, dtype=np.int8)

    def decode(start: int) -> None:
        part = slice(start, start + _CHUNK)
        known = np.empty((len(rows[part]), given + len(columns)), order="F")
        known[:, :given] = earlier[rows[part]]
        for number, weight in enumerate(weights):
            column = stored[number][part]
            if weight is not None:
                predicted = _predict(known[:, : given + number], weight)
                column = (column.astype(np.int64) + predicted).astype(np.uint8).view(np.int8)
            ordered[rows[part], number] = column
            known[:, given + number] = _context(column)

    list(pool.map(decode, range(0, len(rows), _CHUNK)))
    values = np.empty_like(ordered)
    values[:, [c["column"] for c in columns]] = ordered
    return values, ordered
