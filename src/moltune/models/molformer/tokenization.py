"""The atom-wise SMILES tokenizer of MoLFormer (pattern of Schwaller et al. 2018, doi:10.1039/C8SC02339E)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SMILES_PATTERN = (
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>|\*|\$|\%[0-9]{2}|[0-9])"
)
BOS, EOS, PAD, MASK, UNK = "<bos>", "<eos>", "<pad>", "<mask>", "<unk>"

_COMPILED = re.compile(SMILES_PATTERN)


def split_smiles(smiles: str) -> list[str]:
    """Split a SMILES string into its tokens; characters that the pattern does not know are left out."""
    return _COMPILED.findall(smiles)


@cache
def published_vocabulary() -> tuple[str, ...]:
    """The 2,362 tokens of the published checkpoints, in the order of their ids."""
    text = resources.files("moltune.models.molformer").joinpath("vocab.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def make_vocabulary(tokens: Iterable[str]) -> list[str]:
    """Put the special tokens where MoLFormer expects them around ``tokens``: four in front, ``<unk>`` last."""
    ordered = [token for token in dict.fromkeys(tokens) if token not in {BOS, EOS, PAD, MASK, UNK}]
    return [BOS, EOS, PAD, MASK, *ordered, UNK]


def build_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """Build the fast word-level tokenizer over ``vocabulary`` (token i has id i)."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token=UNK))
    pattern = Regex(SMILES_PATTERN)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.Split(pattern, behavior="isolated"),
        ]
    )
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} {BOS} $B {EOS}",
        special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])],
    )
    return tokenizer


class MolformerTokenizer(PreTrainedTokenizerFast):
    """Fast tokenizer ``<bos> atoms, bonds and ring numbers <eos>``, read from the published ``tokenizer.json``.

    The pattern removes characters that it does not know without a word, so ``CaaC`` would be read as ``CC``:
    :func:`moltune.models.coverage.check_smiles` finds such molecules before they are encoded.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012 - transformers reads a plain dict
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, tokenizer_file: str | None = None, tokenizer_object: Tokenizer | None = None, **kwargs: Any):
        vocabulary = kwargs.pop("vocab", None)
        if tokenizer_file is None and tokenizer_object is None:
            own = sorted(vocabulary, key=vocabulary.get) if vocabulary else published_vocabulary()
            tokenizer_object = build_tokenizer(own)
        specials = {
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "mask_token": MASK,
            "unk_token": UNK,
            "cls_token": BOS,
            "sep_token": EOS,
        }
        kwargs.pop("auto_map", None)
        super().__init__(tokenizer_file=tokenizer_file, tokenizer_object=tokenizer_object, **{**specials, **kwargs})

    @classmethod
    def convert_to_native_format(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load ``tokenizer.json`` whole: transformers would take it apart for a class with an ``__init__``.

        Raises:
            OSError: there is no such file; the published vocabulary is no stand-in for a checkpoint's own.
        """
        if not kwargs.get("tokenizer_file"):
            raise OSError(f"{kwargs.get('name_or_path') or 'the checkpoint'} holds no tokenizer.json")
        return dict(kwargs)

    @classmethod
    def from_vocabulary(cls, vocabulary: Sequence[str], **kwargs: Any) -> MolformerTokenizer:
        """Build a tokenizer over ``vocabulary``, whose order gives the ids."""
        return cls(tokenizer_object=build_tokenizer(vocabulary), **kwargs)
