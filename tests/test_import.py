"""``import moltune``: light, and yet MoLFormer is known to transformers' Auto classes, whichever is imported first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import moltune
from moltune.models.names import bundled_models

HEAVY = ("torch", "transformers", "pandas", "rdkit", "sklearn", "scipy", "rich", "typer")


def python(code: str) -> str:
    """What a new interpreter prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    code = f"import moltune, sys, time; print(time.process_time(), [n for n in {HEAVY} if n in sys.modules])"
    seconds, heavy = python(code).split(" ", 1)
    assert heavy == "[]"
    # A quarter of it on an idle machine.
    assert float(seconds) < 0.3


def test_public_names() -> None:
    for name in moltune.__all__:
        assert getattr(moltune, name) is not None
        assert name in dir(moltune)
    with pytest.raises(AttributeError, match="nope"):
        _ = moltune.nope  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import moltune; import transformers",
        "import transformers; import moltune",
        # Our models are registered although transformers' own modules import each other and ours at that moment.
        "import moltune.models.molformer; import transformers.modeling_utils",
        "import transformers.models.auto.modeling_auto; import moltune; import transformers",
    ],
    ids=["moltune first", "transformers first", "our models first", "Auto classes first"],
)
def test_auto_classes_know_molformer(imports: str) -> None:
    folder: Path = bundled_models()["moltune/mini"]
    kinds = ("AutoConfig", "AutoTokenizer", "AutoModelForMaskedLM", "AutoModel")
    load = "; ".join(f"print(type(transformers.{kind}.from_pretrained({str(folder)!r})).__name__)" for kind in kinds)
    found = python(f"{imports}; {load}").split()
    assert found == ["MolformerConfig", "MolformerTokenizer", "MolformerForMaskedLM", "MolformerModel"]
