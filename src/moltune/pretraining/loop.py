"""Pretraining on a prepared corpus: MLM, MTR of descriptors and distillation, in one loop that survives any kill."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from moltune.config import PretrainSettings
from moltune.errors import NumericsError
from moltune.models.molformer import MolformerConfig, MolformerForMaskedLM, MolformerModel
from moltune.pretraining.corpus.tokens import TokenCorpus, token_batches
from moltune.pretraining.learner import Learner, Shard, Vocabulary
from moltune.pretraining.muon import Muon
from moltune.pretraining.objectives import IGNORED, MaskedLanguageModel, Objective, Regression, mask_tokens

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

_STATE = "state.pt"
_LINE = "step %d  %d molecules  %s  %.0f/s"


@dataclass
class Corpus:
    """What training reads: aligned rows of tokens and targets.

    Attributes:
        tokens: tokenised molecules.
        targets: standardised values by objective name, (n, size), float16 or float32; NaN rows where unknown.
        spellings: how often ``tokens`` holds the n molecules, one list after the other in the same order; epochs go
            through the lists in turn.
    """

    tokens: TokenCorpus
    targets: dict[str, np.ndarray]
    spellings: int = 1

    def __len__(self) -> int:
        return len(self.tokens) // self.spellings


class PretrainModel(Learner):
    """A fresh MoLFormer with the heads of its objectives."""

    encoder: MolformerModel

    def __init__(self, config: MolformerConfig, sizes: dict[str, int], objectives: dict[str, float]) -> None:
        encoder = MolformerModel(config, add_pooling_layer=False)
        heads: dict[str, Objective] = {
            name: MaskedLanguageModel(config) if name == "mlm" else Regression(name, config.hidden_size, sizes[name])
            for name in objectives
        }
        for head in heads.values():
            head.apply(encoder._init_weights)
        super().__init__(encoder, heads, objectives, Vocabulary.of_molformer(config))
        self.config = config

    def masked_lm(self) -> MolformerForMaskedLM:
        """The encoder and its MLM head as a checkpoint in the published layout."""
        model = MolformerForMaskedLM(self.config)
        model.molformer.load_state_dict(self.encoder.state_dict())
        if "mlm" in self.heads:
            mlm = self.heads["mlm"]
            assert isinstance(mlm, MaskedLanguageModel)
            model.lm_head.load_state_dict(mlm.lm_head.state_dict())
        return model

    def save_checkpoint(self, folder: Path) -> None:
        """Write the published masked-LM layout."""
        self.masked_lm().save_pretrained(folder)


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


def make_optimizers(model: Learner, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices of a MoLFormer's layers and AdamW for the rest."""
    blocks = model.encoder.encoder if isinstance(model.encoder, MolformerModel) else nn.Identity()
    layers = {id(p) for p in blocks.parameters() if p.ndim == 2} if settings.optimizer == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in layers]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))]
    if layers:
        matrices = [p for p in model.parameters() if id(p) in layers]
        made.append(Muon(matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay))
    return made


def epoch_batches(corpus: Corpus, settings: PretrainSettings, epoch: int) -> Iterator[np.ndarray]:
    """Rows of each batch of one epoch: every molecule that the teacher knows, and a fresh share of the others."""
    rng = np.random.default_rng([settings.seed, epoch])
    rows = np.arange(len(corpus))
    if "teacher" in corpus.targets and "teacher" in settings.weights:
        known = np.isfinite(np.asarray(corpus.targets["teacher"][:, 0], dtype=np.float32))
        others = rows[~known]
        wanted = int(known.sum() * settings.rest_share / (1 - settings.rest_share))
        rows = np.concatenate([rows[known], rng.permutation(others)[:wanted]])
    rows = rows + len(corpus) * (epoch % corpus.spellings)
    return token_batches(rows, corpus.tokens.lengths, settings.tokens_per_batch, rng)


