"""Whatever comes in: an InputError, or every row accounted for."""

import string

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from moltune.config import CleanSettings
from moltune.data.cleaning.clean import clean, clean_smiles
from moltune.data.load import load_molecules
from moltune.data.reading.read import read_table
from moltune.errors import InputError

RELAXED = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SMILES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="CcNnOoSsFClBr()[]=#@+-12%./\\*HP :|", max_size=30),
    st.sampled_from(["CCO", "OCC", "c1ccccc1", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "C[N+](=O)[O-]", ""]),
)
CELLS = st.one_of(
    st.text(max_size=8), st.floats().map(str), st.floats(), st.integers(), st.none(), st.booleans(), st.just("1.5")
)
NAMES = ["a.csv", "a.tsv", "a.jsonl", "a.smi", "a.sdf", "a.parquet", "a.csv.gz", "a"]


def check(molecules):
    assert molecules.rows_in == len(molecules.table) + len(molecules.rejected)
    rows = [*molecules.table["row"], *molecules.rejected["row"]]
    assert sorted(rows) == list(range(1, molecules.rows_in + 1))
    assert molecules.rejected["reason"].str.len().gt(0).all()


def has_message(error):
    assert str(error).strip()


def read_anything(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        raw = read_table(path)
        assert raw.rows_in == len(raw.frame) + len(raw.bad_rows)
        check(load_molecules(path, need_target=False))
        check(load_molecules(path))
    except InputError as error:
        has_message(error)


@RELAXED
@given(name=st.sampled_from(NAMES), content=st.binary(max_size=200))
def test_arbitrary_bytes(tmp_path, name, content):
    read_anything(tmp_path, name, content)


@RELAXED
@given(
    name=st.sampled_from(NAMES),
    head=st.sampled_from(["", "smiles,y\n", "smiles;y\n", '{"smiles": "C", "y": 1}\n', "smiles\ty\n", "\n\n\nV2000\n"]),
    text=st.text(alphabet=string.printable, max_size=200),
)
def test_arbitrary_text_after_a_header(tmp_path, name, head, text):
    read_anything(tmp_path, name, (head + text).encode())


@RELAXED
@given(rows=st.lists(st.tuples(SMILES, st.text(alphabet='0123456789.,-"e\n;', max_size=6)), max_size=8))
def test_arbitrary_csv_rows(tmp_path, rows):
    text = "smiles,y\n" + "".join(f"{smiles},{value}\n" for smiles, value in rows)
    read_anything(tmp_path, "a.csv", text.encode("utf-8", "surrogatepass"))


@RELAXED
@given(smiles=SMILES, strip=st.booleans(), canonical=st.booleans())
def test_arbitrary_smiles(smiles, strip, canonical):
    chosen = CleanSettings(largest_fragment=strip, neutralize=strip, canonical=canonical)
    try:
        found = clean_smiles(smiles, chosen)
    except InputError as error:
        has_message(error)
        return
    assert len(found.inchikey) == 27
    again = clean_smiles(found.smiles, chosen)
    assert again.inchikey == found.inchikey
    if canonical:
        assert again.smiles == found.smiles


@RELAXED
@given(
    rows=st.lists(st.tuples(SMILES, CELLS), min_size=1, max_size=10),
    policy=st.sampled_from(["mean", "median", "first", "drop-conflicting", "error"]),
    need_target=st.booleans(),
)
@example(
    # RDKit's message about it is cut in the middle of a letter.
    rows=[("000000000\x80\x80\x80\x80\x80\u0800\U00010000\U00010000\U00010000\U00010000\U00010000", None)],
    policy="mean",
    need_target=False,
)
def test_every_row_is_accounted_for(rows, policy, need_target):
    frame = pd.DataFrame(rows, columns=["smiles", "y"], dtype=object)
    try:
        molecules = clean(read_table(frame), CleanSettings(duplicates=policy), target="y", need_target=need_target)
    except InputError:
        if not need_target:
            raise
        return
    check(molecules)
    if need_target:
        assert molecules.table["inchikey"].is_unique
        assert molecules.table["target"].map(float).abs().lt(1e39).all()


@pytest.mark.parametrize("depth", [10, 100_000])
def test_deep_nesting_is_no_crash(tmp_path, depth):
    (tmp_path / "a.jsonl").write_text("[" * depth + "\n" + '{"smiles": "C", "y": 1}\n{"smiles": "N", "y": 2}\n')
    try:
        check(load_molecules(tmp_path / "a.jsonl"))
    except InputError as error:
        has_message(error)
