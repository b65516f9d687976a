"""Choose data: ``moltune audit``, ``influence``, ``uncertainty`` and ``select``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

from moltune.cli.console import facts, out, print_json, stage_progress
from moltune.cli.options import Given, Json, Output, Quiet, argument, flags, option, sets, table_flags, with_settings
from moltune.config import AuditSettings, DataSettings, InfluenceSettings, SelectSettings, UncertaintySettings

_TABLE = table_flags()
# Unit and transform are those of the run.
_LIKE_RUN = {name: flags for name, flags in _TABLE.items() if not name.startswith("clean.")}

_TOLD = ("scores.csv", "uncertainty.csv")
"""Tables of ours, beside which a file of the same name in JSON says what they hold."""

FinishedRun = Annotated[Path, argument("RUN", "Folder of a finished run.")]
External = Annotated[str, argument("EXTERNAL", "External molecules: a file, bundled set or hub id.")]


def check_places(external: str, *runs: Path) -> None:
    """Refuse a file or run that is not there, before anything heavy is imported.

    Raises:
        DataError: there is no such file, bundled set or hub id.
        RunFolderError: a folder holds no finished run.
    """
    from moltune.data.reading.read import source_kind
    from moltune.run import Run

    for run in runs:
        Run.load(run)
    source_kind(external)


@with_settings({AuditSettings: flags("model", "seed"), DataSettings: {**_TABLE, **flags("task")}})
def audit(
    given: Given,
    external: External,
    against: Annotated[
        str,
        option("--against", help="The training molecules: a file, bundled set, hub id or run folder."),
    ],
    output: Annotated[
        Path | None,
        option("--output", "-o", help="Folder for audit.html, audit.json, shared.csv and figures."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Examine external molecules before adding any: overlap, contradicting labels, shift, label noise.

    Example: moltune audit external.csv --against my.csv --target pIC50
    """
    settings, columns = given.settings(AuditSettings), given.settings(DataSettings)
    check_places(external)
    check_places(against)
    from moltune.selection.audit import audit as run_audit
    from moltune.selection.audit_report import write_audit

    with stage_progress(quiet) as report:
        found = run_audit(external, against, settings=settings, data=columns, report=report)
    if output is not None:
        write_audit(found, output)
    if as_json:
        return print_json(found.to_dict())
    out.print(f"\n[bold]{found.verdict}[/]\n")
    styles = {"bad": "red", "note": "yellow", "good": "green"}
    for one in found.findings:
        out.print(f"[{styles[one.level]}]{one.level:<5}[/] {one.text}")
    if output is not None:
        out.print(f"\nreport  {output / 'audit.html'}", soft_wrap=True)


