import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from moltune.config import SplitSettings
from moltune.data.chemistry import parse_all, scaffold_smiles
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.reading.write import write_table
from moltune.data.splitting.similarity import cluster_labels, morgan_bits, nearest_similarity
from moltune.data.splitting.split import Split, _dealt, _fill, make_split, part_sizes, write_index_file
from moltune.errors import DataError, InputError

RATIOS = st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))


@pytest.fixture(scope="module")
def freesolv():
    return load_molecules("freesolv")


@pytest.fixture(scope="module")
def small():
    smiles = [f"{'C' * n}{tail}" for n in range(1, 13) for tail in ("O", "N", "c1ccccc1", "C1CCCC1", "F")]
    return molecules_from_lists(smiles, [float(n) for n in range(len(smiles))])


def assert_partition(split, n):
    together = np.concatenate(list(split.parts().values()))
    assert sorted(together.tolist()) == list(range(n))
    for positions in split.parts().values():
        assert positions.dtype == np.int64
        assert (np.diff(positions) > 0).all()


@given(n=st.integers(1, 5000), ratios=RATIOS)
def test_sizes_sum_and_follow_the_ratios(n, ratios):
    shares = np.array(ratios) / sum(ratios)
    if n < np.count_nonzero(shares):
        with pytest.raises(DataError, match="too few"):
            part_sizes(n, tuple(shares))
        return
    sizes = part_sizes(n, tuple(shares))
    assert sizes.sum() == n
    assert ((sizes > 0) == (shares > 0)).all()
    # Within one of the exact share, but for the parts that are lifted to one molecule, at the largest part's cost.
    assert (np.abs(sizes - shares * n) <= 2 + (n < 40)).all()


@settings(deadline=None, max_examples=60)
@given(
    method=st.sampled_from(["random", "stratified", "scaffold", "cluster"]),
    ratios=RATIOS,
    seed=st.integers(0, 2**32 - 1),
    algorithm=st.sampled_from(["sphere", "butina"]),
)
def test_every_method_partitions_repeats_and_respects_zero_shares(small, method, ratios, seed, algorithm):
    chosen = SplitSettings(method=method, ratios=ratios, algorithm=algorithm)
    split = make_split(small, chosen, seed)
    assert_partition(split, len(small))
    for share, positions in zip(ratios, split.parts().values(), strict=True):
        assert (len(positions) > 0) == (share > 0)
    again = make_split(small, chosen, seed)
    for one, other in zip(split.parts().values(), again.parts().values(), strict=True):
        assert np.array_equal(one, other)
    assert json.loads(json.dumps(split.settings))["seed"] == seed


@pytest.mark.parametrize("method", ["random", "stratified", "scaffold", "cluster"])
def test_seeds_differ_and_the_settings_seed_wins(freesolv, method):
    one, two = (make_split(freesolv, SplitSettings(method=method), seed) for seed in (0, 1))
    assert not np.array_equal(one.test, two.test)
    pinned = make_split(freesolv, SplitSettings(method=method, seed=1), 0)
    assert np.array_equal(pinned.test, two.test)
    assert pinned.seed == 1


def test_stratified_parts_have_like_targets(freesolv):
    target = freesolv.target
    for seed in range(5):
        split = make_split(freesolv, SplitSettings(method="stratified"), seed)
        assert [len(part) for part in split.parts().values()] == [450, 64, 128]
        for part in split.parts().values():
            deciles = np.quantile(target, np.linspace(0, 1, 6))
            counts = np.histogram(target[part], deciles)[0] / len(part)
            assert np.abs(counts - 0.2).max() < 0.06


def test_stratified_without_room_for_bins_is_still_random(small):
    chosen = SplitSettings(method="stratified", bins=60)
    splits = {tuple(make_split(small, chosen, seed).test.tolist()) for seed in range(5)}
    assert len(splits) == 5
    assert make_split(small, chosen, 0).settings["bins_used"] <= 10


def test_stratified_needs_targets():
    molecules = molecules_from_lists(["C", "N", "O", "F"], None)
    with pytest.raises(DataError, match="needs a target"):
        make_split(molecules, SplitSettings(method="stratified"), 0)
    assert_partition(make_split(molecules, SplitSettings(method="random"), 0), 4)


