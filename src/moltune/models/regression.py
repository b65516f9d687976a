"""The regression model: any SMILES encoder, a head, and the statistics that give predictions their unit back."""

from __future__ import annotations

import inspect
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from moltune.models.heads import make_head
from moltune.models.kernel import KernelHead
from moltune.models.losses import censored_squared_error, cross_entropy
from moltune.models.strict import StrictLoading


class RegressionConfig(PreTrainedConfig):
    """What a tuned checkpoint stores beside its tensors.

    Args:
        encoder: configuration of the encoder, with its ``model_type``.
        head: name of the head.
        head_dropout: dropout in the head.
        target_mean: mean of the training targets, in the target's unit.
        target_std: standard deviation of the training targets, in the target's unit.
        target_name: name of the target.
        base_model: the checkpoint that the encoder came from, as named by the user.
        base_revision: its branch, tag or commit on the hub.
        base_digest: digest of that encoder's tensors, where only an adapter is stored; see ``models/digest.py``.
        method: the tuning method, where only an adapter is stored.
        kernel_points: training molecules that the kernel head keeps; 0: the trained head predicts.
        classes: names of the negative and the positive class; the model then predicts the probability of the latter.
            Unset: it predicts a number.
        calibration: (a, b) of a classifier; the probability is the logistic function of a·logit + b.
    """

    model_type = "moltune-regression"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012 - transformers reads a plain dict

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        head: str = "mean",
        head_dropout: float = 0.1,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        target_name: str = "target",
        base_model: str | None = None,
        base_revision: str | None = None,
        base_digest: str | None = None,
        method: str | None = None,
        kernel_points: int = 0,
        classes: list[str] | None = None,
        calibration: tuple[float, float] = (1.0, 0.0),
        **kwargs: Any,
    ) -> None:
        if isinstance(encoder, dict):
            values = dict(encoder)
            encoder = AutoConfig.for_model(values.pop("model_type"), **values)
        self.encoder = encoder if encoder is not None else AutoConfig.for_model("molformer")
        self.head = head
        self.head_dropout = head_dropout
        self.target_mean = target_mean
        self.target_std = target_std
        self.target_name = target_name
        self.base_model = base_model
        self.base_revision = base_revision
        self.base_digest = base_digest
        self.method = method
        self.kernel_points = kernel_points
        self.classes = classes
        self.calibration = calibration
        kwargs.setdefault("problem_type", "regression")
        kwargs["num_labels"] = 1
        super().__init__(**kwargs)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Build an encoder with fresh weights, without a pooling layer that nothing would train."""
    return AutoModel.from_config(config, **encoder_arguments(config))


def encoder_arguments(config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments that the encoder class of ``config`` needs besides the configuration."""
    kinds: Any = AutoModel._model_mapping
    takes = inspect.signature(kinds[type(config)]).parameters if type(config) in kinds else ()
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


class RegressionModel(StrictLoading, PreTrainedModel):
    """Encoder → head → prediction in the target's own unit, or probability of the positive class.

    The loss is the mean squared error of standardised targets, so that learning rates carry over between
    properties; with ``config.classes`` it is the cross-entropy of the head's output as a logit. Where ``kernel`` is
    set, it predicts from the embedding that ``head`` was trained on, in place of it.
    """

    config_class = RegressionConfig
    config: RegressionConfig
    # What a tuning method added to the encoder (moltune.models.methods.adapters.Adapter), if anything.
    adapter: Any = None
    # Standard deviation of a measurement around its prediction, in standardised units; censored labels ask for it.
    noise: float = 1.0
    # What an error in the negative and in the positive class costs in training.
    class_weights: tuple[float, float] = (1.0, 1.0)
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: RegressionConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else build_encoder(config.encoder)
        self.head = make_head(config.head, config.encoder.hidden_size, config.head_dropout)
        points = config.kernel_points
        self.kernel = KernelHead(config.encoder.hidden_size, points) if points else None
        if encoder is None:
            self.post_init()
        else:
            # post_init would draw the tuned encoder's weights anew; only the head is fresh.
            self.head.apply(self._init_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=getattr(self.config.encoder, "initializer_range", 0.02))
            if module.bias is not None:
                init.zeros_(module.bias)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return pooled embeddings (batch, hidden_size), float32."""
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.head.pool(encoded.last_hidden_state, attention_mask)

    def standardised(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map the encoder's last hidden states (batch, length, hidden_size) to standardised predictions (batch,)."""
        if self.kernel is None:
            return self.head(hidden_states, attention_mask).float()
        return self.kernel(self.head.pool(hidden_states, attention_mask))

    def in_unit(self, standardised: Tensor) -> Tensor:
        """Give standardised predictions the target's unit back; logits become probabilities."""
        if self.config.classes is not None:
            scale, shift = self.config.calibration
            return torch.sigmoid(standardised * scale + shift)
        return standardised * self.config.target_std + self.config.target_mean

    def loss(self, standardised: Tensor, labels: Tensor, side: Tensor | None = None) -> Tensor:
        """What training minimises; all (batch,), labels in the target's unit, see :meth:`forward`."""
        if self.config.classes is not None:
            return cross_entropy(standardised, labels, self.class_weights)
        expected = (labels - self.config.target_mean) / self.config.target_std
        if side is None:
            return nn.functional.mse_loss(standardised, expected)
        return censored_squared_error(standardised, expected, side, self.noise)

    def set_kernel(self, kernel: KernelHead | None) -> Self:
        """Let a fitted kernel head predict, or with ``None`` the trained head again; in place.

        Influence functions and Monte-Carlo dropout speak of what the optimiser trained: they take the kernel head off.
        """
        self.kernel = kernel
        self.config.kernel_points = 0 if kernel is None else len(kernel.points)
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        side: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Predict; arguments as of transformers' models.

        ``labels`` are in the target's unit, (batch,) or (batch, 1); ``side``, (batch,), says which of them are bounds
        (see :func:`moltune.models.losses.censored_squared_error`), none where it is unset.

        Returns:
            ``logits`` (batch, 1) in the target's unit, probabilities where the target has classes; with labels,
            ``loss``: mean squared error in units of the training targets' variance, or cross-entropy.
        """
        encoded = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, return_dict=True
        )
        standardised = self.standardised(encoded.last_hidden_state, attention_mask)
        loss = None if labels is None else self.loss(standardised, labels.float().view(-1), side)
        logits = self.in_unit(standardised).unsqueeze(-1)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output
