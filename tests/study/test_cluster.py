"""The same study on a local Ray cluster of two nodes, one of which is lost midway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moltune.errors import ConfigError
from moltune.study.engine.cluster import RayExecutor
from moltune.study.engine.run import Progress, run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import make_recipe

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    # On a busy machine a node takes longer to start than Ray waits for by default.
    node = {"num_cpus": 1, "include_dashboard": False, "_system_config": {"agent_register_timeout_ms": 120_000}}
    made = Cluster(initialize_head=True, head_node_args=node)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_outlives_a_lost_node(cluster: Any, values: dict[str, Any], tmp_path: Path) -> None:
    recipe = make_recipe({**values, "protocol": {"splits": 3, "seeds": 1, "split": {"bins": 3}}})
    run_study(recipe, tmp_path / "local", executor=InlineExecutor(tmp_path / "local"))
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    lost = []

    def lose_a_node(progress: Progress) -> None:
        # Two tasks are under way, so one of them is on the node that goes.
        if not lost and progress.done >= 2 and len(progress.running) == 2:
            cluster.remove_node(node, allow_graceful=False)
            lost.append(progress.done)

    executor = RayExecutor(tmp_path / "ray", cluster.address)
    assert executor.slots == 2
    ran = run_study(recipe, tmp_path / "ray", executor=executor, report=lose_a_node)
    assert lost
    assert (ran.failed, ran.missing) == ({}, [])
    for hash_ in ran.done:
        here, there = Store(tmp_path / "local").result(hash_), Store(tmp_path / "ray").result(hash_)
        assert here is not None
        assert there is not None
        pd.testing.assert_frame_equal(here.predictions, there.predictions, check_exact=True)
    events = [json.loads(line) for line in (tmp_path / "ray" / "journal.jsonl").read_text().splitlines()]
    done = [event["hash"] for event in events if event["event"] == "done"]
    assert len(done) == len(set(done))


def test_no_cluster_at_the_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayExecutor(tmp_path, "127.0.0.1:1")
