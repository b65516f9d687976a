"""``moltune pretrain``: from a file of SMILES to a pretrained checkpoint, in one folder that survives any kill.

::

    pretrain.yaml    settings and versions: written first
    corpus/          canonical, unique molecules without those of the benchmark sets; their descriptors
    vocabulary.json, tokens.npy, offsets.npy
    state.pt         weights, optimiser, progress; replaced atomically
    log.jsonl        running losses and throughput
    model/           the checkpoint: what `finetune --model` and `adapt` take

Several processes (``accelerate launch``) share each batch; the first one prepares and writes.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from rdkit import Chem, rdBase

from moltune.config import PretrainConfig, PretrainSettings, make_settings
from moltune.data.augment import Speller
from moltune.errors import ConfigError, DataError, RunFolderError
from moltune.features.physchem import DescriptorScaler
from moltune.models.molformer import MolformerConfig, MolformerTokenizer
from moltune.models.molformer.tokenization import make_vocabulary, published_vocabulary, split_smiles
from moltune.overrides import read_yaml
from moltune.pretraining.corpus.build import benchmark_sets, build_corpus, exclude
from moltune.pretraining.corpus.sources import Source, sha256_of
from moltune.pretraining.corpus.store import (
    CORPUS_FILE,
    PHYSCHEM_FILE,
    read_corpus,
    read_physchem,
    write_corpus,
    write_physchem,
)
from moltune.pretraining.corpus.tokens import TokenCorpus, write_tokens
from moltune.pretraining.loop import Corpus, PretrainModel, Progress, pretrain
from moltune.run import differences, machine, versions, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator

logger = logging.getLogger(__name__)

SETTINGS, VOCABULARY, MODEL, CORPUS, DESCRIPTORS = (
    "pretrain.yaml",
    "vocabulary.json",
    "model",
    "corpus",
    "descriptors.json",
)
# Preparing a large corpus takes the first process longer than the others wait by default.
_PATIENCE = timedelta(hours=6)


def pretrain_corpus(
    config: PretrainConfig | Mapping[str, Any],
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Prepare a corpus and pretrain on it, or go on where a killed run stopped.

    Under ``accelerate launch`` (or ``torchrun``) each process calls this; they share every batch, so that the losses
    are those of one process with the same settings, up to rounding and each process's own dropout.

    Args:
        config: the settings, as an object or as a nested mapping; ``corpus`` and ``output`` are needed.
        resume: go on with an unfinished run of the same settings and corpus, or return a finished one.
        report: called after each step, in the first process only.

    Returns:
        Where the training stands: at its end.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the corpus cannot be used.
        RunFolderError: the output folder is taken, or belongs to other settings.
        NumericsError: a loss is not finite.
    """
    config = config if isinstance(config, PretrainConfig) else make_settings(PretrainConfig, dict(config))
    if config.corpus is None or config.output is None:
        raise ConfigError("pretraining needs corpus, a file or folder of molecules, and output, the folder of the run")
    if not config.corpus.exists():
        raise DataError(f"there is no corpus {config.corpus}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    weights = {name: config.training.weights.get(name, 1.0) for name in config.objectives}
    settings = config.training.model_copy(update={"weights": weights})
    accelerator = make_accelerator()
    first = accelerator is None or accelerator.is_main_process
    folder = config.output
    with _first_one_first(accelerator):
        if first:
            _start(config, folder, resume)
            prepare(config, folder)
    corpus, tokenizer = load(config, folder)
    model = build(config, settings, corpus, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if first:
        size = sum(parameter.numel() for parameter in model.encoder.parameters())
        processes = 1 if accelerator is None else accelerator.num_processes
        text = "%d molecules, vocabulary %d, encoder %.2f M parameters, %d process(es)"
        logger.info(text, len(corpus), len(tokenizer), size / 1e6, processes)
    watcher = report if first else (lambda progress: None)
    return pretrain(model, corpus, settings, folder, device=device, accelerator=accelerator, report=watcher)


def make_accelerator() -> Accelerator | None:
    """accelerate's view of the processes; None for a single one, which needs no wrapper."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator, InitProcessGroupKwargs

    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])


def prepare(config: PretrainConfig, folder: Path) -> None:
    """Whatever of corpus, vocabulary, tokens and descriptors is not there yet."""
    place = _corpus_folder(config, folder)
    if not (place / CORPUS_FILE).is_file():
        assert config.corpus is not None
        excluded = exclude(benchmark_sets() if config.exclude_benchmarks else {})
        source = Source("user", config.corpus, config.members)
        write_corpus(build_corpus([source], excluded, seed=config.training.seed, n_jobs=config.jobs), place)
    corpus = read_corpus(place)
    if not (folder / VOCABULARY).is_file():
        text = json.dumps(corpus_vocabulary(corpus.smiles))
        write_atomically(folder / VOCABULARY, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    tokenizer = _tokenizer(folder)
    if not (folder / "offsets.npy").is_file():
        limit = config.architecture.max_position_embeddings
        longest = max(len(ids) for ids in tokenizer(corpus.smiles)["input_ids"])
        if longest > limit:
            raise DataError(
                f"a molecule of the corpus has {longest} tokens, but the architecture takes {limit}; "
                "leave it out, or raise architecture.max_position_embeddings"
            )
        speller = Speller(tokenizer, corpus.smiles, config.training.seed, limit)
        lists = [corpus.smiles, *(speller.spell(number) for number in range(1, config.augment + 1))]
        write_tokens([text for one in lists for text in one], tokenizer, folder)
    described = _described_folder(config, folder)
    if "mtr" in config.objectives and not (described / PHYSCHEM_FILE).is_file():
        write_physchem(corpus, described, n_jobs=config.jobs)
    (folder / MODEL).mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder / MODEL)
    if "mtr" in config.objectives:
        scaler: DescriptorScaler = read_physchem(described, corpus)[1]
        (folder / MODEL / DESCRIPTORS).write_text(json.dumps(scaler.to_dict()) + "\n", encoding="utf-8")


def load(config: PretrainConfig, folder: Path) -> tuple[Corpus, MolformerTokenizer]:
    """What :func:`prepare` wrote, memory-mapped."""
    targets: dict[str, np.ndarray] = {}
    if "mtr" in config.objectives:
        targets["mtr"] = read_physchem(_described_folder(config, folder), read_corpus(_corpus_folder(config, folder)))[
            0
        ]
    return Corpus(TokenCorpus(folder), targets, spellings=1 + config.augment), _tokenizer(folder)


def build(
    config: PretrainConfig, settings: PretrainSettings, corpus: Corpus, tokenizer: MolformerTokenizer
) -> PretrainModel:
    """The model at its beginning, the same in every process.

    Raises:
        ConfigError: the sizes do not fit together.
    """
    try:
        architecture = MolformerConfig(vocab_size=len(tokenizer), **config.architecture.model_dump())
    except ValueError as error:
        raise ConfigError(f"architecture: {error}") from None
    torch.manual_seed(settings.seed)
    return PretrainModel(architecture, {name: v.shape[1] for name, v in corpus.targets.items()}, settings.weights)


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


def _corpus_folder(config: PretrainConfig, folder: Path) -> Path:
    """A corpus folder is used where it lies; anything else becomes one inside the run."""
    assert config.corpus is not None
    return config.corpus if (config.corpus / CORPUS_FILE).is_file() else folder / CORPUS


def _described_folder(config: PretrainConfig, folder: Path) -> Path:
    there = _corpus_folder(config, folder)
    return there if (there / PHYSCHEM_FILE).is_file() else folder / CORPUS


def _tokenizer(folder: Path) -> MolformerTokenizer:
    return MolformerTokenizer.from_vocabulary(json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))


def _start(config: PretrainConfig, folder: Path, resume: bool) -> None:
    assert config.corpus is not None
    if config.corpus.is_dir() and not (config.corpus / CORPUS_FILE).is_file():
        raise DataError(f"{config.corpus} is a folder without {CORPUS_FILE}; give a file of SMILES or a corpus folder")
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another --output")
    values = config.model_dump(mode="json", exclude={"output", "jobs", "threads", "corpus"})
    source = config.corpus / CORPUS_FILE if config.corpus.is_dir() else config.corpus
    values["corpus_sha256"] = sha256_of(source)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / SETTINGS).is_file():
            raise RunFolderError(f"{folder} holds files that are no pretraining; choose another --output")
        if not resume:
            raise RunFolderError(f"{folder} holds a pretraining already: choose another --output, or say --resume")
        before = read_yaml(folder / SETTINGS)
        changed = differences({name: before.get(name) for name in values}, values)
        if changed:
            raise RunFolderError(f"{folder} belongs to other settings ({changed}): choose another --output")
        return
    folder.mkdir(parents=True, exist_ok=True)
    about = {"corpus": str(config.corpus.name), "versions": versions(), "machine": machine()}
    text = yaml.safe_dump({**values, "provenance": about}, sort_keys=False)
    write_atomically(folder / SETTINGS, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def _first_one_first(accelerator: Accelerator | None) -> Iterator[None]:
    """The body runs in every process; none leaves before the first one is through."""
    yield
    if accelerator is not None:
        accelerator.wait_for_everyone()
