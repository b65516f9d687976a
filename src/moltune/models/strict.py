"""Strict loading: a checkpoint matches the model that it is loaded into, or the error names the tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from moltune.errors import CheckpointError

logger = logging.getLogger(__name__)

# Head tensors of the published MoLFormer checkpoints: whole heads may be left behind or started afresh when a
# checkpoint made for one task is loaded for another.
KNOWN_HEADS: dict[str, frozenset[str]] = {
    "lm_head": frozenset(
        [f"lm_head.transform.{layer}.{kind}" for layer in ("dense", "LayerNorm") for kind in ("weight", "bias")]
        + ["lm_head.decoder.weight"]
    ),
    "classifier": frozenset(
        f"classifier.{layer}.{kind}" for layer in ("dense", "dense2", "out_proj") for kind in ("weight", "bias")
    ),
}


@contextmanager
def quiet_transformers(bars: bool = False) -> Iterator[None]:
    """Hold back transformers' reports, and its progress bars unless ``bars``: our own checks say what matters."""
    verbosity, active = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if active:
            transformers_logging.enable_progress_bar()


class StrictLoading:
    """Mixin that makes ``from_pretrained`` strict and refuses pickled weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load from safetensors and compare every tensor; see :func:`check_loaded`."""
        wants_info = kwargs.pop("output_loading_info", False)
        # A misshapen tensor must reach our check, which names it; it never stays replaced by fresh weights.
        kwargs.update(use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True)
        with quiet_transformers(bars=True):
            loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model, info = loaded
        check_loaded(model, info, str(pretrained_model_name_or_path))
        return (model, info) if wants_info else model


def check_loaded(model: PreTrainedModel, info: dict[str, Any], source: str) -> None:
    """Compare what a checkpoint held with what the model needs.

    Every encoder tensor must be there with the right shape, and nothing unknown may be left over. Two exceptions: the
    complete head of another task is left behind, and a head that is missing as a whole starts from fresh weights (with
    a warning), provided that the checkpoint says that it was made for another architecture. ``info`` is what
    ``from_pretrained(..., output_loading_info=True)`` returns.

    Raises:
        CheckpointError: names each missing, surplus or misshapen tensor.
    """
    missing, surplus = set(info.get("missing_keys", ())), set(info.get("unexpected_keys", ()))
    made_for = set(model.config.architectures or ())
    for head, tensors in KNOWN_HEADS.items():
        if tensors <= surplus:
            surplus -= tensors
            logger.debug("%s: the checkpoint's %s is not used here", source, head)
        own = {name for name in model.state_dict() if name.startswith(f"{head}.")}
        if own and own <= missing and made_for and type(model).__name__ not in made_for:
            missing -= own
            logger.warning("%s holds no %s (it was made for %s): it starts from fresh weights", source, head, made_for)
    problem = misfit(missing, surplus, mismatched(info))
    if problem:
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}: tensors {problem}. "
            "Load it with the class that it was saved from, or save it again whole."
        )


def mismatched(info: dict[str, Any]) -> list[str]:
    """Names of the tensors of another shape in transformers' loading information."""
    return [str(entry[0] if isinstance(entry, tuple) else entry) for entry in info.get("mismatched_keys", ())]


def misfit(missing: Iterable[str], surplus: Iterable[str], misshapen: Iterable[str]) -> str:
    """Name the tensors that do not fit, at most eight of a kind; empty where all fit."""
    kinds = {"missing": sorted(missing), "surplus": sorted(surplus), "of another shape": sorted(misshapen)}
    return "; ".join(
        f"{kind}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        for kind, names in kinds.items()
        if names
    )
