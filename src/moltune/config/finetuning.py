"""Settings of fine-tuning and of adaptation; :class:`FinetuneConfig` is what a run folder stores."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from moltune.config.base import NO_RANDOM_SMILES, Settings, make_settings
from moltune.config.data import DataSettings, SplitSettings

METHOD_NAMES = ("full", "head", "probe", "bitfit", "lora", "ia3", "dora", "ln")
DEFAULT_FEATURES = ["embedding", "rdkit-fast", "ionisation"]
# Averaged with a tuned language model; a Gaussian process is too large for as many molecules as the second is for.
DEFAULT_BLEND, LARGE_BLEND = [f"gp:{'+'.join(DEFAULT_FEATURES)}"], ["xgboost"]
FEATURE_NAMES = ("embedding", "rdkit", "rdkit-fast", "morgan", "ionisation", "minimol")
PH = 7.4  # of blood, at which logD is measured


def split_ph(name: str) -> tuple[str, float | None]:
    """``ionisation@6.5`` as the feature and the pH; any other name as it is, without one."""
    feature, _, ph = name.partition("@")
    if feature == "ionisation" and re.fullmatch(r"\d{1,2}(\.\d+)?", ph) and float(ph) <= 14:
        return feature, float(ph)
    return name, None


def check_feature(name: str) -> str:
    """Let the name of a feature pass, such as ``rdkit-fast``, ``ionisation``, or ``ionisation@6.5`` at pH 6.5.

    Raises:
        ValueError: there is no such feature.
    """
    if split_ph(name)[0] in FEATURE_NAMES:
        return name
    raise ValueError(
        f"there are no features {name!r}; choose from {', '.join(FEATURE_NAMES)}, or ionisation@6.5 for another pH"
    )


FeatureName = Annotated[str, AfterValidator(check_feature)]


def parse_list(value: Any) -> Any:
    """Turn ``"a,b"`` into ``["a", "b"]``; anything else stays."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ModelSettings(Settings):
    """The encoder and the regression head on it."""

    name: str = Field(
        "moltune/mini", min_length=1, description="pretrained model: a bundled name, a folder or a Hugging Face id"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="random: the same architecture and tokenizer, fresh weights drawn with the seed"
    )
    head: Literal["mean", "cls", "molformer"] = Field(
        "mean", description="regression head: mean (linear on the mean token), cls (on the first), molformer (2 layers)"
    )
    head_dropout: float = Field(0.1, ge=0, lt=1)
    head_start: Literal["ridge", "random"] = Field(
        "ridge", description="first weights of a linear head: ridge regression on the frozen embeddings, or random"
    )
    redraw: bool | None = Field(
        None, description="MoLFormer: fresh random attention features at each training step; unset: as the checkpoint"
    )
    unknown_tokens: Literal["warn", "reject", "error"] = Field(
        "warn", description="a molecule with a token that the vocabulary lacks"
    )
    too_long: Literal["reject", "truncate", "error"] = Field(
        "reject", description="a molecule with more tokens than the model takes"
    )


class ProbeSettings(Settings):
    """A head fitted on features that are computed once; nothing in the encoder changes."""

    head: Literal["ridge", "svr", "gp"] = Field(
        "gp", description="ridge regression, support vector regression or Gaussian process"
    )
    features: Annotated[list[FeatureName], BeforeValidator(parse_list)] = Field(
        default_factory=lambda: list(DEFAULT_FEATURES),
        min_length=1,
        description=f"what a probe reads: any of {', '.join(FEATURE_NAMES)}; ionisation@6.5 is at pH 6.5",
    )
    C: float = Field(5.0, gt=0, description="SVR: price of an error, in standard deviations of the target")
    epsilon: NonNegativeFloat = Field(0.1, description="SVR: errors below this cost nothing, in the same unit")
    gamma: PositiveFloat | Literal["scale"] = Field(
        "scale", description="SVR: width of the RBF kernel; scale: 1/(d·σ²)"
    )

    @model_validator(mode="after")
    def _each_feature_once(self) -> Self:
        if len(set(self.features)) < len(self.features):
            raise ValueError("features are named once each")
        return self


