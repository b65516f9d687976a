"""From a folder to whatever predicts: the one place that knows the kinds of tuned models on disk."""

from __future__ import annotations

import json
from pathlib import Path

from moltune.models.names import resolve
from moltune.models.onnx_network import OnnxNetwork, has_graph
from moltune.predictors.base import ENSEMBLE_TYPE, PROBE_TYPE, TunedModel


def load_model(folder: str | Path, base: str | Path | None = None, *, truncate: bool = False) -> TunedModel:
    """Load what a run or :meth:`moltune.predictors.base.TunedModel.save` wrote.

    Args:
        folder: run or model folder.
        base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
        truncate: cut SMILES that are longer than a language model reads.

    Raises:
        CheckpointError: there is no tuned model, or a file of it is damaged.
    """
    place = Path(resolve(folder))
    if _model_type(place) == ENSEMBLE_TYPE:
        from moltune.predictors.ensemble import Ensemble, count_members, member_folder

        places = [member_folder(place, at) for at in range(count_members(place))]
        return Ensemble([load_model(one, base, truncate=truncate) for one in places])
    if _model_type(place) == PROBE_TYPE:
        from moltune.predictors.probe import Probe

        return Probe.load(folder, base)
    # Only what this model needs is imported, and that only after its folder was found.
    from moltune.predictors.language import LanguageModel, OnnxModel

    if has_graph(place) and (graph := OnnxNetwork(place)).facts.target is not None:
        return OnnxModel(graph, truncate)
    from moltune.models.checkpoints import load_regression, load_tokenizer

    return LanguageModel(load_regression(folder, base), load_tokenizer(folder), truncate)


def _model_type(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
