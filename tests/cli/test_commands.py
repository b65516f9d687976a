"""Each command: what it prints where, what it writes, and its exit code."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from tests.tiny import RunSettings, assert_same_run, said_of

from moltune import __version__
from moltune.config import FinetuneConfig
from moltune.data.reading.read import read_table
from moltune.errors import NumericsError
from moltune.models.molformer import MolformerConfig
from moltune.models.regression import RegressionConfig, RegressionModel
from moltune.run import Run
from moltune.tuning import finetune as finetune_module

Invoke = Callable[..., Result]


def fails(result: Result, code: int, *words: str) -> None:
    """The command ended with one line on standard error that holds ``words``, without a traceback."""
    assert result.exit_code == code, result.output
    last = [line for line in result.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("error: "), result.stderr
    for word in words:
        assert word in last
    assert "Traceback" not in result.output


# --- the program -------------------------------------------------------------------------------------------------


def test_version_and_help(moltune: Invoke) -> None:
    assert moltune("--version").stdout == f"moltune {__version__}\n"
    assert moltune().exit_code == 2
    for command in (
        ["finetune"],
        ["evaluate"],
        ["predict"],
        ["params"],
        ["demo"],
        ["data", "clean"],
        ["data", "split"],
    ):
        assert "Usage: moltune" in moltune(*command, "-h").stdout
    assert moltune("nope").exit_code == 2


def test_the_table_fits_a_terminal_of_80_columns(
    moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path
) -> None:
    """Nothing is cut off with the default baselines, and a probe's whole name stands where there are several."""
    one, two = "[mean, xgboost, svr:embedding+rdkit]", "[svr:rdkit, ridge:embedding, svr:embedding+rdkit+ionisation]"
    texts = []
    for baselines in (one, two):
        changes = ["--set", f"evaluation.baselines={baselines}", "--set", "training.epochs=1"]
        result = moltune("finetune", small_csv, *quick, *changes, "-o", tmp_path / baselines[1:4])
        assert result.exit_code == 0, result.output
        texts.append(result.stdout)
    assert "probe, svr " in texts[0]
    assert "…" not in texts[0] + texts[1]
    assert "svr: rdkit" in texts[1]
    assert "ridge: embedding" in texts[1]


def test_bug_is_not_hidden(moltune: Invoke, monkeypatch: pytest.MonkeyPatch, small_csv: Path, quick: list[str]) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(finetune_module, "prepare", broken)
    with pytest.raises(ZeroDivisionError):
        moltune("finetune", small_csv, *quick)


def test_full_disk(
    moltune: Invoke, monkeypatch: pytest.MonkeyPatch, small_csv: Path, quick: list[str], tmp_path: Path
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "file"))

    monkeypatch.setattr(finetune_module, "judge", full)
    fails(moltune("finetune", small_csv, *quick, "-o", tmp_path / "run"), 1, "No space left on device")


def test_interrupt(
    moltune: Invoke, monkeypatch: pytest.MonkeyPatch, small_csv: Path, quick: list[str], tmp_path: Path
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune_module, "judge", interrupt)
        result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run")
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", "--resume").exit_code == 0


