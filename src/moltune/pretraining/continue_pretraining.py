"""Continue the pretraining of an encoder on the molecules of a task: masked tokens (MLM) and descriptors (MTR).

It starts from any encoder and runs in the pretraining loop, so it resumes after a kill. Sultan et al. 2025
(arXiv:2503.03360) found MTR on the few thousand molecules of a task to help where more pretraining molecules do not.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import PreTrainedTokenizerBase, set_seed

from moltune.config import AdaptSettings, ModelSettings, PretrainSettings
from moltune.errors import ConfigError, DataError
from moltune.features.physchem import DescriptorScaler, physchem
from moltune.models.checkpoints import load_tokenizer, max_length
from moltune.models.coverage import check_smiles
from moltune.models.heads import fit_by_ridge
from moltune.models.inference import run_batches
from moltune.models.language import language_head, load_for_adaptation
from moltune.models.pooling import mean_pool
from moltune.models.strict import quiet_transformers
from moltune.pretraining.corpus.tokens import write_tokens
from moltune.pretraining.loop import LOG, PretrainingData, Progress, epoch_batches, make_batch, pretrain_loop
from moltune.pretraining.model import PretrainingModel, Vocabulary
from moltune.pretraining.objectives import MaskedLanguageModel, Objective, Regression

logger = logging.getLogger(__name__)

DESCRIPTORS = "descriptors.json"
_MEASURED = 512

AdaptReport = Callable[[dict[str, Any]], None]
"""Called after each step with ``step``, ``steps`` and the loss of each objective."""


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
        seed: of order, masking, dropout and fresh heads.
        work: keeps the state of an unfinished adaptation; an earlier state there (of the same settings) counts.
        output: an existing folder that receives model, tokenizer, ``descriptors.json`` (with mtr) and ``log.jsonl``;
            ``config.json``, without which it is no checkpoint, is put there last.
        report: called after each step.

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
    readable = _readable(tokenizer, smiles, max_length(encoder, tokenizer))
    if len(readable) < 2:
        raise DataError(f"only {len(readable)} of {len(smiles)} molecules can be read by {model.name}")
    data, heads = PretrainingData(write_tokens(readable, tokenizer, work), {}), dict[str, Objective]()
    scaler = None
    if "mlm" in weights:
        assert language is not None
        heads["mlm"] = MaskedLanguageModel(language_head(language))
    if "mtr" in weights:
        values = physchem(readable)
        scaler = DescriptorScaler.fit(values)
        values = scaler.transform(values)
        data.targets["mtr"] = values.astype(np.float32)
        heads["mtr"] = regression = Regression("mtr", int(encoder.config.hidden_size), values.shape[1])

        def pooled(**batch: torch.Tensor) -> torch.Tensor:
            return mean_pool(encoder(**batch).last_hidden_state, batch["attention_mask"])

        # A random head would first pull the encoder away from what it knows.
        fit_by_ridge(regression.out_proj, run_batches(encoder, tokenizer, readable, pooled, training=True), values)
    learner = PretrainingModel(encoder, heads, Vocabulary.of(tokenizer), language)
    settings = _recipe(data, adapt, weights, seed)

    def tell(progress: Progress) -> None:
        if report is not None:
            report({"step": progress.step, "steps": settings.steps, **progress.losses})

    before = measure(learner, data, settings)
    progress = pretrain_loop(learner, data, settings, work, report=tell)
    after = measure(learner, data, settings)
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


def _readable(tokenizer: PreTrainedTokenizerBase, smiles: Sequence[str], limit: int | None) -> list[str]:
    """Those molecules that the model reads faithfully, unknown tokens apart; a warning counts the others."""
    issues = {at: issue for at, issue in check_smiles(tokenizer, smiles, limit).items() if issue.kind != "unknown"}
    if issues:
        first = min(issues)
        logger.warning(
            "%d molecules take no part in the adaptation, such as %s: %s",
            *(len(issues), smiles[first], issues[first].message),
        )
    return [text for at, text in enumerate(smiles) if at not in issues]


def _recipe(data: PretrainingData, adapt: AdaptSettings, weights: dict[str, float], seed: int) -> PretrainSettings:
    """Settings of the pretraining loop; the steps are those that the epochs have."""
    settings = PretrainSettings(
        tokens_per_batch=adapt.tokens_per_batch,
        optimizer="adamw",
        learning_rate=adapt.learning_rate,
        weight_decay=adapt.weight_decay,
        masked_share={"mlm": 1.0, "mtr": 0.0, "both": 0.5}[adapt.objective],
        weights=weights,
        seed=seed,
        save_every=60.0,
    )
    steps = sum(1 for epoch in range(adapt.epochs) for _ in epoch_batches(data, settings, epoch))
    warmup = max(1, round(adapt.warmup * steps))
    plan = {"steps": steps, "warmup_steps": warmup, "decay_share": 1 - warmup / (steps + 1)}
    return settings.model_copy(update={**plan, "log_every": max(1, steps // 50)})


@torch.inference_mode()
def measure(model: PretrainingModel, data: PretrainingData, settings: PretrainSettings) -> dict[str, float]:
    """Loss of each objective on the first molecules, without dropout and always with the same masks."""
    was_training, device = model.training, model.encoder.device
    model.eval()
    sums, counts = dict.fromkeys(settings.weights, 0.0), dict.fromkeys(settings.weights, 0)
    rows = np.arange(min(len(data), _MEASURED))
    for number, some in enumerate(np.array_split(rows, max(1, len(rows) // 64))):
        batch = make_batch(data, some, settings, model.vocabulary, [settings.seed, 2**31, number])
        for name, loss in model(**send_to_device(batch, device)).items():
            head = model.heads[name]
            assert isinstance(head, Objective)
            size = head.size(batch["labels"], batch["intact"], batch["targets"])
            sums[name] += float(loss) * size
            counts[name] += size
    model.train(was_training)
    return {name: sums[name] / max(1, counts[name]) for name in sums}


def _finish(
    model: PretrainingModel,
    tokenizer: PreTrainedTokenizerBase,
    scaler: DescriptorScaler | None,
    work: Path,
    output: Path,
) -> None:
    temporary = work / "finished"
    model.eval().save_checkpoint(temporary)
    with quiet_transformers():
        tokenizer.save_pretrained(temporary)
    if scaler is not None:
        (temporary / DESCRIPTORS).write_text(json.dumps(scaler.to_dict()) + "\n", encoding="utf-8")
    (temporary / LOG).write_text(_log_lines(work / LOG), encoding="utf-8")
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
