"""Configuration of MoLFormer (Ross et al. 2022, arXiv:2106.09553)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class MolformerConfig(PreTrainedConfig):
    """Sizes and switches of a MoLFormer encoder; the defaults are those of the published MoLFormer-XL.

    Args:
        num_attention_heads: heads per block; must divide ``hidden_size`` into heads of even size.
        num_random_features: number m of random features that stand for the softmax kernel, per layer.
        feature_map_kernel: activation of the random features.
        hidden_act: activation of the feed-forward layer and the heads.
        hidden_dropout_prob: dropout after attention and feed-forward.
        max_position_embeddings: longest input, in tokens, special tokens included.
        linear_attention_eps: floor of the attention normaliser.
        classifier_dropout_prob: dropout of the classification head; ``None``: ``hidden_dropout_prob``.
        classifier_skip_connection: add the input of each head layer to its output.
        deterministic_eval: kept from the published files. Evaluation here is always deterministic.
        redraw_features: draw fresh random features at every training step, as the published model does.
            ``False`` trains with the stored ones.
    """

    model_type = "molformer"

    def __init__(
        self,
        vocab_size: int = 2362,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 768,
        num_random_features: int = 32,
        feature_map_kernel: str = "relu",
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        embedding_dropout_prob: float = 0.2,
        max_position_embeddings: int = 202,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        linear_attention_eps: float = 1e-6,
        classifier_dropout_prob: float | None = None,
        classifier_skip_connection: bool = True,
        deterministic_eval: bool = False,
        redraw_features: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | None = 1,
        pad_token_id: int | None = 2,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads or (hidden_size // num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {hidden_size} does not divide into {num_attention_heads} heads of even size, "
                "which rotary embeddings need"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.num_random_features = num_random_features
        self.feature_map_kernel = feature_map_kernel
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.embedding_dropout_prob = embedding_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.linear_attention_eps = linear_attention_eps
        self.classifier_dropout_prob = classifier_dropout_prob
        self.classifier_skip_connection = classifier_skip_connection
        self.deterministic_eval = deterministic_eval
        self.redraw_features = redraw_features
        # Published files carry a pointer to remote code; it is neither followed nor passed on.
        kwargs.pop("auto_map", None)
        inherited: dict[str, Any] = {
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
            "tie_word_embeddings": tie_word_embeddings,
        }
        super().__init__(**inherited, **kwargs)

    @property
    def head_size(self) -> int:
        """Width d of one attention head."""
        return self.hidden_size // self.num_attention_heads


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "molformer-xl": {},
    "molformer-mini": {
        "vocab_size": 512,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 512,
        "embedding_dropout_prob": 0.1,
    },
}
"""Named sizes, for building a model without any weights."""
