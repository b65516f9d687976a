"""Small random models, and the reference forward pass that benchmarks/ shares with these tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from molformer_cases import tiny_config

import moltune  # noqa: F401  (registers the architectures)
from moltune.models.molformer import (
    MolformerConfig,
    MolformerForMaskedLM,
    MolformerForSequenceClassification,
    MolformerModel,
    MolformerTokenizer,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def config() -> MolformerConfig:
    return tiny_config()


@pytest.fixture
def encoder(config: MolformerConfig) -> MolformerModel:
    return MolformerModel(config).eval()


@pytest.fixture
def published_folders(tmp_path: Path, config: MolformerConfig) -> dict[str, Path]:
    """One folder per published kind of checkpoint, with pointers to remote code in both json files."""
    folders = {}
    for kind in (MolformerModel, MolformerForMaskedLM, MolformerForSequenceClassification):
        folder = tmp_path / kind.__name__
        kind(config).save_pretrained(folder)
        MolformerTokenizer().save_pretrained(folder)
        for name, code in (("config.json", "modeling_molformer"), ("tokenizer_config.json", "tokenization_molformer")):
            values = json.loads((folder / name).read_text())
            names = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification")
            values["auto_map"] = (
                dict.fromkeys(names, f"{code}.Published")
                if name == "config.json"
                else {"AutoTokenizer": [f"{code}.Published", f"{code}.PublishedFast"]}
            )
            (folder / name).write_text(json.dumps(values))
        folders[kind.__name__] = folder
    return folders