@given(sizes=st.lists(st.integers(0, 60), min_size=3, max_size=3).filter(sum))
def test_dealing_is_exact_and_even(sizes):
    labels = _dealt(np.array(sizes))
    assert np.bincount(labels, minlength=3).tolist() == sizes
    for part in range(3):
        expected = sizes[part] / sum(sizes) * np.arange(1, len(labels) + 1)
        assert np.abs(np.cumsum(labels == part) - expected).max() < 2


def test_scaffolds_do_not_straddle_and_large_ones_train(freesolv):
    split = make_split(freesolv, SplitSettings(method="scaffold", ratios="80/10/10"), 3)
    scaffolds = np.array([scaffold_smiles(mol) for mol in parse_all(freesolv.smiles)])
    seen = [set(scaffolds[part]) for part in split.parts().values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    names, counts = np.unique(scaffolds, return_counts=True)
    assert names[np.argmax(counts)] in seen[0]
    assert split.settings["groups"] == len(names)
    assert split.settings["largest_group"] == counts.max()


def test_scaffold_is_blind_to_stereo_and_side_chains():
    mols = [Chem.MolFromSmiles(text) for text in ("C[C@H]1CCCO1", "CC[C@@H]1CCCO1", "CCCC")]
    assert [scaffold_smiles(mol) for mol in mols] == ["C1CCOC1", "C1CCOC1", ""]


@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=30),
    ratios=RATIOS,
)
def test_filling_leaves_no_part_empty(counts, ratios):
    counts = np.array(counts)
    shares = np.array(ratios) / sum(ratios)
    sizes = part_sizes(int(counts.sum()), tuple(shares))
    part_of = _fill(counts, np.argsort(-counts, kind="stable"), sizes)
    assert set(part_of.tolist()) == set(np.flatnonzero(sizes > 0).tolist())


def test_too_few_groups_or_molecules_say_so():
    benzenes = molecules_from_lists(["C" * n + "c1ccccc1" for n in range(1, 9)], list(range(8)))
    with pytest.raises(DataError, match=r"needs at least 3 groups, and these 8 molecules form 1"):
        make_split(benzenes, SplitSettings(method="scaffold"), 0)
    two = molecules_from_lists(["C", "N"], [1.0, 2.0])
    with pytest.raises(DataError, match="2 molecules are too few for 3 parts"):
        make_split(two, SplitSettings(method="random"), 0)
    assert len(make_split(two, SplitSettings(method="random", ratios="1/0/1"), 0).validation) == 0


@pytest.mark.parametrize("algorithm", ["sphere", "butina"])
def test_clusters_are_within_the_cutoff_of_a_member(freesolv, algorithm):
    smiles = freesolv.smiles[:300]
    labels = cluster_labels(smiles, 0.5, algorithm, np.random.default_rng(0))
    bits = morgan_bits(smiles)
    assert set(labels.tolist()) == set(range(labels.max() + 1))
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        radius = min(nearest_similarity(bits, members, np.array([centre])).min() for centre in members)
        best = max(nearest_similarity(bits, members, np.array([centre])).min() for centre in members)
        assert best >= 0.5 - 1e-12, (label, radius)


def test_butina_starts_with_the_most_crowded():
    # Five alcohols that are alike, and two others: the crowd is one cluster whatever the order.
    smiles = ["CCCCCCCCO", "CCCCCCCCCO", "CCCCCCCCCCO", "CCCCCCCCCCCO", "CCCCCCCCCCCCO", "c1ccncc1", "FC(F)F"]
    for seed in range(5):
        labels = cluster_labels(smiles, 0.2, "butina", np.random.default_rng(seed))
        assert len(set(labels[:5].tolist())) == 1
        assert len(set(labels.tolist())) == 3


def columned(parts):
    n = len(parts)
    frame = pd.DataFrame({"smiles": ["C" * (i + 1) for i in range(n)], "y": np.arange(n) * 1.0, "Part": parts})
    return load_molecules(frame)


