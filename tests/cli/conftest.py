"""The command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from moltune.cli.app import app

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def moltune() -> Invoke:
    """Call it with arguments; whatever is no orderly exit fails the test with its traceback."""

    def invoke(*arguments: Any, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture(scope="session")
def quick(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of a second."""
    path = tmp_path_factory.mktemp("config") / "quick.yaml"
    path.write_text(
        f"model: {{name: {tiny_model}}}\n"
        "training: {epochs: 2, threads: 1}\n"
        "evaluation: {baselines: [mean], bootstrap: 10, figures: false}\n"
    )
    return ["--config", str(path)]
