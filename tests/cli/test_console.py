from __future__ import annotations

import pytest
from rich.console import Console

from moltune.cli import console
from moltune.cli.console import stage_progress


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_each_stage_is_a_line(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, force_terminal=False))
    with stage_progress(quiet) as report:
        for share in (0, 0.5, 1):
            report("solving", share)
        report("scoring", 0)
    assert capsys.readouterr().err.splitlines() == ([] if quiet else ["solving", "scoring"])


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, force_terminal=True, width=80))
    with stage_progress() as report:
        report("solving", 0.25)
    shown = capsys.readouterr().err
    assert "solving" in shown
    assert "━" in shown
