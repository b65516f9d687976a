"""What cannot work is refused at once: in a new process, before torch or transformers are imported."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from moltune.run import Run

CASES = {
    "taken output": (["finetune", "freesolv", "-o", "{run}"], "holds a finished run"),
    "unknown method": (["finetune", "freesolv", "--method", "nope", "-o", "x"], "there is no method 'nope'"),
    "setting out of range": (["finetune", "freesolv", "--epochs", "0", "-o", "x"], "training.epochs"),
    "option of another method": (["finetune", "freesolv", "--features", "rdkit", "-o", "x"], "belongs to --method"),
    "no such option": (["finetune", "freesolv", "--nope"], "No such option"),
    "no such file": (["finetune", "nope.csv", "-o", "x"], "'nope.csv' was not found"),
    "no such model": (["finetune", "freesolv", "--model", "runs/nope", "-o", "x"], "there is no model 'runs/nope'"),
    "no such run": (["predict", "runs/nope", "CCO"], "there is no run or model runs/nope"),
    "no such run to evaluate": (["evaluate", "./nope", "freesolv"], "there is no model"),
    "unfinished run": (["predict", "{unfinished}", "CCO"], "unfinished"),
    "search": (["tune", "nope.csv"], "'nope.csv' was not found"),
    "influence": (["influence", "runs/nope", "freesolv", "-o", "x"], "no run folder"),
    "influence of a file": (["influence", "{run}", "nope.csv", "-o", "x"], "'nope.csv' was not found"),
    "uncertainty": (["uncertainty", "runs/nope", "freesolv", "-o", "x"], "no run folder"),
    "selection": (["select", "nope.csv", "-n", "3", "-o", "x.csv"], "'nope.csv' was not found"),
    "audit": (["audit", "freesolv", "--against", "nope.csv"], "'nope.csv' was not found"),
    "merge": (["merge", "runs/nope", "-o", "x"], "there is no model"),
    "merge into a folder": (["merge", "{run}", "-o", "{run}"], "exists already"),
    "adaptation": (["adapt", "moltune/mini", "freesolv", "-o", "{run}"], "is no adaptation folder"),
    "pretraining": (["pretrain", "nope.smi", "-o", "x"], "there is no corpus"),
    "study": (["study", "run", "nope", "-o", "x"], "there is no recipe 'nope'"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_at_once(case: str, finished: Run, tmp_path: Path) -> None:
    arguments, words = CASES[case]
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_bytes((finished.path / "config.yaml").read_bytes())
    places = {"run": finished.path, "unfinished": unfinished}
    command = [sys.executable, "-X", "importtime", "-m", "moltune", *(one.format(**places) for one in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=tmp_path
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert done.returncode == 2, said
    assert words in said
    assert "Traceback" not in said
    assert not re.search(r"\| +(torch|transformers|sklearn|matplotlib)$", done.stderr, re.MULTILINE)
    # 0.3 to 0.9 s here; importing torch and transformers alone would take 4.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5
    assert not (tmp_path / "x").exists()
