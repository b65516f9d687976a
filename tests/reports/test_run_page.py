from __future__ import annotations

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from moltune.errors import RunFolderError
from moltune.reports.run_page import write_report
from moltune.reports.summary import format_estimate, format_number, metrics_table, verdict

VOID = {"meta", "img", "br", "hr", "link"}


def estimate(value: float, half: float | None = 0.04) -> dict[str, float | None]:
    if half is None:
        return {"value": value, "lower": None, "upper": None}
    return {"value": value, "lower": value - half, "upper": value + half}


def part(rmse: float, n: int = 840) -> dict[str, Any]:
    undefined = {"value": None, "lower": None, "upper": None}
    return {"n": n, "mse": estimate(rmse**2), "rmse": estimate(rmse), "mae": estimate(rmse * 0.75), "r2": estimate(0.7),
            "median_absolute_error": estimate(rmse * 0.6), "spearman": undefined}  # fmt: skip


def compared(value: float, half: float | None, word: str) -> dict[str, Any]:
    return {"difference": estimate(value, half), "verdict": word, "n": 840, "confidence": 0.95}


def run(against_mean: str = "better", against_xgboost: str = "cannot tell", model: float = 0.62) -> dict[str, Any]:
    return {
        "test": part(model),
        "validation": part(0.6, 420),
        "train": part(0.2, 2940),
        "baselines": {
            "mean": {"test": part(1.2), "validation": part(1.18, 420), "seconds": 0.0001},
            "xgboost": {"test": part(0.63), "seconds": 21.4},
        },
        "comparison": {
            "mean": compared(model - 1.2, 0.05, against_mean),
            "xgboost": compared(model - 0.63, 0.02, against_xgboost),
        },
        "trainable_parameters": 36_864,
        "total_parameters": 44_000_000,
        "seconds": 321.5,
        "best_epoch": 7,
    }


@pytest.mark.parametrize(
    ("against_mean", "against_xgboost", "says"),
    [
        ("better", "better", "worth it: the language model's test RMSE is 0.620 (0.580 to 0.660) log units"),
        ("better", "worse", "not worth it here"),
        ("better", "cannot tell", "No clear winner"),
        ("cannot tell", "better", "shows nothing yet"),
        ("worse", "worse", "Do not use this model"),
    ],
)
def test_verdict_follows_the_comparisons(against_mean: str, against_xgboost: str, says: str) -> None:
    sentence = verdict(run(against_mean, against_xgboost), unit="log units")
    assert says in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_verdict_names_the_baseline_and_the_difference() -> None:
    sentence = verdict(run("better", "worse", model=0.70))
    assert "XGBoost is better (RMSE 0.630; difference +0.0700, 95 % interval 0.0500 to 0.0900)" in sentence


def test_verdict_is_against_the_best_classical_model() -> None:
    metrics = run("better", "better")
    metrics["baselines"]["ridge"] = {"test": part(0.5)}
    metrics["comparison"]["ridge"] = compared(0.12, 0.02, "worse")
    assert "Ridge is better" in verdict(metrics)


def test_verdict_without_pairs_falls_back_on_separate_intervals() -> None:
    metrics = run()
    del metrics["comparison"]
    sentence = verdict(metrics)
    assert "beats the training mean" in sentence
    assert "No clear winner" in sentence
    assert "not compared molecule by molecule" in sentence
    metrics["test"] = part(0.4)
    assert "worth it" in verdict(metrics)
    metrics["test"] = part(1.21)
    assert "shows nothing yet" in verdict(metrics)


def test_verdict_claims_nothing_without_a_bootstrap() -> None:
    metrics = run("cannot tell", "cannot tell")
    metrics["test"]["rmse"] = estimate(0.62, None)
    metrics["comparison"]["mean"] = compared(-0.58, None, "cannot tell")
    assert "without an interval" in verdict(metrics)
    assert "beats" not in verdict(metrics)


def test_verdict_without_baselines_or_test_part() -> None:
    metrics = run()
    metrics["baselines"] = {}
    assert "no baseline was run" in verdict(metrics)
    metrics["baselines"] = {"mean": {"test": part(1.2)}}
    assert "no classical model was run" in verdict(metrics)
    assert "no test part" in verdict({"train": part(0.2), "test": {}})


def test_metrics_table_orders_parts_and_sources() -> None:
    rows = metrics_table(run())
    assert [(row.part, row.source) for row in rows] == [
        ("test", "model"),
        ("test", "mean"),
        ("test", "xgboost"),
        ("validation", "model"),
        ("validation", "mean"),
        ("train", "model"),
    ]
    assert rows[0].text("rmse") == "0.620 (0.580 to 0.660)"
    assert rows[0].text("spearman") == "–"
    assert rows[0].n == 840
    assert metrics_table({}) == []