@with_settings(
    {
        InfluenceSettings: {
            **flags("scope", "solver", "curvature", "damping", "convention", "seed"),
            **flags("allow_unconverged", "founding_study"),
            "target": "--target-part",
        },
        DataSettings: {name: flags for name, flags in _LIKE_RUN.items() if name not in ("target", "header")},
    },
    more=sets("iterations=1000"),
)
def influence(
    given: Given,
    run: FinishedRun,
    external: External,
    output: Output,
    target: Annotated[
        str | None,
        option(
            "--target",
            help="validation or test: whose error counts; test biases what follows. Any other word: the target column.",
            default="validation; the column is found when obvious",
        ),
    ] = None,
    percentile: Annotated[
        float, option("--percentile", min=0, max=100, help="Threshold shown in the histogram.")
    ] = 33.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict what adding each external molecule would do to the validation error. Negative scores help.

    Example: moltune influence runs/mine external.csv -o scores
    """
    # `--target test` is what the studies' readers type; a column of that name is reached through --target-part.
    parts = get_args(InfluenceSettings.model_fields["target"].annotation)
    is_part = given.options[InfluenceSettings]["target"] is None and target in parts
    settings = given.settings(InfluenceSettings, {"target": target} if is_part else {})
    columns = given.settings(DataSettings, {} if is_part else {"target": target})
    check_places(external, run)
    from moltune.attribution.influence import influence as run_influence
    from moltune.attribution.report import describe_scores, write_influence

    with stage_progress(quiet) as report:
        found = run_influence(run, external, settings, data=columns, report=report)
    page = write_influence(found, output, percentile=percentile)
    shown = {**found.facts, **describe_scores(found, percentile)}
    if as_json:
        return print_json(shown)
    shown.pop("settings")
    out.print(facts(shown))
    out.print(f"\nscores  {output / 'scores.csv'}\nreport  {page}", soft_wrap=True)


@with_settings({UncertaintySettings: flags("passes", "seed"), DataSettings: _LIKE_RUN})
def uncertainty(
    given: Given,
    run: FinishedRun,
    external: External,
    output: Output,
    method: Annotated[
        str | None,
        option("--method", help="dropout or ensemble.", default="dropout; ensemble where --member is given"),
    ] = None,
    members: Annotated[
        list[Path] | None,
        option("--member", help="Further run of a deep ensemble; repeatable."),
    ] = None,
    percentile: Annotated[float, option("--percentile", min=0, max=100, help="Threshold marked in the figure.")] = 90.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate how sure a tuned model is of each molecule.

    Example: moltune uncertainty runs/mine external.csv -o spread
    """
    members = members or []
    settings = given.settings(UncertaintySettings, {"method": method or ("ensemble" if members else None)})
    check_places(external, run, *members)
    from moltune.uncertainty.estimate import uncertainty as run_uncertainty
    from moltune.uncertainty.report import write_uncertainty

    with stage_progress(quiet) as report:
        columns = given.settings(DataSettings)
        found = run_uncertainty(run, external, settings, members=members, data=columns, report=report)
    table = write_uncertainty(found, output, percentile=percentile)
    if as_json:
        return print_json(found.facts)
    out.print(f"[bold]{found.facts['verdict']}[/]\n")
    out.print(facts({name: value for name, value in found.facts.items() if name != "verdict"}))
    out.print(f"\nscores  {table}", soft_wrap=True)


@with_settings(
    {
        SelectSettings: {
            **flags("strategy", "percentile", "threshold", "convention", "space", "clusters", "seed"),
            "count": "--count -n",
        },
        DataSettings: _TABLE,
    }
)
def select(
    given: Given,
    table: Annotated[str, argument("TABLE", "scores.csv, uncertainty.csv, or labelled molecules.")],
    output: Annotated[Path, option("--output", "-o", help="CSV that `moltune finetune --add` takes.")],
    run: Annotated[
        Path | None,
        option("--run", help="Exclude what its validation and test parts hold; for similarity."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Select molecules to add, by influence, uncertainty, similarity, diversity, or as a control.

    Example: moltune select scores/scores.csv --percentile 33 -o selected.csv
    """
    name, own = Path(table).name, given.options[SelectSettings]
    beside = Path(table).with_suffix(".json")
    told = json.loads(beside.read_text(encoding="utf-8")) if name in _TOLD and beside.is_file() else {}
    if own["convention"] is None and "convention" in told:
        own["convention"] = told["convention"]
    # Tables of ours call the label so; a file of the user's own is left to the column finder.
    if given.options[DataSettings]["target"] is None and name in _TOLD:
        given.options[DataSettings]["target"] = "label"
    settings, columns = given.settings(SelectSettings), given.settings(DataSettings)
    from moltune.data.reading.write import check_output, write_table

    check_places(table, *([] if run is None else [run]))
    check_output(output, table)
    from moltune.selection.select import select as run_select

    classes = told.get("classes")
    found = run_select(table, settings, run=run, data=columns, classes=classes and tuple(classes))
    write_table(found.table, output)
    if as_json:
        return print_json(found.facts)
    shown = {key: value for key, value in found.facts.items() if key not in ("settings", "excluded_smiles")}
    out.print(facts({**shown, "output": str(output)}))
