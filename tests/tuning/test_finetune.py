"""A whole run: what is in its folder, where the numbers come from, and what may not influence them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, median_absolute_error, r2_score
from tests.tiny import RunSettings, assert_same_run, metrics_of, same_weights, weights_of
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from moltune.config import TrainingSettings, make_config
from moltune.errors import CheckpointError, ConfigError, DataError, NumericsError, RunFolderError
from moltune.models.batches import PadCollator, SmilesDataset
from moltune.models.checkpoints import load_regression, load_tokenizer
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.molformer.tokenization import build_tokenizer, published_vocabulary
from moltune.run import Run
from moltune.tuning.check import default_output
from moltune.tuning.finetune import _shown, finetune
from moltune.tuning.loop import planned_epochs, wants_bf16

FILES = {
    "config.yaml",
    "history.csv",
    "intervals.safetensors",
    "metrics.json",
    "predictions.csv",
    "rejects.csv",
    "report.html",
    "splits.csv",
    "figures/loss_curves.png",
    "figures/loss_curves.svg",
    "figures/residual_histogram.png",
    "figures/residual_histogram.svg",
    "figures/true_against_predicted.png",
    "figures/true_against_predicted.svg",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- the folder --------------------------------------------------------------------------------------------------


def test_folder_holds_what_is_documented_and_nothing_else(finished: Run) -> None:
    assert files_of(finished.path) == FILES
    report = (finished.path / "report.html").read_text()
    assert "hydration_free_energy" in report
    assert report.count("data:image/") >= 3


def test_the_training_part_need_not_be_predicted(settings: RunSettings, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"training.epochs": 1, "prediction.blend": ["ridge"]}
    whole = finetune(settings(tmp_path / "whole", **changes))
    part = finetune(settings(tmp_path / "part", **changes, **{"evaluation.training_part": False}))
    assert "train" in whole.metrics
    assert "train" not in part.metrics
    assert part.metrics["test"] == whole.metrics["test"]
    assert part.metrics["blend"]["test"] == whole.metrics["blend"]["test"]
    is_train = part.predictions["split"] == "train"
    assert part.predictions.loc[is_train, ["predicted", "predicted_blend"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(part.predictions[~is_train], whole.predictions[~is_train])


def test_metrics_layout(finished: Run) -> None:
    metrics = finished.metrics
    names = {"n", "mse", "rmse", "mae", "r2", "median_absolute_error", "spearman"}
    assert list(metrics) == [
        "test",
        "validation",
        "train",
        "baselines",
        "comparison",
        "trainable_parameters",
        "total_parameters",
        "best_epoch",
        "epochs",
        "seconds",
        "cost",
        "refit",
    ]
    for part in ("test", "validation", "train"):
        assert metrics[part].keys() == names == metrics["baselines"]["mean"][part].keys()
        for name in names - {"n"}:
            estimate = metrics[part][name]
            assert estimate.keys() == {"value", "lower", "upper"}
            assert estimate["lower"] <= estimate["upper"]
    assert metrics["comparison"]["mean"].keys() == {"difference", "verdict", "n", "confidence"}
    assert metrics["seconds"] > 0
    assert metrics["epochs"] == len(finished.history) == 4


def test_predictions_agree_with_metrics_recomputed_by_scikit_learn(finished: Run) -> None:
    table = finished.predictions
    assert list(table.columns) == ["smiles", "split", "true", "predicted", "predicted_mean"]
    for column, metrics in (("predicted", finished.metrics), ("predicted_mean", finished.metrics["baselines"]["mean"])):
        for part in ("train", "validation", "test"):
            rows = table[table["split"] == part]
            true, predicted = rows["true"], rows[column]
            expected = {
                "mse": mean_squared_error(true, predicted),
                "rmse": mean_squared_error(true, predicted) ** 0.5,
                "mae": mean_absolute_error(true, predicted),
                "r2": r2_score(true, predicted),
                "median_absolute_error": median_absolute_error(true, predicted),
            }
            assert metrics[part]["n"] == len(rows)
            for name, value in expected.items():
                assert metrics[part][name]["value"] == pytest.approx(value, rel=1e-9, abs=1e-9), (column, part, name)
            if column == "predicted":
                assert metrics[part]["spearman"]["value"] == pytest.approx(spearmanr(true, predicted).statistic)
    training_mean = table.loc[table["split"] == "train", "true"].mean()
    assert table["predicted_mean"].to_numpy() == pytest.approx(training_mean)


def test_rows_in_are_rows_kept_and_rejected(settings: RunSettings, small_table: pd.DataFrame, tmp_path: Path) -> None:
    table = small_table.copy()
    table["hydration_free_energy"] = table["hydration_free_energy"].astype(object)
    table.loc[3, "smiles"] = "C1CC"
    table.loc[5, "hydration_free_energy"] = "n/a"
    table.loc[7, "smiles"] = "C" * 300
    table.loc[len(table)] = ["again", table.loc[0, "smiles"], table.loc[0, "hydration_free_energy"]]
    path = tmp_path / "dirty.csv"
    table.to_csv(path, index=False)
    run = finetune(settings(output=tmp_path / "run", **{"data.source": str(path)}))
    splits, rejects, predictions = run.splits, pd.read_csv(run.path / "rejects.csv"), run.predictions
    assert list(splits.columns) == ["row", "smiles", "inchikey", "split"]
    assert list(rejects.columns) == ["row", "input", "value", "reason", "id"]
    assert sorted([*splits["row"], *rejects["row"]]) == list(range(1, len(table) + 1))
    assert run.provenance["rows"] == {"in": 121, "kept": 117, "rejected": 4}
    assert rejects["row"].tolist() == [4, 6, 8, 121]
    assert "302 tokens" in rejects.loc[2, "reason"]
    assert "row 1" in rejects.loc[3, "reason"]
    assert predictions["smiles"].tolist() == splits["smiles"].tolist()
    assert predictions["split"].tolist() == splits["split"].tolist()
    assert "4" in (run.path / "report.html").read_text()


def test_target_statistics_are_those_of_the_training_part(finished: Run) -> None:
    table = finished.predictions
    train = table.loc[table["split"] == "train", "true"].to_numpy()
    stored = json.loads((finished.model_path / "config.json").read_text())
    assert stored["target_mean"] == pytest.approx(train.mean(), rel=1e-12)
    assert stored["target_std"] == pytest.approx(train.std(), rel=1e-12)
    assert stored["target_mean"] != pytest.approx(table["true"].mean(), rel=1e-6)
    assert stored["target_name"] == "hydration_free_energy"


def test_saved_model_predicts_what_the_table_says(finished: Run) -> None:
    table = finished.predictions
    model, tokenizer = load_regression(finished.path), load_tokenizer(finished.path)
    predicted = predict_smiles(model, tokenizer, table["smiles"].tolist())
    np.testing.assert_allclose(predicted, table["predicted"], rtol=0, atol=1e-5)


def test_config_file_repeats_the_run(finished: Run, tmp_path: Path) -> None:
    values = yaml.safe_load((finished.path / "config.yaml").read_text())
    provenance = values.pop("provenance")
    assert provenance["data"]["sha256"]
    assert {"moltune", "torch", "transformers", "rdkit"} <= provenance["versions"].keys()
    repeated = finetune({**values, "output": str(tmp_path / "again")})
    assert_same_run(finished.path, repeated.path)


# --- the best epoch ----------------------------------------------------------------------------------------------


def validation_loss(run: Run) -> float:
    """Mean squared error of the saved model in units of the training variance."""
    table = run.predictions
    rows = table[table["split"] == "validation"]
    model, tokenizer = load_regression(run.path), load_tokenizer(run.path)
    data = SmilesDataset(tokenizer, rows["smiles"].tolist(), rows["true"].to_numpy())
    with torch.inference_mode():
        losses = [
            (float(model(**batch).loss), len(batch["labels"]))
            for batch in DataLoader(data, batch_size=8, collate_fn=PadCollator(tokenizer.pad_token_id))
        ]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def test_best_epoch_is_the_one_restored(settings: RunSettings, tmp_path: Path) -> None:
    """The learning rate is so high that the best epoch is not the last one, and patience ends the run."""
    changes = {"training.epochs": 30, "training.patience": 3, "training.learning_rate": 0.05}
    changes |= {"model.head_start": "random", "training.layer_decay": 1.0, "training.refit_head": "none"}
    run = finetune(settings(output=tmp_path / "run", **changes))
    history = run.history
    assert list(history.columns) == ["epoch", "train_loss", "validation_loss", "learning_rate"]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    best = int(history["validation_loss"].argmin()) + 1
    assert run.metrics["best_epoch"] == best
    assert run.metrics["epochs"] == best + 3 < 30
    loss = validation_loss(run)
    assert loss == pytest.approx(history["validation_loss"].min(), rel=1e-5)
    assert loss != pytest.approx(history["validation_loss"].iloc[-1], rel=1e-3)
    scaled = (
        run.metrics["validation"]["mse"]["value"]
        / json.loads((run.model_path / "config.json").read_text())["target_std"] ** 2
    )
    assert loss == pytest.approx(scaled, rel=1e-5)


@pytest.mark.parametrize(
    ("molecules", "batch", "epochs"), [(2940, 32, 2), (450, 32, 12), (100_000, 32, 2), (3, 32, 50)]
)
def test_epochs_that_are_not_given_come_from_the_steps_they_take(molecules: int, batch: int, epochs: int) -> None:
    settings = TrainingSettings(batch_size=batch)
    assert planned_epochs(settings, molecules) == epochs
    assert planned_epochs(settings.model_copy(update={"epochs": 7}), molecules) == 7


def test_freezing_for_all_of_the_planned_epochs_is_refused(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"training.epochs": None, "training.freeze_encoder_epochs": 5000}
    with pytest.raises(ConfigError, match="leaves the encoder none of"):
        finetune(make_config(settings(output=tmp_path / "run", **changes)))


def test_no_patience_trains_all_epochs(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"training.epochs": 9, "training.patience": None, "training.learning_rate": 0.05}
    changes |= {"model.head_start": "random", "training.refit_head": "none"}
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert run.metrics["epochs"] == 9
    assert run.metrics["best_epoch"] == int(run.history["validation_loss"].argmin()) + 1 < 9
    assert validation_loss(run) == pytest.approx(run.history["validation_loss"].min(), rel=1e-5)


def test_training_learns_something(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"training.epochs": 25, "training.learning_rate": 1e-2, "training.batch_size": 16}
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert run.metrics["train"]["r2"]["value"] > 0.5
    assert run.metrics["test"]["rmse"]["value"] < run.metrics["baselines"]["mean"]["test"]["rmse"]["value"]


# --- determinism -------------------------------------------------------------------------------------------------


def test_same_seed_twice_and_another_seed(settings: RunSettings, finished: Run, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    np.random.seed(12345)  # noqa: NPY002 - a state that must not matter
    again = finetune(settings(output=tmp_path / "again"))
    assert_same_run(finished.path, again.path)
    other = finetune(settings(output=tmp_path / "other", seed=1))
    assert other.splits["split"].tolist() != finished.splits["split"].tolist()
    head = finetune(settings(output=tmp_path / "head", seed=1, **{"split.seed": 0}))
    assert head.splits["split"].tolist() == finished.splits["split"].tolist()
    assert not same_weights(head, finished)
    assert not head.predictions["predicted"].equals(finished.predictions["predicted"])


def test_test_labels_do_not_influence_the_model(
    settings: RunSettings, finished: Run, small_table: pd.DataFrame, tmp_path: Path
) -> None:
    """Other labels on the test part (with the split held fixed): same weights, same history, other test metrics."""
    splits = finished.splits
    changed = small_table.copy()
    test_rows = splits.loc[splits["split"] == "test", "row"].to_numpy() - 1
    changed.loc[test_rows, "hydration_free_energy"] = -5 * changed.loc[test_rows, "hydration_free_energy"] + 3
    changed.to_csv(tmp_path / "changed.csv", index=False)
    changes = {
        "data.source": str(tmp_path / "changed.csv"),
        "split.method": "index",
        "split.index_file": str(finished.path / "splits.csv"),
        "evaluation.baselines": ["mean", "ridge"],
    }
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert run.splits["split"].tolist() == splits["split"].tolist()
    assert same_weights(run, finished)
    pd.testing.assert_frame_equal(run.history, finished.history)
    np.testing.assert_array_equal(run.predictions["predicted"], finished.predictions["predicted"])
    assert run.metrics["validation"] == finished.metrics["validation"]
    assert run.metrics["test"]["rmse"] != finished.metrics["test"]["rmse"]


def test_each_epoch_has_its_own_order(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, ...]] = []
    original = PadCollator.__call__

    def spy(self: PadCollator, items: Any) -> Any:
        batch = original(self, items)
        if "labels" in batch:
            seen.append(tuple(batch["labels"].tolist()))
        return batch

    monkeypatch.setattr(PadCollator, "__call__", spy)
    finetune(settings(output=tmp_path / "run", **{"split.ratios": "80/0/20", "training.epochs": 3}))
    epochs = [seen[start : start + 3] for start in range(0, 9, 3)]
    assert len(seen) == 9
    assert all(sorted(sum(epoch, ())) == sorted(sum(epochs[0], ())) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


# --- existing folders --------------------------------------------------------------------------------------------


def test_existing_folder_is_refused_and_overwritten_on_request(settings: RunSettings, tmp_path: Path) -> None:
    values = settings(output=tmp_path / "run", **{"training.epochs": 1})
    finetune(values)
    with pytest.raises(RunFolderError, match=r"holds a finished run.*--output.*--resume or --overwrite"):
        finetune(values)
    values["training"]["epochs"] = 2
    (tmp_path / "run" / "stray.txt").touch()
    assert finetune(values, overwrite=True).metrics["epochs"] == 2
    assert not (tmp_path / "run" / "stray.txt").exists()


def test_resume_with_other_settings_names_them(settings: RunSettings, finished: Run) -> None:
    values = settings(output=finished.path, **{"evaluation.figures": True, "training.epochs": 9, "model.head": "cls"})
    with pytest.raises(RunFolderError) as caught:
        finetune(values, resume=True)
    assert "training.epochs was 4, now 9" in str(caught.value)
    assert "model.head was mean, now cls" in str(caught.value)
    assert "training.batch_size" not in str(caught.value)


def test_resume_with_changed_data_is_refused(settings: RunSettings, small_table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    small_table.to_csv(path, index=False)
    values = settings(output=tmp_path / "run", **{"data.source": str(path), "training.epochs": 1})
    finetune(values)
    small_table.iloc[::-1].to_csv(path, index=False)
    with pytest.raises(RunFolderError, match="the data changed"):
        finetune(values, resume=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_something_else_in_it_is_never_touched(
    settings: RunSettings, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError):
        finetune(settings(output=tmp_path), overwrite=overwrite)
    with pytest.raises(RunFolderError, match="no run folder"):
        finetune(settings(output=tmp_path), resume=True)
    assert files_of(tmp_path) == {"thesis.tex"}


def test_output_that_is_a_file(settings: RunSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        finetune(settings(output=tmp_path / "file"))


def test_a_mistake_leaves_no_folder_behind(settings: RunSettings, tmp_path: Path) -> None:
    for changes, error in (
        ({"method.name": "nope"}, ConfigError),
        ({"evaluation.baselines": ["nope"]}, ConfigError),
        ({"model.name": str(tmp_path / "nowhere")}, CheckpointError),
        ({"data.source": str(tmp_path / "nowhere.csv")}, DataError),
        ({"data.target": "nope"}, DataError),
        ({"training.optimizer": "nope"}, ConfigError),
        ({"training.schedule": "nope"}, ConfigError),
        ({"training.report_to": ["nope"]}, ConfigError),
    ):
        with pytest.raises(error):
            finetune(settings(output=tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists(), changes


def test_what_cannot_begin_is_refused_before_torch_is_imported(
    settings: RunSettings, finished: Run, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    code = (
        "import json, sys\n"
        "from moltune.config import make_config\n"
        "from moltune.errors import MoltuneError\n"
        "from moltune.tuning.check import check_request\n"
        "for values in json.load(open(sys.argv[1])):\n"
        "    try:\n"
        "        check_request(make_config(values), resume=values['output'].endswith('resumed'))\n"
        "        print('fine')\n"
        "    except MoltuneError as error:\n"
        "        print(error)\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'xgboost') if name in sys.modules])\n"
    )
    (tmp_path / "resumed").symlink_to(finished.path)
    cases = [
        settings(output=tmp_path / "free"),
        settings(output=finished.path),
        settings(output=tmp_path / "resumed", **{"training.epochs": 9}),
        settings(output=tmp_path / "folder"),
        settings(output=tmp_path / "free", **{"data.source": "nowhere.csv"}),
        settings(output=tmp_path / "free", **{"data.add": "nowhere.csv"}),
        settings(output=tmp_path / "free", **{"model.name": "runs/nope"}),
        settings(output=tmp_path / "free", **{"split.method": "index", "split.index_file": "nowhere.json"}),
        settings(output=tmp_path / "free", **{"method.name": "nope"}),
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cases.json")], capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    words = ["fine", "holds a finished run", "epochs was 4, now 9", "is no run folder", "'nowhere.csv' was not found"]
    words += [
        "'nowhere.csv' was not found",
        "there is no model 'runs/nope'",
        "no file nowhere.json",
        "no method 'nope'",
    ]
    assert len(said) == len(words) + 1
    for expected, line in zip(words, said, strict=False):
        assert expected in line
    assert said[-1] == "[]"


def test_source_is_needed(settings: RunSettings) -> None:
    with pytest.raises(ConfigError, match=r"data\.source is missing"):
        finetune(settings(**{"data.source": None}))


# --- numbers that are not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ratios", ["70/10/20", "80/0/20"])
def test_absurd_learning_rate(settings: RunSettings, tmp_path: Path, ratios: str) -> None:
    changes = {"training.learning_rate": 1e30, "split.ratios": ratios, "training.warmup": 0.0}
    with pytest.raises(NumericsError, match="learning_rate"):
        finetune(settings(output=tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_absurd_learning_rate_in_the_only_step(settings: RunSettings, tmp_path: Path) -> None:
    """The training loss is finite; what the step did shows in the validation loss alone."""
    changes = {"training.learning_rate": 1e25, "training.warmup": 0.0, "training.batch_size": 100, "training.epochs": 1}
    with pytest.raises(NumericsError, match=r"validation loss is .*learning_rate"):
        finetune(settings(output=tmp_path / "run", **changes))


def test_weights_that_are_not_finite(settings: RunSettings, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.weight"].fill_(float("inf"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError):
        finetune(settings(output=tmp_path / "run", **{"model.name": str(folder)}))


# --- parts of every size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "parts"),
    [("80/0/20", {"test", "train"}), ("80/20/0", {"validation", "train"}), ("100/0/0", {"train"})],
)
def test_empty_parts(settings: RunSettings, tmp_path: Path, ratios: str, parts: set[str]) -> None:
    changes = {"split.ratios": ratios, "evaluation.figures": True, "evaluation.bootstrap": 0}
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert parts == run.metrics.keys() & {"train", "validation", "test"} == set(run.splits["split"])
    assert ("comparison" in run.metrics) == ("test" in parts)
    assert run.history["validation_loss"].notna().all() == ("validation" in parts)
    assert run.history["train_loss"].notna().all()
    assert run.predictions["predicted"].notna().all()
    assert run.metrics["train"]["rmse"]["lower"] is None
    if "validation" not in parts:
        assert run.metrics["best_epoch"] == run.metrics["epochs"] == 4


def test_smallest_table(settings: RunSettings, small_table: pd.DataFrame, tmp_path: Path) -> None:
    small_table.iloc[:4].to_csv(tmp_path / "four.csv", index=False)
    run = finetune(settings(output=tmp_path / "run", **{"data.source": str(tmp_path / "four.csv")}))
    assert run.metrics["test"]["n"] == 1
    assert run.metrics["test"]["r2"]["value"] is None


def test_constant_target(settings: RunSettings, small_table: pd.DataFrame, tmp_path: Path) -> None:
    small_table.assign(hydration_free_energy=1.5).to_csv(tmp_path / "constant.csv", index=False)
    with pytest.raises(DataError, match="same value"):
        finetune(settings(output=tmp_path / "run", **{"data.source": str(tmp_path / "constant.csv")}))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_unit_of_the_target_does_not_matter(
    settings: RunSettings, small_table: pd.DataFrame, finished: Run, tmp_path: Path, scale: float
) -> None:
    scaled = small_table.assign(hydration_free_energy=small_table["hydration_free_energy"] * scale)
    scaled.to_csv(tmp_path / "scaled.csv", index=False)
    run = finetune(settings(output=tmp_path / "run", **{"data.source": str(tmp_path / "scaled.csv")}))
    expected = finished.metrics["test"]["rmse"]["value"] * scale
    assert run.metrics["test"]["rmse"]["value"] == pytest.approx(expected, rel=1e-4)


# --- models, heads, methods, settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["cls", "molformer"])
def test_heads(settings: RunSettings, tmp_path: Path, head: str) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"model.head": head, "training.epochs": 2}))
    model = load_regression(run.path)
    assert model.config.head == head
    predicted = predict_smiles(model, load_tokenizer(run.path), run.predictions["smiles"].tolist())
    np.testing.assert_allclose(predicted, run.predictions["predicted"], atol=1e-5)


def test_head_only_leaves_the_encoder_as_it_was(settings: RunSettings, tiny_model: Path, tmp_path: Path) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"method.name": "head"}))
    before, after = load_file(tiny_model / "model.safetensors"), weights_of(run)
    assert all(torch.equal(tensor, after[f"encoder.{name}"]) for name, tensor in before.items())
    assert run.metrics["trainable_parameters"] == 33
    assert run.metrics["total_parameters"] > 33


@pytest.fixture(scope="module")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of another family, with learnt positions and a length limit, as ChemBERTa has."""
    folder = tmp_path_factory.mktemp("tiny-roberta")
    vocabulary = published_vocabulary()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(vocabulary),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    return folder


