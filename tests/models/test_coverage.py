"""No molecule is encoded as something else without a word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molformer_cases import SMILES
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from moltune import datasets
from moltune.models.coverage import check_smiles
from moltune.models.molformer import MolformerTokenizer

TOKENIZER = MolformerTokenizer()


def byte_level(alphabet: list[str]) -> PreTrainedTokenizerFast:
    """A RoBERTa-style byte-level BPE tokenizer, trained on a few molecules."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    backend.train_from_iterator(SMILES * 3, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


WHOLE = byte_level(pre_tokenizers.ByteLevel.alphabet())
NARROW = byte_level([])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WHOLE], ids=["molformer", "byte level"])
def test_ordinary_molecules_have_no_issue(tokenizer: PreTrainedTokenizerFast) -> None:
    assert check_smiles(tokenizer, SMILES, 202) == {}
    assert check_smiles(tokenizer, []) == {}


def test_the_bundled_molecules_are_covered_by_the_published_vocabulary() -> None:
    smiles = datasets.load("lipophilicity")["smiles"].tolist()
    issues = check_smiles(TOKENIZER, smiles, 202)
    for position, issue in issues.items():
        ids = TOKENIZER(smiles[position])["input_ids"]
        assert (issue.kind == "too long" and len(ids) > 202) or (issue.kind == "unknown" and 2361 in ids)
    assert len(issues) < 20


def test_vanishing_characters_are_named() -> None:
    issues = check_smiles(TOKENIZER, ["CC", "CaaC", "C C", "XyZ", "C\u00e9", ""])
    assert set(issues) == {1, 2, 3, 4, 5}
    assert {issue.kind for issue in issues.values()} == {"characters"}
    assert "'a'" in issues[1].message
    assert "' '" in issues[2].message
    assert "'\u00e9'" in issues[4].message
    assert "everything" in issues[5].message


def test_unknown_tokens_are_named() -> None:
    issues = check_smiles(TOKENIZER, ["C[Xx+9]C[Yy-8]", "CCO"])
    assert set(issues) == {0}
    assert issues[0].kind == "unknown"
    assert "[Xx+9], [Yy-8]" in issues[0].message


def test_length_counts_the_special_tokens() -> None:
    assert check_smiles(TOKENIZER, ["C" * 8, "C" * 9], limit=10).keys() == {1}
    assert check_smiles(TOKENIZER, ["C" * 9], limit=None) == {}
    assert "11 tokens, but the model takes 10" in check_smiles(TOKENIZER, ["C" * 9], limit=10)[0].message
    assert check_smiles(TOKENIZER, ["[Xx+9]" * 9], limit=10)[0].kind == "too long"
    assert check_smiles(TOKENIZER, ["a" + "C" * 12], limit=10)[0].kind == "characters"


@pytest.mark.parametrize("text", ["C<pad>C", "<mask>", "CC<eos>", "<bos>C", "C<unk>"])
def test_special_tokens_written_out_are_reported(text: str) -> None:
    assert 0 in check_smiles(TOKENIZER, [text])


texts = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="CNOcnos()[]=#+-1234%@/\\.HlBr <>a\u00e9", max_size=30),
    st.lists(st.sampled_from(["<pad>", "<unk>", "<s>", "<bos>", "C", "[nH]", "a", "%"]), max_size=6).map("".join),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(texts, min_size=1, max_size=4))
def test_whatever_is_not_reported_spells_the_text_back(smiles: list[str]) -> None:
    issues = check_smiles(TOKENIZER, smiles)
    for position, text in enumerate(smiles):
        ids = TOKENIZER(text)["input_ids"]
        tokens = TOKENIZER.convert_ids_to_tokens(ids[1:-1])
        faithful = "".join(tokens) == text and text != "" and not set(ids[1:-1]) & set(TOKENIZER.all_special_ids)
        assert (position in issues) == (not faithful), (text, tokens)


@settings(deadline=None, max_examples=200)
@given(texts)
def test_byte_level_tokenizers(text: str) -> None:
    for tokenizer in (WHOLE, NARROW):
        ids = tokenizer(text)["input_ids"][1:-1]
        tokens = tokenizer.convert_ids_to_tokens(ids)
        letters = "".join(tokens)
        stands_for = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        faithful = letters == "".join(piece for piece, _ in stands_for) and text != ""
        faithful = faithful and not set(ids) & set(tokenizer.all_special_ids)
        reported = 0 in check_smiles(tokenizer, [text])
        # Offsets of such tokenizers leave out white space, which no SMILES contains anyway.
        assert reported if not faithful else not reported or any(char.isspace() for char in text), (text, tokens)


def test_a_tokenizer_that_folds_case_is_found_out() -> None:
    """Lower case is aromatic: C1CCCCC1 and c1ccccc1 would be one molecule."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "c": 2, "1": 3}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    issues = check_smiles(tokenizer, ["c1ccccc1", "C1CCCCC1"])
    assert set(issues) == {1}
    assert issues[1].kind == "characters"
    assert "c1ccccc1" in issues[1].message
