"""MoLFormer: a linear-attention encoder for SMILES (Ross et al. 2022, arXiv:2106.09553).

Tensor names are those of the published checkpoints. In evaluation the stored random features are used, so a
molecule has one embedding, alone or in any batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput

from moltune.models.molformer.attention import (
    MolformerFeatureMap,
    MolformerRotaryEmbedding,
    MolformerSelfAttention,
    draw_feature_maps,
    rotary_tables,
)
from moltune.models.molformer.configuration import MolformerConfig
from moltune.models.molformer.dropout import Dropout
from moltune.models.pooling import mean_pool
from moltune.models.strict import StrictLoading


class MolformerEmbeddings(nn.Module):
    """Token embedding and dropout; positions enter through the rotary tables."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = Dropout(config.embedding_dropout_prob)

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        """Return (batch, length, hidden_size) from token ids, or from ready embeddings."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        return self.dropout(inputs_embeds)


class MolformerResidual(nn.Module):
    """Projection, dropout, residual sum, layer norm: the second half of both sub-blocks."""

    def __init__(self, config: MolformerConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        """Map (batch, length, input_size) and the residual stream to the new residual stream."""
        return self.LayerNorm(residual + self.dropout(self.dense(hidden_states)))


class MolformerAttention(nn.Module):
    """Self-attention and its residual sum."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.self = MolformerSelfAttention(config)
        self.output = MolformerResidual(config, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, feature_weight: Tensor | None
    ) -> Tensor:
        """Map the residual stream (batch, length, hidden_size) to the next one."""
        return self.output(self.self(hidden_states, rotary, mask, feature_weight), hidden_states)


class MolformerIntermediate(nn.Module):
    """First layer of the feed-forward sub-block."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, length, hidden_size) to (batch, length, intermediate_size)."""
        return self.activation(self.dense(hidden_states))


class MolformerLayer(GradientCheckpointingLayer):
    """One post-norm block."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.attention = MolformerAttention(config)
        self.intermediate = MolformerIntermediate(config)
        self.output = MolformerResidual(config, config.intermediate_size)

    def forward(
        self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, feature_weight: Tensor | None
    ) -> Tensor:
        """Map the residual stream (batch, length, hidden_size) to the next one."""
        attended = self.attention(hidden_states, rotary, mask, feature_weight)
        return self.output(self.intermediate(attended), attended)


class MolformerEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(MolformerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        feature_weights: tuple[Tensor | None, ...],
    ) -> list[Tensor]:
        """Return the residual stream before the first block and after each one."""
        states = [hidden_states]
        for layer, feature_weight in zip(self.layer, feature_weights, strict=True):
            states.append(layer(states[-1], rotary, mask, feature_weight))
        return states


class MolformerPreTrainedModel(StrictLoading, PreTrainedModel):
    """Initial weights, and strict loading from safetensors."""

    config_class = MolformerConfig
    config: MolformerConfig
    base_model_prefix = "molformer"
    _input_embed_layer = "word_embeddings"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MolformerLayer"]  # noqa: RUF012 - transformers reads a plain list

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MolformerFeatureMap):
            head_size, num_features = module.weight.shape
            init.copy_(module.weight, draw_feature_maps(1, head_size, num_features, module.weight.device)[0])
        elif isinstance(module, MolformerRotaryEmbedding):
            # Loading builds modules without memory and fills only what the file holds; the tables are not in it.
            cos, sin = rotary_tables(module.head_size, module.max_length)
            init.copy_(module.cos, cos)
            init.copy_(module.sin, sin)


class MolformerModel(MolformerPreTrainedModel):
    """The encoder, with mean pooling over real tokens."""

    def __init__(self, config: MolformerConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = MolformerEmbeddings(config)
        self.rotary = MolformerRotaryEmbedding(config)
        self.encoder = MolformerEncoder(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.add_pooling_layer = add_pooling_layer
        self.post_init()

    def _feature_weights(self, device: torch.device) -> tuple[Tensor | None, ...]:
        config = self.config
        if not (self.training and config.redraw_features):
            return (None,) * config.num_hidden_layers
        maps = draw_feature_maps(config.num_hidden_layers, config.head_size, config.num_random_features, device)
        return maps.unbind(0)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Encode; arguments as of transformers' encoders.

        Returns:
            ``last_hidden_state`` (batch, length, hidden_size) and ``pooler_output`` (batch, hidden_size); on request
            ``hidden_states``, the stream before the first block and after each one (the last of them before the final
            layer norm).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        embedded = self.embeddings(input_ids, inputs_embeds)
        mask = None if attention_mask is None else attention_mask[:, None, :, None].float()
        states = self.encoder(embedded, self.rotary(embedded.shape[1]), mask, self._feature_weights(embedded.device))
        last = self.LayerNorm(states[-1])
        pooled = mean_pool(last, attention_mask) if self.add_pooling_layer else None
        output = BaseModelOutputWithPooling(
            last_hidden_state=last,
            pooler_output=pooled,
            hidden_states=tuple(states) if _chosen(output_hidden_states, self.config.output_hidden_states) else None,
        )
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()


class MolformerPredictionTransform(nn.Module):
    """Dense layer, activation and layer norm before the decoder."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, length, hidden_size) to the same shape."""
        return self.LayerNorm(self.activation(self.dense(hidden_states)))


