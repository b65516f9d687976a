"""A service over a small model, with the parts that run in other processes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from tests.tiny import RunSettings

from moltune import datasets
from moltune.run import Run
from moltune.service.app import create_app
from moltune.service.models import Served, served
from moltune.service.settings import ServiceSettings
from moltune.tuning.finetune import finetune

HERE = "http://localhost"
Wait = Callable[[TestClient, str], dict[str, Any]]


@pytest.fixture(scope="session")
def probe(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A ridge on Morgan counts: cheap, with intervals and a domain."""
    changes = {"method.name": "probe", "method.probe.head": "ridge", "method.probe.features": "morgan"}
    return finetune(settings(output=tmp_path_factory.mktemp("served") / "hydration", **changes))


@pytest.fixture(scope="session")
def classifier(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same for two classes, with prediction sets."""
    folder = tmp_path_factory.mktemp("classes")
    table = datasets.load("freesolv").iloc[:300]
    table["solvation"] = table.pop("hydration_free_energy").lt(-4).map({True: "soluble", False: "insoluble"})
    table.to_csv(folder / "classes.csv", index=False)
    changes = {"method.name": "probe", "method.probe.head": "ridge", "method.probe.features": "morgan"}
    changes |= {"data.source": str(folder / "classes.csv"), "data.target": "solvation"}
    return finetune(settings(output=folder / "solvation", **changes))


@pytest.fixture(scope="session")
def models(probe: Run) -> list[Served]:
    return served([str(probe.path)], only=True)


def make_settings(folder: Path, **changes: Any) -> ServiceSettings:
    return ServiceSettings(folder=folder, workers=1, **changes)


@pytest.fixture(scope="module")
def client(models: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(make_settings(tmp_path_factory.mktemp("service")), models)
    with TestClient(app, HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def wait() -> Wait:
    """Wait until a job is done or failed."""

    def ended(client: TestClient, job: str) -> dict[str, Any]:
        for _ in range(600):
            found = client.get(f"/v1/jobs/{job}").json()
            if found["state"] in ("done", "failed"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"the job did not end: {found}")

    return ended


def listening(settings: ServiceSettings, models: list[Served]) -> Iterator[str]:
    """A service on a port of its own; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(settings, models), "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def address(models: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from listening(make_settings(tmp_path_factory.mktemp("page")), models)
