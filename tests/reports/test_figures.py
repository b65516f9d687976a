from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from moltune.errors import DataError, NumericsError
from moltune.reports.figures import _bin_edges, loss_curves, residual_histogram, true_against_predicted

GENERATOR = np.random.default_rng(0)
TRUE = GENERATOR.normal(2, 1, 120)
PREDICTED = TRUE + GENERATOR.normal(0, 0.5, 120)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def history() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [0.5, 1.0, 1.5, 2.0, 3.0],
            "train_loss": [1.0, np.nan, 0.6, 0.5, 0.3],
            "validation_loss": [np.nan, 0.9, np.nan, 0.7, 0.8],
        }
    )


def svg_text(path: Path) -> str:
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    return " ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("text"))


def check_files(paths: list[Path], stem: Path) -> str:
    assert paths == [stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")]
    picture = matplotlib.image.imread(paths[0])
    assert min(picture.shape[:2]) > 400
    assert picture[..., :3].std() > 0.01
    assert sorted(stem.parent.iterdir()) == sorted(paths)
    return svg_text(paths[1])


def test_loss_curves_mark_the_chosen_epoch(tmp_path: Path) -> None:
    stem = tmp_path / "new" / "loss"
    text = check_files(loss_curves(history(), 2.0, stem), stem)
    assert "chosen epoch (2)" in text
    assert "validation" in text
    assert "Epoch" in text


def test_loss_curves_without_a_chosen_epoch_or_validation(tmp_path: Path) -> None:
    table = history().assign(validation_loss=np.nan)
    text = check_files(loss_curves(table, None, tmp_path / "v1.2"), tmp_path / "v1.2")
    assert "chosen" not in text
    assert "validation" not in text


def test_loss_curves_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation_loss.*epoch, train_loss"):
        loss_curves(history().drop(columns="validation_loss"), None, tmp_path / "loss")
    with pytest.raises(DataError, match="no finite loss"):
        loss_curves(history().assign(train_loss=np.nan, validation_loss=np.nan), None, tmp_path / "loss")


def test_true_against_predicted_shows_band_unit_and_metrics(tmp_path: Path) -> None:
    stem = tmp_path / "scatter"
    text = check_files(true_against_predicted(TRUE, PREDICTED, stem, unit="log units", target="logD"), stem)
    band = np.median(np.abs(PREDICTED - TRUE))
    rmse = np.sqrt(np.mean((PREDICTED - TRUE) ** 2))
    assert "Measured logD (log units)" in text
    assert f"± median absolute error ({band:.3g} log units)" in text
    assert f"RMSE = {rmse:.3g} log units" in text
    assert "n = 120" in text


def test_residual_histogram_shows_every_molecule(tmp_path: Path) -> None:
    stem = tmp_path / "residuals"
    text = check_files(residual_histogram(TRUE, PREDICTED, stem, unit="kcal/mol", target="dG"), stem)
    assert "Predicted − measured dG (kcal/mol)" in text
    assert "n = 120" in text


@pytest.mark.parametrize(
    "residuals",
    [
        PREDICTED - TRUE,
        np.zeros(5),
        np.array([3.0]),
        np.array([-1e-9, 1e6]),
        np.r_[np.zeros(99), 50.0],
        np.full(4, 0.1),
    ],
)
def test_bins_hold_all_residuals_and_break_at_zero(residuals: np.ndarray) -> None:
    edges = _bin_edges(residuals)
    counts, _ = np.histogram(residuals, bins=edges)
    assert counts.sum() == len(residuals)
    assert len(edges) < 100
    if np.ptp(residuals) > 0:
        assert np.abs(edges).min() == 0


@pytest.mark.parametrize("draw", [true_against_predicted, residual_histogram])
def test_degenerate_values_are_drawn(draw: object, tmp_path: Path) -> None:
    for number, (true, predicted) in enumerate([([1.0], [1.0]), ([2.0, 2.0], [2.0, 2.0]), ([0.0, 1e7], [1e-3, 1e7])]):
        assert callable(draw)
        stem = tmp_path / str(number) / "figure"
        check_files(draw(true, predicted, stem), stem)


@pytest.mark.parametrize("draw", [true_against_predicted, residual_histogram])
def test_odd_names_are_text_not_mathematics(draw: object, tmp_path: Path) -> None:
    assert callable(draw)
    name, unit = r"$\frac{1}$ <b>&", "$^{x$"
    text = svg_text(draw(TRUE, PREDICTED, tmp_path / "figure", target=name, unit=unit, title=name)[1])
    assert name in text
    assert unit in text


def test_thousands_of_points_keep_the_svg_small(tmp_path: Path) -> None:
    true = GENERATOR.normal(size=5000)
    path = true_against_predicted(true, true + GENERATOR.normal(size=5000), tmp_path / "big")[1]
    assert path.stat().st_size < 500_000
    assert "n = 5,000" in svg_text(path)


def test_non_finite_predictions_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"predicted\[0\]"):
        true_against_predicted([1.0], [np.nan], tmp_path / "figure")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_same_numbers_same_bytes_and_no_global_state(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    for name in ("a", "b"):
        loss_curves(history(), 2.0, tmp_path / name / "loss")
        true_against_predicted(TRUE, PREDICTED, tmp_path / name / "scatter")
        residual_histogram(TRUE, PREDICTED, tmp_path / name / "residuals")
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert dict(mpl.rcParams) == before
