"""A packed corpus on the GPU: token ids and quantised targets of every molecule, and batches of one static shape each.

Molecules are grouped by length into a few buckets, each with its own padded length and number of rows, so that a
compiled network sees a handful of shapes. Drawing an epoch (which molecules, which tokenisation, which batch) happens
on the device; the host learns only how many batches there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from packed import Pack
from tokenizers import Tokenizer
from torch import Tensor

HELD_OUT = 4096
_CHUNK = 50_000
_MULTIPLE = 4


@dataclass(frozen=True)
class Vocabulary:
    """What the network and masking have to know of a tokenizer.

    Attributes:
        tokens: token by id.
        bos, eos, pad, mask: special ids.
        ordinary: ids from which random tokens are drawn.
    """

    tokens: list[str]
    bos: int
    eos: int
    pad: int
    mask: int
    ordinary: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Read it from a tokenizer with MoLFormer's special tokens."""
        ids = tokenizer.get_vocab(with_added_tokens=True)
        tokens = sorted(ids, key=lambda token: ids[token])
        if [ids[token] for token in tokens] != list(range(len(ids))):
            raise SystemExit("the ids of the tokenizer are not 0, 1, 2, ...")
        special = {ids[name] for name in ("<bos>", "<eos>", "<pad>", "<mask>", "<unk>")}
        ordinary = [i for i in range(len(tokens)) if i not in special]
        return cls(tokens, ids["<bos>"], ids["<eos>"], ids["<pad>"], ids["<mask>"], ordinary)


