"""Export a run: a folder or zip file from which it predicts without torch and transformers.

The folder looks like that of a run, and can be used wherever a run can: ``config.yaml``, ``metrics.json``, the parts of
the data, ``blend/`` and ``intervals.safetensors`` are copies. In ``model/`` any adapter is merged, and a graph lies
beside the weights; so it does in ``adapted/``, which holds the frozen encoder of a probe. Weights that half precision
holds exactly are stored in it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from moltune.baselines.classical import XGBoostBaseline
from moltune.errors import ConfigError
from moltune.features.embedding import Encoder
from moltune.files import check_free, replacing, unpacked, write_json
from moltune.models.checkpoints import save_regression
from moltune.models.digest import tensor_digest
from moltune.models.methods.adapters import merge_adapter
from moltune.models.names import resolve
from moltune.models.onnx_graph import write_graph
from moltune.models.onnx_network import WEIGHTS
from moltune.models.regression import RegressionModel
from moltune.models.strict import quiet_transformers
from moltune.predictors.blend import Blend
from moltune.predictors.language import LanguageModel
from moltune.predictors.load import load_model
from moltune.predictors.probe import Probe
from moltune.run import ADAPTED, BLENDED, CONFIG, INTERVALS, METRICS, MODEL, PREDICTIONS, SPLITS, Run

logger = logging.getLogger(__name__)

_COPIED = (CONFIG, METRICS, SPLITS, PREDICTIONS, INTERVALS)


def export_run(run: str | Path, output: str | Path, *, base: str | Path | None = None, half: bool = False) -> Path:
    """Write a run or a tuned language model so that it predicts without torch; predictions are equal to 1e-4.

    Of a classifier, these are calibrated probabilities, and prediction sets go with them as intervals do with numbers.

    Args:
        run: run folder, its model folder, or an export.
        output: folder, or a file that ends in ``.zip``.
        base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
        half: round the encoder's weights to half precision, which halves the size; computed is in single precision.

    Returns:
        The output.

    Raises:
        RunFolderError: the run is unfinished, or the output exists.
        CheckpointError: there is no tuned model, or its checkpoint is missing.
        ConfigError: the network cannot be written as a graph.
    """
    place, output = unpacked(run), Path(output)
    check_free(output)
    whole = (place / CONFIG).is_file()
    if whole:
        opened = Run.load(place)
        place = opened.path
        if base is None and (place / ADAPTED).is_dir():
            base = place / ADAPTED
    else:
        resolve(place)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        _fill(folder, place, base, half, whole)
        if output.suffix.lower() == ".zip":
            _pack(folder, output)
        else:
            os.replace(folder, output)
    return output


def _fill(folder: Path, place: Path, base: str | Path | None, half: bool, whole: bool) -> None:
    for name in _COPIED if whole else ():
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    model = load_model(place, base)
    members: list[object] = [model]
    if whole and (place / BLENDED).is_dir():
        shutil.copytree(place / BLENDED, folder / BLENDED)
        baselines = Blend.load(place / BLENDED, base).baselines
        for name, member in baselines.items():
            if isinstance(member, XGBoostBaseline):
                member.save_light(folder / BLENDED / name)
        members += baselines.values()
    if isinstance(model, LanguageModel):
        _write_tuned(model, folder / MODEL, half)
    else:
        model.save(folder / MODEL)
    encoders = [one.encoder for one in members if isinstance(one, Probe) and one.encoder is not None]
    if not encoders:
        return
    if not whole:
        raise ConfigError(f"{place} is a probe without its run, which says where its encoder is: export the run folder")
    digest = _write_encoder(encoders[0], folder / ADAPTED, half)
    for path in [folder / MODEL / "config.json", *folder.glob(f"{BLENDED}/*/config.json")]:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values.get("base"), dict) and values["base"]:
            values["base"]["digest"] = digest
            write_json(path, values)


def _write_tuned(model: LanguageModel, folder: Path, half: bool) -> None:
    network = model.network
    try:
        network = merge_adapter(network)
    except ConfigError as error:
        logger.warning("%s; the adapter goes into the graph, and its folder still needs the checkpoint in torch", error)
    if half:
        _halve(network)
    save_regression(network, model.tokenizer, folder)
    _shrink(folder / WEIGHTS)
    write_graph(network, model.tokenizer, folder)


def _write_encoder(encoder: Encoder, folder: Path, half: bool) -> str | None:
    """Write the frozen encoder of a probe; returns the digest of what was written."""
    network = encoder.network
    if half:
        _halve(network)
    with quiet_transformers():
        network.encoder.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
    _shrink(folder / WEIGHTS)
    write_graph(network, encoder.tokenizer, folder, tuned=False)
    return tensor_digest(network.encoder)


@torch.no_grad()
def _halve(network: RegressionModel) -> None:
    """Round the encoder's weights to half precision, in place."""
    for tensor in network.encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def _shrink(weights: Path) -> None:
    """Store tensors in half precision that it holds exactly."""
    if weights.is_file():
        tensors = load_file(weights)
        halves = {name: tensor.half() for name, tensor in tensors.items() if tensor.dtype == torch.float32}
        exact = {name: half for name, half in halves.items() if torch.equal(half.float(), tensors[name])}
        with replacing(weights) as temporary:
            save_file({**tensors, **exact}, temporary, metadata={"format": "pt"})


def _pack(folder: Path, output: Path) -> None:
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            # Weights are as good as random: packing them takes longer than reading them.
            kind = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(folder).as_posix(), kind)
