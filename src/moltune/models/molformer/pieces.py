"""A tokenizer over frequent pieces of SMILES: byte-pair merges whose smallest unit is the atom, not the character.

Li and Fourches (J. Chem. Inf. Model. 61, 1560, 2021, doi:10.1021/acs.jcim.0c01127) learn such pieces with the
byte-pair encoding of Sennrich et al. (2016). A molecule has about a third of the tokens of the atom-wise tokenizer.
Here the result is an ordinary fast tokenizer in one ``tokenizer.json``:

- Its model is a character-level BPE whose first merges build atoms (``[`` + ``n``, ``[n`` + ``H``, ``[nH`` + ``]``, and
  ``C`` + ``l``), and whose later merges were learned over whole atoms. BPE applies earlier merges first, so each atom
  is complete before a piece can form.
- Its pre-tokenizer takes rare bracket atoms, which have no merges, and ring numbers from 10 on (none in 690,000
  canonical SMILES of drug-like molecules) apart into characters that no merge reaches. No merge was learned over the
  dots between fragments.
- Its alphabet is every character that RDKit writes, so no SMILES has an unknown token (the argument of Wadell et al.,
  arXiv 2409.15370).
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from moltune.errors import ConfigError
from moltune.models.molformer.tokenization import BOS, EOS, UNK, MolformerTokenizer, make_vocabulary

# Letters of the element symbols and of the chirality classes (@TH, @AL, @SP, @TB, @OH), and `*` for a dummy atom.
ALPHABET = "ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvy0123456789*[]()%.=#$:~-+/\\@<>"

_BRACKET = re.compile(r"\[[^\[\]]*\]")
_UNIT = re.compile(rf"{_BRACKET.pattern}|%[0-9]{{2}}|%\([0-9]+\)|Br|Cl|.", re.DOTALL)
_INSIDE_BRACKETS = frozenset(ALPHABET) - frozenset("[]%.")
_HALOGENS = (("C", "l"), ("B", "r"))
_OUTSIDE_BRACKETS = frozenset("BCNOPSFIbcnops*()0123456789=#$:~-/\\<>") | {"Cl", "Br"}
_ATOMS = frozenset("BCNOPSFIbcnops*") | {"Cl", "Br"}

# Applied to the parts around ring numbers such as `%10` and around the `[` of rare bracket atoms: it cuts the inside of
# a rare bracket atom, with which a part begins, and a ring number, which is a part, into characters.
_RARE_CHARACTERS = r"[^\[\]](?=[^\[\]]*\])(?<=\A[^\[\]]*)|\](?<=\A[^\[\]]*\])|[%0-9()](?<=\A%[0-9()]*)"

Merge = tuple[str, str]


def split_units(smiles: str) -> list[str]:
    """Split a SMILES into atoms, bonds, branches and ring numbers; their concatenation is the text again."""
    return _UNIT.findall(smiles)


def train_pieces(
    smiles: Sequence[str],
    n_pieces: int,
    *,
    max_atoms_per_piece: int = 8,
    min_count: int = 5,
    max_brackets: int = 300,
) -> MolformerTokenizer:
    """Learn a tokenizer over pieces from a corpus. The same corpus gives the same tokenizer.

    Args:
        smiles: n SMILES, canonical ones for the best compression; 100,000 are enough for 1,000 pieces.
        n_pieces: number of merges to learn beyond those that build atoms. Fewer are learned when no pair is left that
            occurs ``min_count`` times.
        max_atoms_per_piece: heavy atoms in the largest piece.
        min_count: how often a pair or a bracket atom must occur to get a token.
        max_brackets: at most so many bracket atoms get tokens, the most frequent ones.

    Returns:
        A tokenizer with the special tokens of :class:`MolformerTokenizer` at their places (four in front, ``<unk>``
        last); between them stand the alphabet, the steps to bracket atoms, and the pieces in the order of learning.

    Raises:
        ConfigError: an argument is below its smallest sensible value, or there are no SMILES.
    """
    if n_pieces < 0 or max_atoms_per_piece < 1 or min_count < 1 or max_brackets < 0:
        raise ConfigError("n_pieces and max_brackets must be at least 0, max_atoms_per_piece and min_count at least 1")
    if not len(smiles):
        raise ConfigError("pieces are learned from SMILES, but there are none")
    counts = Counter(
        unit for one in smiles for unit in _BRACKET.findall(one) if _INSIDE_BRACKETS.issuperset(unit[1:-1])
    )
    frequent = sorted((unit for unit in counts if counts[unit] >= min_count), key=lambda unit: (-counts[unit], unit))
    brackets = frequent[:max_brackets]
    joinable = _OUTSIDE_BRACKETS.union(brackets)
    runs = Counter(tuple(run) for one in smiles for run in _runs(one, joinable) if len(run) > 1)
    merges = _learn(runs, n_pieces, max_atoms_per_piece, min_count)
    return _as_molformer(_build(brackets, merges))


def learned_merges(tokenizer: MolformerTokenizer) -> list[Merge]:
    """The merges of a tokenizer over pieces that join atoms, in the order of learning.

    Raises:
        ConfigError: it is no tokenizer over pieces.
    """
    _, merges = _merges(tokenizer)
    return merges


def first_pieces(tokenizer: MolformerTokenizer, n_pieces: int) -> MolformerTokenizer:
    """The tokenizer that training with a smaller ``n_pieces`` on the same corpus would have given.

    Args:
        tokenizer: a tokenizer over pieces.
        n_pieces: number of learned merges to keep; the vocabulary shrinks with them.

    Raises:
        ConfigError: it is no tokenizer over pieces, or has fewer merges than that.
    """
    building, merges = _merges(tokenizer)
    if not 0 <= n_pieces <= len(merges):
        raise ConfigError(f"the tokenizer has {len(merges)} learned merges, so {n_pieces} of them cannot be kept")
    return _as_molformer(_build(_brackets(building), merges[:n_pieces]))


class SampledPieces:
    """Encode with the BPE dropout of Provilkov et al. (2020, arXiv 1910.13267), which never breaks an atom.

    Each step skips each merge that it could make with probability ``rate``, so that a molecule is cut in another way
    at every call. The dropout of the tokenizers library must stay off: it would skip the merges that build atoms too.

    Args:
        tokenizer: a tokenizer over pieces; it is not changed.
        rate: probability of skipping a merge: 0 encodes as the tokenizer does, 1 leaves single atoms.
        rng: a seed or a generator; a generator moves on.

    Raises:
        ConfigError: it is no tokenizer over pieces, or the rate is no probability.
    """

    def __init__(self, tokenizer: MolformerTokenizer, rate: float, rng: int | np.random.Generator) -> None:
        if not 0 <= rate <= 1:
            raise ConfigError(f"the rate of skipped merges must be between 0 and 1, not {rate}")
        building, merges = _merges(tokenizer)
        self.rate = rate
        self._random = np.random.default_rng(rng).random
        self._ids = tokenizer.get_vocab()
        self._joinable = _OUTSIDE_BRACKETS.union(_brackets(building))
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}

    def __len__(self) -> int:
        """Size of the vocabulary."""
        return len(self._ids)

    def __call__(self, smiles: Sequence[str]) -> dict[str, list[list[int]]]:
        """Encode n SMILES: ``input_ids`` as the tokenizer gives them, special tokens included."""
        bos, eos = self._ids[BOS], self._ids[EOS]
        return {"input_ids": [[bos, *self._encoded(one), eos] for one in smiles]}

    def _encoded(self, smiles: str) -> Iterator[int]:
        for run in _runs(smiles, self._joinable):
            for piece in self._merged(run):
                for token in [piece] if piece in self._ids else piece:
                    yield self._ids.get(token, self._ids[UNK])

    def _merged(self, run: list[str]) -> list[str]:
        never = len(self._ranks)
        ranks = [self._ranks.get(pair, never) for pair in pairwise(run)]
        while ranks:
            skipped = 0
            while skipped < len(ranks) and self._random() < self.rate:
                skipped += 1
            if skipped:
                place = [*sorted(range(len(ranks)), key=ranks.__getitem__), None][skipped]
            else:
                place = ranks.index(min(ranks))
            if place is None or ranks[place] == never:
                break
            run[place : place + 2] = [run[place] + run[place + 1]]
            del ranks[place]
            for changed in range(max(place - 1, 0), min(place + 1, len(ranks))):
                ranks[changed] = self._ranks.get((run[changed], run[changed + 1]), never)
        return run


def _brackets(building: Iterable[Merge]) -> list[str]:
    """The bracket atoms that some merges build, in their order."""
    return [left + right for left, right in building if _BRACKET.fullmatch(left + right)]


def _runs(smiles: str, joinable: frozenset[str]) -> list[list[str]]:
    """Cut a SMILES into runs of units that merges may join, and each other unit by itself."""
    runs: list[list[str]] = [[]]
    for unit in split_units(smiles):
        if unit in joinable:
            runs[-1].append(unit)
        else:
            runs += [[unit], []]
    return runs


def _learn(runs: Counter[tuple[str, ...]], n_merges: int, max_atoms: int, min_count: int) -> list[Merge]:
    """Merge the most frequent pair again and again; among equally frequent ones the first in alphabetical order."""
    sequences, weights = list(runs), list(runs.values())
    atoms = {unit: int(unit in _ATOMS or unit.startswith("[")) for run in runs for unit in run}
    counts: Counter[Merge] = Counter()
    # Sequences in which a pair occurs or once occurred.
    places: defaultdict[Merge, set[int]] = defaultdict(set)
    for index, run in enumerate(sequences):
        for pair in pairwise(run):
            counts[pair] += weights[index]
            places[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    while heap and len(merges) < n_merges:
        count, best = heapq.heappop(heap)
        if -count != counts[best]:
            # A pair that became more frequent has a later entry; one that became rarer goes back to its new place.
            if -count > counts[best]:
                heapq.heappush(heap, (-counts[best], best))
            continue
        if -count < min_count:
            break
        if atoms[best[0]] + atoms[best[1]] > max_atoms:
            continue
        merges.append(best)
        piece = best[0] + best[1]
        atoms[piece] = atoms[best[0]] + atoms[best[1]]
        changed: set[Merge] = set()
        for index in places.pop(best):
            old, weight = sequences[index], weights[index]
            new = tuple(_joined(old, best, piece))
            if len(new) == len(old):
                continue
            sequences[index] = new
            for pair in pairwise(old):
                counts[pair] -= weight
            for pair in pairwise(new):
                counts[pair] += weight
                if piece in pair:
                    places[pair].add(index)
                    changed.add(pair)
        for pair in changed:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges


def _joined(run: Sequence[str], pair: Merge, piece: str) -> Iterator[str]:
    """The run with each occurrence of the pair replaced, from left to right."""
    left, right = pair
    position, last = 0, len(run) - 1
    while position <= last:
        if run[position] == left and position < last and run[position + 1] == right:
            yield piece
            position += 2
        else:
            yield run[position]
            position += 1


def _build(brackets: Sequence[str], merges: Sequence[Merge]) -> Tokenizer:
    building: dict[Merge, None] = {}
    for unit in brackets:
        for end in range(1, len(unit)):
            building[unit[:end], unit[end]] = None
    # Behind the steps to `[Cl-]`, in which C and l must not meet first; _merges looks for the last one.
    building.update(dict.fromkeys(_HALOGENS))
    ordered = [*building, *merges]
    vocabulary = make_vocabulary([*ALPHABET, *(left + right for left, right in ordered)])
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=ordered, unk_token=UNK))
    guard = "|".join(re.escape(unit) for unit in brackets)
    rare = (f"(?!{guard})" if guard else "") + r"\["
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"%(?:[0-9]{{2}}|\([0-9]+\))?|{rare}"), behavior="isolated"),
            pre_tokenizers.Split(Regex(_RARE_CHARACTERS), behavior="isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {BOS} $B {EOS}",
        special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])],
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _as_molformer(tokenizer: Tokenizer) -> MolformerTokenizer:
    return MolformerTokenizer(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _merges(tokenizer: MolformerTokenizer) -> tuple[list[Merge], list[Merge]]:
    """The merges of a tokenizer: those that build atoms, and the learned ones."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in model.get("merges", [])]
    if _HALOGENS[-1] not in merges:
        raise ConfigError("this tokenizer has no pieces: train one with moltune.models.molformer.pieces.train_pieces")
    first = merges.index(_HALOGENS[-1]) + 1
    return merges[:first], merges[first:]
