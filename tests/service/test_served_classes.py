"""A classifier beside another model: its answers, its card, and its columns in a file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from io import BytesIO

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from tests.service.conftest import HERE, Wait, make_settings

from moltune import datasets
from moltune.bulk.predict import predict_file
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.service.app import create_app
from moltune.service.models import served

MOLECULES = ["OCC(O)CO", "CCCCCCC", "CC(=O)C"]
CLASSES = ["insoluble", "soluble"]


@pytest.fixture(scope="module")
def client(probe: Run, classifier: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    models = served([str(probe.path), str(classifier.path)], only=True)
    app = create_app(make_settings(tmp_path_factory.mktemp("service")), models)
    with TestClient(app, HERE, raise_server_exceptions=False) as client:
        yield client


def test_answers_probability_class_and_set(client: TestClient, classifier: Run) -> None:
    found = client.post("/v1/predict", json={"molecules": MOLECULES}).json()["results"]
    expected = Predictor.load(classifier.path).predict(MOLECULES)
    for one, (_, row) in zip(found, expected.iterrows(), strict=True):
        number, own = one["predictions"]
        assert (number["classes"], number["predicted_class"], number["prediction_set"]) == (None, None, None)
        assert own["classes"] == CLASSES
        assert own["value"] == pytest.approx(row["predicted"])
        assert own["predicted_class"] == row["predicted_class"] == CLASSES[own["value"] >= 0.5]
        assert (" or ".join(own["prediction_set"]) or "none") == row["predicted_set"]
        assert own["domain"] == row["predicted_domain"]
        assert own["low"] is None
    assert [one["predictions"][1]["predicted_class"] for one in found[:2]] == ["soluble", "insoluble"]


def test_explains_log_odds(client: TestClient) -> None:
    found = client.post("/v1/explain", json={"molecule": MOLECULES[0], "model": "solvation"}).json()
    probability = found["prediction"]
    assert (found["classes"], found["contributions_to"]) == (CLASSES, "log-odds of soluble")
    whole = sum(one["contribution"] for one in found["atoms"]) + found["rest"]
    assert whole == pytest.approx(math.log(probability / (1 - probability)))
    assert {one["value"] for one in found["neighbours"]} <= {0, 1}


def test_its_card_has_scores_of_classes(client: TestClient, classifier: Run) -> None:
    number, own = client.get("/v1/models").json()["models"]
    assert (number["classes"], number["held_out"], number["scores"]) == (None, None, {})
    assert number["training"]["counts"]
    assert (own["name"], own["classes"], own["rmse"], own["training"]) == ("solvation", CLASSES, None, None)
    metrics = classifier.metrics
    assert own["scores"]["roc_auc"] == pytest.approx(metrics["test"]["roc_auc"]["value"])
    assert own["scores"]["calibration_error"] == pytest.approx(metrics["reliability"]["model"]["error"])
    assert own["coverage"] == pytest.approx(metrics["prediction_sets"]["model"]["coverage"])
    train = classifier.predictions.loc[classifier.predictions["split"] == "train", "true"]
    assert own["molecules"] == len(train)
    assert own["prevalence"] == pytest.approx(train.mean())
    held_out = own["held_out"]
    assert [held_out["edges"][0], held_out["edges"][-1]] == [0, 1]
    validation = classifier.predictions.loc[classifier.predictions["split"] == "validation", "true"]
    assert sum(held_out["positive"]) == validation.sum()
    assert sum(held_out["negative"]) == (1 - validation).sum()


def test_a_file_gets_the_columns_that_predict_writes(
    client: TestClient, probe: Run, classifier: Run, wait: Wait, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("file")
    table = datasets.load("freesolv").iloc[400:440][["smiles"]].reset_index(drop=True)
    table.loc[5, "smiles"] = "C1CC"
    table.to_csv(folder / "in.csv", index=False)
    sent = {"file": ("mine.csv", (folder / "in.csv").read_bytes())}
    job = wait(client, client.post("/v1/jobs", files=sent).json()["id"])
    assert job["error"] is None
    result = client.get(f"/v1/jobs/{job['id']}/result").content
    predict_file([probe.path, classifier.path], folder / "in.csv", folder / "out.csv")
    assert result == (folder / "out.csv").read_bytes()
    written = pd.read_csv(BytesIO(result))
    number, own = job["results"]
    assert number["classes"] == {}
    assert own["classes"] == dict(Counter(written["solvation_class"].dropna()))
    assert [own["histogram"]["edges"][at] for at in (0, -1)] == [0, 1]
    assert sum(own["histogram"]["counts"]) == 39
    rows = client.get(f"/v1/jobs/{job['id']}/rows").json()["rows"]
    assert [one["solvation_class"] or "" for one in rows] == written["solvation_class"].fillna("").tolist()
    assert {one["solvation_set"] for one in rows} <= {*CLASSES, "soluble or insoluble", "none", None}
    sort = client.get(f"/v1/jobs/{job['id']}/rows", params={"sort": own["columns"][""]}).json()["rows"]
    values = [one["solvation"] for one in sort if one["solvation"] is not None]
    assert values == sorted(values)
