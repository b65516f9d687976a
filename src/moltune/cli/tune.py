"""``moltune tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moltune.cli.console import err, facts, out, print_json, set_up_logging
from moltune.cli.options import ConfigFile, Json, Quiet, Ratios, Seed, Set, Smiles, SplitName, Target, settings_from

if TYPE_CHECKING:
    from moltune.tuning.search.result import Searched


def tune(
    data: Annotated[
        str | None, typer.Argument(help="File, bundled set (lipophilicity, esol, freesolv) or hub id.")
    ] = None,
    target: Target = None,
    smiles: Smiles = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Bundled name, folder or hub id. [default: moltune/mini]")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="Tuning method. [default: full]")] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="In all, other processes and earlier calls included.")
    ] = None,
    splits: Annotated[int | None, typer.Option("--splits", min=2, help="Validation splits averaged over.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option("--space", metavar="KEY=RANGE", help="LOW:HIGH, LOW:HIGH:log or a,b,c; repeatable."),
    ] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Begin no trial after this time.")] = None,
    prune: Annotated[bool, typer.Option("--prune/--no-prune", help="Stop hopeless trials early.")] = True,
    split: SplitName = None,
    ratios: Ratios = None,
    seed: Seed = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the study; goes on in one.")] = None,
    config: ConfigFile = None,
    overrides: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search for a method's best settings on validation data. The same command goes on with an interrupted search."""
    set_up_logging(quiet)
    settings = settings_from(
        config,
        {
            "data.source": data,
            "data.target": target,
            "data.smiles": smiles,
            "model.name": model,
            "method.name": method,
            "split.method": split,
            "split.ratios": ratios,
            "seed": seed,
        },
        overrides,
    )
    from moltune.config import make_settings
    from moltune.tuning.search.search import SearchSettings, search

    given: dict[str, Any] = {"trials": trials, "splits": splits, "hours": hours, "space": space, "prune": prune}
    wanted = make_settings(SearchSettings, {name: value for name, value in given.items() if value is not None})
    found = search(settings, wanted, output=output, report=None if quiet else _say)
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)


def _say(state: dict[str, Any]) -> None:
    value = "–" if state["value"] is None else f"{state['value']:.4f}"
    best = "–" if state["best"] is None else f"{state['best']:.4f}"
    err.print(f"trial {state['number']} {state['state']} {value}  best {best}  ({state['done']}/{state['trials']})")


def _show(found: Searched) -> None:
    values = found.to_dict()
    given = values["default_validation_rmse"]
    out.print(
        f"\nbest mean validation RMSE {found.value:.4f}"
        + (f" (settings as given: {given:.4f})" if given is not None else "")
        + "; chosen among many, so expect a little worse on new molecules\n"
    )
    out.print(facts(values["best"]))
    out.print(f"\nmoltune finetune --config {values['config']}", soft_wrap=True)
