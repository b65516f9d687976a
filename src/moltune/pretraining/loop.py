"""Pretraining on prepared data: masked tokens and regressions in one loop that survives any kill."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from moltune.config import PretrainSettings
from moltune.errors import NumericsError
from moltune.files import replacing
from moltune.models.molformer import MolformerModel
from moltune.pretraining.corpus.tokens import TokenCorpus, token_batches
from moltune.pretraining.model import PretrainingModel, Vocabulary
from moltune.pretraining.muon import Muon
from moltune.pretraining.objectives import IGNORED, mask_tokens

logger = logging.getLogger(__name__)

STATE, LOG = "state.pt", "log.jsonl"


@dataclass
class PretrainingData:
    """What training reads: aligned rows of tokens and targets.

    Attributes:
        tokens: n tokenised molecules.
        targets: standardised values by the name of the objective that regresses them, (n, size), float16 or float32;
            NaN rows where unknown.
    """

    tokens: TokenCorpus
    targets: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sizes(self) -> dict[str, int]:
        """Values per molecule of each regression."""
        return {name: values.shape[1] for name, values in self.targets.items()}


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    molecules: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


def learning_rate(step: int, settings: PretrainSettings) -> float:
    """Warm-up, plateau, linear cool-down (Hu et al. 2024, arXiv:2404.06395)."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    cool = (settings.steps - step) / max(1.0, settings.decay_share * settings.steps)
    return settings.learning_rate * min(warm, max(0.0, min(1.0, cool)))


def make_optimizers(model: PretrainingModel, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices of a MoLFormer's layers and AdamW for the rest."""
    blocks = model.encoder.encoder if isinstance(model.encoder, MolformerModel) else nn.Identity()
    matrices = [p for p in blocks.parameters() if p.ndim == 2] if settings.optimizer == "muon" else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))]
    if matrices:
        made.append(Muon(matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay))
    return made


def epoch_batches(data: PretrainingData, settings: PretrainSettings, epoch: int) -> Iterator[np.ndarray]:
    """Rows of each batch of one epoch: every molecule that the teacher knows, and a fresh share of the others."""
    rng = np.random.default_rng([settings.seed, epoch])
    rows = np.arange(len(data))
    if "teacher" in data.targets and "teacher" in settings.weights:
        known = np.isfinite(np.asarray(data.targets["teacher"][:, 0], dtype=np.float32))
        others = rows[~known]
        wanted = int(known.sum() * settings.rest_share / (1 - settings.rest_share))
        rows = np.concatenate([rows[known], rng.permutation(others)[:wanted]])
    return token_batches(rows, data.tokens.lengths, settings.tokens_per_batch, rng)


def make_batch(
    data: PretrainingData, rows: np.ndarray, settings: PretrainSettings, vocabulary: Vocabulary, seed: list[int]
) -> dict[str, Any]:
    """Tensors of one step; masking depends on ``seed`` alone."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    input_ids = torch.from_numpy(data.tokens.padded(rows, vocabulary.pad))
    attention_mask = (input_ids != vocabulary.pad).long()
    intact, labels = torch.ones(len(rows), dtype=torch.bool), torch.full_like(input_ids, IGNORED)
    if "mlm" in settings.weights:
        assert vocabulary.mask is not None
        intact = torch.rand(len(rows), generator=generator) >= settings.masked_share
        maskable = ~torch.isin(input_ids, vocabulary.special) & ~intact.unsqueeze(1)
        input_ids, labels = mask_tokens(
            input_ids, maskable, vocabulary=vocabulary.ordinary, mask_id=vocabulary.mask, generator=generator
        )
    targets = {
        name: torch.from_numpy(np.asarray(data.targets[name][rows], dtype=np.float32))
        for name in settings.weights
        if name != "mlm"
    }
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "intact": intact,
        "targets": targets,
    }


def pretrain_loop(
    model: PretrainingModel,
    data: PretrainingData,
    settings: PretrainSettings,
    folder: str | Path,
    *,
    device: str = "cpu",
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train, or go on where a killed run of the same folder stopped.

    ``folder`` receives ``state.pt`` (weights, optimiser, progress; replaced atomically), ``log.jsonl``, and
    ``model/`` in ``save_pretrained`` layout at every checkpoint.

    Args:
        model: encoder and objectives, trained in place.
        data: tokens and targets.
        settings: the recipe.
        folder: of the run.
        device: where to train.
        report: called after each step.

    Raises:
        NumericsError: a loss is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    optimizers = make_optimizers(model, settings)
    progress = _restore(folder, model, optimizers)
    smooth, last_save, last_time = dict(progress.losses), time.monotonic(), time.monotonic()
    while progress.step < settings.steps:
        for index, rows in enumerate(epoch_batches(data, settings, progress.epoch)):
            if index < progress.batch:
                continue
            # Seeding each step keeps dropout and redrawn features the same after a resume.
            torch.manual_seed(hash((settings.seed, progress.step)) % 2**31)
            batch = make_batch(data, rows, settings, model.vocabulary, [settings.seed, progress.step])
            losses = _step(model, optimizers, send_to_device(batch, device), settings, progress.step)
            for name, value in losses.items():
                smooth[name] = value if name not in smooth else 0.98 * smooth[name] + 0.02 * value
            now = time.monotonic()
            progress.step, progress.batch = progress.step + 1, index + 1
            progress.molecules += len(rows)
            progress.seconds, last_time = progress.seconds + now - last_time, now
            progress.losses = smooth
            if progress.step % settings.log_every == 0:
                _log(folder, progress, learning_rate(progress.step, settings), aloud=report is None)
            if now - last_save > settings.save_every or progress.step >= settings.steps:
                save(folder, model, optimizers, progress)
                last_save = now
            if report is not None:
                report(progress)
            if progress.step >= settings.steps:
                break
        else:
            progress.epoch, progress.batch = progress.epoch + 1, 0
    return progress


def _step(
    model: PretrainingModel,
    optimizers: list[torch.optim.Optimizer],
    batch: dict[str, Any],
    settings: PretrainSettings,
    step: int,
) -> dict[str, float]:
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = learning_rate(step, settings)
    kind = batch["input_ids"].device.type
    with torch.autocast(kind, dtype=torch.bfloat16) if settings.bf16 else nullcontext():
        losses = {name: loss.float() for name, loss in model(**batch).items()}
    total = torch.stack([losses[name] * weight for name, weight in settings.weights.items()]).sum()
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    if not torch.isfinite(total):
        raise NumericsError(f"the loss is not finite at step {step}: {values}; lower the learning rate")
    model.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
    return values


def save(folder: Path, model: PretrainingModel, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write the state atomically, and the checkpoint that can be used as it is."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    with replacing(folder / STATE) as temporary:
        torch.save({"model": model.state_dict(), "optimizers": states, "progress": vars(progress)}, temporary)
    model.save_checkpoint(folder / "model")


def _restore(folder: Path, model: PretrainingModel, optimizers: list[torch.optim.Optimizer]) -> Progress:
    path = folder / STATE
    if not path.is_file():
        return Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    logger.info("going on at step %d", state["progress"]["step"])
    return Progress(**state["progress"])


def _log(folder: Path, progress: Progress, rate: float, *, aloud: bool) -> None:
    line = {**vars(progress), "learning_rate": rate, "rate": progress.molecules / max(progress.seconds, 1e-9)}
    with open(folder / LOG, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    losses = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    words = f"step {progress.step}  {progress.molecules} molecules  {losses}  {line['rate']:.0f}/s"
    logger.log(logging.INFO if aloud else logging.DEBUG, "%s", words)
