"""The code blocks of the tutorial, the guides and the README run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