def load_tokenizer(folder: str | Path, own: str | Path = "") -> Tokenizer:
    """The tokenizer of a folder, which neither pads nor truncates; ``dropout:0.1``: ``own`` with BPE dropout."""
    kind, _, share = str(folder).partition(":")
    tokenizer = Tokenizer.from_file(str(Path(own if kind == "dropout" else folder) / "tokenizer.json"))
    if kind == "dropout":
        tokenizer.model.dropout = float(share)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenise(smiles: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all molecules, one after the other (int16), and how many each has (int32)."""
    pieces, lengths = [np.zeros(0, np.int16)], [np.zeros(0, np.int32)]
    for start in range(0, len(smiles), _CHUNK):
        ids = [one.ids for one in tokenizer.encode_batch_fast(list(smiles[start : start + _CHUNK]))]
        lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
        pieces.append(np.fromiter((i for one in ids for i in one), np.int16, int(lengths[-1].sum())))
    return np.concatenate(pieces), np.concatenate(lengths)


def translate(flat: np.ndarray, own: Tokenizer, other: Tokenizer) -> np.ndarray:
    """Ids of another tokenizer as ids of the network's own one, by token; tokens that it lacks become unknown."""
    ids, theirs = own.get_vocab(), other.get_vocab()
    if ids == theirs:
        return flat
    table = np.full(max(theirs.values()) + 1, ids["<unk>"], dtype=np.int16)
    for token, index in theirs.items():
        table[index] = ids.get(token, ids["<unk>"])
    result = table[flat]
    lost = float(((result == ids["<unk>"]) & (flat != theirs["<unk>"])).mean())
    if lost > 0:
        print(f"an alternative tokenizer: {lost:.2%} of its tokens are unknown to the network's own one", flush=True)
    return result


def padded(flat: np.ndarray, lengths: np.ndarray, width: int, pad: int) -> np.ndarray:
    """Rows of token ids, int16, shape (n, width); what is longer is cut off (and left out of training)."""
    table = np.full((len(lengths), width), pad, dtype=np.int16)
    starts = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
    for column in range(width):
        rows = np.flatnonzero(lengths > column)
        table[rows, column] = flat[starts[rows] + column]
    return table


def choose_lengths(lengths: np.ndarray, count: int, longest: int) -> list[int]:
    """At most ``count`` padded lengths, multiples of four up to ``longest``, with the least padding in all.

    Dynamic programming over the histogram of lengths.
    """
    grid = np.arange(_MULTIPLE, longest + _MULTIPLE, _MULTIPLE)
    up_to = np.searchsorted(np.sort(lengths[lengths <= grid[-1]]), grid, side="right")
    cost = np.full((count + 1, len(grid)), np.inf)
    cost[1] = up_to * grid
    origin = np.zeros((count + 1, len(grid)), dtype=np.int64)
    for used in range(2, count + 1):
        for last in range(1, len(grid)):
            options = cost[used - 1, :last] + (up_to[last] - up_to[:last]) * grid[last]
            origin[used, last] = int(np.argmin(options))
            cost[used, last] = options[origin[used, last]]
    used, last = int(np.argmin(cost[:, -1])), len(grid) - 1
    chosen = [int(grid[last])]
    while used > 1:
        last = int(origin[used, last])
        used -= 1
        chosen.append(int(grid[last]))
    return chosen[::-1]


@dataclass(frozen=True)
class Bucket:
    """One static shape: ``rows`` molecules of at most ``length`` tokens."""

    length: int
    rows: int


@dataclass(frozen=True)
class Draw:
    """One batch: its bucket, and which molecules in which tokenisation, both int64 of shape (rows,)."""

    bucket: int
    molecules: Tensor
    variants: Tensor


class DeviceCorpus:
    """Everything that training reads, resident on the device.

    Args:
        pack: the corpus.
        tokenizers: the first is the network's own; the others give alternative tokenisations in tokens that it has.
        device: where it lives.
        molecules: rows of an average batch; every bucket has about the same number of tokens in a batch.
        buckets: how many lengths at most.
        longest: molecules with more tokens are left out; 0: all but the longest 1 in 2,000.
        alternative_share: share of molecules in an epoch that are read in an alternative tokenisation.
        rest_share: share of molecules without teacher values in an epoch; negative: as many as there are.
    """

    def __init__(
        self,
        pack: Pack,
        tokenizers: Sequence[Tokenizer],
        device: torch.device,
        *,
        molecules: int,
        buckets: int = 5,
        longest: int = 0,
        alternative_share: float = 0.0,
        rest_share: float = -1.0,
        seed: int = 0,
    ) -> None:
        self.vocabulary = Vocabulary.of(tokenizers[0])
        self.device = device
        self.share = alternative_share if len(tokenizers) > 1 else 0.0
        read = [tokenise(pack.smiles, tokenizer) for tokenizer in tokenizers]
        lengths = np.stack([counts for _, counts in read])
        read = [(translate(flat, tokenizers[0], t), n) for (flat, n), t in zip(read, tokenizers, strict=True)]
        wanted = longest or int(np.quantile(lengths[0], 1 - 1 / 2000))
        edges = choose_lengths(lengths[0], buckets, wanted)
        tables = [padded(flat, counts, edges[-1], self.vocabulary.pad) for flat, counts in read]
        self.tokens = torch.from_numpy(np.stack(tables)).to(device)
        in_edges = np.searchsorted(edges, lengths)
        # An alternative tokenisation that is too long gives way to the network's own.
        self.bucket_of = torch.from_numpy(np.where(in_edges < len(edges), in_edges, -1).astype(np.int8)).to(device)
        self.fits = np.flatnonzero(in_edges[0] < len(edges))
        held = min(HELD_OUT, len(self.fits) // 8)
        order = np.random.default_rng(seed).permutation(self.fits)
        self.held_out = torch.from_numpy(np.sort(order[:held])).to(device)
        training = np.sort(order[held:])
        self.mean_length = float(lengths[0, training].mean())
        budget = molecules * self.mean_length
        step = 16 if molecules >= 256 else 1
        self.buckets = [Bucket(edge, max(step, round(budget / edge / step) * step)) for edge in edges]
        self.targets = {name: torch.from_numpy(block.values).to(device) for name, block in pack.blocks.items()}
        self.steps = {name: block.step for name, block in pack.blocks.items()}
        known = np.ones(len(pack.smiles), dtype=bool)
        if "teacher" in pack.blocks and rest_share >= 0:
            known = pack.blocks["teacher"].known()
        self.core = torch.from_numpy(training[known[training]]).to(device)
        self.rest = torch.from_numpy(training[~known[training]]).to(device)
        if rest_share >= 0:
            self.rest_wanted = min(len(self.rest), int(len(self.core) * rest_share / max(1e-9, 1 - rest_share)))
        else:
            self.rest_wanted = len(self.rest)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.counts = np.bincount(in_edges[0, training], minlength=len(edges))

    def reseed(self, seed: int, step: int) -> None:
        """Draw what follows anew: a run that goes on at ``step`` begins an epoch of its own."""
        self.generator.manual_seed(seed + 1_000_003 * step)
        self.rng = np.random.default_rng([seed, step])

    @property
    def padded_length(self) -> float:
        """Mean number of tokens of a molecule in a batch, padding included."""
        return float((self.counts * [b.length for b in self.buckets]).sum() / self.counts.sum())

    def epoch(self) -> list[Draw]:
        """Every training molecule once, in batches of similar length, in random order.

        A bucket's last, incomplete batch is filled up from its beginning or left out, at random with the right odds.
        """
        rest = self.rest[torch.randperm(len(self.rest), generator=self.generator, device=self.device)]
        molecules = torch.cat([self.core, rest[: self.rest_wanted]])
        molecules = molecules[torch.randperm(len(molecules), generator=self.generator, device=self.device)]
        variants = torch.zeros_like(molecules)
        if self.share:
            draw = torch.rand(len(molecules), generator=self.generator, device=self.device)
            others = len(self.tokens) - 1
            # What is left of a uniform number below the share is uniform too: it picks the tokenizer.
            picked = 1 + (draw / self.share * others).long().clamp_max(others - 1)
            variants = torch.where(draw < self.share, picked, variants)
            variants = torch.where(self.bucket_of[variants, molecules] < 0, 0, variants)
        keys = self.bucket_of[variants, molecules].long()
        order = torch.argsort(keys, stable=True)
        molecules, variants = molecules[order], variants[order]
        counts = torch.bincount(keys, minlength=len(self.buckets)).tolist()
        draws, first = [], 0
        for number, (bucket, count) in enumerate(zip(self.buckets, counts, strict=True)):
            whole, left = divmod(count, bucket.rows)
            batches = whole + int(self.rng.random() < left / bucket.rows) if count else 0
            for batch in range(batches):
                start, stop = first + batch * bucket.rows, first + (batch + 1) * bucket.rows
                if stop <= first + count:
                    draws.append(Draw(number, molecules[start:stop], variants[start:stop]))
                else:
                    places = first + torch.arange(batch * bucket.rows, (batch + 1) * bucket.rows) % count
                    places = places.to(self.device)
                    draws.append(Draw(number, molecules[places], variants[places]))
            first += count
        return [draws[i] for i in self.rng.permutation(len(draws))]

    def example(self, bucket: int) -> Draw:
        """Some batch of a bucket, for a first call of the compiled network."""
        found = torch.cat([self.core, self.rest])
        found = found[self.bucket_of[0, found] == bucket]
        if not len(found):
            found = self.core[:1]
        rows = torch.arange(self.buckets[bucket].rows, device=self.device) % len(found)
        return Draw(bucket, found[rows], torch.zeros_like(rows))

    def batch(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Token ids (rows, length), int64, and quantised targets by name, int8."""
        length = self.buckets[draw.bucket].length
        ids = self.tokens[draw.variants, draw.molecules, :length].long()
        return ids, {name: values[draw.molecules] for name, values in self.targets.items()}

    def held_out_batches(self, size: int = 512) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The molecules that are left out of training, sorted by length."""
        order = torch.argsort(self.bucket_of[0, self.held_out].long(), stable=True)
        for rows in self.held_out[order].split(size):
            length = self.buckets[int(self.bucket_of[0, rows].max())].length
            yield self.tokens[0, rows, :length].long(), {n: v[rows] for n, v in self.targets.items()}
