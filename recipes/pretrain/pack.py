"""Put a corpus and its targets into one compact file for ``gpu.py``.

    python recipes/pretrain/pack.py runs/pretrain runs/pretrain/corpus.pack --max-mib 40

Reads ``corpus.parquet``, and of the following what there is: ``physchem.npy`` (+ ``physchem.json``), the teacher cache
``teacher/`` and ``ionisation/part-*.npy``. Molecules are sorted by SMILES, which compresses best. Where the file would
be larger than ``--max-mib`` (a trial on a sample says so), the teacher's step grows; then the descriptors' too.

``--distil CHECKPOINT`` adds what this larger encoder makes of every molecule, as a further target for a smaller one.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from packed import UNKNOWN, Block, Pack, quantise, write_pack

SETS = ("lipophilicity", "esol", "freesolv")
IONISATION_STEP, IONISATION_CLIP = 0.1, 12.0
EMBEDDING_STEP = 2.0**-5
_SAMPLE = 30_000
_CHUNK = 20_000
_TRIAL = 40_000


def corpus_smiles(folder: Path, most: int) -> list[str]:
    """The first SMILES of the corpus, which is shuffled."""
    return pq.read_table(folder / "corpus.parquet", columns=["smiles"])["smiles"].slice(0, most).to_pylist()


def teacher_rows(folder: Path, smiles: list[str]) -> np.ndarray:
    """Fingerprints, float16, shape (n, dimension); NaN where the cache has none."""
    place = {one: row for row, one in enumerate(smiles)}
    values: np.ndarray | None = None
    for path in sorted(folder.glob("shard-*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            names, rows = shard["smiles"].tobytes().decode().split("\n"), shard["fingerprints"]
        if values is None:
            values = np.full((len(smiles), rows.shape[1]), np.nan, dtype=np.float16)
        found = [(place[one], row) for row, one in enumerate(names) if one in place]
        if found:
            here, there = np.array(found).T
            values[here] = rows[there]
    assert values is not None, f"no shards in {folder}"
    return values


@dataclass(frozen=True)
class HalfWhitening:
    """First principal components, each divided by the fourth root of its variance, scaled to unit mean variance.

    Args of :meth:`of`: a sample of fingerprints, float32, shape (m, d), and the number of components k.
    """

    mean: np.ndarray
    spread: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    variance: np.ndarray
    explained: float

    @classmethod
    def of(cls, sample: np.ndarray, components: int) -> HalfWhitening:
        """Find the components."""
        mean, spread = sample.mean(0), sample.std(0) + 1e-6
        _, singular, axes = np.linalg.svd((sample - mean) / spread, full_matrices=False)
        variance = singular[:components] ** 2 / len(sample)
        scale = variance**-0.25
        scale /= np.sqrt((variance * scale**2).mean())
        explained = float((singular[:components] ** 2).sum() / (singular**2).sum())
        return cls(mean, spread, axes[:components], scale, variance, explained)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Project fingerprints (n, d): (n, k), clipped to ±20."""
        part = (values.astype(np.float32) - self.mean) / self.spread
        return np.clip(part @ self.axes.T * self.scale, -20, 20)


