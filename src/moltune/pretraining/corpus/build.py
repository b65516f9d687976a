"""The pretraining corpus: many molecules from public files, and none that is used to judge a model.

Three packages on the Python index carry the molecules (:data:`SOURCES`); any SMILES or CSV file can be added. Each
molecule is parsed, rewritten as RDKit's canonical isomeric SMILES, kept once, and dropped when it is larger than
60 heavy atoms or when it is a molecule of an evaluation set.

**How evaluation molecules are found.** Two molecules are the same here when the connectivity block (first 14
characters) of their InChIKey agrees, for the whole molecule or for its largest fragment, with bonds to metals cut.
Salts, charge states, isotopes, stereoisomers and mobile-hydrogen tautomers of an evaluation molecule therefore go as
well. InChI costs more than all other steps together, so it is computed only where it can match: InChI's connectivity
block is made from the elements, the bonds between heavy atoms (without bond orders) and the hydrogens, so equal blocks
imply isomorphic element-labelled heavy-atom graphs. A Morgan count fingerprint over atomic numbers alone is an
invariant of that graph; a molecule whose fingerprint differs from that of every evaluation molecule cannot match.
InChI breaks bonds to metals and inside ammonium salts, so molecules with a metal always get their InChIKey, and a
fragment is judged by itself. :func:`assert_excluded` checks a finished corpus without this shortcut.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from moltune import datasets
from moltune.errors import DataError
from moltune.files import sha256_of
from moltune.pretraining.corpus.sources import Source, read_smiles
from moltune.run import library_versions

logger = logging.getLogger(__name__)

MAX_HEAVY_ATOMS = 60
_CHUNK = 2000
# What InChI treats as a non-metal: bonds between these are never broken.
_NON_METALS = frozenset({1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86})


@dataclass(frozen=True)
class Corpus:
    """Molecules to pretrain on.

    Attributes:
        smiles: n canonical isomeric SMILES, shuffled by the seed.
        source: n names of sources, aligned with ``smiles`` (the first source that has the molecule).
        manifest: counts per source and reason, settings, checksums and versions; JSON-ready.
    """

    smiles: list[str]
    source: np.ndarray
    manifest: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.smiles)


@dataclass(frozen=True)
class Excluded:
    """Molecules that must not be learned from.

    Attributes:
        blocks: connectivity block → name of the (first) set that it comes from.
        skeletons: the graph invariants of the same molecules, see the module's text.
        counts: set → number of its molecules that were readable.
    """

    blocks: Mapping[str, str]
    skeletons: frozenset[bytes]
    counts: Mapping[str, int]


def exclude(sets: Mapping[str, Iterable[str]]) -> Excluded:
    """Prepare evaluation sets (name → SMILES) for :func:`build_corpus` and :func:`assert_excluded`.

    Raises:
        DataError: a SMILES cannot be read or has no InChIKey, so that its molecule could slip through.
    """
    blocks: dict[str, str] = {}
    skeletons: set[bytes] = set()
    counts: dict[str, int] = {}
    for name, smiles_list in sets.items():
        counts[name] = 0
        for smiles in smiles_list:
            mol = _parse(smiles)
            found = {} if mol is None else {part: _block(part) for part in _parts(mol)}
            if not found or not all(found.values()):
                raise DataError(
                    f"cannot exclude {smiles!r} of {name}: RDKit finds no InChIKey for it; correct or remove it"
                )
            for part, block in found.items():
                blocks.setdefault(block, name)
                skeletons.add(_skeleton(part))
            counts[name] += 1
    return Excluded(blocks, frozenset(skeletons), counts)


def benchmark_sets() -> dict[str, list[str]]:
    """SMILES of every benchmark set that is bundled with moltune, by name."""
    return {name: datasets.load(name)["smiles"].tolist() for name in datasets.names()}


def build_corpus(
    sources: Sequence[Source],
    excluded: Excluded,
    *,
    seed: int = 0,
    n_jobs: int = 1,
) -> Corpus:
    """Read, canonicalise, filter, deduplicate and shuffle.

    A molecule of several sources is counted for the first one in ``sources``. The result depends on the files, the
    seed and RDKit's version, and not on ``n_jobs``.

    Args:
        sources: where molecules come from; ``Source.sample`` takes a seeded sample of a file's rows.
        excluded: from :func:`exclude`.
        seed: of the samples and of the final order.
        n_jobs: processes.

    Raises:
        DataError: a file is missing or holds no SMILES, or nothing is left.
    """
    kept: dict[str, str] = {}
    report: dict[str, Any] = {}
    for number, source in enumerate(sources):
        if source.name in report:
            raise DataError(f"two sources are called {source.name!r}; give each its own name")
        rows = read_smiles(source)
        taken = rows
        if source.sample is not None and source.sample < len(rows):
            chosen = np.random.default_rng([seed, number]).choice(len(rows), source.sample, replace=False)
            taken = [rows[i] for i in np.sort(chosen)]
        counts: Counter[str] = Counter()
        chunks = _in_chunks(_judge_chunk, taken, n_jobs, excluded)
        for status, smiles in itertools.chain.from_iterable(chunks):
            if status == "kept" and smiles in kept:
                status = "duplicate"
            elif status == "kept":
                kept[smiles] = source.name
            counts[status] += 1
        report[source.name] = {
            "file": Path(source.path).name,
            "sha256": sha256_of(source.path),
            "rows": len(rows),
            "taken": len(taken),
            "counts": dict(sorted(counts.items())),
        }
        logger.info("%s: %s", source.name, report[source.name]["counts"])
    if not kept:
        raise DataError("no molecule is left for the corpus; check the files and the excluded sets")
    smiles_list = list(kept)
    order = np.random.default_rng([seed, len(sources)]).permutation(len(smiles_list))
    shuffled = [smiles_list[i] for i in order]
    manifest = {
        "molecules": len(shuffled),
        "per_source": dict(sorted(Counter(kept.values()).items())),
        "sources": report,
        "excluded_sets": dict(excluded.counts),
        "excluded_blocks": len(excluded.blocks),
        "seed": seed,
        "max_heavy_atoms": MAX_HEAVY_ATOMS,
        "smiles_sha256": smiles_checksum(shuffled),
        "versions": library_versions(("rdkit", "numpy", "moltune")),
    }
    return Corpus(shuffled, np.array([kept[smiles] for smiles in shuffled]), manifest)


def smiles_checksum(smiles: Iterable[str]) -> str:
    """SHA-256 of the SMILES joined by newlines: says whether two arrays are about the same molecules in one order."""
    return hashlib.sha256("\n".join(smiles).encode()).hexdigest()


def assert_excluded(corpus: Iterable[str], excluded: Excluded, *, n_jobs: int = 1) -> int:
    """Compute the InChIKey of every molecule and compare, with no shortcut.

    About 1,500 molecules per second and process.

    Returns:
        The number of molecules checked.

    Raises:
        DataError: a molecule of an excluded set is in the corpus.
    """
    return sum(_in_chunks(_check_chunk, list(corpus), n_jobs, excluded.blocks))


def _in_chunks(work: Callable[..., Any], smiles: list[str], n_jobs: int, *arguments: Any) -> Iterator[Any]:
    """Apply a function to some thousand SMILES at a time, in order, on several processes."""
    chunks = [smiles[start : start + _CHUNK] for start in range(0, len(smiles), _CHUNK)]
    parallel = Parallel(n_jobs=n_jobs if len(chunks) > 1 else 1, return_as="generator")
    return parallel(delayed(work)(chunk, *arguments) for chunk in chunks)


def _judge_chunk(chunk: list[str], excluded: Excluded) -> list[tuple[str, str]]:
    with rdBase.BlockLogs():
        return [_judge(smiles, excluded) for smiles in chunk]


def _judge(text: str, excluded: Excluded) -> tuple[str, str]:
    """What becomes of one molecule: a status ("kept" or a reason) and its canonical SMILES."""
    mol = _parse(text)
    if mol is None:
        return "unreadable", text
    if mol.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        return "too large", text
    smiles = Chem.MolToSmiles(mol)
    for part in _parts(mol):
        if any(map(_is_metal, part.GetAtoms())) or _skeleton(part) in excluded.skeletons:
            name = excluded.blocks.get(_block(part))
            if name is not None:
                return f"in {name}", smiles
    return "kept", smiles


def _check_chunk(chunk: list[str], blocks: Mapping[str, str]) -> int:
    with rdBase.BlockLogs():
        for smiles in chunk:
            mol = _parse(smiles)
            if mol is None:
                raise DataError(f"the corpus holds {smiles!r}, which RDKit cannot read; build it again")
            for name in (blocks[block] for block in map(_block, _parts(mol)) if block in blocks):
                raise DataError(f"{smiles} of the evaluation set {name} is in the corpus; build the corpus again")
    return len(chunk)


def _parse(smiles: str) -> Chem.Mol | None:
    mol = Chem.MolFromSmiles(smiles)
    return mol if mol is not None and mol.GetNumHeavyAtoms() else None


def _parts(mol: Chem.Mol) -> list[Chem.Mol]:
    """The molecule and, when it has several fragments, the largest of them; bonds to metals do not count."""
    cut = [bond.GetIdx() for bond in mol.GetBonds() if _is_metal(bond.GetBeginAtom()) or _is_metal(bond.GetEndAtom())]
    try:
        whole = Chem.FragmentOnBonds(mol, cut, addDummies=False) if cut else mol
        fragments = Chem.GetMolFrags(whole, asMols=True, sanitizeFrags=bool(cut))
    except (Chem.MolSanitizeException, RuntimeError, ValueError):
        # A metal complex that falls into no valid molecules is judged as a whole.
        fragments = (mol,)
    if len(fragments) == 1:
        return [mol]
    return [mol, max(fragments, key=lambda part: (part.GetNumHeavyAtoms(), Chem.MolToSmiles(part)))]


def _block(mol: Chem.Mol) -> str:
    """The connectivity block of the InChIKey; empty when InChI refuses the molecule."""
    return str(Chem.MolToInchiKey(mol))[:14]


def _is_metal(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() not in _NON_METALS


@lru_cache(maxsize=1)
def _generator() -> Any:
    # Redundant environments stay: RDKit's rule for leaving them out depends on the order of the atoms.
    return rdFingerprintGenerator.GetMorganGenerator(
        radius=3, useBondTypes=False, includeChirality=False, includeRedundantEnvironments=True
    )


def _skeleton(mol: Chem.Mol) -> bytes:
    """An invariant of the heavy-atom graph with elements on its nodes: equal for molecules of one connectivity."""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    if 1 in numbers:
        mol = Chem.RemoveAllHs(mol, sanitize=False)
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    counts = _generator().GetSparseCountFingerprint(mol, customAtomInvariants=numbers)
    return hashlib.blake2b(counts.ToBinary(), digest_size=16).digest()
