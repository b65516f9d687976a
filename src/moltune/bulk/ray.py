"""Pieces done by Ray Data on a cluster (``moltune[ray]``), whose machines need not share a file system."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from moltune import cluster, errors
from moltune.bulk.work import ONE_THREAD, Finished, Function, Work
from moltune.data.reading.stream import Piece


@dataclass(frozen=True)
class OnRay:
    """A way to do pieces: actors that hold what was loaded, one for each core of a cluster, with one thread each.

    Pieces are sent, and their results come back to this process, which writes them. Models of the package are on every
    node; others must lie under the same path on all of them. Where a node is lost, Ray does its pieces again elsewhere.

    Args:
        address: see :func:`moltune.cluster.find_ray`.

    Raises:
        ConfigError: Ray is not installed, or no machine answers at the address.
    """

    address: str

    def __post_init__(self) -> None:
        cluster.find_ray(self.address)

    def __call__(self, work: Work, missing: Callable[[], Iterator[Piece]], finished: Finished) -> Iterator[int]:
        """Do the missing pieces, and tell the rows of each one when its file is there.

        Raises:
            ConfigError: there is no cluster at the address.
            MoltuneError: the cluster failed, or see the work itself.
        """
        ray, own = cluster.connect(self.address)
        try:
            for row in _dataset(ray, work, missing()).iter_rows():
                if row["problem"]:
                    raise getattr(errors, row["kind"])(row["problem"])
                finished.write(row["index"], pa.ipc.open_stream(row["result"]).read_all())
                yield row["rows"]
        except ray.exceptions.RayError as error:
            raise errors.MoltuneError(
                f"the Ray cluster failed ({errors.one_line(error)}); the same command goes on where it was"
            ) from None
        finally:
            if own:
                ray.shutdown()


def _dataset(ray: Any, work: Work, missing: Iterator[Piece]) -> Any:
    """Results of the pieces as a lazy dataset; Ray's store moves to the disk the pieces that it cannot hold."""
    from ray.data import ActorPoolStrategy, from_pandas_refs

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = [ray.put(pd.DataFrame({"piece": pd.Series([piece], dtype=object)})) for piece in missing]
    dataset = from_pandas_refs(blocks)
    dataset.context.enable_progress_bars = False
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=(work, Path.cwd()),
        batch_size=1,
        batch_format="pandas",
        # Where a node is lost, the pool goes on with the actors that find a place.
        compute=ActorPoolStrategy(min_size=1, max_size=min(cores, len(blocks))),
        num_cpus=1,
        runtime_env={"env_vars": ONE_THREAD},
    )


class _Actor:
    """Holds what was loaded."""

    def __init__(self, work: Work, here: Path) -> None:
        self.work, self.here = work, here

    @cached_property
    def function(self) -> Function:
        logging.getLogger("moltune").setLevel(logging.ERROR)
        # Models may be named by paths relative to where the command was given.
        with suppress(OSError):
            os.chdir(self.here)
        try:
            return self.work.open()
        except errors.MoltuneError as error:
            raise type(error)(f"on the node {socket.gethostname()} of the Ray cluster: {error}") from None

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        (piece,) = batch["piece"]
        kind, problem, result = "", "", b""
        try:
            result = _packed(self.function(piece))
        except errors.MoltuneError as error:
            # Ray would wrap it in errors of its own, with a traceback.
            kind, problem = type(error).__name__, str(error)
        row = {"index": piece.index, "rows": piece.rows, "result": result, "kind": kind, "problem": problem}
        return pd.DataFrame([row])


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()
