"""``moltune adapt``: from a table of molecules to a checkpoint that knows them, and the same step within a run.

The folder of an adaptation::

    adapt.yaml        settings, data checksum and counts, versions: written first
    config.json, model.safetensors, tokenizer ...    what `finetune --model` takes
    descriptors.json  names, means and standard deviations of the descriptors (with mtr)
    log.jsonl         running losses
    README.md         model card
    adaptation.json   counts and losses; written last: without it the adaptation is unfinished
    work/             while it is unfinished
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moltune.config import AdaptConfig, FinetuneConfig, ModelSettings, make_settings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.errors import DataError, RunFolderError
from moltune.files import write_json, write_text
from moltune.models.coverage import unfit_molecules
from moltune.pretraining.check import ADAPT_RESULT, check_adaptation
from moltune.pretraining.continue_pretraining import Adaptation, AdaptReport, adapt_encoder
from moltune.run import ADAPTED, CHECKPOINTS, Run

logger = logging.getLogger(__name__)

CARD, WORK = "README.md", "work"


@dataclass(frozen=True)
class Adapted:
    """A finished adaptation: the new checkpoint, counts and losses, and which molecules it learnt from, in words."""

    path: Path
    result: Adaptation
    part: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"path": str(self.path), "part": self.part, **self.result.to_dict()}


@dataclass(frozen=True)
class Chosen:
    """The molecules to learn from, which part of the data they are in words, what to warn of, and their provenance."""

    smiles: list[str]
    part: str
    warning: str
    provenance: dict[str, Any]


def adapt(
    config: AdaptConfig | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: AdaptReport | None = None,
) -> Adapted:
    """Continue training a checkpoint on the SMILES of a table, without labels.

    Only the training part of the split is used, unless ``adapt.transductive``: the split is that of a fine-tuning run
    with the same data, split settings and seed, for which the target is read (and used for nothing else). A table
    without a target, for which no split is asked, is used whole; a warning says so.

    Args:
        config: the settings, as an object or as a nested mapping; ``data.source`` and ``output`` are needed.
        resume: go on with an unfinished adaptation of the same settings and data, or return a finished one.
        overwrite: replace an earlier adaptation.
        report: called after each step with step, steps and losses.

    Returns:
        The finished adaptation, whose folder ``finetune`` takes as a model.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the data cannot be used.
        CheckpointError: the model cannot be loaded.
        RunFolderError: the output folder is taken.
        NumericsError: a loss is not finite.
    """
    config = config if isinstance(config, AdaptConfig) else make_settings(AdaptConfig, dict(config))
    folder, values, before = check_adaptation(config, resume=resume, overwrite=overwrite)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    chosen = choose_molecules(config)
    if before is None:
        folder.begin(values, {"data": chosen.provenance}, overwrite=overwrite)
    elif before.get("data", {}).get("sha256") != chosen.provenance.get("sha256"):
        raise RunFolderError(f"the data changed since the adaptation in {folder.path} began: choose another --output")
    if (folder.path / ADAPT_RESULT).is_file():
        logger.info("%s holds the finished adaptation already", folder.path)
        return load_adapted(folder.path)
    return _fill(folder.path, folder.path / WORK, chosen, config, report)


def adapt_run(
    run: Run, smiles: Mapping[str, list[str]], source: dict[str, Any], report: AdaptReport | None = None
) -> tuple[ModelSettings, Adapted | None]:
    """The adaptation that a fine-tuning run asks for: done now, taken up again, or found done.

    Args:
        run: its settings say whether and how.
        smiles: SMILES of each part of its split.
        source: provenance of its data.
        report: called after each step.

    Returns:
        The settings of the model to tune, and the adaptation, which stays in the run's folder; without one, the run's
        own settings and None.
    """
    config, folder = run.config, run.path / ADAPTED
    if config.adapt.objective == "none":
        return config.model, None
    if not (folder / ADAPT_RESULT).is_file():
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        whole = config.adapt.transductive
        parts = [part for name, part in smiles.items() if whole or name == "train"]
        chosen = Chosen([text for part in parts for text in part], *_words(whole, len(smiles) > 1), source)
        folder.mkdir(exist_ok=True)
        _fill(folder, run.path / CHECKPOINTS / ADAPTED, chosen, config, report)
    started = {"name": str(folder), "revision": None, "weights": "pretrained"}
    return config.model.model_copy(update=started), load_adapted(folder)


def load_adapted(folder: str | Path) -> Adapted:
    """Read what an adaptation left.

    Raises:
        RunFolderError: there is no finished adaptation.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / ADAPT_RESULT).read_text(encoding="utf-8"))
        return Adapted(folder, Adaptation(**values["adaptation"]), values["part"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(f"{folder} holds no finished adaptation: repeat its command with --resume") from None


def choose_molecules(config: AdaptConfig) -> Chosen:
    """Load and clean the molecules, divide them as fine-tuning would, and take the part to learn from."""
    labelled = True
    try:
        # Cleaned as for fine-tuning where there is a target, so that the split is the same.
        molecules = load_molecules(None, config.data)
    except DataError:
        if config.data.target is not None:
            raise
        molecules, labelled = load_molecules(None, config.data, need_target=False), False
    molecules = molecules.reject(unfit_molecules(molecules.smiles, config.model))
    if not len(molecules):
        raise DataError(f"{config.model.name} can read none of the molecules")
    if not labelled and not config.split.model_fields_set - {"seed"}:
        words = (
            "the data have no target and no split was asked for, so the model adapts to all of their molecules; "
            "keep those that you will test on out of them"
        )
        return Chosen(molecules.smiles, "all molecules", words, molecules.provenance)
    split = make_split(molecules, config.split, config.split_seed)
    part, warning = _words(config.adapt.transductive, len(split.train) < len(molecules))
    parts = list(split.parts().values()) if config.adapt.transductive else [split.train]
    smiles = [molecules.smiles[position] for position in np.sort(np.concatenate(parts))]
    return Chosen(smiles, part, warning, {**molecules.provenance, "split": split.settings})


def _words(transductive: bool, several: bool) -> tuple[str, str]:
    if not several:
        return "all molecules (the split has a training part only)", ""
    if not transductive:
        return "training part", ""
    return "training, validation and test part (transductive, SMILES only)", (
        "transductive adaptation: the encoder learns from the SMILES of the validation and test part too (never from "
        "their measurements); its results must not be compared with those of models that did not see them"
    )


def _fill(
    folder: Path, work: Path, chosen: Chosen, config: AdaptConfig | FinetuneConfig, report: AdaptReport | None
) -> Adapted:
    model, settings = config.model, config.adapt
    if chosen.warning:
        logger.warning(chosen.warning)
    logger.info("adapting %s (%s) to %d molecules: %s", model.name, settings.objective, len(chosen.smiles), chosen.part)
    result = adapt_encoder(
        chosen.smiles, model=model, adapt=settings, seed=config.seed, work=work, output=folder, report=report
    )
    write_text(folder / CARD, model_card(config, chosen, result))
    values = {
        "adaptation": result.to_dict(),
        "part": chosen.part,
        "base_model": model.name,
        "weights": model.weights,
        "settings": settings.model_dump(mode="json"),
        "seed": config.seed,
    }
    write_json(folder / ADAPT_RESULT, values)
    shutil.rmtree(work, ignore_errors=True)
    return load_adapted(folder)


def model_card(config: AdaptConfig | FinetuneConfig, chosen: Chosen, result: Adaptation) -> str:
    """Text of the card: base, molecules, objective, losses, limits."""
    model, adapt, source = config.model, config.adapt, chosen.provenance
    names = {"mlm": "masked tokens (nats)", "mtr": "descriptors (of their variance)"}
    losses = "\n".join(
        f"| {names[name]} | {result.before[name]:.4f} | {result.after[name]:.4f} |" for name in result.after
    )
    start = model.name if model.weights == "pretrained" else f"the architecture of {model.name} with random weights"
    caution = f"**{chosen.warning[:1].upper()}{chosen.warning[1:]}.**\n\n" if chosen.warning else ""
    return (
        f"# {Path(model.name).name} adapted by {adapt.objective}\n\n"
        f"An encoder that started from {start} and went on training without labels on the molecules of a task.\n\n"
        f"{caution}"
        f"- data: {Path(str(source.get('source'))).name} (SHA-256 {source.get('sha256')}), "
        f"{result.molecules} molecules, {chosen.part}; {result.left_out} left out as unreadable\n"
        f"- objective: {adapt.objective} (mlm: 15 % of the tokens, 80/10/10; mtr: RDKit descriptors, standardised on "
        "these molecules, list and statistics in `descriptors.json`)\n"
        f"- {adapt.epochs} epochs, {result.steps} steps of at most {adapt.tokens_per_batch} tokens, AdamW, "
        f"learning rate {adapt.learning_rate:g}, seed {config.seed}, {result.seconds:.0f} s\n\n"
        "| loss without dropout on the first molecules it learnt from | before | after |\n| --- | --- | --- |\n"
        f"{losses}\n\n"
        "It has seen those molecules: whoever tests on one of them tests on a molecule that the encoder knows.\n"
    )