def test_column_split_takes_the_usual_names():
    molecules = columned(["train", "Training", " val ", "dev", "VALID", "validation", "test"])
    split = make_split(molecules, SplitSettings(method="column", column="part"), 0)
    assert [part.tolist() for part in split.parts().values()] == [[0, 1], [2, 3, 4, 5], [6]]


def test_column_split_refuses_what_it_does_not_know():
    with pytest.raises(DataError, match=r"row 2 has 'hold-out'; row 3 is empty"):
        make_split(columned(["train", "hold-out", None]), SplitSettings(method="column", column="Part"), 0)
    with pytest.raises(DataError, match=r"no split column 'Prt'; the columns are 'Part'. Did you mean 'Part'"):
        make_split(columned(["train", "test"]), SplitSettings(method="column", column="Prt"), 0)
    with pytest.raises(DataError, match="training part empty"):
        make_split(columned(["test", "test"]), SplitSettings(method="column", column="Part"), 0)


@pytest.mark.parametrize("name", ["split.json", "split.csv", "split.parquet"])
def test_a_split_written_as_an_index_file_reads_back(freesolv, tmp_path, name):
    split = make_split(freesolv, SplitSettings(method="random"), 0)
    path = tmp_path / name
    if name.endswith("json"):
        write_index_file(freesolv, split, path)
    else:
        write_table(split.to_frame(freesolv), path)
    again = make_split(freesolv, SplitSettings(method="index", index_file=str(path)), 5)
    for one, other in zip(split.parts().values(), again.parts().values(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [1, 2], "test": [2, 3]}', "row 2 into both train and test"),
        ('{"train": [1], "test": [3]}', "no part to 1 of the molecules, first rows 2"),
        ('{"train": [1, 2, 3], "test": [4]}', "names row 4, but the source has rows 1 to 3"),
        ('{"train": [0, 1, 2, 3]}', "'0' is no row number"),
        ('{"train": [1.5, 2, 3]}', "'1.5' is no row number"),
        ('{"train": [true, 2, 3]}', "no row number"),
        ('{"fold": [1, 2, 3]}', "'fold' is no part"),
        ('{"train": 1}', "must look like"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_index_files_say_what_is_wrong(tmp_path, content, message):
    (tmp_path / "i.json").write_text(content)
    with pytest.raises(DataError, match=message):
        make_split(columned(["a", "b", "c"]), SplitSettings(method="index", index_file=str(tmp_path / "i.json")), 0)


@settings(deadline=None)
@given(content=st.text(max_size=60))
def test_arbitrary_index_files(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("index") / "i.json"
    path.write_text(content, encoding="utf-8", errors="replace")
    with pytest.raises(InputError):
        make_split(columned(["a", "b", "c"]), SplitSettings(method="index", index_file=str(path)), 0)


def test_index_files_may_name_rejected_rows_and_warn_about_torn_duplicates(tmp_path, caplog):
    frame = pd.DataFrame({"smiles": ["CCO", "bad", "OCC", "C"], "y": [1.0, 2.0, 3.0, 9.0]})
    (tmp_path / "i.csv").write_text("row,split\n1,train\n2,train\n3,test\n4,test\n")
    split = make_split(load_molecules(frame), SplitSettings(method="index", index_file=str(tmp_path / "i.csv")), 0)
    assert split.train.tolist() == [0]
    assert split.test.tolist() == [1]
    assert "1 duplicate rows are in another part" in caplog.text


def test_split_frame_names_rows_and_parts(small):
    split = Split(np.array([1, 2]), np.array([], dtype=np.int64), np.array([0]), "random", 0)
    frame = split.to_frame(molecules_from_lists(["C", "N", "O"], None))
    assert frame["split"].tolist() == ["test", "train", "train"]
    assert list(frame.columns) == ["row", "smiles", "inchikey", "split"]


@pytest.mark.slow
def test_lipophilicity_clusters_fill_the_parts():
    molecules = load_molecules("lipophilicity")
    split = make_split(molecules, SplitSettings(method="cluster"), 0)
    assert [len(part) for part in split.parts().values()] == [2940, 420, 840]
    assert split.settings["groups"] > 1000
