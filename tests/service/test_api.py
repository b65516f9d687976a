"""Requests for molecules: answers, errors, limits, who may ask."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from rdkit import Chem
from tests.service.conftest import make_settings

from moltune.errors import RunFolderError
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.service.app import create_app
from moltune.service.metrics import Metrics
from moltune.service.models import Served, served
from moltune.service.pool import Pool
from moltune.service.problems import Problem
from moltune.service.settings import Limits, ServiceSettings

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NAME = "hydration"


def test_answers_what_the_predictor_says(client: TestClient, probe: Run) -> None:
    found = client.post("/v1/predict", json={"molecules": [ASPIRIN, "OCC"]}).json()["results"]
    expected = Predictor.load(probe.path).predict([ASPIRIN, "OCC"])
    assert [one["smiles"] for one in found] == expected["smiles"].tolist() == [ASPIRIN, "CCO"]
    values = [one["predictions"][0] for one in found]
    assert [one["value"] for one in values] == pytest.approx(expected["predicted"].tolist())
    assert [one["domain"] for one in values] == expected["predicted_domain"].tolist()
    assert [one["nearest"] for one in values] == expected["predicted_nearest"].tolist()
    assert {one["model"] for one in values} == {NAME}


def test_one_smiles_inchi_or_molblock_stands_by_itself(client: TestClient) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles(ASPIRIN))
    for text in (ASPIRIN, Chem.MolToInchi(Chem.MolFromSmiles(ASPIRIN)), block):
        (found,) = client.post("/v1/predict", json={"molecules": text}).json()["results"]
        assert (found["smiles"], found["error"], len(found["predictions"])) == (ASPIRIN, None, 1)


def test_a_molecule_that_cannot_be_read_has_its_reason(client: TestClient) -> None:
    texts = ["xx", "CCO", "", "C1CC", "not\na\nmolblock", "C" * 301]
    found = client.post("/v1/predict", json={"molecules": texts}).json()["results"]
    assert [one["smiles"] for one in found] == [None, "CCO", None, None, None, None]
    assert [bool(one["error"]) for one in found] == [True, False, True, True, True, True]
    assert "unclosed ring" in found[3]["error"]
    assert "301 heavy atoms" in found[5]["error"]


def test_explains(client: TestClient) -> None:
    found = client.post("/v1/explain", json={"molecule": ASPIRIN, "model": NAME}).json()
    assert [one["element"] for one in found["atoms"]] == list("CCOOCCCCCCCOO")
    total = sum(one["contribution"] for one in found["atoms"]) + found["rest"]
    assert total == pytest.approx(found["prediction"])
    assert found["drawing"].startswith("<svg")
    assert len(found["neighbours"]) == 3
    begun = time.monotonic()
    assert client.post("/v1/explain", json={"molecule": ASPIRIN}).json() == found
    assert time.monotonic() - begun < 0.2


def test_lists_models(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    (one,) = found["models"]
    assert (one["name"], one["property"], one["ready"]) == (NAME, "hydration_free_energy", False)
    assert one["molecules"] == sum(one["training"]["counts"]) == 84
    assert one["rmse"] > 0
    assert found["limits"]["molecules"] == 256


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ({"molecules": []}, "invalid", "molecules"),
        ({"molecules": 3}, "invalid", "molecules"),
        ({"molecules": "C", "modles": []}, "invalid", "modles"),
        ({"molecules": "C", "models": ["nix"]}, "unknown-model", NAME),
        ({"molecules": "C", "models": ["../../etc"]}, "unknown-model", NAME),
        ({"molecules": ["C"] * 257}, "too-many", "256"),
        ({"molecules": "C" * 10_000}, "too-long", "2,000"),
        ({"molecules": "C\n" * 40_000}, "too-long", "60,000"),
    ],
)
def test_refuses_with_problem_details(client: TestClient, body: object, kind: str, word: str) -> None:
    begun = time.monotonic()
    answer = client.post("/v1/predict", json=body)
    assert time.monotonic() - begun < 1
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert (found["type"], found["status"]) == (f"urn:moltune:{kind}", 422)
    assert word in found["detail"]


@pytest.mark.parametrize("path", ["/nix", "/assets/nix.js", "/assets/..%2f..%2fapp.py", "/v1/jobs/nix"])
def test_what_is_not_there_is_a_problem(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")


def test_headers_forbid_what_the_page_does_not_need(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


def test_counts_requests(client: TestClient) -> None:
    client.post("/v1/predict", json={"molecules": "C"})
    text = client.get("/metrics").text
    assert 'moltune_requests_total{route="/v1/predict",status="200"}' in text
    assert 'moltune_jobs{state="queued"} 0.0' in text


def test_other_sites_get_no_answer(client: TestClient) -> None:
    body = {"molecules": "C"}
    assert client.post("/v1/predict", json=body, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/v1/predict", json=body, headers={"Origin": "http://localhost"}).status_code == 200


def test_a_token_is_asked_for(models: list[Served], tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, token="secret", host="0.0.0.0"), models)
    with TestClient(app, "http://moltune.example", raise_server_exceptions=False) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            answer = client.get("/v1/models", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (401, "urn:moltune:token")
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}


def test_beyond_this_machine_there_must_be_a_token() -> None:
    with pytest.raises(ValidationError, match="--token"):
        ServiceSettings(host="0.0.0.0")
    assert ServiceSettings(host="::1").is_local


def test_names_of_models(probe: Run, tmp_path: Path) -> None:
    other = tmp_path / "hydration"
    other.symlink_to(probe.path)
    with pytest.raises(RunFolderError, match="no run or ready-made model"):
        served([str(tmp_path / "nix")])
    names = [one.name for one in served([str(probe.path), str(other)], only=True)]
    assert names == ["hydration", "hydration-2"]


def test_past_the_queue_the_answer_is_503(models: list[Served], tmp_path: Path) -> None:
    pool = Pool(make_settings(tmp_path, limits=Limits(queue=10)), models, Metrics())

    async def fill() -> Problem:
        # No process runs, so that what is asked waits.
        waiting = asyncio.create_task(pool.predict([NAME], ["C"] * 8))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await pool.predict([NAME], ["C"] * 3)
        waiting.cancel()
        return refused.value

    problem = asyncio.run(fill())
    assert problem.status_code == 503
    assert int((problem.headers or {})["Retry-After"]) >= 1


def test_a_process_that_dies_is_started_again(client: TestClient) -> None:
    pool = client.app.state.service.pool  # type: ignore[attr-defined]
    pool._workers[0].process.kill()
    answer = client.post("/v1/predict", json={"molecules": ["C", "CC"]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][1]["predictions"][0]["value"] is not None
