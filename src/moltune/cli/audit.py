"""``moltune audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moltune.cli.console import out, print_json, set_up_logging, stage_progress
from moltune.cli.options import Json, Quiet, Smiles, Target
from moltune.config import make_settings


def audit(
    external: Annotated[str, typer.Argument(metavar="EXTERNAL", help="File, bundled set or hub id.")],
    against: Annotated[
        str, typer.Option("--against", help="The training molecules: file, bundled set, hub id or run folder.")
    ],
    target: Target = None,
    smiles: Smiles = None,
    model: Annotated[str, typer.Option("--model", help="Encoder whose embeddings are compared.")] = "moltune/mini",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for audit.html, audit.json, shared.csv and figures.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Examine external molecules before adding any: overlap, contradicting labels, shift, label noise."""
    set_up_logging(quiet)
    from moltune.config import AuditSettings, DataSettings
    from moltune.selection.audit import audit as run_audit
    from moltune.selection.audit_report import write_audit

    settings = make_settings(AuditSettings, {"model": model, "seed": seed})
    columns = DataSettings(smiles=smiles, target=target)
    with stage_progress(quiet) as report:
        found = run_audit(external, against, settings=settings, data=columns, report=report)
    if output is not None:
        write_audit(found, output)
    if as_json:
        print_json(found.to_dict())
        return
    out.print(f"\n[bold]{found.verdict}[/]\n")
    styles = {"bad": "red", "note": "yellow", "good": "green"}
    for one in found.findings:
        out.print(f"[{styles[one.level]}]{one.level:<5}[/] {one.text}")
    if output is not None:
        out.print(f"\nreport  {output / 'audit.html'}", soft_wrap=True)
