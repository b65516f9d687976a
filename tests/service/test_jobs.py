"""Files: upload, result, rows of it, removal, expiry, fairness, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from tests.service.conftest import HERE, Wait, make_settings

from moltune import datasets
from moltune.bulk.predict import predict_file
from moltune.run import Run
from moltune.service.app import create_app
from moltune.service.jobs import Jobs
from moltune.service.models import Served
from moltune.service.settings import Limits
from moltune.service.uploads import safe_name

MADE_HERE = re.compile(r"(upload|result)(\.[a-z]+)+|view\.parquet")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    table = datasets.load("freesolv").iloc[200:260][["smiles"]].reset_index(drop=True)
    table.loc[[7, 33], "smiles"] = ["xx", "C1CC"]
    return table.assign(compound=[f"ID-{i}" for i in range(60)])


def send(client: TestClient, content: bytes, name: str = "my table.csv", **form: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", files={"file": (name, content)}, data=form)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def csv_of(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def test_the_result_is_what_the_command_line_writes(
    client: TestClient, table: pd.DataFrame, probe: Run, tmp_path: Path, wait: Wait
) -> None:
    (tmp_path / "in.csv").write_bytes(csv_of(table))
    predict_file(probe.path, tmp_path / "in.csv", tmp_path / "out.csv")
    job = wait(client, send(client, csv_of(table))["id"])
    assert (job["state"], job["rows"], job["predicted"], job["progress"]) == ("done", 60, 58, 1.0)
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert answer.content == (tmp_path / "out.csv").read_bytes()
    assert "my%20table-predicted.csv" in answer.headers["content-disposition"]


@pytest.mark.parametrize("ending", ["smi", "sdf", "xlsx", "csv.gz"])
def test_kinds_of_files(client: TestClient, table: pd.DataFrame, ending: str, tmp_path: Path, wait: Wait) -> None:
    table = table.iloc[:6]
    path = tmp_path / f"x.{ending}"
    if ending == "xlsx":
        table.to_excel(path, index=False)
    elif ending == "sdf":
        from rdkit import Chem

        with Chem.SDWriter(str(path)) as writer:
            for smiles in table["smiles"]:
                writer.write(Chem.MolFromSmiles(smiles))
    elif ending == "smi":
        path.write_text("".join(f"{row.smiles} {row.compound}\n" for row in table.itertuples()))
    else:
        path.write_bytes(gzip.compress(csv_of(table)))
    job = wait(client, send(client, path.read_bytes(), path.name)["id"])
    assert (job["state"], job["predicted"]) == ("done", 6), job
    assert job["format"] == {"smi": "csv", "csv.gz": "csv"}.get(ending, ending)
    assert len(client.get(f"/v1/jobs/{job['id']}/rows").json()["rows"]) == 6


def test_rows_are_sorted_and_filtered(client: TestClient, table: pd.DataFrame, wait: Wait) -> None:
    job = wait(client, send(client, csv_of(table))["id"])
    (said,) = job["results"]
    column = said["columns"][""]
    path = f"/v1/jobs/{job['id']}/rows"
    first = client.get(path, params={"limit": 500}).json()
    assert [row["row"] for row in first["rows"]] == list(range(1, 61))
    assert [row["compound"] for row in first["rows"]] == table["compound"].tolist()
    assert job["others"] == ["compound"]
    values = [row[column] for row in first["rows"] if row[column] is not None]
    assert sum(said["histogram"]["counts"]) == len(values) == 58
    found = client.get(path, params={"sort": column, "descending": True, "limit": 500}).json()["rows"]
    assert [row[column] for row in found] == [*sorted(values, reverse=True), None, None]
    part = client.get(path, params={"sort": column, "offset": 10, "limit": 5}).json()["rows"]
    assert [row[column] for row in part] == sorted(values)[10:15]
    assert sum(said["domain"].values()) == 58
    for flag, count in said["domain"].items():
        assert client.get(path, params={"domain": flag}).json()["total"] == count


def test_a_result_in_another_format(client: TestClient, table: pd.DataFrame, wait: Wait) -> None:
    job = wait(client, send(client, csv_of(table), format="jsonl", models="hydration")["id"])
    lines = client.get(f"/v1/jobs/{job['id']}/result").text.splitlines()
    assert [json.loads(line)["compound"] for line in lines] == table["compound"].tolist()


def test_what_cannot_be_read_fails_with_the_reason(client: TestClient, wait: Wait) -> None:
    job = wait(client, send(client, b"a,b\n1,2\n3,4\n")["id"])
    assert job["state"] == "failed"
    assert "structure" in job["error"].lower() or "smiles" in job["error"].lower()
    assert "/" not in job["error"]
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:moltune:not-done")


def bomb(kind: str) -> bytes:
    zeros = b"\0" * 2**20
    stream = io.BytesIO()
    if kind == "gz":
        with gzip.GzipFile(fileobj=stream, mode="wb") as packed:
            for _ in range(100):
                packed.write(zeros)
    else:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/a.xml", "w") as packed:
            for _ in range(100):
                packed.write(zeros)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "status"),
    [
        (b"x", "x.pdf", 422),
        (b"x", "noending", 422),
        (b"", "x.csv", 422),
        (b"\x1f\x8bnonsense", "x.csv.gz", 422),
        (b"PK\x03\x04nonsense", "x.xlsx", 422),
        (bomb("gz"), "x.csv.gz", 413),
        (bomb("zip"), "x.xlsx", 413),
        # A name that says nothing of the kind.
        (bomb("gz"), "x.csv", 413),
    ],
)
def test_refused_files(client: TestClient, content: bytes, name: str, status: int) -> None:
    before = len(client.get("/v1/jobs").json()["jobs"])
    begun = time.monotonic()
    answer = client.post("/v1/jobs", files={"file": (name, content)})
    assert time.monotonic() - begun < 1
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    service = client.app.state.service  # type: ignore[attr-defined]
    assert len(client.get("/v1/jobs").json()["jobs"]) == before == len(list(service.jobs.places.iterdir()))


def test_names_of_clients_touch_no_path(client: TestClient, table: pd.DataFrame, wait: Wait) -> None:
    found = send(client, csv_of(table.iloc[:3]), "../../../tmp/evil;.csv")
    assert found["name"] == "evil_.csv"
    job = wait(client, found["id"])
    place = client.app.state.service.jobs.place(job["id"])  # type: ignore[attr-defined]
    assert all(MADE_HERE.fullmatch(path.name) for path in place.iterdir()), list(place.iterdir())
    assert safe_name("") == safe_name("..") == safe_name("/") == "molecules"


def test_removed_jobs_leave_nothing(client: TestClient, table: pd.DataFrame, wait: Wait) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    for ended in (True, False):
        # Many pieces, so that the second one is removed while it runs.
        job = send(client, csv_of(pd.concat([table] * (1 if ended else 40))))["id"]
        if ended:
            wait(client, job)
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
        assert client.get(f"/v1/jobs/{job}").status_code == 404
        assert client.delete(f"/v1/jobs/{job}").status_code == 404
        for _ in range(100):
            if not service.jobs.place(job).exists() and job not in service.runner._current:
                break
            time.sleep(0.1)
        assert not service.jobs.place(job).exists()


def test_jobs_expire_and_make_room(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, Limits(jobs=2, hours=1e-9))

    def add() -> str:
        place = jobs.incoming()
        (place / "upload.csv").write_text("smiles\nC\n")
        return str(jobs.add(place, "x", ["m"], "upload.csv", "result.csv")["id"])

    first, second = add(), add()
    from moltune.service.problems import Problem

    with pytest.raises(Problem, match="busy"):
        add()
    jobs.end(first, {"rows": 1})
    third = add()
    assert {one["id"] for one in jobs.listed()} == {second, third}
    jobs.end(second, None, "why")
    jobs.expire()
    assert [one["id"] for one in jobs.listed()] == [third]
    assert not jobs.place(second).exists()
    jobs.close()


def test_a_long_file_makes_room_for_a_short_one(
    models: list[Served], table: pd.DataFrame, tmp_path: Path, wait: Wait
) -> None:
    app = create_app(make_settings(tmp_path, turn=0.05), models)
    with TestClient(app, HERE) as client:
        long = send(client, csv_of(pd.concat([table] * 100)))["id"]
        while client.get(f"/v1/jobs/{long}").json()["state"] == "queued":
            time.sleep(0.01)
        short = wait(client, send(client, csv_of(table))["id"])
        assert short["state"] == "done"
        assert client.get(f"/v1/jobs/{long}").json()["state"] != "done"
        assert wait(client, long)["rows"] == 6000


def test_a_second_service_does_not_take_the_same_jobs(models: list[Served], tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path), models), HERE):
        other = create_app(make_settings(tmp_path), models)
        with pytest.raises(Exception, match="another service"), TestClient(other, HERE):
            pass
