"""Start here: ``moltune demo`` and ``moltune data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import err, facts, out, print_json, set_up_logging, step_progress
from moltune.cli.help import Command, Group
from moltune.cli.options import Given, Json, Overwrite, Quiet, flags, option, sets, table_flags, with_settings
from moltune.config import FinetuneConfig, make_config

_EXAMPLES = ["CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1", "Clc1ccc(cc1)C(c1ccccc1)N1CCN(CC1)C"]
_DATA = {"data.source": "DATA", **table_flags("data.")}

data = typer.Typer(cls=Group, no_args_is_help=True, help="Clean, split and describe molecules.")


def demo(
    output: Annotated[Path, option("--output", "-o", help="Run folder.")] = Path("runs/demo"),
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on real data: logD of 4,200 molecules with the bundled checkpoint, two minutes on two cores.

    A second call shows the run that the first one made.

    Example: moltune demo
    """
    set_up_logging()
    from moltune.cli.show import show_run
    from moltune.predictors.predictor import Predictor
    from moltune.tuning.finetune import finetune

    settings = make_config({"data": {"source": "lipophilicity"}, "output": str(output)})
    with step_progress("training", epochs=True) as report:
        run = finetune(settings, resume=not overwrite, overwrite=overwrite, report=report)
    show_run(run, as_json=False)
    err.print("\nPredictions for three molecules that are not in the data:")
    for line in Predictor.load(run.path).predict(_EXAMPLES).itertuples():
        out.print(f"  logD {line.predicted:5.2f}  {line.smiles}", markup=False)
    out.print(
        f"\nYour own table:  moltune finetune my.csv --target COLUMN\n"
        f"New molecules:   moltune predict {run.path} molecules.csv -o predictions.csv"
    )


@data.command(cls=Command)
@with_settings(
    {
        FinetuneConfig: {
            **_DATA,
            "data.clean.largest_fragment": "--largest-fragment/--all-fragments",
            "data.clean.neutralize": "--neutralize/--keep-charges",
            **flags("data.clean.duplicates"),
        }
    }
)
def clean(
    given: Given,
    output: Annotated[
        Path, option("--output", "-o", help="CSV, TSV, Parquet or JSON lines, or a folder for clean.csv.")
    ],
    rejects: Annotated[
        Path | None,
        option("--rejects", help="Rows left out, with reasons.", default="rejects.csv beside the output"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Canonicalise, merge duplicates, and write what cannot be used to a rejects file with reasons.

    Example: moltune data clean raw.csv -o clean.csv --largest-fragment
    """
    from moltune.data.load import load_molecules, reason_counts
    from moltune.data.reading.read import source_kind
    from moltune.data.reading.write import check_output, write_table

    settings = given.settings(FinetuneConfig).data
    source = str(settings.source)
    if output.is_dir() or not output.suffix:
        source_kind(source)
        output.mkdir(parents=True, exist_ok=True)
        output = output / "clean.csv"
    rejects = rejects or output.parent / "rejects.csv"
    check_output(output, source)
    check_output(rejects, source, output)
    molecules = load_molecules(None, settings)
    write_table(molecules.named(), output)
    write_table(molecules.rejected, rejects)
    counts = {
        "rows": molecules.rows_in,
        "kept": len(molecules),
        "rejected": len(molecules.rejected),
        "reasons": reason_counts(molecules),
        "conflicts": len(molecules.conflicts),
        "output": str(output),
        "rejects": str(rejects),
    }
    if as_json:
        print_json(counts)
    else:
        out.print(facts(counts))


@data.command(cls=Command)
@with_settings(
    {FinetuneConfig: {**_DATA, "split.method": "--split", **flags("split.ratios", "seed")}},
    more=sets("split.bins=5"),
)
def split(
    given: Given,
    output: Annotated[Path, option("--output", "-o", help="CSV of row, smiles, inchikey, split and further columns.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Divide molecules into training, validation and test parts, and say what the parts share.

    Example: moltune data split my.csv -o split.csv --split scaffold
    """
    from moltune.data.load import load_molecules
    from moltune.data.reading.write import check_output, write_table
    from moltune.data.splitting.leakage import check_leakage
    from moltune.data.splitting.split import make_split

    settings = given.settings(FinetuneConfig)
    check_output(output, str(settings.data.source))
    molecules = load_molecules(None, settings.data)
    parts = make_split(molecules, settings.split, settings.split_seed)
    leakage = check_leakage(molecules, parts)
    table = parts.to_frame(molecules)
    write_table(table.join(molecules.further(*table.columns)), output)
    sizes = {name: len(positions) for name, positions in parts.parts().items()}
    if as_json:
        return print_json({"sizes": sizes, "output": str(output), "leakage": leakage.to_dict()})
    out.print(facts({**sizes, "output": str(output)}))
    for words in leakage.words:
        out.print(f"[yellow]{words}[/]")


@data.command(cls=Command)
@with_settings({FinetuneConfig: _DATA})
def describe(given: Given, as_json: Json = False, quiet: Quiet = False) -> None:
    """Describe molecules, and their target where there is one: counts, sizes, elements, scaffolds, special cases.

    Example: moltune data describe lipophilicity
    """
    from moltune.data.describe import describe as describe_molecules
    from moltune.data.load import load_molecules_labelled_or_not

    settings = given.settings(FinetuneConfig).data
    summary = describe_molecules(load_molecules_labelled_or_not(str(settings.source), settings))
    if as_json:
        print_json(summary)
    else:
        out.print(facts(summary))
