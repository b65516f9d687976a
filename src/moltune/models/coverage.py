"""Find molecules that a tokenizer cannot represent, before they are encoded as something else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moltune.config import ModelSettings
from moltune.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Issue:
    """Why a molecule cannot be encoded faithfully.

    Attributes:
        kind: ``characters`` (some would vanish or change), ``unknown`` (a token outside the vocabulary), ``too long``.
        message: the reason in words.
    """

    kind: Literal["characters", "unknown", "too long"]
    message: str


def check_smiles(
    tokenizer: PreTrainedTokenizerBase, smiles: Sequence[str], limit: int | None = None
) -> dict[int, Issue]:
    """Check each SMILES against a fast tokenizer of transformers; see :func:`find_issues`."""
    return find_issues(tokenizer.backend_tokenizer, tokenizer.all_special_ids, smiles, limit)


def find_issues(
    tokenizer: Tokenizer, specials: Collection[int], smiles: Sequence[str], limit: int | None = None
) -> dict[int, Issue]:
    """Check each SMILES against a tokenizer, and against the model's limit in tokens (special ones included).

    Args:
        tokenizer: it is left without truncation and padding.
        specials: ids of its special tokens.
        smiles: n SMILES.
        limit: tokens that the model takes; None: nothing bounds it.

    Returns:
        The position of each molecule with an issue, and the gravest one: vanishing characters, then length, then
        unknown tokens.
    """
    if not smiles:
        return {}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    specials, normalizer = set(specials), tokenizer.normalizer
    issues: dict[int, Issue] = {}
    for position, (text, encoded) in enumerate(zip(smiles, tokenizer.encode_batch(list(smiles)), strict=True)):
        ids, offsets, special = encoded.ids, encoded.offsets, encoded.special_tokens_mask
        covered = [False] * len(text)
        unknown: list[str] = []
        for token, (start, end) in zip(ids, offsets, strict=True):
            covered[start:end] = [True] * (end - start)
            # `<pad>` written out in a SMILES is as little an atom as an unknown one.
            if token in specials and end > start:
                unknown.append(text[start:end])
        lost = sorted({char for char, seen in zip(text, covered, strict=True) if not seen})
        rewritten = text if normalizer is None else normalizer.normalize_str(text)
        if text not in rewritten:
            issues[position] = Issue("characters", f"the tokenizer would silently rewrite it as {rewritten}")
        elif lost or not len(ids) > sum(special) - len(unknown):
            shown = " ".join(repr(char) for char in lost) or "everything"
            issues[position] = Issue("characters", f"the tokenizer would silently leave out {shown}")
        elif limit is not None and len(ids) > limit:
            issues[position] = Issue("too long", f"{len(ids)} tokens, but the model takes {limit}")
        elif unknown:
            named = ", ".join(dict.fromkeys(unknown))
            issues[position] = Issue("unknown", f"the model's vocabulary lacks {named}")
    return issues


def unfit_molecules(smiles: Sequence[str], settings: ModelSettings) -> dict[int, str]:
    """Positions that a checkpoint cannot read, each with its reason; what the settings let pass is warned about.

    Characters that the tokenizer would drop always make a molecule unfit. Unknown tokens and over-long SMILES are
    kept, rejected or an error as ``settings.unknown_tokens`` and ``settings.too_long`` say.

    Raises:
        DataError: the settings make one of them an error.
    """
    from moltune.models.checkpoints import empty_encoder, load_tokenizer, max_length

    tokenizer = load_tokenizer(settings.name, settings.revision)
    limit = max_length(empty_encoder(settings.name, settings.revision), tokenizer)
    policy = {"characters": "reject", "unknown": settings.unknown_tokens, "too long": settings.too_long}
    rejected: dict[int, str] = {}
    tolerated: dict[str, list[str]] = {}
    for position, issue in check_smiles(tokenizer, smiles, limit).items():
        action = policy[issue.kind]
        if action == "error":
            raise DataError(
                f"{smiles[position]}: {issue.message}; leave it out, or choose model.unknown_tokens or model.too_long"
            )
        if action == "reject":
            rejected[position] = f"{settings.name}: {issue.message}"
        else:
            tolerated.setdefault(issue.kind, []).append(f"{smiles[position]}: {issue.message}")
    does = {"too long": "are cut to the model's length", "unknown": "are read with an unknown token"}
    for kind, examples in tolerated.items():
        logger.warning("%d molecules %s, such as %s", len(examples), does[kind], examples[0])
    return rejected