def test_another_encoder_goes_the_same_way(settings: RunSettings, tiny_roberta: Path, tmp_path: Path) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"model.name": str(tiny_roberta)}))
    model, tokenizer = load_regression(run.path), load_tokenizer(run.path)
    assert model.config.encoder.model_type == "roberta"
    predicted = predict_smiles(model, tokenizer, run.predictions["smiles"].tolist())
    np.testing.assert_allclose(predicted, run.predictions["predicted"], atol=1e-5)
    assert embed_smiles(model, tokenizer, ["CCO", "C"]).shape == (2, 32)
    rejects = pd.read_csv(run.path / "rejects.csv")
    assert len(rejects) == 120 - len(run.splits)


def test_tuned_model_can_be_tuned_again(settings: RunSettings, finished: Run, tmp_path: Path) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"model.name": str(finished.path), "training.epochs": 1}))
    assert run.history["train_loss"].iloc[0] < 1.5


def test_bf16(settings: RunSettings, tmp_path: Path) -> None:
    half, full = (
        finetune(settings(output=tmp_path / precision, **{"training.precision": precision}))
        for precision in ("bf16", "fp32")
    )
    assert (half.metrics["cost"]["precision"], full.metrics["cost"]["precision"]) == ("bf16", "fp32")
    assert {tensor.dtype for tensor in weights_of(half).values()} == {torch.float32}
    one, two = half.metrics["validation"]["rmse"]["value"], full.metrics["validation"]["rmse"]["value"]
    assert one == pytest.approx(two, rel=0.02)
    assert not same_weights(half, full)


