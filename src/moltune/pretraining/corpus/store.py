"""A corpus and its descriptors on disk.

``corpus.parquet`` (columns ``smiles``, ``source``; row order is the corpus order), ``corpus.json`` (the manifest),
``physchem.npy`` (float16, one row per corpus row, standardised) and ``physchem.json`` (the scaler that made it).
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moltune.errors import DataError
from moltune.features.physchem import DescriptorScaler, physchem
from moltune.files import replacing, sha256_of, write_json
from moltune.pretraining.corpus.build import Corpus, smiles_checksum

logger = logging.getLogger(__name__)

CORPUS_FILE = "corpus.parquet"
MANIFEST_FILE = "corpus.json"
PHYSCHEM_FILE = "physchem.npy"
SCALER_FILE = "physchem.json"
_BLOCK, _SCALER_BLOCKS = 20_000, 5


def write_corpus(corpus: Corpus, folder: str | Path) -> Path:
    """Write both files into ``folder`` (made when missing), each one atomically; return the Parquet file's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CORPUS_FILE
    source = pa.array(corpus.source.astype(object), pa.string()).dictionary_encode()
    table = pa.table({"smiles": pa.array(corpus.smiles, pa.string()), "source": source})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=12, use_dictionary=["source"])
    write_json(folder / MANIFEST_FILE, {**corpus.manifest, "file_sha256": sha256_of(path)})
    return path


def read_corpus(folder: str | Path) -> Corpus:
    """Read what :func:`write_corpus` wrote.

    Raises:
        DataError: a file is missing, or the molecules are not those that the manifest describes.
    """
    folder = Path(folder)
    for name in (CORPUS_FILE, MANIFEST_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder} holds no {name}; build the corpus again")
    try:
        table = pq.read_table(folder / CORPUS_FILE)
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"the corpus in {folder} cannot be read: {error}; build it again") from None
    smiles: list[str] = table["smiles"].to_pylist()
    if smiles_checksum(smiles) != manifest["smiles_sha256"]:
        raise DataError(
            f"{folder / CORPUS_FILE} is not the file that {MANIFEST_FILE} describes; build the corpus again"
        )
    return Corpus(smiles, np.array(table["source"].to_pylist()), manifest)


def write_physchem(corpus: Corpus, folder: str | Path, *, n_jobs: int = 1) -> Path:
    """Compute, standardise and store the descriptors of a corpus; about 700 molecules per second and process.

    The scaler is fitted on the first 100,000 molecules, which is a random sample because a corpus is shuffled.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    blocks: list[np.ndarray] = []
    for start in range(0, len(corpus), _BLOCK):
        blocks.append(physchem(corpus.smiles[start : start + _BLOCK], n_jobs=n_jobs))
        done = min(start + _BLOCK, len(corpus))
        logger.info("descriptors: %d of %d molecules, %.0f/s", done, len(corpus), done / (time.monotonic() - started))
    scaler = DescriptorScaler.fit(np.concatenate(blocks[:_SCALER_BLOCKS]))
    non_finite = sum(int((~np.isfinite(block)).sum()) for block in blocks)
    about = {"smiles_sha256": smiles_checksum(corpus.smiles), "non_finite": non_finite}
    write_json(folder / SCALER_FILE, {**about, "scaler": scaler.to_dict()})
    with replacing(folder / PHYSCHEM_FILE) as temporary:
        np.save(temporary, np.concatenate([scaler.transform(block).astype(np.float16) for block in blocks]))
    return folder / PHYSCHEM_FILE


def read_physchem(folder: str | Path, corpus: Corpus) -> tuple[np.ndarray, DescriptorScaler]:
    """The standardised descriptors (float16 memory map, row i is ``corpus.smiles[i]``) and their scaler.

    Raises:
        DataError: a file is missing or damaged, or belongs to another corpus.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / SCALER_FILE).read_text(encoding="utf-8"))
        values: np.ndarray = np.load(folder / PHYSCHEM_FILE, mmap_mode="r")
    except OSError as error:
        raise DataError(f"{folder} holds no descriptors ({error}); run write_physchem first") from None
    except ValueError as error:
        raise DataError(f"the descriptors in {folder} cannot be read ({error}); compute them again") from None
    scaler = DescriptorScaler.from_dict(about.get("scaler", {}))
    same = about.get("smiles_sha256") == smiles_checksum(corpus.smiles)
    if not same or values.shape != (len(corpus), len(scaler.names)):
        raise DataError(f"the descriptors in {folder} belong to another corpus; compute them again")
    return values, scaler
