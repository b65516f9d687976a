"""Pieces of SMILES: learned as a plain count would, never across an atom or a dot, nothing lost, loaded as saved."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from transformers import AutoTokenizer

from moltune import datasets
from moltune.errors import ConfigError
from moltune.models.checkpoints import load_tokenizer
from moltune.models.coverage import check_smiles
from moltune.models.molformer import MolformerConfig, MolformerTokenizer
from moltune.models.molformer.pieces import (
    ALPHABET,
    SampledPieces,
    first_pieces,
    learned_merges,
    split_units,
    train_pieces,
)
from moltune.models.molformer.tokenization import split_smiles

CORPUS = datasets.load("lipophilicity")["smiles"].tolist()
TOKENIZER = train_pieces(CORPUS, 300)
ATOMS = first_pieces(TOKENIZER, 0)
KNOWN = frozenset(TOKENIZER.get_vocab())
PIECES = [left + right for left, right in learned_merges(TOKENIZER)]
SPECIALS = {"<bos>", "<eos>", "<pad>", "<mask>", "<unk>"}

# Written by RDKit, most of it foreign to the published vocabulary: bonds, charges, isotopes, atom maps, chirality
# classes, dummy atoms, aromatic heteroatoms, and ring numbers of one, two and three digits.
ODD = [
    "[Sc]CC[Sc]",
    "[Na+].[Cl-].CCl.C[13CH2:7]Cl",
    "C->[Fe]<-N",
    "C$C~C:C",
    "C[Pt@SP1](F)(Cl)[NH3]",
    "O[Co@OH12](Cl)(C)(N)(F)P",
    "F/C=C\\[Si@@](C)(Br)[2H]",
    "*C1CC[1*]1",
    "c1cc[se]c1",
    "c1cc[te]c1.[Cn].[Cs+].[Nb].[Os].[Pb+2].[Br-].BBr",
    "[cH-]1cccc1.[Fe+2].[cH-]1cccc1",
    "C%10CC%10Cc%99ccccc%99",
    "C%(100)CC%(100)N%11CC%11%12CC%12",
]

bracket_atoms = st.builds(
    "[{}{}{}{}{}]".format,
    st.sampled_from(["", "1", "2", "13", "125"]),
    st.sampled_from(["C", "N", "S", "Sc", "Cl", "Br", "Cn", "Co", "c", "n", "se", "O", "Os", "Sn", "*"]),
    st.sampled_from(["", "@", "@@", "@SP2"]),
    st.sampled_from(["", "H", "H2"]),
    st.sampled_from(["", "+", "-", "+2", "-:3"]),
)
bare_units = st.sampled_from([*"BCNOPSFIbcnops*()123=#/\\-.", "Cl", "Br", "[nH]", "[C@@H]", "[N+]", "[O-]"])
rings = st.sampled_from(["%10", "%12", "%99", "%(100)", "%(123)"])
spelt_units = st.lists(st.one_of(bare_units, bare_units, bracket_atoms, rings), max_size=40)


def written(tokenizer: MolformerTokenizer, smiles: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(smiles)["input_ids"])[1:-1]


def assert_faithful(smiles: str, tokens: list[str]) -> None:
    """Each token is whole units, or one character of a unit that the vocabulary lacks."""
    assert "".join(tokens) == smiles
    boundaries, position = {0}, 0
    for unit in split_units(smiles):
        inside = range(position, position + len(unit)) if unit not in KNOWN else [position]
        position += len(unit)
        boundaries.update([*inside, position])
        if len(inside) > 1:
            assert tokens_at(tokens, inside[0], position) == list(unit), (smiles, tokens)
    ends = 0
    for token in tokens:
        ends += len(token)
        assert ends in boundaries, (smiles, tokens)


def tokens_at(tokens: list[str], start: int, stop: int) -> list[str]:
    """The tokens that overlap with a range of characters."""
    found, position = [], 0
    for token in tokens:
        if position < stop and position + len(token) > start:
            found.append(token)
        position += len(token)
    return found


def plainly_trained(corpus: list[str], n_pieces: int, min_count: int, max_atoms: int) -> list[tuple[str, str]]:
    """Byte-pair merges by counting everything again before each merge."""
    sequences = [split_units(smiles) for smiles in corpus]
    merges: list[tuple[str, str]] = []
    while len(merges) < n_pieces:
        counts = Counter(pair for sequence in sequences for pair in pairwise(sequence))
        allowed = [
            (-count, pair)
            for pair, count in counts.items()
            if count >= min_count and sum(char.isalpha() for char in "".join(pair)) <= max_atoms
        ]
        if not allowed:
            break
        best = min(allowed)[1]
        merges.append(best)
        for sequence in sequences:
            place = 0
            while place < len(sequence) - 1:
                if (sequence[place], sequence[place + 1]) == best:
                    sequence[place : place + 2] = ["".join(best)]
                place += 1
    return merges


@settings(max_examples=60)
@given(
    st.lists(st.text("CNc1(=", min_size=1, max_size=25), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_merges_are_those_of_a_plain_count(corpus: list[str], min_count: int, max_atoms: int) -> None:
    trained = train_pieces(corpus, 25, min_count=min_count, max_atoms_per_piece=max_atoms)
    assert learned_merges(trained) == plainly_trained(corpus, 25, min_count, max_atoms)


def test_units_are_the_published_tokens() -> None:
    for smiles in CORPUS:
        assert split_units(smiles) == split_smiles(smiles)


@pytest.mark.parametrize("name", datasets.names())
def test_bundled_molecules_are_read_faithfully(name: str) -> None:
    smiles = datasets.load(name)["smiles"].tolist()
    assert check_smiles(TOKENIZER, smiles) == {}
    ids = TOKENIZER(smiles)["input_ids"]
    assert TOKENIZER.batch_decode(ids, skip_special_tokens=True) == smiles
    for one, row in zip(smiles, ids, strict=True):
        assert_faithful(one, TOKENIZER.convert_ids_to_tokens(row)[1:-1])


@pytest.mark.parametrize("smiles", ODD)
def test_odd_molecules_are_read_faithfully(smiles: str) -> None:
    assert Chem.MolFromSmiles(smiles, sanitize=False) is not None
    assert check_smiles(TOKENIZER, [smiles]) == {}
    assert TOKENIZER.decode(TOKENIZER(smiles)["input_ids"], skip_special_tokens=True) == smiles
    assert_faithful(smiles, written(TOKENIZER, smiles))


def test_the_alphabet_spells_every_element_and_no_more() -> None:
    table = Chem.GetPeriodicTable()
    letters = {char for number in range(1, 119) for char in table.GetElementSymbol(number)}
    classes = set("@TH@AL@SP@TB@OH")
    assert {char for char in ALPHABET if char.isalpha()} == letters | {char for char in classes if char.isalpha()}
    for number in range(1, 119):
        smiles = Chem.MolToSmiles(Chem.MolFromSmiles(f"[{table.GetElementSymbol(number)}+3]"))
        assert check_smiles(TOKENIZER, [smiles]) == {}, smiles


@settings(max_examples=300)
@given(spelt_units)
def test_no_token_splits_or_half_joins_an_atom(units: list[str]) -> None:
    smiles = "".join(units)
    assert_faithful(smiles, written(TOKENIZER, smiles))


@settings(max_examples=300)
@given(spelt_units)
def test_sampling_without_dropout_is_the_tokenizer(units: list[str]) -> None:
    smiles = "".join(units)
    assert SampledPieces(TOKENIZER, 0.0, 0)([smiles])["input_ids"] == [TOKENIZER(smiles)["input_ids"]]


@given(st.text(ALPHABET, min_size=1, max_size=40).filter(lambda text: not any(name in text for name in SPECIALS)))
def test_any_text_over_the_alphabet_comes_back(text: str) -> None:
    assert check_smiles(TOKENIZER, [text]) == {}
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text


def test_other_characters_are_unknown_but_not_lost() -> None:
    assert written(TOKENIZER, "CC!CJ") == ["CC", "<unk>", "C", "<unk>"]
    assert {place: issue.kind for place, issue in check_smiles(TOKENIZER, ["CC", "C!C"]).items()} == {1: "unknown"}


def test_special_tokens_stand_where_masking_expects_them() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(["<bos>", "<eos>", "<pad>", "<mask>", "<unk>"])
    assert ids == [0, 1, 2, 3, len(TOKENIZER) - 1]
    assert TOKENIZER.get_vocab().keys() & SPECIALS == SPECIALS
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(len(TOKENIZER)))
    encoded = TOKENIZER(["C", "CCO.CCO"], padding=True)
    assert encoded["input_ids"][0][:2] == [0, TOKENIZER.convert_tokens_to_ids("C")]
    assert encoded["input_ids"][0][2:] == [1] + [2] * (len(encoded["input_ids"][1]) - 3)
    assert encoded["attention_mask"][0] == [1, 1, 1] + [0] * (len(encoded["input_ids"][1]) - 3)


def test_pieces_shorten_molecules() -> None:
    lengths = [sum(map(len, tokenizer(CORPUS)["input_ids"])) / len(CORPUS) for tokenizer in (ATOMS, TOKENIZER)]
    atoms = sum(len(split_smiles(smiles)) + 2 for smiles in CORPUS) / len(CORPUS)
    # Only bracket atoms that occur less than five times have more than one token.
    assert atoms <= lengths[0] < atoms + 0.3
    assert lengths[1] < 0.4 * atoms


def test_pieces_keep_to_fragments_and_to_their_size() -> None:
    assert len(PIECES) == len(set(PIECES)) == 300
    assert not any("." in piece for piece in PIECES)
    assert max(len(_atoms(piece)) for piece in PIECES) == 8
    small = [left + right for left, right in learned_merges(train_pieces(CORPUS[:500], 100, max_atoms_per_piece=2))]
    assert max(len(_atoms(piece)) for piece in small) == 2
    assert written(TOKENIZER, "CC.CC") == ["CC", ".", "CC"]


def _atoms(piece: str) -> list[str]:
    return [unit for unit in split_units(piece) if any(char.isalpha() for char in unit)]


def test_bracket_atoms_are_bounded() -> None:
    corpus = ["C[nH]C"] * 6 + ["C[Si]C"] * 5 + ["C[Se]C"] * 4
    assert written(train_pieces(corpus, 0), "[nH][Si][Se]") == ["[nH]", "[Si]", "[", "S", "e", "]"]
    assert written(train_pieces(corpus, 0, max_brackets=1), "[nH][Si]") == ["[nH]", "[", "S", "i", "]"]
    assert written(train_pieces(corpus, 0, min_count=7), "[nH]") == ["[", "n", "H", "]"]
    # What no SMILES has in brackets gets no token.
    assert written(train_pieces(["[C.C]", "[!]"] * 9, 0), "[C.C]") == ["[", "C", ".", "C", "]"]


def test_a_halide_is_one_atom_and_a_halogen_another() -> None:
    tokenizer = train_pieces(["[Cl-].[Br-].ClCBr"] * 9, 5)
    tokens = written(tokenizer, "[Cl-].[Br-].ClCBr.ClC(Br)C")
    assert tokens == ["[Cl-]", ".", "[Br-]", ".", "ClCBr", ".", "Cl", "C", "(", "Br", ")", "C"]


def test_training_repeats_itself_and_has_its_beginnings() -> None:
    again = train_pieces(CORPUS, 120)
    assert first_pieces(TOKENIZER, 120).backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    assert learned_merges(again) == learned_merges(TOKENIZER)[:120]
    ids = TOKENIZER.get_vocab()
    assert all(ids[token] == index for token, index in again.get_vocab().items() if token != "<unk>")


def test_saved_and_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    MolformerConfig(vocab_size=len(TOKENIZER)).save_pretrained(tmp_path)
    smiles = CORPUS[:50] + ODD
    for tokenizer in (
        AutoTokenizer.from_pretrained(tmp_path),
        MolformerTokenizer.from_pretrained(tmp_path),
        load_tokenizer(tmp_path),
    ):
        assert tokenizer(smiles)["input_ids"] == TOKENIZER(smiles)["input_ids"]
        assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
        assert tokenizer.decode(tokenizer(smiles[-1])["input_ids"], skip_special_tokens=True) == smiles[-1]
        assert learned_merges(tokenizer) == learned_merges(TOKENIZER)


def test_dropout_changes_pieces_and_never_atoms() -> None:
    smiles = CORPUS[:200] + ODD
    sampled = SampledPieces(TOKENIZER, 0.2, 1)
    first, second = sampled(smiles)["input_ids"], sampled(smiles)["input_ids"]
    assert first != second
    assert SampledPieces(TOKENIZER, 0.2, 1)(smiles)["input_ids"] == first
    for rows in (first, second):
        assert TOKENIZER.batch_decode(rows, skip_special_tokens=True) == smiles
        for one, row in zip(smiles, rows, strict=True):
            assert_faithful(one, TOKENIZER.convert_ids_to_tokens(row)[1:-1])
    full = sum(map(len, TOKENIZER(smiles)["input_ids"]))
    single = sum(map(len, SampledPieces(TOKENIZER, 1.0, 0)(smiles)["input_ids"]))
    assert full < sum(map(len, first)) < single
    tokens = TOKENIZER.convert_ids_to_tokens(SampledPieces(TOKENIZER, 1.0, 0)(["CC(Cl)c1c[nH]c1"])["input_ids"][0])
    assert tokens == ["<bos>", "C", "C", "(", "Cl", ")", "c", "1", "c", "[nH]", "c", "1", "<eos>"]


def test_a_merge_is_skipped_at_the_rate() -> None:
    tokenizer = train_pieces(["CN"] * 9, 1)
    rows = SampledPieces(tokenizer, 0.25, 0)(["CN"] * 4000)["input_ids"]
    assert sum(len(row) == 4 for row in rows) / 4000 == pytest.approx(0.25, abs=0.03)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="there are none"):
        train_pieces([], 10)
    for arguments in ({"n_pieces": -1}, {"max_atoms_per_piece": 0}, {"min_count": 0}, {"max_brackets": -1}):
        with pytest.raises(ConfigError, match="at least"):
            train_pieces(["CC"], **{"n_pieces": 1, **arguments})
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            SampledPieces(TOKENIZER, rate, 0)
    with pytest.raises(ConfigError, match="300 learned merges"):
        first_pieces(TOKENIZER, 301)
    with pytest.raises(ConfigError, match="has no pieces"):
        learned_merges(MolformerTokenizer())
