"""The same predictions on a local Ray cluster of two nodes, one of which is lost midway."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import RunSettings

from moltune import datasets
from moltune.bulk.predict import predict_file
from moltune.errors import CheckpointError, ConfigError
from moltune.predictors.several import Predictors
from moltune.run import Run
from moltune.tuning.finetune import finetune


@pytest.fixture(scope="module")
def probe(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"method.name": "probe", "method.probe.head": "ridge", "method.probe.features": "morgan"}
    return finetune(settings(output=tmp_path_factory.mktemp("probe") / "run", **changes))


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    # On a busy machine a node takes longer to start than Ray waits for by default.
    node = {"num_cpus": 1, "include_dashboard": False, "_system_config": {"agent_register_timeout_ms": 120_000}}
    made = Cluster(initialize_head=True, head_node_args=node)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some molecules, two of them unreadable, with an identifier."""
    table = datasets.load("freesolv")[["smiles"]].reset_index(drop=True)
    table.loc[[7, 33], "smiles"] = ["xx", "C1CC"]
    path = tmp_path_factory.mktemp("table") / "in.parquet"
    table.assign(compound=[f"ID-{i}" for i in range(len(table))]).to_parquet(path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_outlives_a_lost_node(cluster: Any, probe: Run, table: Path, tmp_path: Path) -> None:
    import ray

    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    before = predict_file(probe.path, table, here, piece=4)
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    lost: list[float] = []

    def lose_a_node(stage: str, share: float) -> None:
        # No core is free, so an actor is on the node that goes.
        if not lost and 0.1 < share < 0.9 and not ray.available_resources().get("CPU", 0):
            cluster.remove_node(node, allow_graceful=False)
            lost.append(share)

    after = predict_file(probe.path, table, there, piece=4, ray=cluster.address, report=lose_a_node)
    assert lost
    assert before == after
    assert there.read_bytes() == here.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["here.parquet", "there.parquet"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_node_cannot_do_is_said(cluster: Any, probe: Run, table: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(probe.path, tmp_path / "run")

    def remove_the_model(stage: str, share: float) -> None:
        shutil.rmtree(copy, ignore_errors=True)

    with pytest.raises(CheckpointError, match=r"on the node .* of the Ray cluster: .*run"):
        predict_file(copy, table, tmp_path / "out.csv", piece=100, ray=cluster.address, report=remove_the_model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("installed", [False, True])
def test_without_ray_or_a_cluster_nothing_is_loaded(
    installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if installed:
        pytest.importorskip("ray")
    else:
        monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(Predictors, "load", lambda *given, **more: pytest.fail("a model was loaded"))
    said = r"no Ray cluster at 127\.0\.0\.1:1" if installed else r"pip install moltune\[ray\]"
    with pytest.raises(ConfigError, match=said):
        predict_file("model", "in.csv", tmp_path / "out.csv", ray="127.0.0.1:1")
