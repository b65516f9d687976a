"""What goes with a prediction: intervals, domain, nearest training molecules; saved and loaded without a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moltune import datasets
from moltune.errors import CheckpointError, ConfigError, DataError
from moltune.predictors.confidence import Confidence

TABLE = datasets.load("freesolv")
SMILES, TARGET = TABLE["smiles"].tolist(), TABLE["hydration_free_energy"].to_numpy()
TRAIN, HELD_OUT, NEW = slice(0, 300), slice(300, 450), slice(450, 642)


def noisy(part: slice, seed: int = 0) -> np.ndarray:
    """Predictions whose errors are drawn alike everywhere."""
    return TARGET[part] + np.random.default_rng(seed).normal(0, 0.7, len(TARGET[part]))


@pytest.fixture(scope="module")
def confidence() -> Confidence:
    found = Confidence.fit((SMILES[TRAIN], TARGET[TRAIN]), (SMILES[HELD_OUT], TARGET[HELD_OUT]), {"m": noisy(HELD_OUT)})
    assert found is not None
    return found


def test_intervals_hold_what_they_promise(confidence: Confidence) -> None:
    predicted = noisy(NEW, 1)
    for level in (0.5, 0.9):
        said = confidence.describe(SMILES[NEW], predicted, "m", level)
        held = np.mean((said["_low"] <= TARGET[NEW]) & (TARGET[NEW] <= said["_high"]))
        assert abs(held - level) < 0.1
        assert (said["_low"] < predicted).all()
    assert np.median(said["_sd"]) == pytest.approx(0.7, rel=0.2)
    judged = confidence.judge(SMILES[NEW], TARGET[NEW], predicted, "m")
    assert judged["coverage"] == pytest.approx(held)
    assert set(judged["by_class"]) <= {"in", "near", "out"}
    assert sum(one["molecules"] for one in judged["by_class"].values()) == len(predicted)


def test_members_that_disagree_widen_the_interval() -> None:
    """Errors are drawn as large as the spread says, and the intervals learn it."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 2.0, len(TARGET))
    predicted = TARGET + spread * rng.normal(size=len(TARGET))
    own = (SMILES[HELD_OUT], TARGET[HELD_OUT])
    found = Confidence.fit((SMILES[TRAIN], TARGET[TRAIN]), own, {"m": predicted[HELD_OUT]}, spread[HELD_OUT])
    assert found is not None
    said = found.describe(SMILES[NEW], predicted[NEW], "m", 0.9, spread[NEW])
    assert np.corrcoef(np.log(said["_sd"]), np.log(spread[NEW]))[0, 1] > 0.8
    judged = found.judge(SMILES[NEW], TARGET[NEW], predicted[NEW], "m", spread[NEW])
    assert abs(judged["coverage"] - 0.9) < 0.08
    assert judged["spearman"] > 0.4


def test_the_nearest_training_molecule_is_named(confidence: Confidence) -> None:
    said = confidence.describe([SMILES[7], "CCCCCCCCCCCCO", "N[Pt](N)(Cl)Cl"], np.zeros(3), "m")
    assert said["_nearest"][0] == SMILES[7]
    assert said["_nearest_measured"][0] == TARGET[7]
    assert said["_similarity"][0] == 1.0
    assert said["_domain"][2] == "out"
    assert "platinum" in said["_reason"][2]
    assert said["_domain"][0] == "in"
    assert said["_reason"][0] == ""


def test_without_errors_there_are_no_intervals(confidence: Confidence) -> None:
    """A source that was not calibrated, and too few held-out molecules."""
    assert "_low" not in confidence.describe(["CCO"], np.zeros(1), "another")
    assert confidence.judge(["CCO"], np.zeros(1), np.zeros(1), "another") == {}
    few = Confidence.fit((SMILES[TRAIN], TARGET[TRAIN]), (SMILES[300:310], TARGET[300:310]), {"m": np.zeros(10)})
    assert few is not None
    assert few.calibrations == {}
    assert few.describe(["CCO"], np.zeros(1), "m")["_domain"][0] in ("in", "near", "out")
    assert Confidence.fit((SMILES[:4], TARGET[:4]), ([], np.empty(0)), {}) is None


def test_saved_and_loaded_says_the_same(confidence: Confidence, tmp_path: Path) -> None:
    confidence.save(tmp_path / "intervals.safetensors")
    again = Confidence.load(tmp_path / "intervals.safetensors")
    one, other = (own.describe(SMILES[NEW], noisy(NEW), "m") for own in (confidence, again))
    assert list(one) == list(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_damage_is_told(confidence: Confidence, tmp_path: Path) -> None:
    path = tmp_path / "intervals.safetensors"
    confidence.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Confidence.load(path)


def test_a_level_that_cannot_be_had(confidence: Confidence) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        confidence.describe(["CCO"], np.zeros(1), "m", 1.0)
    with pytest.raises(DataError, match="choose a lower level"):
        confidence.describe(["CCO"], np.zeros(1), "m", 0.999)
