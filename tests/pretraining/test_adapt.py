"""Adaptation without labels: what it learns from, what it leaves, and that a kill does not change it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import RunSettings, assert_same_run, metrics_of
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

import moltune
from moltune.config import AdaptSettings, ModelSettings, PretrainSettings, make_config
from moltune.errors import ConfigError, RunFolderError
from moltune.features.physchem import DescriptorScaler, physchem
from moltune.models.checkpoints import load_encoder, load_tokenizer
from moltune.models.molformer.tokenization import build_tokenizer, published_vocabulary
from moltune.pretraining import continue_pretraining as module
from moltune.pretraining import loop as pretraining
from moltune.pretraining.adapt import adapt, choose_molecules, load_adapted
from moltune.pretraining.continue_pretraining import adapt_encoder
from moltune.run import Run
from moltune.tuning.finetune import finetune

FAST = {"epochs": 2, "learning_rate": 3e-3, "tokens_per_batch": 600}


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def values(tiny_model: Path, small_csv: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(tiny_model)},
        "data": {"source": str(small_csv)},
        "adapt": {"objective": "both", **FAST},
        "threads": 1,
    }


def with_(values: dict[str, Any], output: Path, **adapt_settings: Any) -> dict[str, Any]:
    return {**values, "adapt": {**values["adapt"], **adapt_settings}, "output": str(output)}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights_of(first), weights_of(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def both(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapt(with_(values, tmp_path_factory.mktemp("adapted") / "both")).path


def test_folder_is_a_checkpoint_with_its_descriptors_card_and_log(both: Path, tiny_model: Path) -> None:
    names = {path.name for path in both.iterdir()}
    assert names == {
        *("adapt.yaml", "adaptation.json", "README.md", "log.jsonl", "descriptors.json"),
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    encoder, start = load_encoder(both).state_dict(), load_encoder(tiny_model).state_dict()
    assert encoder.keys() == start.keys()
    moved = [name for name in start if not torch.equal(encoder[name], start[name])]
    assert len(moved) > len(start) / 2
    AutoModelForMaskedLM.from_pretrained(both)
    scaler = DescriptorScaler.from_dict(json.loads((both / "descriptors.json").read_text()))
    chosen = choose_molecules(moltune.config.make_settings(moltune.config.AdaptConfig, _settings_of(both)))
    expected = DescriptorScaler.fit(physchem(chosen.smiles))
    assert scaler.names == expected.names
    np.testing.assert_array_equal(scaler.mean, expected.mean)
    np.testing.assert_array_equal(scaler.sd, expected.sd)
    card = (both / "README.md").read_text()
    assert "training part" in card
    assert "transductive" not in card.lower()
    log = [json.loads(line) for line in (both / "log.jsonl").read_text().splitlines()]
    result = load_adapted(both).result
    assert [line["step"] for line in log] == list(range(1, result.steps + 1))
    assert log[-1]["losses"].keys() == {"mlm", "mtr"}


def _settings_of(folder: Path) -> dict[str, Any]:
    settings = moltune.overrides.read_yaml(folder / "adapt.yaml")
    settings.pop("provenance")
    return settings


def test_learns(values: dict[str, Any], tmp_path: Path) -> None:
    # The ridge start leaves the descriptors less to gain.
    for objective, most in (("mlm", 0.9), ("mtr", 0.97)):
        settings = with_(values, tmp_path / objective, objective=objective, epochs=12, learning_rate=1e-2)
        result = adapt(settings).result
        assert result.after[objective] < most * result.before[objective], objective
        assert result.molecules == 84


def test_only_the_training_part_of_the_very_split_of_fine_tuning(
    values: dict[str, Any],
    settings: RunSettings,
    both: Path,
    finished: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen: list[list[str]] = []

    def spy(smiles: list[str], **_: Any) -> None:
        seen.append(list(smiles))
        raise Stopped

    monkeypatch.setattr("moltune.pretraining.adapt.adapt_encoder", spy)
    for number, changes in enumerate(({}, {"transductive": True})):
        with pytest.raises(Stopped):
            adapt(with_(values, tmp_path / str(number), **changes))
    splits = finished.splits
    assert sorted(seen[0]) == sorted(splits.loc[splits["split"] == "train", "smiles"])
    assert sorted(seen[1]) == sorted(splits["smiles"])
    # The same within a run.
    for number, changes in enumerate(({}, {"adapt.transductive": True})):
        config = settings(output=tmp_path / f"run{number}", **{"adapt.objective": "mtr", **changes})
        with pytest.raises(Stopped):
            finetune(make_config(config))
    assert seen[2:] == [seen[2], seen[3]]
    assert sorted(seen[2]) == sorted(seen[0])
    assert sorted(seen[3]) == sorted(seen[1])


def test_transductive_is_said_everywhere(
    values: dict[str, Any], settings: RunSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "moltune"):
        adapted = adapt(with_(values, tmp_path / "t", epochs=1, transductive=True, objective="mtr"))
    assert "transductive adaptation" in caplog.text
    assert adapted.result.molecules == 120
    assert "transductive" in adapted.part
    assert "**Transductive adaptation" in (adapted.path / "README.md").read_text()
    assert "transductive: true" in (adapted.path / "adapt.yaml").read_text()
    changes = {"adapt.objective": "mtr", "adapt.epochs": 1, "adapt.transductive": True, "training.epochs": 1}
    run = finetune(make_config(settings(output=tmp_path / "run", **changes)))
    assert "Transductive" in (run.path / "report.html").read_text()
    assert "transductive" in run.metrics["adaptation"]["part"]


def test_labels_do_not_matter_but_for_the_split(
    values: dict[str, Any], small_table: pd.DataFrame, tmp_path: Path
) -> None:
    folders = []
    for number, factor in enumerate((1.0, 7.0)):
        table = small_table.assign(hydration_free_energy=small_table["hydration_free_energy"] * factor + number)
        table.to_csv(tmp_path / f"{number}.csv", index=False)
        source = {"source": str(tmp_path / f"{number}.csv")}
        folders.append(adapt(with_({**values, "data": source}, tmp_path / str(number), epochs=1)).path)
    assert same(*folders)


def test_table_without_target_is_used_whole_with_a_warning(
    values: dict[str, Any], small_table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_table[["smiles"]].to_csv(tmp_path / "bare.csv", index=False)
    bare = {**values, "data": {"source": str(tmp_path / "bare.csv")}}
    with caplog.at_level(logging.WARNING, "moltune"):
        adapted = adapt(with_(bare, tmp_path / "out", epochs=1, objective="mlm"))
    assert adapted.result.molecules == 120
    assert "have no target" in caplog.text
    assert "have no target" in (adapted.path / "README.md").read_text()
    # With a split asked for, only its training part counts.
    part = {**bare, "split": {"method": "random"}}
    assert adapt(with_(part, tmp_path / "part", epochs=1, objective="mlm")).result.molecules == 84


@pytest.mark.parametrize("step", [0, 2, 4])
def test_resumed_equals_uninterrupted(
    step: int, values: dict[str, Any], both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pretraining._step

    def stop(*args: Any) -> dict[str, float]:
        if args[-1] == step:
            raise Stopped
        return original(*args)

    monkeypatch.setattr(module, "PretrainSettings", _saving_always)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_step", stop)
        with pytest.raises(Stopped):
            adapt(with_(values, tmp_path / "out"))
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(RunFolderError, match="unfinished adaptation"):
        adapt(with_(values, tmp_path / "out"))
    adapted = adapt(with_(values, tmp_path / "out"), resume=True)
    assert same(adapted.path, both)
    first, second = (json.loads((f / "adaptation.json").read_text())["adaptation"] for f in (adapted.path, both))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert not (adapted.path / "work").exists()


def _saving_always(**values: Any) -> PretrainSettings:
    return PretrainSettings(**{**values, "save_every": 1e-9})


def test_folders_are_not_mixed_up(values: dict[str, Any], both: Path, tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(RunFolderError, match="finished adaptation"):
        adapt(with_(values, both))
    before = (both / "model.safetensors").read_bytes()
    assert adapt(with_(values, both), resume=True).path == both
    assert (both / "model.safetensors").read_bytes() == before
    with pytest.raises(RunFolderError, match=r"adapt.epochs was 2, now 3"):
        adapt(with_(values, both, epochs=3), resume=True)
    with pytest.raises(RunFolderError, match="no adaptation"):
        adapt(with_(values, tiny_model), overwrite=True)
    with pytest.raises(ConfigError, match="needs an objective"):
        adapt(with_(values, tmp_path / "none", objective="none"))
    with pytest.raises(RunFolderError, match="no finished adaptation"):
        load_adapted(tiny_model)


def test_finetune_takes_the_folder_and_a_run_does_both_at_once(
    values: dict[str, Any], settings: RunSettings, both: Path, tmp_path: Path
) -> None:
    changes = {f"adapt.{name}": value for name, value in values["adapt"].items()} | {"training.epochs": 2}
    run = finetune(make_config(settings(output=tmp_path / "once", **changes)))
    assert same(run.path / "adapted", both)
    assert run.metrics["adaptation"]["objective"] == "both"
    apart = finetune(
        make_config(settings(output=tmp_path / "apart", **{"model.name": str(both), "training.epochs": 2}))
    )
    pd.testing.assert_frame_equal(run.predictions, apart.predictions)
    plain = finetune(make_config(settings(output=tmp_path / "plain", **{"training.epochs": 2})))
    assert not run.predictions["predicted"].equals(plain.predictions["predicted"])
    assert "adaptation" not in plain.metrics


def test_run_killed_while_adapting_goes_on(
    settings: RunSettings, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {f"adapt.{name}": value for name, value in values["adapt"].items()} | {"training.epochs": 1}
    whole = finetune(make_config(settings(output=tmp_path / "whole", **changes)))
    original = pretraining._step

    def stop(*args: Any) -> dict[str, float]:
        if args[-1] == 3:
            raise Stopped
        return original(*args)

    config = make_config(settings(output=tmp_path / "killed", **changes))
    monkeypatch.setattr(module, "PretrainSettings", _saving_always)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_step", stop)
        with pytest.raises(Stopped):
            finetune(config)
    assert (tmp_path / "killed" / "checkpoints" / "adapted" / "state.pt").is_file()
    resumed = finetune(config, resume=True)
    for path in (whole.path, resumed.path):
        assert not (path / "checkpoints").exists()
    one, two = metrics_of(whole.path), metrics_of(resumed.path)
    assert one == two
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions, check_exact=True)


def test_random_weights(settings: RunSettings, tiny_model: Path, tmp_path: Path) -> None:
    runs = [
        finetune(make_config(settings(output=tmp_path / str(n), **{"training.epochs": 1, "seed": seed, **weights})))
        for n, (seed, weights) in enumerate(
            [(0, {"model.weights": "random"}), (0, {"model.weights": "random"}), (0, {})]
        )
    ]
    assert_same_run(runs[0].path, runs[1].path)
    assert not runs[0].predictions["predicted"].equals(runs[2].predictions["predicted"])
    network = moltune.models.checkpoints.random_encoder(tiny_model)
    assert network.config.hidden_size == load_encoder(tiny_model).config.hidden_size


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder of another architecture, with its masked-token head."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("roberta")
    vocabulary = published_vocabulary()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=len(vocabulary), max_position_embeddings=150, pad_token_id=2, **sizes)
    RobertaForMaskedLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(vocabulary),
        **{f"{n}_token": f"<{n}>" for n in ("bos", "eos", "pad", "mask", "unk")},
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("objective", ["mlm", "mtr", "both"])
def test_other_architectures(objective: str, roberta: Path, values: dict[str, Any], tmp_path: Path) -> None:
    settings = with_({**values, "model": {"name": str(roberta)}}, tmp_path / "out", objective=objective)
    adapted = adapt(settings)
    assert adapted.result.after.keys() == set(module.objective_weights(AdaptSettings(objective=objective)))
    start, end = load_encoder(roberta).state_dict(), load_encoder(adapted.path).state_dict()
    assert start.keys() == end.keys()
    assert not torch.equal(start["embeddings.word_embeddings.weight"], end["embeddings.word_embeddings.weight"])
    # The head is kept, and learns where it is asked to.
    before, after = (AutoModelForMaskedLM.from_pretrained(f).lm_head.dense.weight for f in (roberta, adapted.path))
    assert torch.equal(before, after) == (objective == "mtr")


def test_encoder_without_mask_token_or_head(tiny_model: Path, roberta: Path, tmp_path: Path, finished: Run) -> None:
    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O"] * 3
    options: dict[str, Any] = {"seed": 0, "work": tmp_path / "w"}
    # A tuned run is a checkpoint to go on from; it has no head for masked tokens.
    (tmp_path / "run").mkdir()
    result = adapt_encoder(
        smiles,
        model=ModelSettings(name=str(finished.path)),
        adapt=AdaptSettings(objective="both", epochs=1),
        output=tmp_path / "run",
        **options,
    )
    assert result.molecules == 12
    load_encoder(tmp_path / "run")
    tokenizer = load_tokenizer(roberta)
    tokenizer.mask_token = None
    copy = tmp_path / "maskless"
    AutoModelForMaskedLM.from_pretrained(roberta).save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    if load_tokenizer(copy).mask_token_id is None:
        (tmp_path / "no").mkdir()
        with pytest.raises(ConfigError, match="no mask token"):
            adapt_encoder(
                smiles,
                model=ModelSettings(name=str(copy)),
                adapt=AdaptSettings(objective="mlm"),
                output=tmp_path / "no",
                **{**options, "work": tmp_path / "w2"},
            )


def test_descriptor_head_starts_where_ridge_ends(tiny_model: Path, small_table: pd.DataFrame, tmp_path: Path) -> None:
    """The first loss is that of a fitted head: well below the variance, which a random head does not reach."""
    (tmp_path / "o").mkdir()
    result = adapt_encoder(
        small_table["smiles"].tolist(),
        model=ModelSettings(name=str(tiny_model)),
        adapt=AdaptSettings(objective="mtr", epochs=1),
        seed=0,
        work=tmp_path / "w",
        output=tmp_path / "o",
    )
    assert result.before["mtr"] < 0.8


def test_unreadable_molecules_are_counted(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "o").mkdir()
    with caplog.at_level(logging.WARNING, "moltune"):
        result = adapt_encoder(
            ["CCO", "CCN", "c1ccccc1C", "C" * 500],
            model=ModelSettings(name=str(tiny_model)),
            adapt=AdaptSettings(objective="mtr", epochs=1),
            seed=0,
            work=tmp_path / "w",
            output=tmp_path / "o",
        )
    assert (result.molecules, result.left_out) == (3, 1)
    assert "1 molecules take no part" in caplog.text
