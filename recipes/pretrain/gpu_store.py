"""A run on disk: the published masked-LM layout, the heads of the objectives, and a state to go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from gpu_network import BatchedMuon, Network
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moltune.models.molformer import MolformerConfig, MolformerForMaskedLM

HEADS, STATE = "heads.safetensors", "state.safetensors"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def save_run(
    network: Network, config: MolformerConfig, tokenizer: str, names: dict[str, list[str]], folder: Path
) -> None:
    """Write ``model/`` and the heads in half precision."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    copy = MolformerForMaskedLM(config)
    copy.load_state_dict({name: values.cpu() for name, values in network.model.state_dict().items()})
    copy.half().save_pretrained(model)
    # Half precision is how the file is stored; the model is meant to be computed in single precision.
    about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    about["dtype"] = "float32"
    (model / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for name in _TOKENIZER:
        if (Path(tokenizer) / name).is_file():
            shutil.copyfile(Path(tokenizer) / name, model / name)
    heads = {name: values.detach().cpu().half().contiguous() for name, values in network.heads.state_dict().items()}
    columns = {name: json.dumps(names[name]) for name in network.heads}
    save_file(heads, folder / HEADS, metadata={"format": "pt", **columns})


def load_weights(network: Network, tokens: list[str], folder: Path) -> str:
    """Take the weights of another run (or of a checkpoint's folder); says what was taken.

    Rows of tokens are matched by token: those that the other tokenizer did not know stay fresh.
    """
    model = folder / "model" if (folder / "model").is_dir() else folder
    saved = load_file(model / "model.safetensors")
    theirs = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = dict(theirs["model"]["vocab"])
    vocabulary.update({token["content"]: token["id"] for token in theirs["added_tokens"]})
    shared = [token for token in tokens if token in vocabulary]
    here = torch.tensor([index for index, token in enumerate(tokens) if token in vocabulary])
    there = torch.tensor([vocabulary[token] for token in shared])
    state = {name: values.detach().cpu().clone() for name, values in network.model.state_dict().items()}
    if saved.keys() != state.keys():
        raise SystemExit(f"{model} is another architecture: {sorted(saved.keys() ^ state.keys())[:5]}")
    for name, values in saved.items():
        if name.endswith(("word_embeddings.weight", "decoder.weight")) and values.shape[1:] == state[name].shape[1:]:
            state[name][here] = values[there].float()
        elif values.shape == state[name].shape:
            state[name] = values.float()
        else:
            raise SystemExit(f"{name} has the shape {tuple(values.shape)} in {model}, not {tuple(state[name].shape)}")
    network.model.load_state_dict(state)
    taken = []
    if (folder / HEADS).is_file():
        heads, own = load_file(folder / HEADS), network.heads.state_dict()
        taken = [name for name, values in heads.items() if name in own and values.shape == own[name].shape]
        network.heads.load_state_dict({**own, **{name: heads[name].float() for name in taken}})
    return f"weights of {folder}; {len(shared)} of {len(tokens)} tokens shared; heads: {', '.join(taken) or 'none'}"


def _tensors(network: Network, muon: BatchedMuon, adamw: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that training changes, by name; the tensors themselves, not copies."""
    found = {f"network.{name}": values for name, values in network.state_dict().items()}
    found |= {f"muon.{number}": values for number, values in enumerate(muon.momenta)}
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, state in adamw.state.items():
        found |= {f"adamw.{names[parameter]}.{key}": value for key, value in state.items()}
    return found


def save_state(
    network: Network, muon: BatchedMuon, adamw: torch.optim.Optimizer, progress: dict[str, Any], path: Path
) -> None:
    """Write weights and momenta in full precision, and ``progress`` (JSON) beside them, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: values.detach().cpu().contiguous() for name, values in _tensors(network, muon, adamw).items()}
    temporary = path.with_suffix(".new")
    save_file(tensors, temporary, metadata={"format": "pt", "progress": json.dumps(progress)})
    temporary.replace(path)


def load_state(network: Network, muon: BatchedMuon, adamw: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
    """Put a saved state back, in place; returns its progress.

    AdamW must have taken a step, so that it has momenta to be filled.
    """
    here = _tensors(network, muon, adamw)
    with safe_open(path, "pt") as file, torch.no_grad():
        if set(file.keys()) != set(here):
            raise SystemExit(f"{path} is the state of another run: {sorted(set(file.keys()) ^ set(here))[:5]}")
        for name, values in here.items():
            values.copy_(file.get_tensor(name))
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    return progress
