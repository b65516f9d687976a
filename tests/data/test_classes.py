"""Two classes as a target: when they are taken for classes, and which one is the positive one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltune.config import DataSettings, SplitSettings, make_config, make_settings
from moltune.data.classes import column_of_classes
from moltune.data.load import load_molecules, load_molecules_labelled_or_not
from moltune.data.molecules import Molecules
from moltune.data.reading.measurements import Reading
from moltune.data.splitting.split import make_split
from moltune.errors import ConfigError, DataError

CHAINS = ["C" * n for n in range(1, 41)]


def load(labels: list[object], classes: tuple[str, str] | None = None, **settings: object) -> Molecules:
    frame = pd.DataFrame({"smiles": CHAINS[: len(labels)], "label": labels})
    return load_molecules(frame, make_settings(DataSettings, {"target": "label", **settings}), classes=classes)


def notes(molecules: Molecules) -> str:
    reading = Reading.from_provenance(molecules.provenance)
    assert reading is not None
    return " ".join(reading.notes)


@pytest.mark.parametrize(
    ("labels", "classes", "target"),
    [
        ([0, 1, 1, 0], ("0", "1"), [0, 1, 1, 0]),
        (["1", "0", "1.0", "0"], ("0", "1"), [1, 0, 1, 0]),
        (["active", "inactive", "Active ", "INACTIVE"], ("inactive", "active"), [1, 0, 1, 0]),
        (["BBB-", "BBB+", "BBB+"], ("BBB-", "BBB+"), [0, 1, 1]),
        (["blocker", "Non-blocker"], ("Non-blocker", "blocker"), [1, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (["no", "yes"], ("no", "yes"), [0, 1]),
        (["a", "b", None], ("a", "b"), [0, 1]),
    ],
)
def test_classes_are_found_and_said(labels: list[object], classes: tuple[str, str], target: list[int]) -> None:
    found = load(labels)
    assert found.classes == classes
    assert found.target.tolist() == target
    assert f"Probabilities are those of {classes[1]!r}" in notes(found)
    assert "Classification was chosen" in notes(found)
    assert len(found.rejected) == labels.count(None)


def test_numbers_stay_numbers() -> None:
    for labels in ([0.0, 1.0, 2.0], [1.5, 3.0, 1.5], [1, 2, 1], [-1, 1, 1]):
        found = load(list(labels))
        assert found.classes is None
        assert found.target.tolist() == labels
    assert "holds 1.5 and 3 only, and is regressed" in notes(load([1.5, 3.0, 1.5]))
    as_numbers = load([0, 1, 1], task="regression")
    assert as_numbers.classes is None
    assert as_numbers.target.tolist() == [0, 1, 1]


def test_two_numbers_are_classes_when_asked_for() -> None:
    found = load([3, 1.5, 3], task="classification")
    assert found.classes == ("1.5", "3")
    assert found.target.tolist() == [1, 0, 1]


def test_what_is_not_two_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"has 3 \(a, b, c\)"):
        load(["a", "b", "c"], task="classification")
    with pytest.raises(DataError, match=r"has 4 \(0, 1, 2, 3\)"):
        load([0, 1, 2, 3], task="classification")
    with pytest.raises(DataError, match="no finite number"):
        load(["a", "b", "c"])
    for more in ({"clean": {"transform": "log10"}}, {"bounds": "use"}):
        with pytest.raises(ConfigError, match="classes have no logarithm and no bounds"):
            load([0, 1], task="classification", **more)


def test_labels_are_read_as_the_classes_of_a_model() -> None:
    found = load(["active", "active", "weak", "Inactive"], ("inactive", "active"), task="classification")
    assert found.target.tolist() == [1, 1, 0]
    assert found.rejected["reason"].tolist() == ["the target is not a number: 'weak is no class'"]


def test_a_molecule_of_both_classes_is_left_out() -> None:
    frame = pd.DataFrame({"smiles": ["CCO", "OCC", "CCN", "NCC", "CCC"], "label": [0, 1, 1, 1, 0]})
    found = load_molecules(frame, DataSettings(target="label"))
    assert dict(zip(found.smiles, found.target, strict=True)) == {"CCN": 1.0, "CCC": 0.0}
    assert found.rejected["reason"].str.contains("conflicts").sum() == 2


def test_the_task_is_not_in_settings_that_leave_it_open() -> None:
    assert "task" not in make_config({"data": {"source": "x"}}).model_dump()["data"]


@given(st.lists(st.booleans(), min_size=20, max_size=40), st.integers(0, 5))
def test_a_stratified_split_deals_out_each_class(labels: list[bool], seed: int) -> None:
    if len(set(labels)) < 2:
        labels[0] = not labels[0]
    molecules = load([int(label) for label in labels])
    split = make_split(molecules, SplitSettings(ratios=(0.6, 0.2, 0.2)), seed)
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        part = split.parts()[name]
        for label in (0, 1):
            expected = share * (molecules.target == label).sum()
            assert abs((molecules.target[part] == label).sum() - expected) < 2
    assert np.array_equal(np.sort(np.concatenate(list(split.parts().values()))), np.arange(len(molecules)))


def test_the_file_with_words_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text_classes.csv"
    path.write_text("SMILES,activity\nCCO,inactive\nCCN,active\nCCCl,inactive\n")
    found = load_molecules(path, DataSettings(target="activity"))
    assert found.classes == ("inactive", "active")


def test_a_column_that_holds_the_classes_of_a_model_is_the_target() -> None:
    known = ("inactive", "active")
    frame = pd.DataFrame({"smiles": ["C", "CC", "CCC"], "mass": [1.5, 2.5, 3.5], "effect": ["Active", "?", "ACTIVE"]})
    assert column_of_classes(frame, known) == "effect"
    molecules = load_molecules(frame, DataSettings(task="classification"), classes=known)
    # All may be of one class, since the model knows the other.
    assert molecules.target.tolist() == [1.0, 1.0]
    assert molecules.labels()["label"].tolist() == ["active", "active"]
    assert len(molecules.rejected) == 1
    twice = frame.assign(again=frame["effect"])
    with pytest.raises(DataError, match="Several columns may be the target: effect, again"):
        load_molecules(twice, DataSettings(task="classification"), classes=known)
    assert column_of_classes(twice.rename(columns={"again": "label"}), known) == "label"
    bare = load_molecules_labelled_or_not(frame[["smiles", "mass"]], DataSettings(task="classification"), known)
    assert np.isnan(bare.target).all()
