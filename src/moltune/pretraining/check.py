"""What can be refused at once: before any molecules are read, and before torch or transformers are imported."""

from __future__ import annotations

from typing import Any

from moltune.config import AdaptConfig, PretrainConfig, make_settings
from moltune.data.reading.read import source_kind
from moltune.errors import ConfigError, DataError
from moltune.files import sha256_of
from moltune.models.names import resolve
from moltune.pretraining.corpus.store import CORPUS_FILE
from moltune.run import WorkFolder

ADAPT_SETTINGS, ADAPT_RESULT, PRETRAIN_SETTINGS = "adapt.yaml", "adaptation.json", "pretrain.yaml"

Checked = tuple[WorkFolder, dict[str, Any], dict[str, Any] | None]
"""A work folder, the settings that it stores, and the provenance of the work to take up again."""


def check_adaptation(config: AdaptConfig, *, resume: bool = False, overwrite: bool = False) -> Checked:
    """See whether an adaptation can begin.

    Raises:
        ConfigError: source, output or objective is missing, or both resume and overwrite are asked for.
        DataError: there is no such source of molecules.
        CheckpointError: there is no such model.
        RunFolderError: the output folder is taken, or belongs to other settings.
    """
    if config.data.source is None or config.output is None:
        raise ConfigError(
            "an adaptation needs data.source, the molecules, and output, the folder of the new checkpoint"
        )
    if config.adapt.objective == "none":
        raise ConfigError("adaptation needs an objective: mlm, mtr or both")
    source_kind(config.data.source)
    resolve(config.model.name)

    def stored(settings: AdaptConfig) -> dict[str, Any]:
        return settings.model_dump(mode="json", exclude={"output", "threads"})

    folder, values = WorkFolder(config.output, "adaptation", ADAPT_SETTINGS, ADAPT_RESULT), stored(config)
    before = folder.check(
        values, lambda found: stored(make_settings(AdaptConfig, found)), resume=resume, overwrite=overwrite
    )
    return folder, values, before


def check_pretraining(config: PretrainConfig, *, resume: bool = False) -> Checked:
    """See whether a pretraining can begin.

    Raises:
        ConfigError: corpus or output is missing.
        DataError: there is no such corpus.
        RunFolderError: the output folder is taken, or belongs to other settings or another corpus.
    """
    if config.corpus is None or config.output is None:
        raise ConfigError("pretraining needs corpus, a file or folder of molecules, and output, the folder of the run")
    if not config.corpus.exists():
        raise DataError(f"there is no corpus {config.corpus}")
    source = config.corpus / CORPUS_FILE if config.corpus.is_dir() else config.corpus
    if not source.is_file():
        raise DataError(f"{config.corpus} is a folder without {CORPUS_FILE}; give a file of SMILES or a corpus folder")
    values = config.model_dump(mode="json", exclude={"output", "jobs", "threads", "corpus"})
    values["corpus_sha256"] = sha256_of(source)
    folder = WorkFolder(config.output, "pretraining", PRETRAIN_SETTINGS, None, "--resume")
    before = folder.check(values, lambda found: {name: found.get(name) for name in values}, resume=resume)
    return folder, values, before
