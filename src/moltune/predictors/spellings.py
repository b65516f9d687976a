"""Predictions averaged over several SMILES (Maxsmi, Kimber et al. 2021, doi:10.1016/j.ailsci.2021.100014)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from moltune.data.randomize import random_smiles
from moltune.errors import ConfigError
from moltune.models.checkpoints import max_length
from moltune.models.inference import predict_smiles
from moltune.models.regression import RegressionModel


@dataclass(frozen=True)
class Averaged:
    """Predictions over k spellings.

    Attributes:
        mean: in the target's unit, float64, shape (n,).
        spread: standard deviation over the spellings (k - 1 in the denominator), same unit and shape; None for k = 1.
    """

    mean: np.ndarray
    spread: np.ndarray | None


def spellings(smiles: str, k: int) -> list[str]:
    """The SMILES itself and k - 1 random ones of the same molecule, which depend on the SMILES alone.

    So a molecule gets the same prediction in every file and batch.
    """
    return [smiles, *random_smiles(smiles, zlib.crc32(smiles.encode()), k - 1)] if k > 1 else [smiles]


def predict_spellings(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    k: int = 1,
    *,
    batch_size: int = 32,
    truncate: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Averaged:
    """Predict each molecule under k of its SMILES and average.

    A spelling that the model cannot read (too long, or with a token that its vocabulary lacks) is replaced by the
    molecule's own SMILES.

    Args:
        model: in memory.
        tokenizer: that belongs to it.
        smiles: n molecules that the model can read.
        k: SMILES of each, its own included.
        batch_size: of the forward passes.
        truncate: cut longer inputs instead of failing.
        progress: takes how many molecules more are done.

    Raises:
        ConfigError: k is below one.
        NumericsError: a prediction is not finite; the molecule is named.
    """
    if k < 1:
        raise ConfigError(f"a prediction needs at least one SMILES of each molecule, not {k}")
    limit = max_length(model.encoder, tokenizer)
    cut = limit if truncate else None
    if k == 1:
        # One number for one text: in a batch its last bits depend on where it stands.
        own = list(dict.fromkeys(smiles))
        values = predict_smiles(model, tokenizer, own, batch_size=batch_size, max_length=cut, progress=progress)
        if progress is not None and len(own) < len(smiles):
            progress(len(smiles) - len(own))
        row = {text: at for at, text in enumerate(own)}
        return Averaged(values[[row[text] for text in smiles]], None)
    texts = [text for one in smiles for text in _readable(tokenizer, spellings(one, k), limit)]
    # Equal texts, of which small molecules have many, are predicted once.
    unique = list(dict.fromkeys(texts))
    found = predict_smiles(model, tokenizer, unique, batch_size=batch_size, max_length=cut)
    place = {text: at for at, text in enumerate(unique)}
    table = found[[place[text] for text in texts]].reshape(len(smiles), k)
    if progress is not None:
        progress(len(smiles))
    return Averaged(table.mean(axis=1), table.std(axis=1, ddof=1))


def _readable(tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int | None) -> list[str]:
    own, unknown = texts[0], getattr(tokenizer, "unk_token_id", None)
    encoded = tokenizer(texts)["input_ids"]
    return [
        own if unknown in ids or (limit is not None and len(ids) > limit) else text
        for text, ids in zip(texts, encoded, strict=True)
    ]