@pytest.mark.slow
def test_real_process_prints_json_alone(finished: Run) -> None:
    """No library writes to standard output behind our back, no terminal is needed, and no import is in vain."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "moltune", "predict", str(finished.path), "-", "--json"],
        input="CCO\nxx\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line["smiles"] for line in json.loads(done.stdout)] == ["CCO", "xx"]
    assert "Traceback" not in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    needless = {"peft", "sklearn", "scipy.stats", "xgboost", "matplotlib", "datasets", "transformers.trainer", "optuna"}
    assert "torch" in imported
    assert not imported & needless


def test_a_switch_that_is_not_given_leaves_the_settings_file_alone(
    moltune: Invoke, monkeypatch: pytest.MonkeyPatch, small_csv: Path, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("adapt: {transductive: true}\ndata: {clean: {neutralize: true}}\ntraining: {epochs: 7}\n")
    seen: list[FinetuneConfig] = []
    monkeypatch.setattr("moltune.tuning.check.check_request", lambda config, **_: seen.append(config))
    monkeypatch.setattr(finetune_module, "finetune", lambda *_, **__: sys.exit(0))
    assert moltune("finetune", small_csv, "--config", path, "-o", tmp_path / "run").exit_code == 0
    (config,) = seen
    assert config.adapt.transductive
    assert config.data.clean.neutralize
    assert config.training.epochs == 7


# --- finetune ----------------------------------------------------------------------------------------------------


def test_finetune_prints_metrics_and_places(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    run = Run.load(tmp_path / "run")
    assert f"{run.metrics['test']['rmse']['value']:.2f}" in result.stdout
    assert str(run.path / "report.html") in result.stdout
    assert str(run.path / "figures") not in result.stdout
    epochs = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 2
    for number, (line, row) in enumerate(zip(epochs, run.history.itertuples(), strict=True), start=1):
        assert line == f"epoch {number}  train {row.train_loss:.4f}  validation {row.validation_loss:.4f}"
    assert "0/?" not in result.stderr
    assert "120 rows, 120 kept" in result.stderr


def test_finetune_json_and_quiet(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", "--json", "--quiet")
    assert json.loads(result.stdout) == Run.load(tmp_path / "run").metrics
    assert result.stderr == ""
    again = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", "--json", "--resume")
    assert json.loads(again.stdout) == json.loads(result.stdout)
    assert "epoch" not in again.stderr


def test_one_line_per_epoch_without_validation(
    moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path
) -> None:
    result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", "--ratios", "80/0/20")
    assert re.findall(r"^epoch \d+  train \d\.\d{4}$", result.stderr, re.MULTILINE) == [
        line for line in result.stderr.splitlines() if line.startswith("epoch")
    ]
    assert result.stderr.count("epoch ") == 2


def test_file_then_options_then_set(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    options = ["--lr", "2e-3", "--head", "cls", "--seed", 3, "--set", "training.learning_rate=3e-3"]
    result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", *options)
    assert result.exit_code == 0, result.stderr
    config = Run.load(tmp_path / "run").config
    assert config.training.epochs == 2
    assert config.training.learning_rate == 3e-3
    assert (config.model.head, config.seed, config.split_seed) == ("cls", 3, 3)
    assert config.training.batch_size == 32


def test_config_of_a_finished_run_repeats_it(moltune: Invoke, finished: Run, tmp_path: Path) -> None:
    result = moltune("finetune", "--config", finished.path / "config.yaml", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert_same_run(finished.path, tmp_path / "run")
    fails(moltune("finetune", "--config", finished.path / "config.yaml"), 2, "holds a finished run", "--overwrite")


def test_overwrite_and_resume(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    command = ["finetune", small_csv, *quick, "-o", tmp_path / "run"]
    assert moltune(*command).exit_code == 0
    fails(moltune(*command), 2, "--resume or --overwrite")
    fails(moltune(*command, "--resume", "--epochs", 3), 2, "training.epochs was 2, now 3")
    fails(moltune(*command, "--resume", "--overwrite"), 2, "one of the two")
    assert moltune(*command, "--overwrite", "--epochs", 1).exit_code == 0
    assert len(Run.load(tmp_path / "run").history) == 1


def test_names_with_blanks_and_letters_of_the_world(
    moltune: Invoke, small_table: pd.DataFrame, quick: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "meine Moleküle 分子.csv"
    small_table.rename(columns={"hydration_free_energy": "ΔG in kcal/mol"}).to_csv(data, index=False)
    run = tmp_path / "läuf mit Leerzeichen"
    assert moltune("finetune", data, *quick, "--target", "ΔG in kcal/mol", "-o", run).exit_code == 0
    result = moltune("predict", run, data, "-o", tmp_path / "vorhersäge.csv")
    assert result.exit_code == 0, result.stderr
    assert len(pd.read_csv(tmp_path / "vorhersäge.csv")) == 120


def test_failure_exits_with_one(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    result = moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", "--lr", "1e30")
    fails(result, 1, "learning_rate")
    assert NumericsError.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epochs=3"], ["epochs: there is no such setting"]),
        (["--set", "training.epoch=3"], ["training.epoch: there is no such setting"]),
        (["--set", "training.epochs=x"], ["training.epochs", "integer"]),
        (["--set", "training.epochs=0"], ["training.epochs", "greater than 0"]),
        (["--set", "training=3"], ["training: is a group of settings"]),
        (["--set", "training.epochs.more=3"], ["training.epochs.more: epochs is a value", "group"]),
        (["--set", "nothing"], ["key=value", "nothing"]),
        (["--set", "training.learning_rate=inf"], ["training.learning_rate", "finite"]),
        (["--set", "training.learning_rate=nan"], ["training.learning_rate", "finite"]),
        (["--set", "evaluation.baselines=mean"], ["takes a list, such as [mean]"]),
        (["--set", "evaluation.baselines=[nope]"], ["nope", "xgboost"]),
        (["--set", "training.optimizer=nope"], ["nope", "adamw_torch"]),
        (["--set", "training.optimizer=lion_8bit"], ["training.optimizer=lion_8bit", "bitsandbytes"]),
        (["--set", "training.schedule=nope"], ["nope", "cosine"]),
        (["--set", "training.schedule=warmup_stable_decay"], ["training.schedule=warmup_stable_decay"]),
        (["--set", "training.report_to=[nope]"], ["nope", "tensorboard"]),
        (["--ratios", "1/2"], ["split.ratios", "70/10/20"]),
        (["--ratios", "a/b/c"], ["split.ratios", "70/10/20"]),
        (["--ratios", "0/50/50"], ["split.ratios", "training first and above zero"]),
        (["--ratios", "70/-10/40"], ["split.ratios", "non-negative"]),
        (["--ratios", "nan/1/1"], ["split.ratios"]),
        (["--epochs", "0"], ["training.epochs", "greater than 0"]),
        (["--batch-size", "-3"], ["training.batch_size", "greater than 0"]),
        (["--lr", "-1"], ["training.learning_rate", "greater than 0"]),
        (["--set", "seed=-1"], ["seed", "greater than or equal to 0"]),
        (["--head", "nope"], ["model.head", "'mean', 'cls' or 'molformer'"]),
        (["--method", "nope"], ["no method 'nope'", "full"]),
        (["--model", "nope"], ["no model 'nope'"]),
        (["--model", ""], ["model.name"]),
        (["--split", "nope"], ["split.method", "scaffold"]),
        (["--split", "column"], ["needs split.column"]),
        (["--split", "column", "--set", "split.column=nope"], ["no split column 'nope'"]),
        (["--split", "index", "--set", "split.index_file=nope.json"], ["nope.json"]),
        (["--target", "nope"], ["no target column 'nope'", "hydration_free_energy"]),
        (["--target", "id"], ["'id'", "hydration_free_energy"]),
        (["--smiles", "nope"], ["no SMILES column 'nope'", "'smiles'"]),
        (["--config", "nope.yaml"], ["nope.yaml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option(
    moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    fails(moltune("finetune", small_csv, *quick, "-o", tmp_path / "run", *arguments), 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["was not found"]),
        ("", ["is empty"]),
        ("smiles,y\n", ["no data rows"]),
        ("smiles,y\nxx,1\nyy,2\n", ["None of the 2 rows"]),
        ("smiles,y\nCCO,high\nCC,low\n", ["none of 'y' holds numbers"]),
        ("smiles,y\nCCO,1\nCC,1\nC,1\n", ["same value"]),
        ("smiles,y\nCCO,1\nCC,2\n", ["2 molecules are too few for 3 parts"]),
        ("a,b\n1,2\n3,4\n", ["No SMILES column"]),
        ("smiles,a,b\nCCO,1,2\nCC,2,3\nC,4,5\n", ["'a'", "'b'"]),
    ],
)
def test_wrong_data(moltune: Invoke, quick: list[str], tmp_path: Path, content: str | None, words: list[str]) -> None:
    data = tmp_path / "data.csv"
    if content is not None:
        data.write_text(content)
    fails(moltune("finetune", data, *quick, "-o", tmp_path / "run"), 2, *words)
    assert not (tmp_path / "run").exists()


def test_wrong_places(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    fails(moltune("finetune", tmp_path, *quick, "-o", tmp_path / "run"), 2, "is a folder")
    (tmp_path / "file").touch()
    fails(moltune("finetune", small_csv, *quick, "-o", tmp_path / "file"), 2, "is a file")
    fails(moltune("finetune", small_csv, *quick, "-o", tmp_path / "file" / "run"), 2, "cannot make the run folder")
    (tmp_path / "list.yaml").write_text("- 1")
    fails(moltune("finetune", small_csv, "--config", tmp_path / "list.yaml"), 2, "mapping")
    (tmp_path / "broken.yaml").write_text("a: [1")
    fails(moltune("finetune", small_csv, "--config", tmp_path / "broken.yaml"), 2, "not valid YAML")
    fails(moltune("finetune"), 2, "data.source is missing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_places(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    fails(moltune("finetune", small_csv, *quick, "-o", closed / "run"), 2, "cannot make the run folder")
    fails(moltune("data", "clean", small_csv, "-o", closed / "clean.csv"), 2, "Cannot write")


# --- predict -----------------------------------------------------------------------------------------------------


PROPERTY = "hydration_free_energy"


def table_of(result: Result) -> pd.DataFrame:
    assert result.exit_code == 0, result.stderr
    return pd.read_csv(io.StringIO(result.stdout), keep_default_na=False, na_values={PROPERTY: [""]})


def test_predict_smiles(moltune: Invoke, finished: Run) -> None:
    table = table_of(moltune("predict", finished.path, "OCC", "xx", "c1ccccc1"))
    assert list(table.columns) == ["smiles", *said_of(PROPERTY)]
    assert table["smiles"].tolist() == ["OCC", "xx", "c1ccccc1"]
    assert table[PROPERTY].isna().tolist() == [False, True, False]
    assert "not a valid SMILES" in table.loc[1, "note"]


def test_predict_from_standard_input(moltune: Invoke, finished: Run) -> None:
    result = moltune("predict", finished.path, input="CCO ethanol\n\n  CC  \nxx\nCCO\n")
    table = table_of(result)
    assert table["smiles"].tolist() == ["CCO", "CC", "xx", "CCO"]
    assert table.loc[0, PROPERTY] == table.loc[3, PROPERTY]
    assert "3 of 4 molecules predicted" in result.stderr
    assert table_of(moltune("predict", finished.path, "-", input="SMILES\nCC\n"))["smiles"].tolist() == ["CC"]


@pytest.mark.parametrize("given", ["", "\n \n", "smiles\n"])
def test_predict_from_empty_standard_input(moltune: Invoke, finished: Run, given: str) -> None:
    fails(moltune("predict", finished.path, input=given), 2, "holds no SMILES")


def test_a_file_in_a_folder_is_no_model_that_is_missing(finished: Run, moltune: Invoke, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("smiles\nCCO\n")
    result = moltune("predict", tmp_path / "some.csv", "--model", finished.path)
    assert table_of(result)["smiles"].tolist() == ["CCO"]
    fails(moltune("predict", tmp_path / "other.csv", "--model", finished.path), 2, "there is no run or model")


def test_ten_thousand_rows_come_back_in_order(
    moltune: Invoke, finished: Run, small_table: pd.DataFrame, tmp_path: Path
) -> None:
    """Duplicates, invalid rows and over-long SMILES among them."""
    rng = np.random.default_rng(0)
    pool = [
        *small_table["smiles"].sort_values(key=lambda column: column.str.len()).iloc[:40],
        "xx",
        "",
        "C" * 210,
        "CX",
    ]
    smiles = [pool[position] for position in rng.integers(0, len(pool), 10_000)]
    pd.DataFrame({"name": np.arange(10_000), "smiles": smiles}).to_csv(tmp_path / "many.csv", index=False)
    result = moltune("predict", finished.path, tmp_path / "many.csv", "-o", tmp_path / "out.csv", "--batch-size", 512)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values={PROPERTY: [""]})
    assert table["name"].tolist() == list(range(10_000))
    assert table["smiles"].tolist() == smiles
    good = ~table["smiles"].isin(pool[40:])
    assert table[PROPERTY].notna().tolist() == good.tolist()
    assert (table.loc[~good, "note"] != "").all()
    assert (table.groupby("smiles")[PROPERTY].nunique(dropna=False) == 1).all()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz", ".xlsx"])
def test_predict_into_a_file(moltune: Invoke, finished: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    result = moltune("predict", finished.path, "CCO", "xx", "-o", path)
    assert result.exit_code == 0, result.stderr
    assert read_table(path).frame["smiles"].tolist() == ["CCO", "xx"]
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_predict_json(moltune: Invoke, finished: Run) -> None:
    lines = json.loads(moltune("predict", finished.path, "CCO", "xx", "--json").stdout)
    assert isinstance(lines[0][PROPERTY], float)
    assert lines[1][PROPERTY] is None
    assert [line["smiles"] for line in lines] == ["CCO", "xx"]


def test_predict_nothing_usable(moltune: Invoke, finished: Run) -> None:
    result = moltune("predict", finished.path, "xx", "yy")
    fails(result, 2, "not one molecule could be predicted")
    assert len(result.stdout.splitlines()) == 3


def test_predict_wrong_places(moltune: Invoke, finished: Run, small_csv: Path, tmp_path: Path) -> None:
    """The output is checked before a minute of work, and the input is never written over."""
    run = finished.path
    before = small_csv.read_bytes()
    fails(moltune("predict", run, small_csv, "-o", small_csv), 2, "would be written over")
    assert small_csv.read_bytes() == before
    fails(moltune("predict", run, small_csv, "-o", tmp_path / "no" / "p.csv"), 2, "there is no folder")
    fails(moltune("predict", run, small_csv, "-o", tmp_path / "p.docx"), 2, "Cannot tell the format")
    for name in ("nope.csv", "nope.xlsx", "nope.sdf"):
        fails(moltune("predict", run, name), 2, f"there is no file {name}")
    fails(moltune("predict", run, small_csv, "--smiles", "nope"), 2, "no SMILES column 'nope'")
    fails(moltune("predict", tmp_path, "CCO"), 2, "no checkpoint")
    fails(moltune("predict", tmp_path / "nowhere", "CCO"), 2, "nowhere")


def test_predict_with_a_model_that_is_not_ready(
    moltune: Invoke, finished: Run, tiny_model: Path, tmp_path: Path
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((finished.path / "config.yaml").read_bytes())
    fails(moltune("predict", unfinished, "CCO"), 2, "unfinished", "--resume")
    (unfinished / "metrics.json").write_text("{}")
    fails(moltune("predict", unfinished, "CCO"), 2, "no checkpoint")
    fails(moltune("predict", tiny_model, "CCO"), 2, "not a tuned regression model")
    (unfinished / "config.yaml").write_text("a: [")
    fails(moltune("predict", unfinished, "CCO"), 2, "not valid YAML")


# --- evaluate ----------------------------------------------------------------------------------------------------


def test_evaluate_repeats_the_run(moltune: Invoke, finished: Run, tmp_path: Path) -> None:
    test = finished.predictions.query("split == 'test'")
    test[["smiles", "true"]].to_csv(tmp_path / "test.csv", index=False)
    result = moltune("evaluate", finished.path, tmp_path / "test.csv", "--bootstrap", 0, "--json")
    metrics = json.loads(result.stdout)
    assert metrics["rows"] == {"in": 24, "evaluated": 24, "left_out": 0}
    for name in ("rmse", "mae", "r2", "spearman"):
        assert metrics[name]["value"] == pytest.approx(finished.metrics["test"][name]["value"], rel=1e-4)
        assert metrics[name]["lower"] is None
    shown = moltune("evaluate", finished.path, tmp_path / "test.csv", "--bootstrap", 20).stdout
    assert "24 of 24 rows evaluated" in shown
    assert f"{metrics['rmse']['value']:.2f} (" in shown
    assert "knows" not in shown


def test_evaluate_says_what_the_model_was_trained_on(moltune: Invoke, finished: Run, small_csv: Path) -> None:
    metrics = json.loads(moltune("evaluate", finished.path, small_csv, "--bootstrap", 0, "--json").stdout)
    parts = finished.splits["split"].value_counts()
    assert metrics["seen"] == {"train": parts["train"], "validation": parts["validation"]}
    assert metrics["unseen"]["rmse"]["value"] == pytest.approx(finished.metrics["test"]["rmse"]["value"], rel=1e-4)
    shown = moltune("evaluate", finished.path, small_csv, "--bootstrap", 0).stdout
    assert "The model knows 96 of these 120 molecules" in shown
    assert "The 24 that it does not know:" in shown


def test_digits_are_those_that_the_error_deserves(
    moltune: Invoke, finished: Run, small_csv: Path, tmp_path: Path
) -> None:
    """Full precision by an option, and in Parquet; the run's RMSE is between 1 and 10."""
    found = {}
    for name, more in (("a.csv", []), ("b.csv", ["--full-precision"]), ("c.parquet", [])):
        assert moltune("predict", finished.path, small_csv, "-o", tmp_path / name, "-q", *more).exit_code == 0
        read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
        found[name[0]] = read(tmp_path / name)[f"{PROPERTY}_predicted"].to_numpy()
    assert 1 <= finished.metrics["test"]["rmse"]["value"] < 10
    np.testing.assert_array_equal(found["a"], found["c"].round(1))
    np.testing.assert_allclose(found["b"], found["c"], rtol=1e-12)
    assert (found["b"] != found["a"]).any()


