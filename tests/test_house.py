"""The order of the house: imports run one way, files are short, names can be told apart.

The order of the rooms is that of the table in CONTRIBUTING.md, first column; a room that is missing there fails here.
Every import counts, also those inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "moltune"
MOST_LINES = 400
# Rooms inside a room, in their order.
INSIDE = {"study": ["recipe", "arms", "load", "engine", "analysis", "report"]}
# The face of the package gives names of all rooms, and anybody may ask it for the version.
FACE = {"moltune", "moltune.__main__"}
STRANGERS = ("data", "models")
# (who, whom) -> why this arrow may go up.
EXCEPTIONS: dict[tuple[str, str], str] = {}
ENDINGS = sorted(
    ["s", "e", "y", "es", "ed", "er", "or", "ers", "ors", "ing", "ings", "ion", "ions", "ation", "ations", "ment"],
    key=len,
    reverse=True,
)


@cache
def files() -> dict[str, Path]:
    """Module -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path) -> set[str]:
    """Modules of the package that a module imports anywhere in its file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [name if (name := f"{base}.{alias.name}") in files() else base for alias in node.names]
        found.update(name for name in names if name in files())
    return found - {module}


@cache
def graph() -> dict[str, set[str]]:
    """Module -> modules that it imports, without the face of the package."""
    return {module: imported(module, path) - FACE for module, path in files().items() if module not in FACE}


@cache
def rows() -> dict[str, int]:
    """Room -> row of the table in CONTRIBUTING.md."""
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return {
        name.removesuffix(".py").strip("/"): row
        for row, cell in enumerate(cells)
        for name in re.findall(r"`([^`]+)`", cell)
    }


def place(module: str) -> tuple[int, int]:
    """Where a module stands: row of its room, and of the room inside that."""
    room, *rest = module.split(".")[1:]
    inside = INSIDE.get(room)
    return rows()[room], inside.index(rest[0]) if inside and rest else -1


def root(name: str) -> str:
    """A name without its ending."""
    return next((name.removesuffix(end) for end in ENDINGS if name.endswith(end) and len(name) - len(end) > 2), name)


def test_every_room_has_a_row_in_contributing() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", "__main__"} == set(rows())
    for room, inside in INSIDE.items():
        found = {path.stem for path in (PACKAGE / room).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert found - {"__init__", "__pycache__", "recipes"} == set(inside)


def test_imports_form_no_ring() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"these import each other: {' <- '.join(error.args[1])}") from None


def test_no_import_goes_up() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if place(target) > place(module) and (module, target) not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(["imports that go up the house:", *wrong])


def test_data_and_models_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if {module.split(".")[1], target.split(".")[1]} == set(STRANGERS)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_exception_is_left_over() -> None:
    assert [pair for pair in EXCEPTIONS if pair[1] not in graph().get(pair[0], set())] == []


def test_files_are_short() -> None:
    counts = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in files().items()}
    assert {module: count for module, count in counts.items() if count > MOST_LINES} == {}


def test_names_in_one_folder_differ_by_more_than_an_ending() -> None:
    folders: dict[str, list[str]] = defaultdict(list)
    for module in files():
        folder, _, name = module.rpartition(".")
        folders[folder].append(name)
    alike = [
        f"{folder}: {one}, {other}"
        for folder, names in folders.items()
        for one, other in combinations(names, 2)
        if root(one) == root(other)
    ]
    assert alike == []
