"""``moltune data clean|split|describe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import facts, out, print_json, set_up_logging
from moltune.cli.options import Json, Quiet, Ratios, Seed, Set, Smiles, SplitName, Target, settings_from

app = typer.Typer(no_args_is_help=True, help="Clean, split and describe molecules.")

Source = Annotated[str, typer.Argument(metavar="DATA", help="File, bundled set or hub id.")]
Fragment = Annotated[bool | None, typer.Option("--largest-fragment/--all-fragments", help="Strip salts and solvents.")]
Neutralize = Annotated[bool | None, typer.Option("--neutralize/--keep-charges", help="Neutralise charges.")]
Duplicates = Annotated[
    str | None, typer.Option("--duplicates", help="mean, median, first, drop-conflicting or error. [default: mean]")
]


@app.command()
def clean(
    data: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV, TSV, Parquet or JSON lines.")],
    rejects: Annotated[Path | None, typer.Option("--rejects", help="Unset: rejects.csv beside the output.")] = None,
    target: Target = None,
    smiles: Smiles = None,
    largest_fragment: Fragment = None,
    neutralize: Neutralize = None,
    duplicates: Duplicates = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Canonicalise, merge duplicates, and put what cannot be used into a rejects file with reasons."""
    set_up_logging(quiet)
    from moltune.data.load import load_molecules, reason_counts
    from moltune.data.reading.write import check_output, write_table

    settings = settings_from(
        None,
        {
            "data.target": target,
            "data.smiles": smiles,
            "data.clean.largest_fragment": largest_fragment,
            "data.clean.neutralize": neutralize,
            "data.clean.duplicates": duplicates,
        },
        None,
    )
    rejects = rejects or output.parent / "rejects.csv"
    check_output(output, data)
    check_output(rejects, data, output)
    molecules = load_molecules(data, settings.data)
    write_table(molecules.table, output)
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


@app.command()
def split(
    data: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV of row, smiles, inchikey, split.")],
    method: SplitName = None,
    ratios: Ratios = None,
    seed: Seed = None,
    target: Target = None,
    smiles: Smiles = None,
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Divide molecules into training, validation and test parts, and say what the parts share."""
    set_up_logging(quiet)
    from moltune.data.load import load_molecules
    from moltune.data.reading.write import check_output, write_table
    from moltune.data.splitting.leakage import check_leakage
    from moltune.data.splitting.split import make_split

    check_output(output, data)
    settings = settings_from(
        None,
        {
            "data.target": target,
            "data.smiles": smiles,
            "split.method": method,
            "split.ratios": ratios,
            "seed": seed,
        },
        overrides,
    )
    molecules = load_molecules(data, settings.data)
    parts = make_split(molecules, settings.split, settings.split_seed)
    leakage = check_leakage(molecules, parts)
    write_table(parts.to_frame(molecules), output)
    sizes = {name: len(positions) for name, positions in parts.parts().items()}
    result = {"sizes": sizes, "output": str(output), "leakage": leakage.to_dict()}
    if as_json:
        print_json(result)
        return
    out.print(facts({**sizes, "output": str(output)}))
    for words in leakage.words:
        out.print(f"[yellow]{words}[/]")


@app.command()
def describe(
    data: Source, target: Target = None, smiles: Smiles = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Describe molecules and target: counts, sizes, elements, scaffolds, special cases."""
    set_up_logging(quiet)
    from moltune.data.describe import describe as describe_molecules
    from moltune.data.load import load_molecules

    settings = settings_from(None, {"data.target": target, "data.smiles": smiles}, None)
    summary = describe_molecules(load_molecules(data, settings.data))
    if as_json:
        print_json(summary)
    else:
        out.print(facts(summary))
