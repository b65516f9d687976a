"""``moltune demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import epoch_progress, err, out, set_up_logging
from moltune.config import make_config

_EXAMPLES = ["CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1", "Clc1ccc(cc1)C(c1ccccc1)N1CCN(CC1)C"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run again instead of showing the last run.")] = False,
) -> None:
    """Run the main job on real data: logD of 4,200 molecules with the bundled checkpoint, some minutes on two cores."""
    set_up_logging()
    from moltune.cli.show import show_run
    from moltune.predictors.predictor import Predictor
    from moltune.tuning.finetune import finetune

    settings = make_config({"data": {"source": "lipophilicity"}, "output": str(output)})
    with epoch_progress() as report:
        run = finetune(settings, resume=not overwrite, overwrite=overwrite and output.exists(), report=report)
    show_run(run, as_json=False)
    err.print("\nPredictions for three molecules that are not in the data:")
    table = Predictor.load(run.path).predict(_EXAMPLES)
    for line in table.itertuples():
        out.print(f"  logD {line.predicted:5.2f}  {line.smiles}", markup=False)
    out.print(
        f"\nYour own table:  moltune finetune my.csv --target COLUMN\n"
        f"New molecules:   moltune predict {run.path} molecules.csv -o predictions.csv"
    )
