"""The atom-wise tokenizer: published ids, published files, and nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molformer_cases import SMILES
from transformers import AutoTokenizer

from moltune.models.molformer import MolformerTokenizer
from moltune.models.molformer.tokenization import make_vocabulary, published_vocabulary, split_smiles

TOKENIZER = MolformerTokenizer()
VOCABULARY = published_vocabulary()
spellable = st.lists(st.sampled_from([token for token in VOCABULARY if not token.startswith("<")]), max_size=60)


def test_published_ids() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(["<bos>", "<eos>", "<pad>", "<mask>", "C", "c", "<unk>"])
    assert ids == [0, 1, 2, 3, 4, 5, 2361]
    assert len(TOKENIZER) == len(VOCABULARY) == len(set(VOCABULARY)) == 2362
    named = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, TOKENIZER.mask_token_id
    assert named == (0, 1, 2, 3)
    assert (TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.unk_token_id) == (0, 1, 2361)


def test_a_molecule_becomes_bos_atoms_eos() -> None:
    encoded = TOKENIZER("C[C@H](Cl)c1ccccc1Br", padding=False)
    tokens = TOKENIZER.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["<bos>", "C", "[C@H]", "(", "Cl", ")", *"c1ccccc1", "Br", "<eos>"]
    assert set(encoded) == {"input_ids", "attention_mask"}


def test_padding_is_on_the_right_and_masked() -> None:
    encoded = TOKENIZER(["C", "CCO"], padding=True)
    assert encoded["input_ids"] == [[0, 4, 1, 2, 2], [0, 4, 4, TOKENIZER.convert_tokens_to_ids("O"), 1]]
    assert encoded["attention_mask"] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_two_digit_rings_and_slashes() -> None:
    assert split_smiles("C%12/C=C\\C%12") == ["C", "%12", "/", "C", "=", "C", "\\", "C", "%12"]


@settings(deadline=None)
@given(spellable)
def test_what_is_spelt_in_tokens_comes_back(tokens: list[str]) -> None:
    text = "".join(tokens)
    ids = TOKENIZER(text)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 1)
    again = TOKENIZER.convert_ids_to_tokens(ids[1:-1])
    # Two tokens may spell a third (B and r); the split is the longest one, and the same as the pattern's.
    assert "".join(split_smiles(text)) == text
    assert [a if a != "<unk>" else b for a, b in zip(again, split_smiles(text), strict=True)] == split_smiles(text)


@settings(deadline=None)
@given(st.text(max_size=40).filter(lambda text: "<" not in text))
def test_the_fast_tokenizer_and_the_pattern_split_alike(text: str) -> None:
    assert len(TOKENIZER(text)["input_ids"]) - 2 == len(split_smiles(text))


def test_saved_and_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for loader in (MolformerTokenizer, AutoTokenizer):
        again = loader.from_pretrained(tmp_path)
        assert again(SMILES)["input_ids"] == TOKENIZER(SMILES)["input_ids"]
        assert again.get_vocab() == TOKENIZER.get_vocab()


def test_own_vocabulary(tmp_path: Path) -> None:
    vocabulary = make_vocabulary(["C", "O", "C", "<pad>", "c"])
    assert vocabulary == ["<bos>", "<eos>", "<pad>", "<mask>", "C", "O", "c", "<unk>"]
    tokenizer = MolformerTokenizer.from_vocabulary(vocabulary)
    assert tokenizer("COc")["input_ids"] == [0, 4, 5, 6, 1]
    assert tokenizer("CN")["input_ids"] == [0, 4, 7, 1]
    tokenizer.save_pretrained(tmp_path)
    for loader in (MolformerTokenizer, AutoTokenizer):
        again = loader.from_pretrained(tmp_path)
        assert again("COc")["input_ids"] == [0, 4, 5, 6, 1]
        assert len(again) == 8
        assert again.unk_token_id == 7
    load = MolformerTokenizer(vocab=tokenizer.get_vocab())
    assert load("COc")["input_ids"] == [0, 4, 5, 6, 1]


@pytest.mark.parametrize("length", [2, 3, 6])
def test_truncation_keeps_the_end_token(length: int) -> None:
    ids = TOKENIZER("CCCCCCCCCC", truncation=True, max_length=length)["input_ids"]
    assert len(ids) == length
    assert (ids[0], ids[-1]) == (0, 1)
