"""A process with loaded models, which answers one task after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from moltune.errors import MoltuneError
from moltune.service.models import Served
from moltune.service.settings import Limits

logger = logging.getLogger(__name__)

READY, DONE, REFUSED, FAILED, STOPPED, NEWS = "ready", "done", "refused", "failed", "stopped", "news"
"""What a process says: its models are loaded; the result; why the input is at fault; a bug; a job made room; how far
a job is."""
PREDICT, EXPLAIN, FILE, STOP = "predict", "explain", "file", "stop"
"""What it is asked."""


def work(connection: Connection, served: Sequence[Served], limits: Limits, for_files: bool) -> None:
    """The life of a process; it ends with its parent, however that ends.

    Args:
        connection: of tasks and answers.
        served: models to load.
        limits: of molecules and memory.
        for_files: predict files, at low priority, instead of molecules.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    logging.getLogger("moltune").setLevel(logging.ERROR)
    _limit_memory(limits.memory)
    if for_files:
        _step_back()
        _loop(connection, _Files(connection, served, limits))
    else:
        from moltune.service.answers import Answers

        try:
            answers = Answers.load(served, limits)
            about = answers.describe()
        except MoltuneError as error:
            connection.send((REFUSED, str(error)))
            return
        except Exception as error:
            connection.send((FAILED, f"{type(error).__name__}: {error}"))
            return
        connection.send((READY, about))
        _loop(connection, _Molecules(answers))


class _Molecules:
    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def __call__(self, kind: str, payload: Any) -> tuple[str, Any]:
        if kind == PREDICT:
            return DONE, self.answers.predict(*payload)
        from moltune.service.answers import NOT_PREDICTED

        try:
            return DONE, self.answers.explain(*payload)
        except NOT_PREDICTED as error:
            return REFUSED, str(error)


class _Files:
    def __init__(self, connection: Connection, served: Sequence[Served], limits: Limits) -> None:
        self.connection, self.limits = connection, limits
        self.places = {one.name: one.place for one in served}

    def __call__(self, kind: str, payload: Any) -> tuple[str, Any]:
        from moltune.service.files import Stopped, predict_upload

        folder, upload, output, models = payload
        try:
            return DONE, predict_upload(folder, upload, output, models, self.places, self.limits, self._tell)
        except Stopped:
            return STOPPED, None
        except MoltuneError as error:
            return REFUSED, str(error).replace(f"{folder}{os.sep}", "")

    def _tell(self, news: dict[str, Any]) -> bool:
        """Say how far a job is; whether it is asked to stop."""
        self.connection.send((NEWS, news))
        stopped = False
        while self.connection.poll():
            stopped |= self.connection.recv()[0] == STOP
        return stopped


def _loop(connection: Connection, answer: _Molecules | _Files) -> None:
    while True:
        try:
            kind, payload = connection.recv()
        except (EOFError, OSError):
            return
        if kind == STOP:
            # It came when the job had just ended.
            continue
        try:
            found = answer(kind, payload)
        except MemoryError:
            found = (REFUSED, "this takes more memory than the service may use")
        except Exception as error:
            found = (FAILED, f"{type(error).__name__}: {error}"[:2000])
        connection.send(found)


def _limit_memory(gigabytes: float) -> None:
    """A file that unpacks without end must not take the machine down."""
    if not gigabytes:
        return
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]))


def _step_back() -> None:
    """Molecules come first: whoever waits for one looks at the screen."""
    if hasattr(os, "nice"):
        os.nice(19)