class MethodSettings(Settings):
    """Which parameters are trained."""

    name: str = Field("full", description=f"tuning method: {', '.join(METHOD_NAMES)}, or a tuner of peft such as vera")
    peft: dict[str, Any] = Field(
        default_factory=dict, description="fields of the method's peft configuration, such as r or target_modules"
    )
    ia3_start: float = Field(1.0, description="ia3: first value of the scaling vectors; 1 changes nothing")
    layer_norm_biases: bool = Field(False, description="bitfit: train the biases of layer norms, too")
    probe: ProbeSettings = ProbeSettings()

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        # peft has a folder for each of its tuners; importing it to ask would take seconds.
        places = getattr(find_spec("peft"), "submodule_search_locations", None) or []
        tuners = {path.parent.name for place in places for path in Path(place, "tuners").glob("*/config.py")}
        if name in METHOD_NAMES or name.lower() in tuners:
            return name
        raise ValueError(f"there is no method {name!r}; choose one of {', '.join(METHOD_NAMES)}, or a tuner of peft")


# Two epochs are too few for a linear head and nearly enough for the adapter, so a kernel head takes its place.
_ADAPTER: dict[str, Any] = {"head_learning_rate": 5e-4, "refit_head": "svr"}

# What differs from the defaults of TrainingSettings, chosen on validation parts of Lipophilicity with moltune/mini;
# dora and ln were not searched and take the rates of lora and bitfit.
METHOD_TRAINING: dict[str, dict[str, Any]] = {
    "full": {"layer_decay": 0.5, "refit_head": "svr"},
    "lora": {"learning_rate": 1e-3, **_ADAPTER},
    "dora": {"learning_rate": 1e-3, **_ADAPTER},
    "ia3": {"learning_rate": 1e-2, **_ADAPTER},
    "bitfit": {"learning_rate": 1e-3, **_ADAPTER},
    "ln": {"learning_rate": 1e-3, **_ADAPTER},
}


def training_defaults(method: str) -> dict[str, Any]:
    """Training settings that a method has instead of the general ones."""
    return dict(METHOD_TRAINING.get(method, {}))


class TrainingSettings(Settings):
    """The optimisation."""

    retired: ClassVar[dict[str, tuple[Any, str]]] = {"augment": (0, NO_RANDOM_SMILES)}
    later: ClassVar[frozenset[str]] = frozenset({"ensemble", "class_weights"})

    epochs: PositiveInt | None = Field(
        None, description="passes over the training part, at most; unset: as many as 180 steps take, from 2 to 50"
    )
    batch_size: PositiveInt = Field(32, description="molecules per training step")
    eval_batch_size: PositiveInt = Field(
        32, description="molecules per prediction step; larger ones are slower on a CPU, and faster on a GPU"
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of the encoder")
    head_learning_rate: float | None = Field(None, gt=0, description="unset: learning_rate")
    weight_decay: NonNegativeFloat = 0.01
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each layer below the last learns at this share of the rate of the one above it"
    )
    freeze_encoder_epochs: NonNegativeInt = Field(0, description="train the head alone for this many epochs first")
    refit_head: Literal["none", "svr"] = Field(
        "none",
        description="svr: after training, support vector regression on the tuned embeddings takes the head's place",
    )
    optimizer: str = Field("adamw_torch_fused", description="any optimiser that transformers' Trainer knows")
    schedule: str = Field("cosine", description="any learning-rate schedule that transformers' Trainer knows")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent warming up")
    max_grad_norm: float = Field(1.0, gt=0)
    patience: PositiveInt | None = Field(12, description="epochs without a better validation loss before stopping")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of training steps, all else is fp32; auto: bf16 where the processor has it, else fp32",
    )
    bucket_by_length: bool = Field(True, description="batch molecules of similar length together")
    threads: PositiveInt | None = Field(None, description="CPU threads; unset: torch's choice")
    report_to: list[str] = Field(default_factory=list, description="tensorboard, mlflow, wandb")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="of two classes; balanced: both weigh the same in the loss, whatever their sizes"
    )
    ensemble: PositiveInt = Field(1, description="models from as many seeds, whose predictions are averaged")


