"""``moltune pretrain``: from a file of SMILES to a pretrained checkpoint, in one folder that survives any kill.

::

    pretrain.yaml    settings and versions: written first
    corpus/          canonical, unique molecules without those of the benchmark sets; their descriptors
    vocabulary.json, tokens.npy, offsets.npy
    state.pt         weights, optimiser, progress; replaced atomically
    log.jsonl        running losses and throughput
    model/           the checkpoint: what `finetune --model` and `adapt` take
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem, rdBase

from moltune.config import PretrainConfig, PretrainSettings, make_settings
from moltune.errors import ConfigError, DataError
from moltune.files import write_text
from moltune.models.molformer import MolformerConfig, MolformerTokenizer
from moltune.models.molformer.tokenization import make_vocabulary, published_vocabulary, split_smiles
from moltune.pretraining.check import check_pretraining
from moltune.pretraining.corpus.build import benchmark_sets, build_corpus, exclude
from moltune.pretraining.corpus.sources import Source
from moltune.pretraining.corpus.store import (
    CORPUS_FILE,
    PHYSCHEM_FILE,
    read_corpus,
    read_physchem,
    write_corpus,
    write_physchem,
)
from moltune.pretraining.corpus.tokens import TokenCorpus, write_tokens
from moltune.pretraining.loop import PretrainingData, Progress, pretrain_loop
from moltune.pretraining.model import PretrainingModel, Vocabulary

logger = logging.getLogger(__name__)

VOCABULARY, MODEL, CORPUS, DESCRIPTORS = "vocabulary.json", "model", "corpus", "descriptors.json"


def pretrain(
    config: PretrainConfig | Mapping[str, Any],
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Prepare a corpus and pretrain on it, or go on where a killed run stopped.

    Args:
        config: the settings, as an object or as a nested mapping; ``corpus`` and ``output`` are needed.
        resume: go on with an unfinished run of the same settings and corpus, or return a finished one.
        report: called after each step.

    Returns:
        Where the training stands: at its end.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the corpus cannot be used.
        RunFolderError: the output folder is taken, or belongs to other settings.
        NumericsError: a loss is not finite.
    """
    config = config if isinstance(config, PretrainConfig) else make_settings(PretrainConfig, dict(config))
    folder, values, before = check_pretraining(config, resume=resume)
    if before is None:
        folder.begin(values, {"corpus": Path(str(config.corpus)).name})
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    weights = {name: config.training.weights.get(name, 1.0) for name in config.objectives}
    settings = config.training.model_copy(update={"weights": weights})
    data, tokenizer = prepare(config, folder.path)
    model = _build(config, settings, data, tokenizer)
    size = model.encoder.num_parameters() / 1e6
    logger.info("%d molecules, vocabulary %d, encoder %.2f M parameters", len(data), len(tokenizer), size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return pretrain_loop(model, data, settings, folder.path, device=device, report=report)


def prepare(config: PretrainConfig, folder: Path) -> tuple[PretrainingData, MolformerTokenizer]:
    """Make whatever of corpus, vocabulary, tokens and descriptors is not there yet; return it, memory-mapped.

    A corpus folder is used where it lies; anything else becomes one inside the run.
    """
    assert config.corpus is not None
    place = config.corpus if (config.corpus / CORPUS_FILE).is_file() else folder / CORPUS
    if not (place / CORPUS_FILE).is_file():
        excluded = exclude(benchmark_sets() if config.exclude_benchmarks else {})
        source = Source("user", config.corpus, config.members)
        write_corpus(build_corpus([source], excluded, seed=config.training.seed, n_jobs=config.jobs), place)
    corpus = read_corpus(place)
    if not (folder / VOCABULARY).is_file():
        write_text(folder / VOCABULARY, json.dumps(corpus_vocabulary(corpus.smiles)))
    tokenizer = MolformerTokenizer.from_vocabulary(json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))
    tokenizer.save_pretrained(folder / MODEL)
    tokens = TokenCorpus(folder) if TokenCorpus.is_in(folder) else write_tokens(corpus.smiles, tokenizer, folder)
    longest, limit = int(tokens.lengths.max()), config.architecture.max_position_embeddings
    if longest > limit:
        raise DataError(
            f"a molecule of the corpus has {longest} tokens, but the architecture takes {limit}; "
            "leave it out, or raise architecture.max_position_embeddings"
        )
    data = PretrainingData(tokens, {})
    if "mtr" in config.objectives:
        described = place if (place / PHYSCHEM_FILE).is_file() else folder / CORPUS
        if not (described / PHYSCHEM_FILE).is_file():
            write_physchem(corpus, described, n_jobs=config.jobs)
        data.targets["mtr"], scaler = read_physchem(described, corpus)
        (folder / MODEL / DESCRIPTORS).write_text(json.dumps(scaler.to_dict()) + "\n", encoding="utf-8")
    return data, tokenizer


def _build(
    config: PretrainConfig, settings: PretrainSettings, data: PretrainingData, tokenizer: MolformerTokenizer
) -> PretrainingModel:
    try:
        architecture = MolformerConfig(vocab_size=len(tokenizer), **config.architecture.model_dump())
    except ValueError as error:
        raise ConfigError(f"architecture: {error}") from None
    torch.manual_seed(settings.seed)
    return PretrainingModel.fresh(architecture, data.sizes, settings.weights, Vocabulary.of(tokenizer))


def corpus_vocabulary(smiles: list[str]) -> list[str]:
    """Published plain tokens, published bracket atoms that RDKit parses, and every token of the corpus."""
    with rdBase.BlockLogs():
        # An aromatic atom such as [se] makes no molecule of its own, so it is read without sanitisation.
        parsed = [
            token
            for token in published_vocabulary()
            if not token.startswith("[") or Chem.MolFromSmiles(token, sanitize=False) is not None
        ]
    counts = Counter(token for one in smiles for token in split_smiles(one))
    known = set(parsed)
    extra = sorted((token for token in counts if token not in known), key=lambda token: (-counts[token], token))
    return make_vocabulary([token for token in parsed if not re.fullmatch(r"<.*>", token)] + extra)