def test_a_blend_is_what_the_run_predicts_with(tmp_path: Path) -> None:
    metrics = run(against_xgboost="cannot tell")
    assert [row.label for row in metrics_table(metrics) if row.own] == ["This model"] * 3
    comparison = {"model": compared(-0.03, 0.01, "better"), "xgboost": compared(-0.04, 0.01, "better")}
    metrics["blend"] = {"test": part(0.59), "weights": {"model": 0.5, "xgboost": 0.5}, "comparison": comparison}
    rows = metrics_table(metrics)
    assert [(row.label, row.own) for row in rows][:2] == [("This model, a blend", True), ("Tuned model alone", False)]
    page = write_report(
        tmp_path / "report.html", title="t", metrics=metrics, figures={}, config={}, notes=[]
    ).read_text()
    table = page.partition("Against each other model")[2].partition("</table>")[0]
    assert "Tuned model alone" in table
    assert table.count("<td>better</td>") == 2, "the blend's comparisons, not those of the tuned model"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6, "0.600"), (12.345, "12.3"), (1234.5, "1234"), (-0.05, "−0.0500"), (0.0, "0.00"), (None, "–"),
     (2e-7, "2.00e−07"), (float("nan"), "–"), (12_345_678.0, "1.23e+07")],
)  # fmt: skip
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_ends_of_an_interval_have_the_decimals_of_the_value() -> None:
    assert format_estimate({"value": 1.2, "lower": 0.0, "upper": -3e-9}) == "1.20 (0.00 to 0.00)"


class Page(HTMLParser):
    """Checks that tags nest, and gathers tags, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.text += data


EVIL = "<script>alert('x')</script> & \"quotes\""


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    path = tmp_path / "figure.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    return path


def write(tmp_path: Path, **changes: Any) -> tuple[str, Page]:
    values: dict[str, Any] = {"title": "A run", "metrics": run(), "figures": {}, "config": {}, "notes": []}
    path = write_report(tmp_path / "out" / "report.html", **{**values, **changes})
    html = path.read_text(encoding="utf-8")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    return html, Page(html)


def test_user_text_is_escaped_everywhere(tmp_path: Path, figure: Path) -> None:
    metrics = run()
    metrics["baselines"][EVIL] = {"test": part(0.6), "seconds": 1.0}
    metrics["comparison"][EVIL] = compared(0.1, 0.01, EVIL)
    html, page = write(
        tmp_path,
        title=EVIL,
        metrics=metrics,
        figures={EVIL: figure},
        config={EVIL: EVIL, "list": [EVIL]},
        notes=[EVIL],
        data_summary={EVIL: {EVIL: EVIL}},
        unit=EVIL,
    )
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 10
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == [EVIL]


def test_page_is_self_contained_and_forbids_the_network(tmp_path: Path, figure: Path) -> None:
    html, page = write(tmp_path, figures={"loss_curves": figure})
    assert "default-src 'none'" in html
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert len(links) == 1
    assert links[0] is not None
    kind, _, data = links[0].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == figure.read_bytes()
    assert not re.search(r"url\(|@import|https?:", html)


def test_page_leads_with_the_verdict_and_is_accessible(tmp_path: Path, figure: Path) -> None:
    html, page = write(tmp_path, figures={"loss_curves": figure}, unit="log units")
    assert page.text.index(verdict(run(), unit="log units")) < page.text.index("Metrics")
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_page_holds_metrics_settings_notes_and_cost(tmp_path: Path) -> None:
    config = {"training": {"epochs": 12, "learning_rate": 0.0005}, "evaluation": {"confidence": 0.9}, "report": []}
    spread = {"n": 840, "mean": 2.186, "sd": 1.2}
    data = {"elements": ["C"] * 25, "rejected_by_reason": {"empty": 3}, "parts": {"test": {"target": spread}}}
    _, page = write(tmp_path, config=config, notes=["3 rows were rejected."], data_summary=data)
    for wanted in ("0.620", "0.580 to 0.660", "XGBoost", "90 % bootstrap", "training.epochs", "0.0005", "none",
                   "3 rows were rejected.", "36,864 of 44,000,000", "5.36 min", "under 0.1 s", "and 5 more",
                   "One split and one seed", "Python", "empty: 3", "Test target", "2.19"):  # fmt: skip
        assert wanted in page.text, wanted


def test_minimal_run_has_a_page(tmp_path: Path) -> None:
    _, page = write(tmp_path, metrics={"test": part(0.6)})
    assert "no baseline was run" in page.text
    assert "Please note" not in page.text


def test_same_run_same_bytes_and_inputs_are_left_alone(tmp_path: Path) -> None:
    metrics = run()
    before = copy.deepcopy(metrics)
    assert write(tmp_path / "a", metrics=metrics)[0] == write(tmp_path / "b", metrics=metrics)[0]
    assert metrics == before


def test_figures_that_cannot_be_embedded_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere\.svg cannot be read"):
        write(tmp_path, figures={"loss": tmp_path / "nowhere.svg"})
    with pytest.raises(RunFolderError, match="neither SVG nor PNG"):
        write(tmp_path, figures={"loss": tmp_path / "figure.pdf"})
    assert not (tmp_path / "out").exists()