class MolformerLMHead(nn.Module):
    """Masked-language-model head: transform, then a decoder without bias."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.transform = MolformerPredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, length, hidden_size) to logits (batch, length, vocab_size)."""
        return self.decoder(self.transform(hidden_states))


class MolformerForMaskedLM(MolformerPreTrainedModel):
    """The encoder with a masked-language-model head."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__(config)
        self.molformer = MolformerModel(config, add_pooling_layer=False)
        self.lm_head = MolformerLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the decoder."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the decoder."""
        self.lm_head.decoder = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Predict tokens; ``labels`` (batch, length) hold -100 where no token is to be predicted.

        Returns:
            ``logits`` (batch, length, vocab_size) and, with labels, ``loss``: mean cross-entropy in nats.
        """
        encoded = self.molformer(input_ids, attention_mask, inputs_embeds, output_hidden_states, return_dict=True)
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()


class MolformerClassificationHead(nn.Module):
    """The published two-layer head with skip connections."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        dropout = config.classifier_dropout_prob
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.out_proj = nn.Linear(config.hidden_size, int(config.num_labels or 1))
        self.activation = ACT2FN[config.hidden_act]
        self.skip_connection = config.classifier_skip_connection

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled embeddings (batch, hidden_size) to logits (batch, num_labels)."""
        hidden = self.activation(self.dropout(self.dense(pooled)))
        if self.skip_connection:
            hidden = pooled = hidden + pooled
        hidden = self.activation(self.dropout(self.dense2(hidden)))
        if self.skip_connection:
            hidden = hidden + pooled
        return self.out_proj(hidden)


class MolformerForSequenceClassification(MolformerPreTrainedModel):
    """The encoder with the published classification head (regression when ``num_labels`` is one)."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.molformer = MolformerModel(config)
        self.classifier = MolformerClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Predict; ``labels`` are floats for regression and class ids otherwise.

        Returns:
            ``logits`` (batch, num_labels) and, with labels, ``loss``: mean squared error for one label, else
            cross-entropy, or binary cross-entropy when ``config.problem_type`` says multi-label.
        """
        encoded = self.molformer(input_ids, attention_mask, inputs_embeds, output_hidden_states, return_dict=True)
        logits = self.classifier(encoded.pooler_output)
        loss = None if labels is None else self._loss(logits.float(), labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "regression" or (self.config.problem_type is None and self.num_labels == 1):
            return nn.functional.mse_loss(logits.view_as(labels), labels.float())
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return nn.functional.cross_entropy(logits, labels.view(-1))


def _chosen(argument: bool | None, default: bool | None) -> bool:
    return bool(default if argument is None else argument)
