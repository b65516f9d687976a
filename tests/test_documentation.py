"""Code blocks of the documentation run as written; the options of those that are not run exist."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from moltune.cli.app import app

ROOT = Path(__file__).parent.parent
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/guides").glob("*.md"))
EXPLANATIONS = ["docs/explanation/domain-and-intervals.md", "docs/explanation/ionisation.md"]
PAGES = ["README.md", "docs/tutorial.md", *GUIDES, *EXPLANATIONS]
BLOCK = re.compile(r"(?P<comment><!-- not run: [^>]+ -->\n+)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
# Pages whose every block needs a network, a GPU, a cluster or another page.
WITHOUT = {"docs/guides/index.md", "docs/guides/gpu.md", "docs/guides/ray.md", "docs/guides/serve.md"}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and code of each block of a page that is to be run."""
    found = BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [(block["language"], block["code"]) for block in found if not block["comment"]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", [page for page in PAGES if page not in WITHOUT])
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    assert blocks(page)
    for language, code in blocks(page):
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}:\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_pages_without_blocks_to_run_have_none() -> None:
    assert all(not blocks(page) for page in WITHOUT)


def options(words: list[str]) -> set[str]:
    """Names of the options that a command of ours or a script of the repository takes."""
    if words[0] == "moltune":
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    calls = (
        node
        for node in ast.walk(ast.parse((ROOT / words[1]).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    )
    added = (call.args for call in calls if getattr(call.func, "attr", "") == "add_argument")
    return {name.value for arguments in added for name in arguments if isinstance(name, ast.Constant)}


def test_commands_that_are_not_run_exist() -> None:
    found = 0
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("README.md")]:
        for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
            lines = block["code"].replace("\\\n", " ").splitlines() if block["comment"] else []
            for words in (shlex.split(line, comments=True) for line in lines):
                script = words[:1] == ["python"] and words[1].startswith(("benchmarks/", "recipes/"))
                if script or words[:1] == ["moltune"]:
                    given = {word.split("=")[0] for word in words if word.startswith("--")}
                    assert given <= options(words), f"{path.relative_to(ROOT)}: {' '.join(words)}"
                    found += 1
    assert found > 20
