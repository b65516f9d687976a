"""Predictions and ready-made models in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from moltune.cli.console import err, facts, out, print_json
from moltune.config import PH

if TYPE_CHECKING:
    from moltune.bulk.predict import Summary
    from moltune.ready.catalogue import Card

_COLOURS = {"in": "green", "near": "yellow", "out": "bold red", "": "default"}
_DOMAIN = {"in": "in domain", "near": "AT THE EDGE OF THE DOMAIN", "out": "OUTSIDE OF THE DOMAIN"}


def show_predictions(rows: Sequence[dict[str, Any]], done: Summary, level: float) -> None:
    """Print predictions of a few molecules: a line for each property, and below it what it rests on."""
    for row in rows:
        out.print(f"\n[bold]{escape(str(row['smiles']))}[/]", soft_wrap=True)
        if row.get(done.note):
            out.print(f"  [yellow]{escape(str(row[done.note]))}[/]", soft_wrap=True)
        for names in done.names:
            own = {suffix: row.get(name) for suffix, name in names.items()}
            if own[""] is not None:
                _show_one(names[""], own, level)


def _show_one(name: str, own: dict[str, Any], level: float) -> None:
    flag = own.get("_domain") or ""
    interval = f", {level:.0%} interval {own['_low']:g} to {own['_high']:g}" if own.get("_low") is not None else ""
    head = f"  {escape(name)}  [bold]{own['']:g}[/]{interval}"
    if own.get("_class"):
        held = f", {level:.0%} set: {escape(str(own['_set']))}" if own.get("_set") else ""
        head = f"  {escape(name)}  [bold]{escape(str(own['_class']))}[/], probability {own['']:.3g}{held}"
    out.print(f"{head}  [{_COLOURS.get(flag, '')}]{_DOMAIN.get(flag, '')}[/]", soft_wrap=True)
    from moltune.predictors.names import MEASURED

    measured, nearest = (_measured(own.get(suffix)) for suffix in MEASURED)
    if measured:
        out.print(f"    measured {measured}: this molecule is in the data of the model")
    elif nearest:
        near = f"similarity {own['_similarity']:.2f}, measured {nearest}"
        out.print(f"    nearest training molecule: {escape(str(own['_nearest']))} ({near})", soft_wrap=True)
    if own.get("_main_form"):
        sites = [f"{kind} {own[key]:g}" for kind, key in (("acid", "_acid_pka"), ("base", "_base_pka")) if own.get(key)]
        pka = f"pKa {', '.join(sites)}, " if sites else ""
        form = f"net charge {own['_charge']:+.1f}, main form {escape(str(own['_main_form']))}"
        out.print(f"    at pH {PH:g}, estimated (pKa ±0.5 to 0.8): {pka}{form}", soft_wrap=True)
    if own.get("_reason"):
        out.print(f"    why: {escape(str(own['_reason']))}", soft_wrap=True)


def _measured(value: float | str | None) -> str:
    """A measured number, or the name of a measured class; empty where there is none."""
    return f"{value:g}" if isinstance(value, int | float) else escape(value or "")


def show_cards(cards: Sequence[Card], as_json: bool) -> None:
    """List ready-made models."""
    if as_json:
        return print_json([asdict(card) for card in cards])
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Name", "Predicts", "Molecules", "RMSE", "90 % hold"):
        table.add_column(heading, no_wrap=heading == "Name", overflow="fold")
    for card in cards:
        unit = f" {card.unit}" if card.unit else ""
        error, held = f"{card.error['rmse']:.2f}{unit}", f"{card.intervals['coverage']:.1%}"
        table.add_row(card.name, card.predicts, f"{card.molecules:,}", error, held)
    out.print(table)
    about = "Errors are cross-validated, and so is the share of molecules that 90 % intervals hold."
    err.print(f"{about} More: moltune models NAME", style="dim")


def show_card(card: Card, as_json: bool) -> None:
    """Print all that is known of a ready-made model."""
    if as_json:
        return print_json(asdict(card))
    values = asdict(card)
    caveats = values.pop("caveats")
    values["features"] = ", ".join(card.features)
    values["intervals"] = {name: value for name, value in card.intervals.items() if name != "curve"}
    out.print(facts(values))
    for text in caveats:
        out.print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)
