"""Two choices of pretraining at equal compute: the block (MoLFormer or ModernBERT), and learning from a teacher or not.

    python benchmarks/pretraining_choices.py runs/mini work --seconds 200

The first argument is a folder that ``recipes/pretrain/mini.py`` prepared; it is only read. ``work`` keeps one file per
finished arm, so a run that was stopped goes on with the next arm; other seconds, rates or seeds add arms.

Equal compute is the same number of seconds of one thread. Arms take turns on the same batches in a short timing; its
medians, in CPU time, which other programs on the machine disturb less than wall-clock time, fix how many steps each arm
gets. Every arm sees the same molecules, masked in the same way, in the same order, with the same heads at the start,
optimiser and schedule. Judged are the losses on held-out molecules and the validation parts of Lipophilicity: support
vectors on the frozen embedding, alone and beside RDKit's descriptors. Test parts are not looked at.
Writes ``benchmarks/results/pretraining_choices.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine, write_result
from svr_validation import svr_validation
from torch import nn
from transformers import ModernBertConfig, ModernBertModel

from moltune.config import PretrainSettings, SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.features.descriptors import rdkit_descriptors
from moltune.files import write_json
from moltune.models.molformer import MolformerConfig, MolformerModel, MolformerTokenizer
from moltune.models.pooling import mean_pool
from moltune.pretraining.corpus.tokens import TokenCorpus, token_batches, write_tokens
from moltune.pretraining.loop import PretrainingData, make_batch
from moltune.pretraining.model import PretrainingModel, Vocabulary
from moltune.pretraining.muon import Muon
from moltune.pretraining.objectives import IGNORED, Encoded, MaskedLanguageModel, Objective

# The sizes of moltune/mini. No dropout in either block: no molecule comes twice in so short a run.
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 512}
MOLFORMER: dict[str, Any] = {
    **SIZES,
    "intermediate_size": 768,
    "num_random_features": 32,
    "embedding_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "redraw_features": False,
}
# Its gated feed-forward has three matrices where MoLFormer's has two, so two thirds of the width cost the same.
MODERNBERT: dict[str, Any] = {**SIZES, "intermediate_size": 512, "attn_implementation": "sdpa"}
WEIGHTS = {"mlm": 0.2, "mtr": 1.0, "teacher": 1.0}
WITHOUT_TEACHER = {"mlm": 0.2, "mtr": 1.0}
ARMS: dict[str, tuple[str, dict[str, float]]] = {
    "molformer": ("molformer", WEIGHTS),
    "modernbert": ("modernbert", WEIGHTS),
    "molformer_without_teacher": ("molformer", WITHOUT_TEACHER),
}
WARMUP_SHARE = 0.1
SPLITS = (0, 1, 2)
PENALTIES = (2.0, 5.0)
EPSILON = 0.1


def build(
    block: str, settings: PretrainSettings, data: PretrainingData, tokenizer: MolformerTokenizer
) -> PretrainingModel:
    """A fresh encoder; its heads start from the same numbers whatever the block."""
    torch.manual_seed(settings.seed)
    config = MolformerConfig(vocab_size=len(tokenizer), **MOLFORMER)
    model = PretrainingModel.fresh(config, data.sizes, settings.weights, Vocabulary.of(tokenizer))
    if block == "molformer":
        return model
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    ends |= {"cls_token_id": config.bos_token_id, "sep_token_id": config.eos_token_id}
    encoder = ModernBertModel(
        ModernBertConfig(vocab_size=len(tokenizer), pad_token_id=config.pad_token_id, **ends, **MODERNBERT)
    )
    heads = {name: head for name, head in model.heads.items() if isinstance(head, Objective)}
    return PretrainingModel(encoder, heads, model.vocabulary)


def blocks_of(model: PretrainingModel) -> nn.Module:
    """The layers, without embedding and last norm."""
    encoder = model.encoder
    return encoder.encoder if isinstance(encoder, MolformerModel) else encoder.get_submodule("layers")


def make_optimizers(model: PretrainingModel, settings: PretrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for everything else: the recipe's, for either block."""
    matrices = [parameter for parameter in blocks_of(model).parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    return [adamw, Muon(matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay)]


def training_batches(data: PretrainingData, rows: np.ndarray, settings: PretrainSettings) -> Iterator[np.ndarray]:
    """Batches without end, the same for every arm."""
    for epoch in itertools.count():
        rng = np.random.default_rng([settings.seed, epoch])
        yield from token_batches(rows, data.tokens.lengths, settings.tokens_per_batch, rng)


class Trainer:
    """One arm while it is trained."""

    def __init__(
        self, block: str, settings: PretrainSettings, data: PretrainingData, tokenizer: MolformerTokenizer
    ) -> None:
        self.settings, self.data = settings, data
        self.model = build(block, settings, data, tokenizer).train()
        self.optimizers = make_optimizers(self.model, settings)

    def step(self, rows: np.ndarray, number: int, share: float) -> dict[str, float]:
        """One update; ``share`` of the learning rate."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.settings.learning_rate * share
        seed = [self.settings.seed, number]
        batch = make_batch(self.data, rows, self.settings, self.model.vocabulary, seed)
        losses = self.model(**batch)
        total = torch.stack([losses[name] * weight for name, weight in self.settings.weights.items()]).sum()
        self.model.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def run(self, rows: np.ndarray, steps: int) -> dict[str, Any]:
        """Warm up, then follow a cosine to zero."""
        warm = max(1, round(WARMUP_SHARE * steps))
        molecules, smooth = 0, dict.fromkeys(self.settings.weights, math.nan)
        cpu, wall = time.process_time(), time.perf_counter()
        for number, batch in enumerate(itertools.islice(training_batches(self.data, rows, self.settings), steps)):
            share = min(1.0, (number + 1) / warm) * 0.5 * (1 + math.cos(math.pi * number / steps))
            for name, loss in self.step(batch, number, share).items():
                smooth[name] = loss if math.isnan(smooth[name]) else 0.95 * smooth[name] + 0.05 * loss
            molecules += len(batch)
            if (number + 1) % 25 == 0:
                print(f"  {number + 1}/{steps}", {name: round(value, 4) for name, value in smooth.items()}, flush=True)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"steps": steps, "molecules": molecules, "cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1)}


def time_arms(trainers: dict[str, Trainer], rows: np.ndarray, rounds: int, per_round: int) -> dict[str, Any]:
    """Median CPU seconds of a step of each arm; a first round that warms up is not counted."""
    batches = training_batches(*next((t.data, rows, t.settings) for t in trainers.values()))
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    molecules = 0
    for turn in range(rounds + 1):
        some = list(itertools.islice(batches, per_round))
        names = list(trainers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.process_time()
            for batch in some:
                trainers[name].step(batch, turn, 0.01)
            if turn:
                seconds[name].append((time.process_time() - started) / per_round)
        molecules += sum(map(len, some)) if turn else 0
    mean = molecules / (rounds * per_round)
    return {
        name: {
            "cpu_seconds_per_step": statistics.median(values),
            "molecules_per_cpu_second": mean / statistics.median(values),
            "rounds": values,
        }
        for name, values in seconds.items()
    }


@torch.inference_mode()
def held_out(
    model: PretrainingModel, data: PretrainingData, rows: np.ndarray, settings: PretrainSettings
) -> dict[str, float]:
    """Losses on molecules that were not trained on: regressions of intact molecules, tokens of masked ones."""
    model.eval()
    sums, counts, hits = dict.fromkeys(settings.weights, 0.0), dict.fromkeys(settings.weights, 0), 0
    for share in (0.0, 1.0):
        chosen = settings.model_copy(update={"masked_share": share})
        order = token_batches(rows, data.tokens.lengths, settings.tokens_per_batch, np.random.default_rng(0))
        for number, part in enumerate(order):
            batch = make_batch(data, part, chosen, model.vocabulary, [1, number])
            hidden = model.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            labels, intact, targets = batch["labels"], batch["intact"], batch["targets"]
            encoded = Encoded(hidden, mean_pool(hidden, batch["attention_mask"]), labels, intact, targets)
            for name, head in model.heads.items():
                assert isinstance(head, Objective)
                size = head.size(labels, intact, targets)
                if size:
                    sums[name] += float(head(encoded)) * size
                    counts[name] += size
                if size and isinstance(head, MaskedLanguageModel):
                    masked = labels != IGNORED
                    hits += int((head.lm_head(hidden[masked]).argmax(-1) == labels[masked]).sum())
    return {**{name: sums[name] / counts[name] for name in sums}, "mlm_accuracy": hits / counts["mlm"]}


class Downstream:
    """Lipophilicity, with support vectors on fixed features."""

    def __init__(self, tokenizer: MolformerTokenizer, folder: Path) -> None:
        self.molecules = load_molecules("lipophilicity")
        self.tokens = write_tokens(self.molecules.smiles, tokenizer, folder)
        self.pad = int(tokenizer.pad_token_id)
        file = folder / "descriptors.npy"
        if not file.is_file():
            np.save(file, rdkit_descriptors(self.molecules.smiles).to_numpy(dtype=np.float32))
        self.descriptors = np.load(file)

    @torch.inference_mode()
    def embed(self, model: PretrainingModel) -> np.ndarray:
        """Mean-pooled last hidden states, float32, (n, width)."""
        model.eval()
        parts: dict[int, np.ndarray] = {}
        for rows in token_batches(np.arange(len(self.tokens)), self.tokens.lengths, 5120, np.random.default_rng(0)):
            ids = torch.from_numpy(self.tokens.padded(rows, self.pad))
            mask = (ids != self.pad).long()
            pooled = mean_pool(model.encoder(ids, attention_mask=mask).last_hidden_state, mask).numpy()
            parts.update(zip(rows.tolist(), pooled, strict=True))
        return np.stack([parts[row] for row in range(len(self.tokens))]).astype(np.float32)

    def score(self, features: np.ndarray) -> dict[str, list[float]]:
        """Validation RMSE on each split, by C."""
        target = np.asarray(self.molecules.target, dtype=np.float64)
        splits = [make_split(self.molecules, SplitSettings(), seed) for seed in SPLITS]
        return svr_validation(features, target, splits, PENALTIES, epsilon=EPSILON)

    def judge(self, model: PretrainingModel) -> dict[str, Any]:
        """The embedding alone and with descriptors."""
        embedding = self.embed(model)
        both = np.hstack([embedding, self.descriptors])
        return {"embedding": self.score(embedding), "embedding_and_descriptors": self.score(both)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder that recipes/pretrain/mini.py prepared; only read")
    parser.add_argument("work", type=Path, help="finished arms; a repeated call goes on here")
    parser.add_argument("--seconds", type=float, default=480.0, help="CPU seconds of training of each arm, one thread")
    parser.add_argument("--tokens", type=int, default=2560, help="token budget of a batch")
    parser.add_argument("--learning-rate", type=float, default=PretrainSettings().learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--held-out", type=int, default=1500, help="molecules, the last of the corpus")
    parser.add_argument("--rounds", type=int, default=4, help="of the timing")
    parser.add_argument("--per-round", type=int, default=3, help="steps of an arm in a round of the timing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    vocabulary = json.loads((arguments.prepared / "vocabulary.json").read_text(encoding="utf-8"))
    tokenizer = MolformerTokenizer.from_vocabulary(vocabulary)
    tokens = TokenCorpus(arguments.prepared)
    files = {"mtr": "physchem.npy", "teacher": "teacher.npy"}
    targets = {name: np.load(arguments.prepared / file, mmap_mode="r") for name, file in files.items()}
    data = PretrainingData(tokens, targets)
    training, rest = np.split(np.arange(len(data)), [len(data) - arguments.held_out])
    downstream = Downstream(tokenizer, work)
    label = f"{arguments.seconds:g}s-{arguments.learning_rate:g}-{arguments.seed}"

    def settings(weights: dict[str, float]) -> PretrainSettings:
        same = {"tokens_per_batch": arguments.tokens, "learning_rate": arguments.learning_rate, "seed": arguments.seed}
        return PretrainSettings(weights=weights, **same)

    def begin(name: str) -> Trainer:
        block, weights = ARMS[name]
        return Trainer(block, settings(weights), data, tokenizer)

    def once(name: str, make: Any) -> Any:
        path = work / f"{name}.json"
        if not path.is_file():
            print(name, flush=True)
            write_json(path, make())
        return json.loads(path.read_text(encoding="utf-8"))

    def untrained(name: str) -> dict[str, Any]:
        model = begin(name).model
        sizes = {"encoder_parameters": count(model.encoder), "block_parameters": count(blocks_of(model))}
        return {**sizes, **downstream.judge(model)}

    def trained(name: str) -> dict[str, Any]:
        trainer = begin(name)
        steps = round(arguments.seconds / timing[name]["cpu_seconds_per_step"])
        about = {"arm": name, "seconds": arguments.seconds, "learning_rate": arguments.learning_rate}
        about |= {"seed": arguments.seed, **trainer.run(training, steps)}
        losses = held_out(trainer.model, data, rest, trainer.settings)
        folder = work / f"{name}-{label}"
        trainer.model.save_checkpoint(folder)
        tokenizer.save_pretrained(folder)
        return {**about, "weights": ARMS[name][1], "held_out": losses, **downstream.judge(trainer.model)}

    timing = once(
        "timing", lambda: time_arms({n: begin(n) for n in ARMS}, training, arguments.rounds, arguments.per_round)
    )
    descriptors = once("descriptors", lambda: downstream.score(downstream.descriptors))
    for name in arguments.arms:
        part = once(f"arm-{name}-{label}", lambda n=name: trained(n))
        print(json.dumps(part), flush=True)
    floors = {name: once(f"untrained-{name}", lambda n=name: untrained(n)) for name in ("molformer", "modernbert")}
    write_result(
        "pretraining_choices",
        {
            "machine": describe_machine("torch", "transformers", "scikit-learn", "rdkit", "moltune"),
            "threads": 1,
            "tokens_per_batch": arguments.tokens,
            "corpus": len(data),
            "held_out": len(rest),
            "molformer": MOLFORMER,
            "modernbert": MODERNBERT,
            "timing": timing,
            "untrained": floors,
            "descriptors_alone": descriptors,
            "arms": [json.loads(path.read_text(encoding="utf-8")) for path in sorted(work.glob("arm-*.json"))],
        },
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main()