def half_whitened(values: np.ndarray, components: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Half-whitened components of fingerprints, float32 (n, components); NaN rows where there is no fingerprint."""
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    # The corpus is shuffled: its first rows are a sample that stays the same when more fingerprints are known.
    project = HalfWhitening.of(values[known[:_SAMPLE]].astype(np.float32), components)
    result = np.full((len(values), len(project.scale)), np.nan, dtype=np.float32)
    for start in range(0, len(known), _CHUNK):
        rows = known[start : start + _CHUNK]
        result[rows] = project(values[rows])
    notes = {"explained": round(project.explained, 4), "variance": project.variance.round(4).tolist()}
    return result, {"molecules": len(known), **notes}


def ionisation_rows(folder: Path, count: int) -> np.ndarray:
    """Raw values, float32 (n, k), in corpus order; NaN where no part (or no value) is."""
    values: np.ndarray | None = None
    for path in sorted(folder.glob("part-?????.npy")):
        part = np.load(path)[: max(0, count - _CHUNK * int(path.stem.removeprefix("part-")))]
        start = int(path.stem.removeprefix("part-")) * _CHUNK
        if values is None:
            values = np.full((count, part.shape[1]), np.nan, dtype=np.float32)
        values[start : start + len(part)] = part
    assert values is not None, f"no parts in {folder}"
    return np.where(np.isfinite(values), values, np.nan)


def standardised(values: np.ndarray, clip: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Columns of mean 0 and standard deviation 1 over what is known, clipped."""
    mean, spread = np.nanmean(values, axis=0, dtype=np.float64), np.nanstd(values, axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-9, spread, 1.0)
    scaled = np.clip((values - mean) / spread, -clip, clip).astype(np.float32)
    return scaled, {"mean": mean.tolist(), "sd": spread.tolist(), "clip": clip}


def embeddings(checkpoint: str, smiles: list[str]) -> np.ndarray:
    """Mean-pooled embeddings by another encoder, float16, shape (n, width)."""
    from moltune.config import ModelSettings
    from moltune.features.embedding import Encoder

    encoder = Encoder(ModelSettings(name=checkpoint, too_long="truncate"), batch_size=128)
    parts = []
    for start in range(0, len(smiles), _CHUNK):
        parts.append(encoder(smiles[start : start + _CHUNK]).astype(np.float16))
        print(f"{start + len(parts[-1])} of {len(smiles)} molecules embedded", flush=True)
    return np.concatenate(parts)


def evaluation_sets(splits: int) -> dict[str, Any]:
    """Canonical SMILES, labels, and training and validation parts of the first stratified splits; no test part.

    A molecule that is in the test part of every split is left out altogether.
    """
    from moltune.config import SplitSettings
    from moltune.data.load import load_molecules
    from moltune.data.splitting.split import make_split

    result: dict[str, Any] = {}
    for name in SETS:
        molecules = load_molecules(name)
        made = [make_split(molecules, SplitSettings(), seed) for seed in range(splits)]
        used = np.unique(np.concatenate([np.concatenate([one.train, one.validation]) for one in made]))
        parts = [
            {
                "train": np.searchsorted(used, one.train).tolist(),
                "validation": np.searchsorted(used, one.validation).tolist(),
            }
            for one in made
        ]
        smiles = molecules.smiles
        values = [round(float(value), 6) for value in molecules.target[used]]
        result[name] = {"smiles": [smiles[row] for row in used], "values": values, "splits": parts}
    return result


def gather(
    folder: Path, most: int, components: int, splits: int, left_out: frozenset[str], checkpoint: str
) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Sorted SMILES, the blocks before quantisation (values, names, notes), and the evaluation sets."""
    smiles = corpus_smiles(folder, most)
    rows = [row for row, one in enumerate(smiles) if one not in left_out]
    order = np.array(sorted(rows, key=smiles.__getitem__))
    blocks: dict[str, Any] = {}
    if (folder / "physchem.npy").is_file():
        values: np.ndarray = np.load(folder / "physchem.npy", mmap_mode="r")
        scaler = json.loads((folder / "physchem.json").read_text(encoding="utf-8"))
        scaler = scaler.get("scaler", scaler)
        blocks["mtr"] = np.asarray(values[: len(smiles)])[order], scaler["names"], scaler
    if list((folder / "teacher").glob("shard-*.npz")):
        projected, notes = half_whitened(teacher_rows(folder / "teacher", smiles), components)
        names = [f"component {number}" for number in range(projected.shape[1])]
        blocks["teacher"] = projected.astype(np.float16)[order], names, notes
    if list((folder / "ionisation").glob("part-?????.npy")):
        scaled, notes = standardised(ionisation_rows(folder / "ionisation", len(smiles)), IONISATION_CLIP)
        path = folder / "ionisation" / "names.txt"
        names = path.read_text().split("\n")[: scaled.shape[1]] if path.is_file() else []
        names = names or [f"number {number}" for number in range(scaled.shape[1])]
        blocks["ionisation"] = scaled.astype(np.float16)[order], names, notes
    sorted_smiles = [smiles[row] for row in order]
    if checkpoint:
        scaled, notes = standardised(embeddings(checkpoint, sorted_smiles).astype(np.float32), 127 * EMBEDDING_STEP)
        names = [f"dimension {number}" for number in range(scaled.shape[1])]
        blocks["embedding"] = scaled.astype(np.float16), names, {"checkpoint": checkpoint, **notes}
    return sorted_smiles, blocks, evaluation_sets(splits)


def report(pack: Pack, blocks: dict[str, Any], sizes: dict[str, float]) -> None:
    """Print what each part costs, and what quantisation does to it."""
    for name, block in pack.blocks.items():
        values, known = blocks[name][0], block.values != UNKNOWN
        rows = int(block.known().sum())
        squares = count = 0.0
        for start in range(0, len(values), _CHUNK):
            part = slice(start, start + _CHUNK)
            error = block.values[part].astype(np.float32) * block.step - values[part].astype(np.float32)
            squares += float(np.square(error[known[part]]).sum())
            count += int(known[part].sum())
        bits = sizes[name] * 2**23 / max(1, rows * block.values.shape[1])
        print(
            f"{name:12s} {sizes[name]:6.2f} MiB  {rows:7d} molecules x {block.values.shape[1]:3d}"
            f"  step {block.step:.3f}  {bits:.2f} bits a value  rms error {np.sqrt(squares / max(1, count)):.3f}"
        )
    for name in ("smiles", "evaluation", "meta.json", "whole file"):
        print(f"{name:12s} {sizes[name]:6.2f} MiB")


def quantised(smiles: list[str], blocks: dict[str, Any], steps: dict[str, float], evaluation: dict[str, Any]) -> Pack:
    """The pack with these steps."""
    made = {n: Block(quantise(v, steps[n]), steps[n], names, notes) for n, (v, names, notes) in blocks.items()}
    return Pack(smiles, made, evaluation, {"order": "sorted by SMILES"})


def coarsened(pack: Pack, blocks: dict[str, Any], steps: dict[str, float], arguments: argparse.Namespace) -> Pack:
    """The same with larger steps where a trial on a sample says that it would not fit."""
    rows = np.sort(np.random.default_rng(0).permutation(len(pack.smiles))[:_TRIAL])
    sample = Pack(
        [pack.smiles[row] for row in rows],
        {name: replace(block, values=block.values[rows]) for name, block in pack.blocks.items()},
        {},
    )
    trial = arguments.output.with_suffix(".trial")
    sizes = write_pack(sample, trial)
    trial.unlink()
    # Text and descriptors gain from neighbours that are alike, of which a sample has fewer: this errs upwards.
    factor = len(pack.smiles) / _TRIAL
    expected = factor * sum(sizes[name] for name in pack.blocks) + 0.75 * factor * sizes["smiles"] + 0.2
    print(f"expected: {expected:.1f} MiB", flush=True)
    for name, most in (("teacher", 0.6), ("mtr", 1.0)):
        excess = expected - arguments.max_mib
        if excess > 0 and name in pack.blocks:
            # A step larger by the factor 2**b saves b bits of every value.
            share = pack.blocks[name].known().mean() * len(pack.smiles) * pack.blocks[name].values.shape[1] / 2**23
            bits = min(excess / share, float(np.log2(most / steps[name])))
            steps[name] *= 2**bits
            expected -= bits * share
            print(f"too large: {name} with a step of {steps[name]:.3f}", flush=True)
    return quantised(pack.smiles, blocks, steps, pack.evaluation)


def main() -> None:
    """Parse arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder")
    parser.add_argument("output", type=Path, help="file")
    parser.add_argument("--max-mib", type=float, default=40.0)
    parser.add_argument("--exclude", type=Path, help="text file of SMILES to leave out, one a line")
    parser.add_argument("--molecules", type=int, default=10**9, help="only the first ones of the corpus")
    parser.add_argument("--distil", default="", help="checkpoint whose embeddings are a target, too")
    parser.add_argument("--components", type=int, default=96, help="of the teacher")
    parser.add_argument("--teacher-step", type=float, default=0.25)
    parser.add_argument("--descriptor-step", type=float, default=0.25)
    parser.add_argument("--splits", type=int, default=3, help="of each evaluation set")
    arguments = parser.parse_args()
    started = time.monotonic()
    left_out = frozenset(arguments.exclude.read_text(encoding="utf-8").split() if arguments.exclude else [])
    smiles, blocks, evaluation = gather(
        arguments.corpus, arguments.molecules, arguments.components, arguments.splits, left_out, arguments.distil
    )
    steps = {
        "mtr": arguments.descriptor_step,
        "teacher": arguments.teacher_step,
        "ionisation": IONISATION_STEP,
        "embedding": EMBEDDING_STEP,
    }
    print(f"{len(smiles)} molecules read after {time.monotonic() - started:.0f} s", flush=True)
    pack = quantised(smiles, blocks, steps, evaluation)
    if len(smiles) > 2 * _TRIAL:
        pack = coarsened(pack, blocks, steps, arguments)
    sizes = write_pack(pack, arguments.output)
    report(pack, blocks, sizes)
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if sizes["whole file"] > arguments.max_mib:
        arguments.output.unlink()
        raise SystemExit(f"the file does not fit into {arguments.max_mib} MiB; take larger steps or fewer components")


if __name__ == "__main__":
    main()
