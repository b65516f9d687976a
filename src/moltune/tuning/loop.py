"""The optimisation of one model: transformers' Trainer with our batches, our checks and a history table."""

from __future__ import annotations

import importlib
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, get_scheduler
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from moltune.config import TrainingSettings
from moltune.errors import ConfigError, NumericsError
from moltune.models.batches import LengthBucketSampler, PadCollator, SmilesDataset
from moltune.models.joint import JointModel
from moltune.models.regression import RegressionModel
from moltune.models.strict import quiet_transformers
from moltune.tuning.history import EpochReport, make_history
from moltune.tuning.resume import StopEarly, last_whole_checkpoint
from moltune.tuning.schedule import FreezeEncoder, parameter_groups

USUAL_STEPS, LEAST_EPOCHS, MOST_EPOCHS = 180, 2, 50


@dataclass(frozen=True)
class Fitted:
    """What a training loop leaves behind; the model itself was trained in place.

    Attributes:
        history: one line per epoch; losses in units of the training targets' variance, NaN where there is no
            validation part.
        best_epoch: the epoch whose weights the model now has.
        molecules_per_second: through the training steps of this process; None where it took none.
        precision: arithmetic of the training steps, bf16 or fp32.
    """

    history: pd.DataFrame
    best_epoch: int
    molecules_per_second: float | None
    precision: str


class MoleculeTrainer(Trainer):
    """Trainer with length-bucketed batches, a learning rate for the head, and a stop at non-finite losses."""

    model: Any  # RegressionModel or JointModel

    def __init__(self, *args: Any, settings: TrainingSettings, **kwargs: Any) -> None:
        self.settings = settings
        self.molecules = 0
        super().__init__(*args, **kwargs)
        self.bf16 = wants_bf16(settings.precision, self.args.device)
        # Staged unfreezing switches gradients off and on; what is trained in the end does not change.
        self.trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if not self.settings.bucket_by_length:
            return super()._get_train_sampler(dataset)
        return LengthBucketSampler(dataset.lengths, self.args.train_batch_size, self.args.seed)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the optimiser that the settings name, the head with its own learning rate."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.settings), **options)
        return self.optimizer

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Compute in bf16 where the settings want it, in training steps alone.

        Trainer's own ``bf16`` leaves a wrapper on the model: validation, and whatever is predicted with the model
        after training, would differ from what the saved model says.
        """
        if not (self.bf16 and self.model.training):
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=bool(cache_enabled))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take one step; a loss that is not finite ends the run."""
        self.molecules += len(inputs["labels"])
        loss = super().training_step(model, inputs, *args, **kwargs)
        _check_finite(float(loss), "training", f"at step {self.state.global_step + 1}")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute the validation loss; one that is not finite ends the run."""
        metrics = super().evaluate(*args, **kwargs)
        _check_finite(metrics["eval_loss"], "validation", f"after step {self.state.global_step}")
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint of an adapter holds what is trained; the frozen base is at hand when it is read."""
        if self.model.adapter is None:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(self.model.named_parameters())
        save_file({name: tensors[name].detach().cpu() for name in self.trained}, folder / "model.safetensors")


def _check_finite(loss: float, kind: str, when: str) -> None:
    if not math.isfinite(loss):
        raise NumericsError(
            f"the {kind} loss is {loss} {when}; lower training.learning_rate, or train with training.precision=fp32"
        )


class _Watch(TrainerCallback):
    """Counts the seconds of training steps, without validation and checkpoints, and reports steps and epochs."""

    def __init__(self, report: EpochReport | None) -> None:
        self.report = report or (lambda known: None)
        self.seconds, self._started = 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.seconds += time.monotonic() - self._started
        self.report({"step": state.global_step, "steps": state.max_steps})

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        # The validation loss is an epoch's last word; without a validation part it is the training loss.
        ended = "eval_loss" in entry or (args.eval_strategy == "no" and "loss" in entry)
        self.report({"step": state.global_step, "steps": state.max_steps, "epoch_ended": ended, **entry})


