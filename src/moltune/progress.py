"""How long work tells those who wait for it that it goes on."""

from __future__ import annotations

from collections.abc import Callable

# What is being done, and the share of it that is done, from 0 to 1.
StageReport = Callable[[str, float], None]


def no_report(stage: str, share: float) -> None:
    """Tell nobody."""


def of_stage(report: StageReport, stage: str, total: int) -> Callable[[int], None]:
    """A callback that takes how many more of ``total`` are done in this stage."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        report(stage, done / max(1, total))

    return advance
