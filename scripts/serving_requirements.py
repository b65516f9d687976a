"""Print what serving needs of the requirements in pyproject.toml: all but what trains."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TRAINING = {"accelerate", "onnx", "peft", "torch", "transformers", "xgboost", "xgboost-cpu"}


def requirements() -> list[str]:
    """One line each, as pip reads them."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    return [one for one in listed if re.split(r"[^\w-]", one)[0] not in TRAINING]


if __name__ == "__main__":
    print("\n".join(requirements()))
