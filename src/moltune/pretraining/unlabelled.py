"""Adaptation without labels: masked tokens (MLM) and descriptors (MTR) of a task's own molecules.

Continues from any encoder with the pretraining loop, so it resumes after a kill. Sultan et al. 2025 (arXiv:2503.03360)
found MTR on the few thousand molecules of a task to help where more pretraining molecules do not.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from moltune.config import AdaptSettings, ModelSettings, PretrainSettings
from moltune.data.augment import Speller
from moltune.errors import ConfigError, DataError, NumericsError
from moltune.features.physchem import DescriptorScaler, physchem
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.checkpoints import load_tokenizer, max_length, quiet_transformers
from moltune.models.coverage import check_smiles
from moltune.models.language import language_head, load_for_adaptation
from moltune.models.pooling import mean_pool
from moltune.pretraining.corpus.tokens import write_tokens
from moltune.pretraining.learner import Learner, Vocabulary
from moltune.pretraining.loop import Corpus, Progress, epoch_batches, make_batch, pretrain
from moltune.pretraining.objectives import MaskedLanguageModel, Objective, Regression
from moltune.tuning.head_start import ALPHAS

logger = logging.getLogger(__name__)

DESCRIPTORS_FILE, LOG_FILE = "descriptors.json", "log.jsonl"
_MEASURED = 512

AdaptReport = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation did.

    Attributes:
        objective: "mlm", "mtr" or "both".
        molecules: how many it learnt from.
        left_out: molecules that the model cannot read.
        steps: optimiser steps.
        before, after: loss by objective on (at most 512 of) those molecules without dropout; mlm in nats per masked
            token, mtr in units of the descriptors' variance.
        seconds: wall-clock time of the training, over all attempts.
    """

    objective: str
    molecules: int
    left_out: int
    steps: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(vars(self))

    @property
    def words(self) -> str:
        """One line for people."""
        units = {"mlm": "masked tokens", "mtr": "descriptors"}
        losses = ", ".join(f"{units[name]} {self.before[name]:.3f} → {self.after[name]:.3f}" for name in self.after)
        return f"adapted to {self.molecules} molecules in {self.steps} steps and {self.seconds:.0f} s: {losses}"


