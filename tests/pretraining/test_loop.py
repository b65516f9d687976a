"""The pretraining loop: the same weights however often it was stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_config
from transformers import AutoModelForMaskedLM

from moltune.config import PretrainSettings
from moltune.errors import NumericsError
from moltune.models.checkpoints import load_encoder
from moltune.models.molformer import MolformerTokenizer
from moltune.pretraining import loop as module
from moltune.pretraining.corpus.tokens import write_tokens
from moltune.pretraining.loop import (
    PretrainingData,
    Progress,
    epoch_batches,
    learning_rate,
    make_batch,
    pretrain_loop,
)
from moltune.pretraining.model import PretrainingModel, Vocabulary
from moltune.pretraining.objectives import IGNORED

STEPS = 14
CONFIG = tiny_config()
VOCABULARY = Vocabulary.of(MolformerTokenizer())


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def corpus(small_table: Any, tmp_path_factory: pytest.TempPathFactory) -> PretrainingData:
    """120 molecules; the teacher knows 70 of them."""
    tokens = write_tokens(small_table["smiles"].tolist(), MolformerTokenizer(), tmp_path_factory.mktemp("corpus"))
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((120, 3)).astype(np.float16)
    teacher[70:] = np.nan
    return PretrainingData(tokens, {"mtr": rng.standard_normal((120, 5)).astype(np.float32), "teacher": teacher})


def recipe(**changes: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "steps": STEPS,
        "tokens_per_batch": 300,
        "warmup_steps": 4,
        "learning_rate": 3e-3,
        "save_every": 1e-9,
        "log_every": 1,
    }
    return PretrainSettings(**{**values, **changes})


def fresh(settings: PretrainSettings | None = None) -> PretrainingModel:
    torch.manual_seed(0)
    return PretrainingModel.fresh(CONFIG, {"mtr": 5, "teacher": 3}, (settings or recipe()).weights, VOCABULARY)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def through(
    corpus: PretrainingData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PretrainingModel, Progress]:
    folder, model = tmp_path_factory.mktemp("through"), fresh()
    progress = pretrain_loop(model, corpus, recipe(), folder)
    return folder, model, progress


def same(first: PretrainingModel, second: PretrainingModel) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stopping_at(step: int) -> Callable[..., dict[str, float]]:
    original = module._step

    def take(*args: Any) -> dict[str, float]:
        if args[-1] == step:
            raise Stopped
        return original(*args)

    return take


def test_progress_and_log(through: tuple[Path, PretrainingModel, Progress]) -> None:
    folder, _, progress = through
    assert progress.step == STEPS
    assert progress.epoch >= 1
    assert progress.losses.keys() == {"mlm", "mtr", "teacher"}
    log = lines(folder)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    assert log[-1]["molecules"] == progress.molecules
    assert [line["learning_rate"] for line in log] == [learning_rate(step, recipe()) for step in range(1, STEPS + 1)]


def test_losses_fall(corpus: PretrainingData, tmp_path: Path) -> None:
    settings = recipe(steps=60, weights={"mlm": 1.0, "mtr": 1.0}, save_every=1e9)
    batch = make_batch(corpus, np.arange(120), recipe(masked_share=0.5), VOCABULARY, [0, 0])
    model = fresh(settings)

    def losses() -> dict[str, float]:
        with torch.inference_mode():
            found = {name: float(loss) for name, loss in model.eval()(**batch).items()}
        return found

    before = losses()
    pretrain_loop(model, corpus, settings, tmp_path)
    after = losses()
    assert after["mlm"] < 0.6 * before["mlm"]
    assert after["mtr"] < before["mtr"]


@pytest.mark.parametrize("step", [0, 1, 6, STEPS - 1])
def test_resumed_training_equals_uninterrupted(
    step: int,
    corpus: PretrainingData,
    through: tuple[Path, PretrainingModel, Progress],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_step", stopping_at(step))
        with pytest.raises(Stopped):
            pretrain_loop(fresh(), corpus, recipe(), tmp_path)
    torch.manual_seed(777)
    resumed = (
        PretrainingModel.fresh(CONFIG, {"mtr": 5, "teacher": 3}, recipe().weights, VOCABULARY) if step else fresh()
    )
    progress = pretrain_loop(resumed, corpus, recipe(), tmp_path)
    assert same(resumed, through[1])
    assert progress.losses == through[2].losses
    assert (progress.step, progress.epoch, progress.batch, progress.molecules) == (
        through[2].step,
        through[2].epoch,
        through[2].batch,
        through[2].molecules,
    )


def test_checkpoint_that_lags_behind(
    corpus: PretrainingData,
    through: tuple[Path, PretrainingModel, Progress],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Saved after every fifth step, stopped in the ninth, with half a file of the next checkpoint lying about."""
    original = module.save

    def seldom(folder: Path, model: Any, optimizer: Any, progress: Progress) -> None:
        if progress.step % 5 == 0:
            original(folder, model, optimizer, progress)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", seldom)
        patch.setattr(module, "_step", stopping_at(8))
        with pytest.raises(Stopped):
            pretrain_loop(fresh(), corpus, recipe(), tmp_path)
    (tmp_path / ".state.pt.tmp").write_bytes(b"half")
    resumed = fresh()
    pretrain_loop(resumed, corpus, recipe(), tmp_path)
    assert same(resumed, through[1])