class AdaptSettings(Settings):
    """Training without labels on the task's own molecules, before fine-tuning."""

    retired: ClassVar[dict[str, tuple[Any, str]]] = {"augment": (0, NO_RANDOM_SMILES)}

    objective: Literal["none", "mlm", "mtr", "both"] = Field(
        "none", description="learning without labels: mlm (masked tokens), mtr (descriptors), both or none"
    )
    epochs: PositiveInt = Field(5, description="passes over the molecules")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    tokens_per_batch: PositiveInt = Field(2_048, description="token budget of a step, padding included")
    weight_decay: NonNegativeFloat = 0.01
    warmup: float = Field(0.1, gt=0, lt=1, description="share of the steps spent warming up; the rest cools down")
    mlm_weight: float = Field(0.2, gt=0, description="weight of the masked tokens beside the descriptors in 'both'")
    transductive: bool = Field(False, description="also learn from the SMILES of the validation and test parts")


class PredictionSettings(Settings):
    """What becomes of the tuned model's outputs."""

    retired: ClassVar[dict[str, tuple[Any, str]]] = {"tta": (1, NO_RANDOM_SMILES)}

    blend: list[str] | None = Field(
        None,
        description="baselines averaged with the model, weights from the validation part; empty: the model alone; "
        f"unset: {DEFAULT_BLEND[0]} ({LARGE_BLEND[0]} for many molecules), where a pretrained model is tuned and the "
        "validation part is large enough",
    )


class EvaluationSettings(Settings):
    """How a run is judged."""

    bootstrap: NonNegativeInt = Field(1000, description="resamples behind each interval; 0: no intervals")
    confidence: float = Field(0.95, gt=0, lt=1)
    baselines: list[str] = Field(
        default_factory=lambda: ["mean", "xgboost", "gp:rdkit-fast+ionisation"],
        description="what the model is compared with; probes on its frozen embeddings, such as svr:embedding+rdkit, "
        "are left out where it starts from random weights, and where the model is that probe itself",
    )
    training_part: bool = Field(True, description="also predict the molecules that were trained on; takes time")
    figures: bool = True


class _Task(Settings):
    """What fine-tuning and adaptation have in common."""

    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    model: ModelSettings = ModelSettings()
    seed: NonNegativeInt = Field(0, description="seed of everything random")

    @property
    def split_seed(self) -> int:
        """The seed of the split: its own, or else the run's."""
        return self.seed if self.split.seed is None else self.split.seed


class FinetuneConfig(_Task):
    """Everything that one fine-tuning run needs, and all that it takes to repeat it."""

    method: MethodSettings = MethodSettings()
    adapt: AdaptSettings = AdaptSettings()
    training: TrainingSettings = TrainingSettings()
    prediction: PredictionSettings = PredictionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    output: Path | None = Field(None, description="run folder; unset: runs/<data>-<model>-<method>-seed<seed>")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, values: Any) -> Any:
        """Take ``method: lora`` and ``peft.r=4`` as short forms; fill in the method's own training defaults."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        # What is no plain value was checked before, and stays as it is.
        method, training, peft = values.get("method", {}), values.get("training", {}), values.pop("peft", None)
        if isinstance(method, str):
            method = values["method"] = {"name": method}
        if peft is not None:
            if not isinstance(peft, dict):
                raise ValueError("peft is a group of settings, such as peft.r=4")
            plain = method.model_dump() if isinstance(method, MethodSettings) else method
            own = plain.get("peft") if isinstance(plain, dict) else None
            if isinstance(plain, dict):
                method = values["method"] = {**plain, "peft": {**(own if isinstance(own, dict) else {}), **peft}}
        name = method.get("name", "full") if isinstance(method, dict) else getattr(method, "name", "full")
        defaults = training_defaults(str(name))
        if defaults and isinstance(training, dict):
            values["training"] = {**defaults, **training}
        return values


class AdaptConfig(_Task):
    """Everything that one adaptation without labels needs."""

    adapt: AdaptSettings = AdaptSettings(objective="mtr")
    threads: PositiveInt | None = Field(None, description="CPU threads; unset: torch's choice")
    output: Path | None = Field(None, description="folder of the new checkpoint")

    @field_validator("adapt", mode="before")
    @classmethod
    def _with_objective(cls, values: Any) -> Any:
        return {"objective": "mtr", **values} if isinstance(values, dict) else values


def make_config(values: dict[str, Any]) -> FinetuneConfig:
    """Validate a nested dictionary of settings.

    Raises:
        ConfigError: names each wrong setting.
    """
    return make_settings(FinetuneConfig, values)