class AdaptModel(Learner):
    """A pretrained encoder with the heads of adaptation."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        language: PreTrainedModel | None,
        weights: dict[str, float],
        descriptors: int,
        vocabulary: Vocabulary,
    ) -> None:
        heads: dict[str, Objective] = {}
        if "mlm" in weights:
            assert language is not None
            vocabulary.mask_id()
            heads["mlm"] = MaskedLanguageModel(lm_head=language_head(language))
        if "mtr" in weights:
            heads["mtr"] = Regression("mtr", int(encoder.config.hidden_size), descriptors)
        super().__init__(encoder, heads, weights, vocabulary)
        # In a tuple, torch does not take it for a second copy of the encoder.
        self._whole = (language if language is not None else encoder,)

    def save_checkpoint(self, folder: Path) -> None:
        """Write the language model where there is one, else the bare encoder."""
        with quiet_transformers():
            self._whole[0].save_pretrained(folder)


def adapt_encoder(
    smiles: Sequence[str],
    *,
    model: ModelSettings,
    adapt: AdaptSettings,
    seed: int,
    work: Path,
    output: Path,
    report: AdaptReport | None = None,
) -> Adaptation:
    """Train an encoder on molecules without labels and write it as a checkpoint.

    Args:
        smiles: n molecules; those that the model cannot read are left out with a notice.
        model: the checkpoint to go on from.
        adapt: how; ``objective`` is not "none".
        seed: of order, masking, dropout, spellings and fresh heads.
        work: keeps the state of an unfinished adaptation; an earlier state there (of the same settings) counts.
        output: an existing folder that receives model, tokenizer, ``descriptors.json`` (with mtr) and ``log.jsonl``;
            ``config.json``, without which it is no checkpoint, is put there last.
        report: called after each step with step, steps and losses.

    Raises:
        DataError: fewer than two molecules can be read.
        ConfigError: the objective does not fit the model.
        NumericsError: a loss is not finite.
    """
    weights = objective_weights(adapt)
    tokenizer = load_tokenizer(model.name, model.revision)
    set_seed(seed)
    encoder, language = load_for_adaptation(
        model.name, revision=model.revision, weights=model.weights, need_head="mlm" in weights
    )
    limit = max_length(encoder, tokenizer)
    readable = readable_smiles(tokenizer, smiles, limit)
    if len(readable) < 2:
        raise DataError(f"only {len(readable)} of {len(smiles)} molecules can be read by {model.name}")
    values, scaler = _descriptors(readable) if "mtr" in weights else (np.empty((len(readable), 0)), None)
    corpus = make_corpus(readable, values, tokenizer, limit, 0, seed, work)
    learner = AdaptModel(encoder, language, weights, values.shape[1], Vocabulary.of_tokenizer(tokenizer))
    if "mtr" in weights:
        start_descriptor_head(learner, tokenizer, readable, values)
    settings = recipe(corpus, adapt, weights, seed)
    before = measure(learner, corpus, settings)
    started = time.monotonic()
    progress = pretrain(learner, corpus, settings, work, report=_reporter(report, settings.steps))
    logger.debug("adaptation took %.1f s", time.monotonic() - started)
    after = measure(learner, corpus, settings)
    _finish(learner, tokenizer, scaler, work, output)
    result = Adaptation(
        adapt.objective, len(readable), len(smiles) - len(readable), settings.steps, before, after, progress.seconds
    )
    logger.info(result.words)
    return result


def objective_weights(adapt: AdaptSettings) -> dict[str, float]:
    """Weight of each objective.

    Raises:
        ConfigError: there is nothing to learn.
    """
    choices = {"mlm": {"mlm": 1.0}, "mtr": {"mtr": 1.0}, "both": {"mlm": adapt.mlm_weight, "mtr": 1.0}}
    if adapt.objective not in choices:
        raise ConfigError("adaptation needs an objective: mlm, mtr or both")
    return choices[adapt.objective]


def readable_smiles(tokenizer: PreTrainedTokenizerBase, smiles: Sequence[str], limit: int | None) -> list[str]:
    """Those molecules that the model reads faithfully, unknown tokens apart; a warning counts the others."""
    issues = {at: issue for at, issue in check_smiles(tokenizer, smiles, limit).items() if issue.kind != "unknown"}
    if issues:
        first = min(issues)
        logger.warning(
            "%d molecules take no part in the adaptation, such as %s: %s",
            *(len(issues), smiles[first], issues[first].message),
        )
    return [text for at, text in enumerate(smiles) if at not in issues]


def make_corpus(
    smiles: list[str],
    values: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    augment: int,
    seed: int,
    folder: Path,
) -> Corpus:
    """Tokens of the molecules and of ``augment`` random spellings of each, and their descriptors, (n, k)."""
    speller = Speller(tokenizer, smiles, seed, limit)
    lists = [list(smiles), *(speller.spell(number) for number in range(1, augment + 1))]
    tokens = write_tokens([text for one in lists for text in one], tokenizer, folder)
    return Corpus(tokens, {"mtr": values.astype(np.float32)}, spellings=len(lists))


def recipe(corpus: Corpus, adapt: AdaptSettings, weights: dict[str, float], seed: int) -> PretrainSettings:
    """Settings of the pretraining loop; the steps are those that the epochs have."""
    masked = {"mlm": 1.0, "mtr": 0.0, "both": 0.5}[adapt.objective]
    values: dict[str, Any] = {
        "tokens_per_batch": adapt.tokens_per_batch,
        "optimizer": "adamw",
        "learning_rate": adapt.learning_rate,
        "weight_decay": adapt.weight_decay,
        "masked_share": masked,
        "weights": weights,
        "seed": seed,
        "save_every": 60.0,
    }
    shape = PretrainSettings(**values)
    steps = sum(1 for epoch in range(adapt.epochs) for _ in epoch_batches(corpus, shape, epoch))
    warmup = max(1, round(adapt.warmup * steps))
    values |= {"steps": steps, "warmup_steps": warmup, "decay_share": 1 - warmup / (steps + 1)}
    return PretrainSettings(**values, log_every=max(1, steps // 50))


def start_descriptor_head(
    learner: AdaptModel, tokenizer: PreTrainedTokenizerBase, smiles: list[str], values: np.ndarray
) -> None:
    """Fit the descriptor head by ridge regression on the untouched encoder's embeddings (arXiv:2202.10054).

    A random head would first pull the encoder away from what it knows. Embeddings are taken with dropout on, as in
    :func:`moltune.tuning.head_start.start_head`.

    Raises:
        NumericsError: an embedding is not finite.
    """
    embedded = _embed(learner.encoder, tokenizer, smiles)
    if not np.isfinite(embedded).all():
        raise NumericsError("the checkpoint gives embeddings that are not finite; its weights are damaged")
    ridge = RidgeCV(alphas=ALPHAS).fit(embedded, values)
    head = learner.heads["mtr"]
    assert isinstance(head, Regression)
    with torch.no_grad():
        head.out_proj.weight.copy_(torch.as_tensor(ridge.coef_))
        head.out_proj.bias.copy_(torch.as_tensor(ridge.intercept_))


@torch.inference_mode()
def measure(learner: Learner, corpus: Corpus, settings: PretrainSettings) -> dict[str, float]:
    """Loss of each objective on the first molecules, without dropout and always with the same masks."""
    was_training, device = learner.training, next(learner.parameters()).device
    learner.eval()
    sums = dict.fromkeys(settings.weights, 0.0)
    counts = dict.fromkeys(settings.weights, 0)
    rows = np.arange(min(len(corpus), _MEASURED))
    for number, some in enumerate(np.array_split(rows, max(1, len(rows) // 64))):
        batch = make_batch(corpus, some, settings, learner.vocabulary, [settings.seed, 2**31, number])
        for name, loss in learner(**_moved(batch, device)).items():
            head = learner.heads[name]
            assert isinstance(head, Objective)
            size = head.size(batch["labels"], batch["intact"], batch["targets"])
            sums[name] += float(loss) * size
            counts[name] += size
    learner.train(was_training)
    return {name: sums[name] / max(1, counts[name]) for name in sums}


def _descriptors(smiles: list[str]) -> tuple[np.ndarray, DescriptorScaler]:
    values = physchem(smiles)
    scaler = DescriptorScaler.fit(values)
    return scaler.transform(values), scaler


@torch.inference_mode()
def _embed(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, smiles: list[str]) -> np.ndarray:
    dataset, collate = SmilesDataset(tokenizer, smiles), PadCollator(int(tokenizer.pad_token_id))
    encoder.train()
    result = np.empty((len(smiles), int(encoder.config.hidden_size)))
    for positions in sorted_batches(dataset.lengths, 32):
        batch = {key: value.to(encoder.device) for key, value in collate([dataset[i] for i in positions]).items()}
        hidden = encoder(**batch).last_hidden_state
        result[positions] = mean_pool(hidden, batch["attention_mask"]).double().cpu().numpy()
    return result


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return {name: _moved(item, device) for name, item in value.items()}


def _reporter(report: AdaptReport | None, steps: int) -> Callable[[Progress], None] | None:
    if report is None:
        return None
    return lambda progress: report({"step": progress.step, "steps": steps, **progress.losses})


def _finish(
    learner: AdaptModel,
    tokenizer: PreTrainedTokenizerBase,
    scaler: DescriptorScaler | None,
    work: Path,
    output: Path,
) -> None:
    temporary = work / "finished"
    learner.eval().save_checkpoint(temporary)
    with quiet_transformers():
        tokenizer.save_pretrained(temporary)
    if scaler is not None:
        (temporary / DESCRIPTORS_FILE).write_text(json.dumps(scaler.to_dict()) + "\n", encoding="utf-8")
    (temporary / LOG_FILE).write_text(_log_lines(work / LOG_FILE), encoding="utf-8")
    # A folder without config.json is no checkpoint, so nobody takes half of one for it.
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, output / path.name)


def _log_lines(path: Path) -> str:
    """The log with each step once: a resumed run writes again what it repeats."""
    lines: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines[json.loads(line)["step"]] = line
        except ValueError:
            continue
    return "".join(f"{lines[step]}\n" for step in sorted(lines))