def test_finished_training_is_not_repeated(
    corpus: PretrainingData, through: tuple[Path, PretrainingModel, Progress]
) -> None:
    folder, model, _ = through
    before = (folder / "log.jsonl").read_text()
    again = fresh()
    assert pretrain_loop(again, corpus, recipe(), folder).step == STEPS
    assert same(again, model)
    assert (folder / "log.jsonl").read_text() == before


def test_seed_matters(
    corpus: PretrainingData, through: tuple[Path, PretrainingModel, Progress], tmp_path: Path
) -> None:
    other = fresh()
    pretrain_loop(other, corpus, recipe(seed=1), tmp_path)
    assert not same(other, through[1])


def test_model_folder_is_a_published_checkpoint(through: tuple[Path, PretrainingModel, Progress]) -> None:
    folder, model, _ = through
    MolformerTokenizer().save_pretrained(folder / "model")
    encoder = load_encoder(folder / "model")
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name
    lm = AutoModelForMaskedLM.from_pretrained(folder / "model")
    assert torch.equal(lm.lm_head.decoder.weight, model.heads["mlm"].lm_head.decoder.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("weights", [{"mlm": 1.0}, {"mtr": 1.0}, {"teacher": 1.0}])
def test_single_objectives(weights: dict[str, float], corpus: PretrainingData, tmp_path: Path) -> None:
    settings = recipe(steps=3, weights=weights)
    assert pretrain_loop(fresh(settings), corpus, settings, tmp_path).losses.keys() == weights.keys()


def test_bf16(corpus: PretrainingData, through: tuple[Path, PretrainingModel, Progress], tmp_path: Path) -> None:
    model = fresh()
    progress = pretrain_loop(model, corpus, recipe(bf16=True), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    assert not same(model, through[1])
    assert progress.losses == pytest.approx(through[2].losses, rel=0.05)


def test_loss_that_is_not_finite(corpus: PretrainingData, tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"not finite at step \d+.*lower the learning rate"):
        pretrain_loop(fresh(), corpus, recipe(learning_rate=1e30), tmp_path)
    model = fresh()
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight.fill_(torch.inf)
    with pytest.raises(NumericsError, match="not finite at step 0"):
        pretrain_loop(model, corpus, recipe(), tmp_path / "other")


# --- the parts -----------------------------------------------------------------------------------------------------


def test_learning_rate_schedule() -> None:
    settings = PretrainSettings(steps=1000, warmup_steps=100, decay_share=0.25, learning_rate=2.0)
    rates = np.array([learning_rate(step, settings) for step in range(1000)])
    assert rates[0] == pytest.approx(0.02)
    assert (np.diff(rates[:100]) > 0).all()
    assert rates[99:750] == pytest.approx(2.0)
    assert (np.diff(rates[750:]) < 0).all()
    assert rates[875] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 / 250)
    assert learning_rate(1000, settings) == 0


def test_epoch_holds_what_the_teacher_knows_and_a_share_of_the_rest(corpus: PretrainingData) -> None:
    settings = recipe(rest_share=0.3)
    epochs = [np.concatenate(list(epoch_batches(corpus, settings, epoch))) for epoch in range(3)]
    for rows in epochs:
        assert len(set(rows.tolist())) == len(rows)
        assert set(range(70)) <= set(rows.tolist())
        assert len(rows) == 70 + int(70 * 0.3 / 0.7)
    assert len({frozenset(rows.tolist()) for rows in epochs}) == 3
    again = np.concatenate(list(epoch_batches(corpus, settings, 1)))
    np.testing.assert_array_equal(again, epochs[1])
    everything = np.concatenate(list(epoch_batches(corpus, recipe(weights={"mlm": 1.0}), 0)))
    assert sorted(everything.tolist()) == list(range(120))


def test_batch_never_masks_special_tokens(corpus: PretrainingData) -> None:
    rows = np.arange(120)
    settings = recipe(masked_share=0.5)
    batch = make_batch(corpus, rows, settings, VOCABULARY, [0, 5])
    original = torch.from_numpy(corpus.tokens.padded(rows, 2))
    chosen = batch["labels"] != IGNORED
    special = torch.isin(original, torch.tensor([0, 1, 2]))
    assert chosen.any()
    assert not (chosen & special).any()
    assert torch.equal(batch["input_ids"][special], original[special])
    assert torch.equal(batch["attention_mask"].bool(), original != 2)
    assert not chosen[batch["intact"]].any()
    assert 30 < int((~batch["intact"]).sum()) < 90
    drawn = batch["input_ids"][chosen]
    assert not torch.isin(drawn, torch.tensor([0, 1, 2])).any()
    assert int(drawn.max()) < CONFIG.vocab_size - 1
    again = make_batch(corpus, rows, settings, VOCABULARY, [0, 5])
    other = make_batch(corpus, rows, settings, VOCABULARY, [0, 6])
    assert torch.equal(again["input_ids"], batch["input_ids"])
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert batch["targets"]["teacher"].isnan().any(dim=1).sum() == 50


def test_without_mlm_nothing_is_masked(corpus: PretrainingData) -> None:
    batch = make_batch(corpus, np.arange(10), recipe(weights={"mtr": 1.0}), VOCABULARY, [0, 0])
    assert batch["intact"].all()
    assert (batch["labels"] == IGNORED).all()


def test_resuming_is_announced(
    corpus: PretrainingData, through: tuple[Path, PretrainingModel, Progress], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "moltune"):
        pretrain_loop(fresh(), corpus, recipe(), through[0])
    assert f"going on at step {STEPS}" in caplog.text


def test_a_further_regression_is_only_a_name(corpus: PretrainingData, tmp_path: Path) -> None:
    """Any standardised target can be learnt beside descriptors and teacher."""
    values = np.random.default_rng(1).standard_normal((120, 2)).astype(np.float32)
    values[5] = np.nan
    data = PretrainingData(corpus.tokens, {**corpus.targets, "ionisation": values})
    settings = recipe(steps=3, weights={"mlm": 0.2, "ionisation": 1.0})
    model = PretrainingModel.fresh(CONFIG, data.sizes, settings.weights, VOCABULARY)
    before = model.heads["ionisation"].out_proj.weight.clone()  # type: ignore[union-attr]
    assert pretrain_loop(model, data, settings, tmp_path).losses.keys() == {"mlm", "ionisation"}
    assert not torch.equal(before, model.heads["ionisation"].out_proj.weight)  # type: ignore[union-attr]
