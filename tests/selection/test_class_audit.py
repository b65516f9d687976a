"""The audit of labels that are classes: its headline follows from the labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from moltune import datasets
from moltune.config import AuditSettings, DataSettings
from moltune.data.load import molecules_from_lists
from moltune.errors import DataError
from moltune.evaluation.shift import share_shift
from moltune.run import Run
from moltune.selection.audit import audit
from moltune.selection.audit_report import write_audit
from moltune.selection.class_findings import ClassAudit
from moltune.selection.findings import Audit
from moltune.selection.noise import class_noise

SHARED = 10
OTHER = {"soluble": "insoluble", "insoluble": "soluble"}


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """200 molecules, and 60 of which the first ten are among them."""
    table = datasets.load("freesolv")[["smiles", "hydration_free_energy"]].sample(frac=1, random_state=0)
    label = np.where(table["hydration_free_energy"] < -4.5, "soluble", "insoluble")
    named = pd.DataFrame({"smiles": table["smiles"].to_numpy(), "solvation": label})
    return named.iloc[:200], named.iloc[190:250].reset_index(drop=True)


def flipped(external: pd.DataFrame, count: int) -> pd.DataFrame:
    """The labels of so many of the shared molecules turned round."""
    place = np.arange(len(external)) < count
    return external.assign(solvation=external["solvation"].where(~place, external["solvation"].map(OTHER)))


def make_audit(tiny_model: Path, external: object, against: object, target: str | None = "solvation") -> Audit:
    settings = AuditSettings.model_validate({"model": str(tiny_model), "permutations": 50, "folds": 3})
    return audit(external, against, settings=settings, data=DataSettings(target=target))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 3, 5, 10])
def test_the_headline_names_the_share_of_flipped_labels(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame], count: int
) -> None:
    known, external = tables
    found = make_audit(tiny_model, flipped(external, count), known)
    assert isinstance(found, ClassAudit)
    assert found.overlap["smiles"]["other_class"] == count
    assert found.overlap["smiles"]["labelled"] == SHARED
    said = [one for one in found.findings if "molecules are in the training data too" in one.text]
    if not count:
        assert found.verdict.startswith("The labels of the 10 molecules that both have are the same.")
        assert said[0].text.endswith("with the same labels; adding them tells the model nothing new.")
    else:
        to_positive = int((external["solvation"][:count] == "insoluble").sum())
        words = (
            f"{count} ({10 * count}%) {'is' if count == 1 else 'are'} of the other class "
            f"({to_positive} soluble here and insoluble there, {count - to_positive} the other way)"
        )
        assert words in found.verdict
        assert words in said[0].text
        assert said[0].level == ("note" if count == 1 else "bad")
    # One molecule in ten may well be measured again with the other result.
    assert ("contradict" in found.verdict) == (count > 1)
    assert "RMSE" not in found.verdict + "".join(one.text for one in found.findings)
    json.dumps(found.to_dict())


def test_a_random_part_of_the_same_data_has_nothing_to_say(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    known, external = tables
    found = make_audit(tiny_model, external.iloc[SHARED:], known)
    assert found.target is not None
    assert found.target.p > 0.05
    assert "contradict" not in found.verdict
    [balance] = [one for one in found.findings if "Fisher" in one.text]
    assert balance.level == "good"
    share = (external["solvation"][SHARED:] == "soluble").mean()
    assert balance.text.startswith(f"{share:.0%} of the molecules are soluble, against ")


def test_another_balance_and_flipped_labels_of_new_molecules_are_found(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    known, external = tables
    new = external.iloc[SHARED:]
    turned = make_audit(tiny_model, new.assign(solvation=new["solvation"].map(OTHER)), known)
    assert turned.verdict.startswith("The labels contradict what a model of the training labels expects.")
    [noise] = [one for one in turned.findings if "the excess is" in one.text]
    assert noise.level == "bad"
    soluble = new[new["solvation"] == "soluble"]
    found = make_audit(tiny_model, pd.concat([soluble, new.head(5)]).drop_duplicates(), known)
    [balance] = [one for one in found.findings if "Fisher" in one.text]
    assert balance.level == "note"


def test_labels_are_compared_by_name(tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    known, external = tables
    shouted = external.assign(solvation=external["solvation"].str.upper())
    assert "are the same" in make_audit(tiny_model, shouted, known).verdict
    positive = (external["solvation"] == "soluble").astype(float)
    numbers = molecules_from_lists(external["smiles"], positive)
    assert "are the same" in make_audit(tiny_model, numbers, known).verdict
    with pytest.raises(DataError, match="the classes are 'insoluble' and 'soluble'"):
        make_audit(tiny_model, external.assign(solvation=["wet", "dry"] * 30), known)


def test_against_a_run(tiny_model: Path, finished_classes: Run, classes_table: pd.DataFrame, tmp_path: Path) -> None:
    external = classes_table.iloc[:30]
    found = make_audit(tiny_model, flipped(external, 6), finished_classes.path, None)
    assert found.overlap["smiles"]["other_class"] == 6
    assert set(found.shared["part"]) == {"train", "validation", "test"}
    assert any("would leak" in one.text for one in found.findings)
    page = write_audit(found, tmp_path)
    assert "6 (20%) are of the other class" in page.read_text()
    shared = pd.read_csv(tmp_path / "shared.csv")
    assert (shared["label"] != shared["known_label"]).sum() == 6
    assert set(shared["label"]) == {"soluble", "insoluble"}
    assert set(shared["id"]) == set(external["id"])
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["shared"]["smiles"]["to_positive"] + written["shared"]["smiles"]["to_negative"] == 6
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert drawn == {"shared_labels", "similarity", "labels", "descriptors"}
    unlabelled = make_audit(tiny_model, external[["smiles"]], finished_classes.path, None)
    assert unlabelled.target is None
    assert unlabelled.noise is None
    assert "There are no labels to compare." in unlabelled.verdict


def test_the_test_of_shares_is_fisher_s() -> None:
    one, other = np.repeat([0.0, 1.0, np.nan], [10, 20, 3]), np.repeat([0.0, 1.0], [40, 20])
    found = share_shift(one, other)
    assert found.p == pytest.approx(stats.fisher_exact([[20, 10], [20, 40]]).pvalue)
    assert found.statistic == pytest.approx(1 / 3)
    assert found.means == pytest.approx((2 / 3, 1 / 3))


def test_noise_estimate_recovers_a_planted_share_of_flipped_labels() -> None:
    rng = np.random.default_rng(0)
    smiles = datasets.load("freesolv")["smiles"].tolist()[:400]
    x = rng.uniform(-2, 2, size=(400, 4))
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) > 0).astype(float)
    known = (x[:280], y[:280], smiles[:280])
    clean = class_noise((x[280:], y[280:], smiles[280:]), known, folds=3)
    assert clean.excess < 0.05
    turned = np.where(rng.random(120) < 0.3, 1 - y[280:], y[280:])
    noisy = class_noise((x[280:], turned, smiles[280:]), known, folds=3)
    assert noisy.excess_lower < 0.3 < noisy.excess_upper
    assert noisy.excess_lower > 0.1
    assert noisy.external_error == pytest.approx(clean.external_error + 0.3, abs=0.1)
