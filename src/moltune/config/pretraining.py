"""Settings of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from moltune.config.base import NO_RANDOM_SMILES, Settings
from moltune.config.finetuning import parse_list


class Architecture(Settings):
    """Sizes of a MoLFormer; the defaults are those of ``moltune/mini``."""

    hidden_size: PositiveInt = 256
    num_hidden_layers: PositiveInt = 4
    num_attention_heads: PositiveInt = 8
    intermediate_size: PositiveInt = 768
    num_random_features: PositiveInt = 32
    max_position_embeddings: PositiveInt = 512
    embedding_dropout_prob: float = Field(0.0, ge=0, lt=1)
    hidden_dropout_prob: float = Field(0.05, ge=0, lt=1)
    redraw_features: bool = Field(False, description="fresh random attention features at each step")


class PretrainSettings(Settings):
    """The pretraining recipe."""

    steps: PositiveInt = Field(20_000, description="optimiser steps in all")
    tokens_per_batch: PositiveInt = Field(5_120, description="token budget of a step, padding included")
    optimizer: Literal["adamw", "muon"] = Field("muon", description="muon: matrices by Muon, everything else by AdamW")
    learning_rate: float = Field(8e-4, gt=0, description="peak learning rate")
    warmup_steps: PositiveInt = 500
    decay_share: float = Field(0.25, gt=0, le=1, description="share of the steps, at the end, that cool down to zero")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    masked_share: float = Field(0.25, ge=0, le=1, description="share of molecules that are masked for MLM")
    weights: dict[str, float] = Field(default_factory=lambda: {"mlm": 0.2, "mtr": 1.0, "teacher": 1.0})
    rest_share: float = Field(0.25, ge=0, lt=1, description="share of molecules without teacher values in an epoch")
    bf16: bool = False
    seed: int = Field(0, description="seed of everything random")
    save_every: float = Field(300.0, gt=0, description="seconds between checkpoints")
    log_every: PositiveInt = 50


class PretrainConfig(Settings):
    """Everything that one pretraining needs."""

    retired: ClassVar[dict[str, tuple[Any, str]]] = {"augment": (0, NO_RANDOM_SMILES)}

    corpus: Path | None = Field(None, description="a SMILES or CSV file (also .gz), a wheel, or a corpus folder")
    members: str = Field("", description="of a wheel or zip: regular expression of the files in it")
    objectives: Annotated[list[Literal["mlm", "mtr"]], BeforeValidator(parse_list)] = Field(
        ["mlm", "mtr"], min_length=1, description="what is learnt: mlm (masked tokens), mtr (descriptors) or mlm,mtr"
    )
    exclude_benchmarks: bool = Field(True, description="leave out every molecule of the bundled benchmark sets")
    architecture: Architecture = Architecture()
    training: PretrainSettings = PretrainSettings()
    output: Path | None = Field(None, description="folder of the run; the checkpoint is model/ in it")
    jobs: PositiveInt = Field(1, description="processes that clean and describe molecules")
    threads: PositiveInt | None = Field(None, description="CPU threads; unset: torch's choice")
