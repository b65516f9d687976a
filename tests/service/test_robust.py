"""Whatever is sent, no answer is a bug: requests at random, large ones, bombs; and kill -9 loses no job."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem
from tests.service.conftest import HERE, make_settings

from moltune import datasets
from moltune.run import Run
from moltune.service.app import create_app
from moltune.service.guard import _counted
from moltune.service.models import Served
from moltune.service.problems import Problem

HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
BLOCK = Chem.MolToMolBlock(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
SMILES_LETTERS = "CNOPSFIBrcnos()[]=#@+-/\\.%0123456789*:~$ \t|"


def test_no_request_of_the_document_is_a_bug(address: str) -> None:
    document = schemathesis.openapi.from_url(f"{address}openapi.json")
    asked = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, suppress_health_check=HEALTH)
        def send(case: Any) -> None:
            answer = case.call()
            asked.add((case.method, case.path))
            sound(answer.status_code, answer.text)

        send()
    assert len(asked) == 11


def sound(status: int, text: str) -> None:
    assert status < 500 or status == 503, text[:500]
    assert "Traceback" not in text
    assert "site-packages" not in text


texts = st.text(max_size=60) | st.text(alphabet=SMILES_LETTERS, max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)


@given(body=st.fixed_dictionaries({"molecules": values | st.lists(texts, max_size=6)}, optional={"models": values}))
@settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
def test_bodies(client: TestClient, body: Any) -> None:
    content = json.dumps(body).encode()
    answer = client.post("/v1/predict", content=content, headers={"Content-Type": "application/json"})
    sound(answer.status_code, answer.text)
    if answer.status_code == 200:
        sent = body["molecules"] if isinstance(body["molecules"], list) else [body["molecules"]]
        assert [one["input"] for one in answer.json()["results"]] == sent


@given(content=st.binary(max_size=300))
@settings(max_examples=40, deadline=None, suppress_health_check=HEALTH)
def test_bytes_that_are_no_json(client: TestClient, content: bytes) -> None:
    for path in ("/v1/predict", "/v1/explain", "/v1/jobs"):
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500


@given(at=st.integers(0, len(BLOCK) - 1), cut=st.integers(0, 40), put=st.text(max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
def test_damaged_molblocks(client: TestClient, at: int, cut: int, put: str) -> None:
    answer = client.post("/v1/predict", json={"molecules": BLOCK[:at] + put + BLOCK[at + cut :]})
    sound(answer.status_code, answer.text)


@given(content=st.binary(min_size=1, max_size=400) | texts.map(str.encode), name=st.text(max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=HEALTH)
def test_uploads(client: TestClient, content: bytes, name: str) -> None:
    for ending in (".csv", ".smi", ".sdf", ".xlsx"):
        answer = client.post("/v1/jobs", files={"file": (name + ending, content)})
        sound(answer.status_code, answer.text)
        if answer.status_code == 202:
            assert client.delete(f"/v1/jobs/{answer.json()['id']}").status_code == 204


def test_deep_json_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/predict", content=b"[" * 100_000, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_a_body_that_lies_about_its_length_is_cut_off() -> None:
    import asyncio

    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    async def read() -> None:
        receive = _counted(endless, 1000)
        while True:
            await receive()

    with pytest.raises(Problem) as refused:
        asyncio.run(read())
    assert refused.value.status_code == 413


class Server:
    """``moltune serve`` in a process of its own."""

    def __init__(self, run: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "moltune", "serve", "--only", "--model", str(run), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--workers", "1", "--folder", str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "ready at" in line:
                self.address = line.split()[3].rstrip(",")
                break
        else:
            raise AssertionError("the server did not start")
        self.client = httpx.Client(base_url=self.address, timeout=60)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(probe: Run, tmp_path: Path) -> Iterator[Server]:
    found = Server(probe.path, tmp_path / "service")
    yield found
    found.kill()


@pytest.mark.slow
def test_what_is_too_large_is_refused_at_once(server: Server) -> None:
    def too_much() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 2**20

    host, _, port = server.address.removeprefix("http://").partition(":")
    for path in ("/v1/predict", "/v1/jobs"):
        begun = time.monotonic()
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {200 * 2**20}\r\n\r\n"
            connection.sendall(head.encode() + b"x" * 1000)
            assert b" 413 " in connection.recv(4096)
        assert time.monotonic() - begun < 1
    begun = time.monotonic()
    # Without a length: the server closes the connection, perhaps before its answer is read.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        answer = server.client.post("/v1/predict", content=too_much(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
    assert time.monotonic() - begun < 2
    begun = time.monotonic()
    answer = server.client.post("/v1/predict", json={"molecules": "C" * 10_000})
    assert answer.status_code == 422
    assert time.monotonic() - begun < 1
    assert server.client.get("/healthz").status_code == 200
    status = Path(f"/proc/{server.process.pid}/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        assert int(line.split()[1]) < 700 * 1024


@pytest.mark.slow
def test_no_acknowledged_job_is_lost_by_kills(probe: Run, tmp_path: Path) -> None:
    table = datasets.load("freesolv")[["smiles"]]
    files = [table.iloc[at * 60 :].to_csv(index=False).encode() for at in range(10)]
    chance = random.Random(0)
    folder, sent = tmp_path / "service", {}
    waiting = list(enumerate(files))
    for _ in range(3):
        server = Server(probe.path, folder)
        for _ in range(4):
            if waiting:
                at, content = waiting.pop(0)
                answer = server.client.post("/v1/jobs", files={"file": (f"{at}.csv", content)})
                assert answer.status_code == 202
                sent[at] = answer.json()["id"]
        time.sleep(chance.uniform(0, 3))
        server.kill()
    server = Server(probe.path, folder)
    try:
        for at, job in sent.items():
            deadline = time.monotonic() + 120
            while (found := server.client.get(f"/v1/jobs/{job}").json())["state"] not in ("done", "failed"):
                assert time.monotonic() < deadline, found
                time.sleep(0.2)
            assert found["state"] == "done", found
            result = server.client.get(f"/v1/jobs/{job}/result").content
            assert result == _expected(probe.path, files[at], tmp_path)
    finally:
        server.kill()
    assert len(sent) == 10


def _expected(run: Path, content: bytes, folder: Path) -> bytes:
    from moltune.bulk.predict import predict_file

    (folder / "in.csv").write_bytes(content)
    predict_file(run, folder / "in.csv", folder / "out.csv", restartable=False)
    return (folder / "out.csv").read_bytes()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner
    from typer.main import get_command

    from moltune.cli.app import app

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "moltune.service.server", raising=False)
    found = CliRunner().invoke(get_command(app), ["serve"])
    assert found.exit_code == 2
    assert "moltune[serve]" in found.output


def test_a_damaged_run_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    app = create_app(make_settings(tmp_path / "service"), [Served("run", str(tmp_path / "run"), False)])
    with pytest.raises(Exception, match=r"models cannot be loaded: .*run"), TestClient(app, HERE):
        pass
    assert app.state.failure is not None
