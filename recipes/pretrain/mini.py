"""Pretrain `moltune/mini` from a corpus folder: tokenise, project the teacher, train.

    python recipes/pretrain/mini.py runs/pretrain runs/mini --steps 12000 --threads 1

Only molecules with a teacher fingerprint are used. The corpus folder is what `moltune.pretraining.corpus.build`,
`moltune.pretraining.corpus.store` and `moltune.pretraining.teacher` write.
Run it again to go on after a kill.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from pack import HalfWhitening

from moltune.config import PretrainSettings
from moltune.features.physchem import DescriptorScaler, physchem
from moltune.models.molformer import MolformerConfig, MolformerTokenizer
from moltune.pretraining.corpus.store import read_corpus
from moltune.pretraining.corpus.tokens import TokenCorpus, write_tokens
from moltune.pretraining.loop import STATE, PretrainingData, pretrain_loop
from moltune.pretraining.model import PretrainingModel, Vocabulary
from moltune.pretraining.pretrain import corpus_vocabulary
from moltune.pretraining.teacher import TeacherCache

ARCHITECTURE = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 768,
    "max_position_embeddings": 512,
    "embedding_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.05,
    "redraw_features": False,
}


def teacher_targets(cache: TeacherCache, smiles: list[str], components: int, folder: Path) -> None:
    """First principal components of the teacher, half-whitened: each divided by the fourth root of its variance.

    Scaled to unit mean variance, NaN rows where the teacher failed; written as (n, components), float16.
    """
    positions, values = cache.lookup(smiles)
    project = HalfWhitening.of(values[:30_000].astype(np.float32), components)
    result = np.full((len(smiles), components), np.nan, dtype=np.float16)
    for start in range(0, len(values), 50_000):
        result[positions[start : start + 50_000]] = project(values[start : start + 50_000])
    count, share = len(positions), project.explained
    logging.info("teacher: %d molecules, %d components, %.3f of the variance", count, components, share)
    np.save(folder / "teacher.npy", result)


def descriptor_targets(smiles: list[str], jobs: int, folder: Path) -> None:
    """Standardised descriptors, written as (n, kept), float16, and their scaler."""
    values = physchem(smiles, n_jobs=jobs)
    scaler = DescriptorScaler.fit(values)
    (folder / "physchem.json").write_text(json.dumps(scaler.to_dict()), encoding="utf-8")
    logging.info("%d descriptors", len(scaler.names))
    np.save(folder / "physchem.npy", scaler.transform(values).astype(np.float16))


def start_from(model: PretrainingModel, vocabulary: dict[str, int], folder: Path) -> None:
    """Take the weights of another run; tokens that it did not know keep their fresh embeddings."""
    known = {token: index for index, token in enumerate(json.loads((folder / "vocabulary.json").read_text()))}
    shared = sorted(set(known) & set(vocabulary))
    here, there = [vocabulary[t] for t in shared], [known[t] for t in shared]
    saved = torch.load(folder / STATE, map_location="cpu", weights_only=True)["model"]
    state = model.state_dict()
    for name, values in saved.items():
        if values.shape == state[name].shape:
            state[name] = values
        elif len(values) == len(known) and len(state[name]) == len(vocabulary):
            state[name][here] = values[there]
        else:
            raise SystemExit(f"{name} has the shape {tuple(values.shape)} in {folder}")
    model.load_state_dict(state)
    logging.info("weights of %s; %d of %d tokens shared", folder, len(shared), len(vocabulary))


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=PretrainSettings().steps)
    parser.add_argument("--decay-share", type=float, default=PretrainSettings().decay_share)
    parser.add_argument("--warmup", type=int, default=PretrainSettings().warmup_steps)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default=PretrainSettings().optimizer)
    parser.add_argument("--learning-rate", type=float, default=PretrainSettings().learning_rate)
    parser.add_argument(
        "--start-from", type=Path, help="output folder of another run, whose weights this one begins with"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compute descriptors")
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)

    cache = TeacherCache(arguments.corpus / "teacher")
    smiles = [one for one in read_corpus(arguments.corpus).smiles if one in cache]
    if not (out / "vocabulary.json").is_file():
        (out / "vocabulary.json").write_text(json.dumps(corpus_vocabulary(smiles)), encoding="utf-8")
    tokenizer = MolformerTokenizer.from_vocabulary(json.loads((out / "vocabulary.json").read_text(encoding="utf-8")))
    tokenizer.save_pretrained(out / "model")
    tokens = TokenCorpus(out) if TokenCorpus.is_in(out) else write_tokens(smiles, tokenizer, out)
    if not (out / "teacher.npy").is_file():
        teacher_targets(cache, smiles, arguments.components, out)
    if not (out / "physchem.npy").is_file():
        descriptor_targets(smiles, arguments.jobs, out)
    targets = {"mtr": "physchem.npy", "teacher": "teacher.npy"}
    data = PretrainingData(tokens, {name: np.load(out / file, mmap_mode="r") for name, file in targets.items()})

    settings = PretrainSettings(
        steps=arguments.steps,
        decay_share=arguments.decay_share,
        warmup_steps=arguments.warmup,
        optimizer=arguments.optimizer,
        learning_rate=arguments.learning_rate,
    )
    config = MolformerConfig(vocab_size=len(tokenizer), **ARCHITECTURE)
    torch.manual_seed(settings.seed)
    model = PretrainingModel.fresh(config, data.sizes, settings.weights, Vocabulary.of(tokenizer))
    if arguments.start_from and not (out / STATE).is_file():
        start_from(model, tokenizer.get_vocab(), arguments.start_from)
    count = model.encoder.num_parameters() / 1e6
    logging.info("%d molecules, vocabulary %d, encoder %.2f M parameters", len(tokens), len(tokenizer), count)
    print(pretrain_loop(model, data, settings, out, device=arguments.device))


if __name__ == "__main__":
    main()