def test_evaluate_wrong_data(moltune: Invoke, finished: Run, small_csv: Path, tmp_path: Path) -> None:
    fails(moltune("evaluate", finished.path, small_csv, "--target", "nope"), 2, "no target column 'nope'")
    (tmp_path / "long.csv").write_text(f"smiles,y\n{'C' * 300},1\n{'C' * 301},2\n")
    fails(moltune("evaluate", finished.path, tmp_path / "long.csv"), 2, "can read none")
    assert moltune("evaluate", finished.path, small_csv, "--bootstrap", -1).exit_code == 2


def test_embed(moltune: Invoke, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text("CCO a\nxx b\n")
    result = moltune("embed", tiny_model, tmp_path / "in.smi", "-o", tmp_path / "out.npy")
    assert result.exit_code == 0, result.stderr
    assert "1 of 2 molecules embedded in 32 dimensions" in result.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 32)


# --- data --------------------------------------------------------------------------------------------------------


def test_data_clean(moltune: Invoke, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles,y\nOCC,1\nCCO,1.2\nxx,2\nCC,\n[Na+].CC(=O)[O-],5\n")
    command = ["data", "clean", tmp_path / "in.csv", "-o", tmp_path / "out.csv"]
    counts = json.loads(moltune(*command, "--largest-fragment", "--neutralize", "--json").stdout)
    assert (counts["rows"], counts["kept"], counts["rejected"]) == (5, 2, 3)
    assert pd.read_csv(tmp_path / "out.csv")["smiles"].tolist() == ["CCO", "CC(=O)O"]
    assert pd.read_csv(tmp_path / "rejects.csv")["row"].tolist() == [2, 3, 4]
    assert moltune(*command).exit_code == 0


def test_data_clean_writes_over_nothing_of_its_own(moltune: Invoke, small_csv: Path, tmp_path: Path) -> None:
    before = small_csv.read_bytes()
    fails(moltune("data", "clean", small_csv, "-o", small_csv), 2, "would be written over")
    fails(moltune("data", "clean", small_csv, "-o", tmp_path / "rejects.csv"), 2, "would be written over")
    fails(moltune("data", "clean", small_csv, "-o", tmp_path / "o.csv", "--rejects", small_csv), 2, "written over")
    fails(moltune("data", "clean", small_csv, "-o", tmp_path / "no" / "o.csv"), 2, "there is no folder")
    fails(moltune("data", "clean", small_csv, "-o", tmp_path / "o.csv", "--duplicates", "x"), 2, "'median'")
    assert small_csv.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_data_split_goes_into_finetune(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    options = ["--split", "scaffold", "--seed", 5, "--ratios", "60/20/20"]
    result = moltune("data", "split", small_csv, "-o", tmp_path / "split.csv", *options, "--json")
    sizes = json.loads(result.stdout)["sizes"]
    assert sum(sizes.values()) == 120
    given = ["--split", "index", "--set", f"split.index_file={tmp_path / 'split.csv'}"]
    assert moltune("finetune", small_csv, *quick, *given, "-o", tmp_path / "run").exit_code == 0
    run = Run.load(tmp_path / "run")
    assert run.splits["split"].value_counts().to_dict() == sizes
    assert run.splits["split"].tolist() == pd.read_csv(tmp_path / "split.csv")["split"].tolist()
    fails(moltune("data", "split", small_csv, "-o", small_csv), 2, "would be written over")
    assert "train" in moltune("data", "split", small_csv, "-o", tmp_path / "split.csv").stdout


def test_data_describe(moltune: Invoke, small_csv: Path) -> None:
    summary = json.loads(moltune("data", "describe", small_csv, "--json").stdout)
    assert summary["target"]["n"] == 120
    assert "120" in moltune("data", "describe", small_csv).stdout


# --- params ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "head"])
@pytest.mark.parametrize("head", ["mean", "molformer"])
def test_params_agree_with_a_real_model(moltune: Invoke, tiny_model: Path, method: str, head: str) -> None:
    count = json.loads(moltune("params", "--model", tiny_model, "--method", method, "--head", head, "--json").stdout)
    model = RegressionModel(RegressionConfig(encoder=MolformerConfig.from_pretrained(tiny_model), head=head))
    heads = sum(parameter.numel() for parameter in model.head.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (count["head"], count["total"]) == (heads, total)
    assert count["trainable"] == (total if method == "full" else heads)
    assert count["share"] == pytest.approx(count["trainable"] / total)


def test_params_of_the_published_size(moltune: Invoke) -> None:
    """44.4 million parameters without weights at hand (arXiv:2106.09553 says 46.8 million with the LM head)."""
    count = json.loads(moltune("params", "--config-only", "molformer-xl", "--json").stdout)
    assert count["adapter"] == 44_375_040
    assert "44,375,809" in moltune("params", "--config-only", "molformer-xl").stdout
    fails(moltune("params", "--config-only", "nope"), 2, "no size 'nope'", "molformer-xl")
    fails(moltune("params", "--config-only", "molformer-xl", "--method", "nope"), 2, "no method 'nope'")


# --- demo --------------------------------------------------------------------------------------------------------


def test_demo(moltune: Invoke, settings: RunSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the small run in place of the long one; a second call shows the run at once."""
    import moltune.cli.start as start
    from moltune.config import make_config

    monkeypatch.setattr(start, "make_config", lambda values: make_config(settings(output=values["output"])))
    for _ in range(2):
        result = moltune("demo", "-o", tmp_path / "run")
        assert result.exit_code == 0, result.stderr
        assert "CN1CCC[C@H]1c1cccnc1" in result.stdout
        assert re.search(r"logD +-?\d+\.\d\d", result.stdout)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["epochs"] == 4


def test_bounds_are_used_when_asked_for(moltune: Invoke, small_csv: Path, quick: list[str], tmp_path: Path) -> None:
    lines = small_csv.read_text().splitlines()
    table = tmp_path / "bounds.csv"
    table.write_text("\n".join([lines[0], *lines[1:60], "x,CCCCCCCCCCCCO,> 3"]) + "\n")
    for how, expected in (("use", 1), ("reject", None)):
        run = tmp_path / how
        moltune("finetune", table, *quick, "--bounds", how, "-o", run, "-q")
        assert (run / "bounds.csv").exists() == (how == "use")
        assert Run.load(run).provenance.get("bounds", {}).get("used") == expected
    refused = moltune("finetune", table, *quick, "--bounds", "maybe", "-o", tmp_path / "no")
    assert refused.exit_code == 2
    assert "data.bounds" in refused.stderr