def fit(
    model: RegressionModel | JointModel,
    train: SmilesDataset,
    validation: SmilesDataset | None,
    settings: TrainingSettings,
    *,
    pad_token_id: int,
    folder: Path,
    seed: int = 0,
    resume: bool = False,
    report: EpochReport | None = None,
    log_folder: Path | None = None,
) -> Fitted:
    """Train ``model`` in place; with a validation part, end with the weights of its best epoch.

    Args:
        model: with a method switched on.
        train: training molecules and targets.
        validation: watched for early stopping and for the best epoch; ``None`` or empty: the last epoch counts.
        settings: the optimisation.
        pad_token_id: of the tokenizer.
        folder: receives one checkpoint per epoch, by which a killed run resumes.
        seed: of order, dropout and redrawn features.
        resume: go on from the last whole checkpoint in ``folder``, if there is one.
        report: called after each step and each epoch with what is known.
        log_folder: where TensorBoard writes.

    Raises:
        NumericsError: a loss is not finite.
        ConfigError: Trainer refuses a setting.
    """
    watched = validation is not None and len(validation) > 0
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    epochs = planned_epochs(settings, len(train))
    _check_freezing(settings, epochs)
    watch = _Watch(report)
    callbacks: list[TrainerCallback] = [watch]
    if settings.freeze_encoder_epochs:
        callbacks.append(FreezeEncoder(model, settings.freeze_encoder_epochs))
    if watched and settings.patience is not None:
        callbacks.append(StopEarly(settings.patience))
    if "tensorboard" in settings.report_to:
        # Left to itself it would write among the checkpoints, which do not outlive a run.
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(log_folder or folder / "logs"))
        callbacks.append(TensorBoardCallback(writer))
    trainer = MoleculeTrainer(
        model=model,
        args=_arguments(settings, folder, seed, watched, epochs),
        settings=settings,
        train_dataset=train,
        eval_dataset=validation if watched else None,
        data_collator=PadCollator(pad_token_id),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    last = last_whole_checkpoint(folder) if resume else None
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    history = make_history(trainer.state.log_history)
    best = history["validation_loss"].argmin() if watched else -1
    model.eval()
    rate = round(trainer.molecules / watch.seconds, 1) if watch.seconds else None
    return Fitted(history, int(history["epoch"].iloc[best]), rate, "bf16" if trainer.bf16 else "fp32")


def planned_epochs(settings: TrainingSettings, molecules: int) -> int:
    """Epochs of a training on so many molecules: those of the settings, or else what 180 steps take, from 2 to 50.

    A small data set has few steps per epoch, and a model needs steps.
    """
    if settings.epochs is not None:
        return settings.epochs
    steps = math.ceil(molecules / settings.batch_size)
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(USUAL_STEPS / steps)))


def _arguments(settings: TrainingSettings, folder: Path, seed: int, watched: bool, epochs: int) -> TrainingArguments:
    try:
        return TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.eval_batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            optim=settings.optimizer,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,
            max_grad_norm=settings.max_grad_norm,
            seed=seed,
            data_seed=seed,
            eval_strategy="epoch" if watched else "no",
            save_strategy="epoch",
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            save_total_limit=1,
            load_best_model_at_end=watched,
            metric_for_best_model="eval_loss" if watched else None,
            greater_is_better=False if watched else None,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to=[name for name in settings.report_to if name != "tensorboard"] or "none",
            disable_tqdm=True,
            label_names=["labels"],
        )
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"transformers' Trainer refuses the training settings: {_in_short(error)}") from None


def _check_freezing(settings: TrainingSettings, epochs: int) -> None:
    if settings.freeze_encoder_epochs >= epochs:
        raise ConfigError(
            f"training.freeze_encoder_epochs={settings.freeze_encoder_epochs} leaves the encoder none of "
            f"{epochs} epochs; use the method `head` to train the head alone"
        )


def check_settings(settings: TrainingSettings) -> None:
    """Find settings that Trainer would refuse in the middle of a run.

    Raises:
        ConfigError: an optimiser, schedule or tracker is unknown, needs a package that is not installed, or needs
            arguments of its own.
    """
    if settings.epochs is not None:
        _check_freezing(settings, settings.epochs)
    arguments = _arguments(settings, Path("unused"), seed=0, watched=True, epochs=1)
    problem = f"training.optimizer={settings.optimizer}"
    try:
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, None)
        optimizer = optimizer_class([nn.Parameter(torch.zeros(1))], **options)
        problem = f"training.schedule={settings.schedule}"
        get_scheduler(settings.schedule, optimizer, num_warmup_steps=1, num_training_steps=10)
        problem = f"training.report_to={settings.report_to}"
        get_reporting_integration_callbacks(settings.report_to)
        for name in settings.report_to:
            importlib.import_module(name)
    # Each optimiser, schedule and tracker fails in its own way, and most of them are other people's code.
    except Exception as error:
        raise ConfigError(f"{problem} cannot be used: {_in_short(error)}; choose another one") from None


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 300 else f"{text[:300]} ..."


def wants_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether to train under bf16 autocast; ``auto`` says yes only where the hardware multiplies bf16 natively.

    Raises:
        ConfigError: bf16 is asked for, and this GPU cannot do it.
    """
    if precision == "fp32":
        return False
    if precision == "bf16":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("this GPU cannot multiply bf16 numbers; leave training.precision at auto, or take fp32")
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return False