def test_bf16_is_for_training_steps_alone(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"training.precision": "bf16", "training.refit_head": "none"}
    run = finetune(settings(output=tmp_path / "run", **changes))
    table = run.predictions
    model, tokenizer = load_regression(run.path), load_tokenizer(run.path)
    predicted = predict_smiles(model, tokenizer, table["smiles"].tolist())
    np.testing.assert_allclose(predicted, table["predicted"], rtol=0, atol=1e-5)
    assert run.history["validation_loss"].min() == pytest.approx(validation_loss(run), rel=1e-5)


@pytest.mark.parametrize(
    ("abilities", "bf16"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_auto_precision_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, abilities: dict[str, bool], bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert wants_bf16("auto", torch.device("cpu")) is bf16
    assert wants_bf16("bf16", torch.device("cpu"))
    assert not wants_bf16("fp32", torch.device("cpu"))


def test_tensorboard_logs_stay_in_the_folder(settings: RunSettings, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = finetune(settings(output=tmp_path / "run", **{"training.report_to": ["tensorboard"]}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert list((run.path / "logs").rglob("events.out.tfevents.*"))
    events = EventAccumulator(str(run.path / "logs"))
    events.Reload()
    assert "eval/loss" in events.Tags()["scalars"]
    assert [event.value for event in events.Scalars("eval/loss")] == pytest.approx(
        run.history["validation_loss"].tolist(), rel=1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"training.optimizer": "adafactor"},
        {"training.optimizer": "sgd", "training.schedule": "constant_with_warmup"},
        {"training.head_learning_rate": 0.1},
        {"training.weight_decay": 0.5},
        {"training.batch_size": 7},
        {"model.redraw": False},
        {"model.head_dropout": 0.5},
        {"training.bucket_by_length": False},
        {"training.max_grad_norm": 0.01},
        {"training.warmup": 0.9},
    ],
    ids=str,
)
def test_setting_has_an_effect(settings: RunSettings, finished: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert run.metrics["epochs"] == 4
    assert not same_weights(run, finished)


def test_xgboost_baseline_and_figures_off(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"evaluation.baselines": ["xgboost"], "training.epochs": 1}
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert list(run.metrics["comparison"]) == ["xgboost"]
    assert run.predictions["predicted_xgboost"].notna().all()
    assert not (run.path / "figures").exists()


def test_evaluation_batch_size_does_not_matter(settings: RunSettings, finished: Run, tmp_path: Path) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"training.eval_batch_size": 3}))
    assert same_weights(run, finished)
    np.testing.assert_allclose(run.predictions["predicted"], finished.predictions["predicted"], atol=1e-4)


# --- run.py's promises -----------------------------------------------------------------------------------------------


def test_report_is_called(settings: RunSettings, tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []
    finetune(settings(output=tmp_path / "run"), report=states.append)
    assert [state["step"] for state in states if "loss" not in state and "eval_loss" not in state][:12] == [
        *range(1, 13)
    ]
    assert {state["steps"] for state in states} == {12}
    assert [round(state["epoch"]) for state in states if state.get("epoch_ended")] == [1, 2, 3, 4]


def test_default_output() -> None:
    config = make_config({"data": {"source": "a folder/My data.v2.csv"}, "model": {"name": "x/Some Model"}, "seed": 3})
    assert default_output(config) == Path("runs/My-data-Some-Model-full-seed3")


def test_metrics_of_equal_runs_differ_in_seconds_only(finished: Run) -> None:
    assert "seconds" not in metrics_of(finished.path)
    assert "seconds" not in metrics_of(finished.path)["baselines"]["mean"]


def test_figures_show_what_the_run_predicts_with() -> None:
    parts = {name: (["C", "CC"], np.arange(2.0)) for name in ("train", "test")}
    alone, blended, crossed = ({name: np.full(2, value) for name in parts} for value in (1.0, 2.0, 3.0))
    columns = {"predicted": alone, "predicted_xgboost": crossed}
    assert _shown(parts, columns)[1].tolist() == [1.0, 1.0]
    true, predicted, title = _shown(parts, {**columns, "predicted_blend": blended})
    assert (true.tolist(), predicted.tolist(), title) == ([0.0, 1.0], [2.0, 2.0], "test part, 2 molecules")
    everything = {"train": parts["train"]}
    found = _shown(everything, {"predicted": alone, "predicted_out_of_fold": {"train": crossed["train"]}})
    assert (found[1].tolist(), found[2]) == ([3.0, 3.0], "cross-validation, 2 molecules")
