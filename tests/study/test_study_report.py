from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moltune.cli.app import app
from moltune.errors import DataError, RunFolderError
from moltune.study.analysis.compare import compare_studies
from moltune.study.analysis.verdicts import analyse
from moltune.study.engine.run import run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import make_recipe
from moltune.study.report.page import page, write_study
from moltune.study.report.text import sentence, to_latex, to_markdown

SMALL = {
    "name": "small",
    "protocol": {"splits": 3, "seeds": 2, "split": {"bins": 3}},
    "arms": [
        {"name": "ridge", "kind": "baseline", "baseline": "ridge", "label": "Ridge <& co>"},
        {"name": "svr", "kind": "svr", "features": ["rdkit"]},
        {"name": "svr-c", "kind": "svr", "features": ["rdkit"], "C": 0.01},
    ],
    "published": [
        {"label": "Theirs", "source": "a paper", "metrics": {"rmse": 0.001}},
        {"label": "Squared", "source": "another", "metrics": {"mse": 0.49}},
    ],
}


@pytest.fixture(scope="module")
def study(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    table.to_csv(folder / "molecules.csv", index=False)
    recipe = make_recipe({**SMALL, "data": {"source": str(folder / "molecules.csv")}})
    run_study(recipe, folder / "study", executor=InlineExecutor(folder / "study"))
    write_study(folder / "study")
    return folder / "study"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(study: Path) -> None:
    text = (study / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "Ridge &lt;&amp; co&gt;" in text
    assert "Ridge <&" not in text
    order = [text.index(f"<h2>{title}") for title in ("Verdicts", "Arms", "Comparisons", "Figures", "How to repeat it")]
    assert order == sorted(order)


def test_published_numbers_are_marked_and_never_tested(study: Path) -> None:
    text = (study / "report.html").read_text()
    assert re.search(r'<tr class="published"><th scope="row">Theirs \(published\)</th>', text)
    results = json.loads((study / "results.json").read_text())
    assert {v["arm"] for v in results["verdicts"]} | {v["reference"] for v in results["verdicts"]} == {
        "ridge",
        "svr",
        "svr-c",
        "mean",
    }


def test_published_squared_errors_are_read_beside_ours(study: Path) -> None:
    """A column of MSE comes with them, and their RMSE is its root."""
    lines = [line.split(" | ") for line in (study / "tables" / "arms.md").read_text().splitlines()]
    columns = {name.strip("| "): at for at, name in enumerate(lines[0])}
    theirs = next(line for line in lines if "Squared" in line[0])
    assert (theirs[columns["RMSE"]], theirs[columns["MSE"]]) == ("0.700", "0.490")
    frame = pd.read_parquet(study / "results.parquet")
    ours = next(line for line in lines if line[0] == "| svr")
    mean = frame.loc[frame["arm"] == "svr"].drop_duplicates("hash")["mse"].mean()
    assert ours[columns["MSE"]].split(" ± ")[0] == f"{mean:.3f}"


def test_results_are_the_metrics_of_the_stored_predictions(study: Path) -> None:
    frame = pd.read_parquet(study / "results.parquet")
    assert len(frame) == 4 * 6
    target = pd.read_csv(study / "splits" / "split1.csv").set_index("row")["target"]
    line = frame[(frame["arm"] == "ridge") & (frame["block"] == "split1-seed0")].iloc[0]
    predicted = pd.read_parquet(study / "runs" / line["hash"] / "predictions.parquet")
    test = predicted[predicted["part"] == "test"].set_index("row")["predicted"]
    assert line["rmse"] == pytest.approx(float(np.sqrt(((test - target.loc[test.index]) ** 2).mean())))
    assert line["n_test"] == len(test) == 12


def test_verdicts_say_what_the_numbers_show(study: Path) -> None:
    analysis = analyse(Store(study))
    said = {item.arm: sentence(item, analysis) for item in analysis.comparisons}
    assert said["mean"].startswith("Training mean is worse than Ridge")
    assert "over 6 blocks on 3 splits" in said["mean"]
    assert said["svr"].startswith("svr cannot be distinguished from Ridge")
    assert "smallest difference that would be detected here" in said["svr"]
    assert any("underpowered" in note for note in analysis.notes)
    assert any("Control arm added: Training mean" in note for note in analysis.notes)


def test_decided_comparisons_come_first_and_many_undecided_ones_are_folded(study: Path) -> None:
    store = Store(study)
    analysis = analyse(store)
    words = [item.word for item in analysis.comparisons]
    assert words[0] == "cannot tell"
    assert "worse" in words
    text = page(analysis, store.study(), {})
    counted = [f"{words.count(word)} {word}" for word in ("worse", "equivalent", "cannot tell") if word in words]
    assert f"<p>3 comparisons, corrected together: {', '.join(counted)}.</p>" in text
    assert text.index('<li class="worse">') < text.index('<li class="cannot-tell">')
    assert text.count("<details>") == 2
    undecided = next(item for item in analysis.comparisons if item.word == "cannot tell")
    many = page(replace(analysis, comparisons=[*analysis.comparisons, *[undecided] * 9]), store.study(), {})
    assert many.count("<details>") == 3
    assert many.index('<li class="worse">') < many.index("<details>") < many.index('<li class="cannot-tell">')


def test_molecules_that_one_arm_lacks_are_left_out_for_all(study: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    analysis = analyse(Store(copy))
    line = analysis.frame[(analysis.frame["arm"] == "svr") & (analysis.frame["block"] == "split0-seed0")].iloc[0]
    path = copy / "runs" / line["hash"] / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame.drop(index=frame.index[frame["part"] == "test"][0]).to_parquet(path, index=False)
    after = analyse(Store(copy))
    counts = after.frame.groupby("unit")["n_test"].unique()
    assert counts["split0"].tolist() == [11]
    assert counts["split1"].tolist() == [12]
    assert any("Up to 1 test molecules" in note for note in after.notes)


def test_tables_are_valid_markdown_and_latex(study: Path) -> None:
    lines = (study / "tables" / "arms.md").read_text().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    latex = (study / "tables" / "comparisons.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1
    table = pd.DataFrame({"a_b": ["50 % & more"], "c|d": ["±1"]})
    assert r"50 \% \& more & $\pm$1" in to_latex(table, "x_y")
    assert r"\caption{x\_y}" in to_latex(table, "x_y")
    assert to_markdown(pd.DataFrame({"a": ["b|c"]})).splitlines()[2] == r"| b\|c |"


def test_a_study_compared_with_itself_and_with_a_changed_one(study: Path, tmp_path: Path) -> None:
    assert {line.arm: line.identical for line in compare_studies(study, study)} == dict.fromkeys(
        ["ridge", "svr", "svr-c", "mean"], True
    )
    source = Store(study).study()["recipe"]["data"]["source"]
    arms = [SMALL["arms"][0], {"name": "svr", "kind": "svr", "features": ["rdkit"], "C": 1e-4}]  # type: ignore[index]
    other = make_recipe({**SMALL, "arms": arms, "data": {"source": source}})
    run_study(other, tmp_path / "other", executor=InlineExecutor(tmp_path / "other"))
    lines = {line.arm: line for line in compare_studies(study, tmp_path / "other")}
    assert lines["ridge"].identical
    assert not lines["svr"].identical
    assert lines["svr"].paired
    assert lines["svr"].word == "worse"
    arms = [{"name": "new", "kind": "svr", "features": ["rdkit"]}]
    lonely = make_recipe({**SMALL, "arms": arms, "data": {"source": source}, "controls": []})
    run_study(lonely, tmp_path / "lonely", executor=InlineExecutor(tmp_path / "lonely"))
    with pytest.raises(DataError, match="no arm of the same name"):
        compare_studies(study, tmp_path / "lonely")


def test_the_same_numbers_give_the_same_page(study: Path) -> None:
    before = (study / "report.html").read_bytes()
    write_study(study)
    assert (study / "report.html").read_bytes() == before


def test_no_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no study folder"):
        write_study(tmp_path)


def moltune(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["study", *arguments])


def test_commands(study: Path, tmp_path: Path) -> None:
    listed = json.loads(moltune("list", "--json").stdout)
    assert {"quick", "baselines"} <= {recipe["name"] for recipe in listed}
    valid = json.loads(moltune("validate", "baselines", "--json").stdout)
    assert valid["valid"]
    assert valid["blocks"] == 15
    assert "learned nothing" in valid["controls_added"]["mean"]
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ndata: {source: esol}\nprotocol: P\narms: [{name: a, kind: magic}]\n")
    result = moltune("validate", str(bad))
    assert result.exit_code == 2
    shown = json.loads(moltune("show", str(study), "--json").stdout)
    assert len(shown["verdicts"]) == 3
    plain = moltune("show", str(study))
    assert plain.exit_code == 0
    assert "report.html" in plain.stdout
    same = json.loads(moltune("compare", str(study), str(study), "--json").stdout)
    assert all(line["identical"] for line in same)
