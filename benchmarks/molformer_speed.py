"""Speed of moltune's MoLFormer beside the published forward pass, at MoLFormer-XL's size, on real SMILES.

Both models hold the same random weights and see the same batches in turn (A B A B), padded to the longest molecule.
The published pass draws one random feature matrix per layer and call with a decomposition each, in evaluation too, as
its configuration says. A training step is forward, backward and AdamW. A second part times training on
molecules in random batches and in batches of similar length. Random weights: speed does not depend on them.
Ratios compare processor time, which other work on the machine disturbs least; rates are given by the clock as well.
Writes ``benchmarks/results/molformer_speed.json``.

    python benchmarks/molformer_speed.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import describe_machine, write_result
from reference_molformer import ReferenceMolformer, Sizes, average
from torch import Tensor, nn

from moltune import datasets
from moltune.models.batches import LengthBucketSampler, PadCollator, SmilesDataset
from moltune.models.molformer import MolformerConfig, MolformerModel, MolformerTokenizer

Batch = dict[str, Tensor]


class Contender:
    """A model with a linear head, its optimiser, and the two things that are timed."""

    def __init__(self, encoder: nn.Module, pooled: Callable[[Batch], Tensor]) -> None:
        self.encoder, self.pooled = encoder, pooled
        self.head = nn.Linear(768, 1)
        self.optimizer = torch.optim.AdamW([*encoder.parameters(), *self.head.parameters()], lr=1e-5)

    def infer(self, batch: Batch) -> None:
        """Forward pass in evaluation."""
        self.encoder.eval()
        with torch.inference_mode():
            self.head(self.pooled(batch))

    def train(self, batch: Batch) -> None:
        """One training step."""
        self.encoder.train()
        self.optimizer.zero_grad()
        self.head(self.pooled(batch)).pow(2).mean().backward()
        self.optimizer.step()


def make_contenders() -> dict[str, Contender]:
    torch.manual_seed(0)
    ours, published = MolformerModel(MolformerConfig()), ReferenceMolformer(Sizes())
    published.load_state_dict(ours.state_dict())
    return {
        "moltune": Contender(ours, lambda batch: ours(**batch).pooler_output),
        "published": Contender(published, lambda batch: average(published(**batch)[-1], batch["attention_mask"])),
    }


@torch.inference_mode()
def disagreement(contenders: dict[str, Contender], batch: Batch) -> float:
    """Largest difference of pooled embeddings, both with the stored random features."""
    ours, published = contenders["moltune"], contenders["published"]
    maps = [module for module in published.encoder.modules() if hasattr(module, "deterministic")]
    for module in maps:
        module.deterministic = True
    ours.encoder.eval()
    published.encoder.eval()
    difference = (ours.pooled(batch) - published.pooled(batch)).abs().max().item()
    for module in maps:
        module.deterministic = False
    return difference


def seconds(task: Callable[[Batch], None], batch: Batch) -> tuple[float, float]:
    """Processor time and clock time of one call."""
    clock, processor = time.perf_counter(), time.process_time()
    task(batch)
    return time.process_time() - processor, time.perf_counter() - clock


def compare(contenders: dict[str, Contender], batches: list[Batch], task: str) -> dict[str, Any]:
    """Time ``task`` on each batch, contenders in turn; molecules per second and paired ratios."""
    for contender in contenders.values():
        getattr(contender, task)(batches[0])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for batch in batches:
        for name, contender in contenders.items():
            times[name].append(seconds(getattr(contender, task), batch))
    size = len(batches[0]["input_ids"])
    ratios = [other[0] / ours[0] for ours, other in zip(times["moltune"], times["published"], strict=True)]
    return {
        "molecules_per_processor_second": {
            name: size / statistics.median(processor for processor, _ in values) for name, values in times.items()
        },
        "molecules_per_clock_second": {
            name: size / statistics.median(clock for _, clock in values) for name, values in times.items()
        },
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "batches": len(batches),
    }


def compare_batching(contender: Contender, dataset: SmilesDataset, size: int, count: int) -> dict[str, Any]:
    """Time training on ``count`` random batches and ``count`` batches of similar length, in turn."""
    order = np.random.default_rng(1).permutation(len(dataset)).tolist()
    bucketed = list(LengthBucketSampler(dataset.lengths, size, seed=1))
    batches = {"random": cut(dataset, order, size, count), "bucketed": cut(dataset, bucketed, size, count)}
    spent = dict.fromkeys(batches, 0.0)
    for pair in zip(*batches.values(), strict=True):
        for name, batch in zip(batches, pair, strict=True):
            spent[name] += seconds(contender.train, batch)[0]
    # Few batches are a small sample of lengths, so time is counted per real token and scaled to the set's mean length.
    mean = float(np.mean(dataset.lengths))
    real = {name: sum(int(b["attention_mask"].sum()) for b in chosen) for name, chosen in batches.items()}
    shape = {name: sum(b["input_ids"].numel() for b in chosen) for name, chosen in batches.items()}
    rates = {name: real[name] / spent[name] / mean for name in batches}
    return {
        "molecules_per_processor_second": rates,
        "ratio": rates["bucketed"] / rates["random"],
        "share_of_real_tokens": {name: real[name] / shape[name] for name in batches},
        "batches": count,
    }


def cut(dataset: SmilesDataset, order: list[int], size: int, count: int) -> list[Batch]:
    collate = PadCollator(2)
    return [collate([dataset[i] for i in order[k * size : (k + 1) * size]]) for k in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inference-batches", type=int, default=8)
    parser.add_argument("--training-batches", type=int, default=6)
    parser.add_argument("--bucket-batches", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = describe_machine("torch", "transformers")
    dataset = SmilesDataset(MolformerTokenizer(), datasets.load("lipophilicity")["smiles"].tolist())
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    batches = cut(dataset, order, arguments.batch_size, max(arguments.inference_batches, arguments.training_batches))
    contenders = make_contenders()
    result: dict[str, Any] = {
        "what": "molecules per second, MoLFormer-XL configuration, Lipophilicity SMILES, padded to the longest",
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "machine": machine,
        "largest_difference_of_embeddings": disagreement(contenders, batches[0]),
        "inference": compare(contenders, batches[: arguments.inference_batches], "infer"),
        "training": compare(contenders, batches[: arguments.training_batches], "train"),
        "batching": compare_batching(contenders["moltune"], dataset, arguments.batch_size, arguments.bucket_batches),
    }
    print("molecules per second of processor time")
    for part in ("inference", "training"):
        rates, low_high = result[part]["molecules_per_processor_second"], result[part]["ratio_range"]
        print(
            f"{part:10s} moltune {rates['moltune']:6.2f}   published {rates['published']:6.2f}   "
            f"ratio {result[part]['ratio_median']:.3f} ({low_high[0]:.3f} to {low_high[1]:.3f})"
        )
    rates = result["batching"]["molecules_per_processor_second"]
    ratio = result["batching"]["ratio"]
    print(f"{'training':10s} bucketed {rates['bucketed']:5.2f}   random    {rates['random']:6.2f}   ratio {ratio:.3f}")
    print(write_result("molformer_speed", result))


if __name__ == "__main__":
    main()
