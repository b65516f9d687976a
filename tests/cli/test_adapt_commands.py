"""``moltune adapt`` and ``pretrain``, and the options of adaptation and blend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from click.testing import Result
from tests.tiny import said_of

Invoke = Callable[..., Result]


def test_adapt_then_finetune_and_predict(
    moltune: Invoke, quick: list[str], tiny_model: Path, small_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapted"
    command = ["adapt", tiny_model, small_csv, "-o", out, "--objective", "both", "--epochs", "1", "--set", "threads=1"]
    done = moltune(*command)
    assert done.exit_code == 0, done.output
    assert "training part" in done.output
    again = moltune(*command)
    assert again.exit_code == 2
    assert "finished adaptation" in again.output
    told = json.loads(moltune(*command, "--resume", "--json", "-q").stdout)
    assert told["objective"] == "both"
    assert told["molecules"] == 84
    run = tmp_path / "run"
    options = ["--set", "prediction.blend=[ridge]"]
    done = moltune("finetune", small_csv, *quick, "--model", out, *options, "-o", run)
    assert done.exit_code == 0, done.output
    assert "The blend is" in done.output
    done = moltune("predict", run, small_csv, "-o", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table.columns) == [
        *("id", "smiles", "hydration_free_energy"),
        *said_of("hydration_free_energy_predicted", "_model_alone"),
    ]
    assert moltune("predict", run, "CCO", "--no-blend").stdout.splitlines()[0].count(",") == 8
    judged = json.loads(moltune("evaluate", run, small_csv, "--bootstrap", "0", "--json").stdout)
    assert judged["model_alone"]["rmse"]["value"] > 0


def test_adapt_within_finetune(moltune: Invoke, quick: list[str], small_csv: Path, tmp_path: Path) -> None:
    options = ["--adapt", "mtr", "--transductive", "--set", "adapt.epochs=1", "-o", tmp_path / "run"]
    done = moltune("finetune", small_csv, *quick, *options)
    assert done.exit_code == 0, done.output
    assert "transductive" in done.output
    assert (tmp_path / "run" / "adapted" / "config.json").is_file()
    wrong = moltune("finetune", small_csv, *quick, "--adapt", "magic", "-o", tmp_path / "no")
    assert wrong.exit_code == 2
    assert "adapt.objective" in wrong.output


def test_pretrain(moltune: Invoke, tmp_path: Path) -> None:
    corpus = tmp_path / "own.smi"
    corpus.write_text("\n".join(f"{'C' * n}{end}" for n in range(3, 20) for end in ("O", "N", "Cl", "c1ccccc1")))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    values: list[Any] = [v for name, size in sizes.items() for v in ("--set", f"architecture.{name}={size}")]
    values += ["--set", "exclude_benchmarks=false", "--threads", "1", "--steps", "4", "-o", tmp_path / "out"]
    done = moltune("pretrain", corpus, *values, "--objectives", "mlm", "--json", "-q")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["step"] == 4
    assert list(told["losses"]) == ["mlm"]
    assert Path(told["checkpoint"], "model.safetensors").is_file()
    assert moltune("pretrain", corpus, *values, "--objectives", "mtr").exit_code == 2
    assert moltune("pretrain", tmp_path / "no.smi", "-o", tmp_path / "x").exit_code == 2