def make_batch(
    corpus: Corpus, rows: np.ndarray, settings: PretrainSettings, vocabulary: Vocabulary, seed: list[int]
) -> dict[str, Any]:
    """Tensors of one step; masking depends on ``seed`` alone."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    input_ids = torch.from_numpy(corpus.tokens.padded(rows, vocabulary.pad))
    real = input_ids != vocabulary.pad
    masked = torch.rand(len(rows), generator=generator) < settings.masked_share if "mlm" in settings.weights else None
    intact = torch.ones(len(rows), dtype=torch.bool) if masked is None else ~masked
    corrupted, labels = input_ids, torch.full_like(input_ids, IGNORED)
    if masked is not None:
        maskable = ~torch.isin(input_ids, torch.tensor(vocabulary.special)) & ~intact.unsqueeze(1)
        corrupted, labels = mask_tokens(
            input_ids, maskable, vocabulary=vocabulary.ordinary, mask_id=vocabulary.mask_id(), generator=generator
        )
    molecules = rows % len(corpus)
    targets = {
        name: torch.from_numpy(np.asarray(corpus.targets[name][molecules], dtype=np.float32))
        for name in settings.weights
        if name != "mlm"
    }
    return {
        "input_ids": corrupted,
        "attention_mask": real.long(),
        "labels": labels,
        "intact": intact,
        "targets": targets,
    }


def pretrain(
    model: Learner,
    corpus: Corpus,
    settings: PretrainSettings,
    folder: str | Path,
    *,
    device: str = "cpu",
    accelerator: Accelerator | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train, or go on where a killed run of the same folder stopped.

    ``folder`` receives ``state.pt`` (weights, optimiser, progress; replaced atomically), ``log.jsonl``, and
    ``model/`` in ``save_pretrained`` layout at every checkpoint.

    Args:
        model: encoder and objectives, trained in place.
        corpus: tokens and targets.
        settings: the recipe; ``tokens_per_batch`` counts the batch of all processes together.
        folder: of the run.
        device: where to train; with an accelerator, its device counts.
        accelerator: of several processes, each of which calls this; the first one writes.
        report: called after each step.

    Raises:
        NumericsError: a loss is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shard, device = Shard.of(accelerator), device if accelerator is None else str(accelerator.device)
    model.to(device).train()
    optimizers = make_optimizers(model, settings)
    progress = _restore(folder, model, optimizers)
    # The wrapper of several processes averages gradients; one process is left as it is.
    runner = model if accelerator is None or shard.count == 1 else accelerator.prepare_model(model)
    writes = shard.rank == 0
    smooth, last_save, last_time = dict(progress.losses), time.monotonic(), time.monotonic()
    while progress.step < settings.steps:
        for index, rows in enumerate(epoch_batches(corpus, settings, progress.epoch)):
            if index < progress.batch:
                continue
            # Seeding each step keeps dropout and redrawn features the same after a resume.
            torch.manual_seed(hash((settings.seed, progress.step, *([shard.rank] if shard.rank else []))) % 2**31)
            batch = make_batch(corpus, rows, settings, model.vocabulary, [settings.seed, progress.step])
            batch, factors = shard.cut(batch, model.heads)
            losses = _step(runner, model.weights, factors, optimizers, _to(batch, device), settings, progress.step)
            losses = _mean_over_processes(losses, accelerator)
            for name, value in losses.items():
                smooth[name] = value if name not in smooth else 0.98 * smooth[name] + 0.02 * value
            now = time.monotonic()
            progress.step, progress.batch = progress.step + 1, index + 1
            progress.molecules += len(rows)
            progress.seconds, last_time = progress.seconds + now - last_time, now
            progress.losses = smooth
            if writes and progress.step % settings.log_every == 0:
                _log(folder, progress, learning_rate(progress.step, settings), aloud=report is None)
            if writes and (now - last_save > settings.save_every or progress.step >= settings.steps):
                save(folder, model, optimizers, progress)
                last_save = now
            if report is not None:
                report(progress)
            if progress.step >= settings.steps:
                break
        else:
            progress.epoch, progress.batch = progress.epoch + 1, 0
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return progress


def _step(
    runner: nn.Module,
    weights: dict[str, float],
    factors: dict[str, float],
    optimizers: list[torch.optim.Optimizer],
    batch: dict[str, Any],
    settings: PretrainSettings,
    step: int,
) -> dict[str, float]:
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = learning_rate(step, settings)
    kind = batch["input_ids"].device.type
    with torch.autocast(kind, dtype=torch.bfloat16) if settings.bf16 else nullcontext():
        losses = {name: loss.float() * factors[name] for name, loss in runner(**batch).items()}
    total = torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()
    if not torch.isfinite(total):
        shown = {name: float(value.detach()) for name, value in losses.items()}
        raise NumericsError(f"the loss is not finite at step {step}: {shown}; lower the learning rate")
    runner.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(runner.parameters(), settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _mean_over_processes(losses: dict[str, float], accelerator: Accelerator | None) -> dict[str, float]:
    if accelerator is None or accelerator.num_processes == 1:
        return losses
    values = torch.tensor(list(losses.values()), device=accelerator.device)
    reduced: Any = accelerator.reduce(values, reduction="mean")
    return dict(zip(losses, reduced.tolist(), strict=True))


def save(folder: Path, model: Learner, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write the state atomically, and the checkpoint that can be used as it is."""
    temporary = folder / f".{_STATE}.tmp"
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "progress": vars(progress)}, temporary)
    os.replace(temporary, folder / _STATE)
    model.save_checkpoint(folder / "model")


def _restore(folder: Path, model: Learner, optimizers: list[torch.optim.Optimizer]) -> Progress:
    path = folder / _STATE
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
    with open(folder / "log.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    losses = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    logger.log(logging.INFO if aloud else logging.DEBUG, _LINE, progress.step, progress.molecules, losses, line["rate"])


def _to(value: Any, device: str) -> Any:
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return value.to(device)
