"""The help of every command: an example that works, a text for each option, the defaults of the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from click.testing import Result

from moltune.cli.app import COMMANDS, app
from moltune.config import AdaptConfig, FinetuneConfig, make_config

Invoke = Callable[..., Result]


def pages(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and command of each page of the help."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        yield from pages(one, (*path, name))


LEAVES = {" ".join(path): command for path, command in pages() if not hasattr(command, "commands")}


def test_commands_stand_under_their_task(moltune: Invoke) -> None:
    text = moltune("--help").stdout
    places = [text.index(f"─ {task} ─") for task in COMMANDS]
    assert places == sorted(places)
    for (task, commands), start, end in zip(COMMANDS.items(), places, [*places[1:], len(text)], strict=True):
        for name in commands:
            assert re.search(rf"^│ {name} ", text[start:end], re.MULTILINE), (task, name)
    assert "First:  moltune demo" in text


@pytest.mark.parametrize("path", LEAVES)
def test_example_and_options(path: str) -> None:
    command = LEAVES[path]
    found = re.search(r"Example: moltune (.*)$", command.help, re.MULTILINE)
    assert found, f"{path} has no example"
    example = found.group(1)
    assert example.startswith(path)
    # Parsed, not run: an option that is gone, or an argument that is missing, raises here.
    command.make_context(path, example.removeprefix(path).split())
    for parameter in command.params:
        assert parameter.help, f"{path}: {parameter.name} has no help"


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(moltune: Invoke, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for path, _ in pages():
        text = moltune(*path, "--help").stdout
        assert "…" not in text, path
        assert max(map(len, text.splitlines())) <= width, path
        # An option that takes no value shows no type.
        assert "bool" not in text, path


def test_defaults_are_those_of_the_settings(moltune: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config, lora = FinetuneConfig(), make_config({"method": "lora"})
    shown = {
        "--model": config.model.name,
        "--method": config.method.name,
        "--batch-size": str(config.training.batch_size),
        "--learning-rate,--lr": f"{config.training.learning_rate:g}; {lora.training.learning_rate:g} with lora",
        "--ratios": "70/10/20",
        "--split": config.split.method,
        "--epochs": "as many as 180 steps take",
    }
    lines = moltune("finetune", "--help").stdout.splitlines()
    for option, default in shown.items():
        (line,) = [line for line in lines if line.startswith(f"│ {option} ")]
        assert f"[default: {default}" in line
    (line,) = [line for line in moltune("adapt", "--help").stdout.splitlines() if "--objective" in line]
    assert f"[default: {AdaptConfig().adapt.objective}]" in line
