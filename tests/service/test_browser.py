"""The page in a real Chromium: see, explain, upload, download, error, keyboard, both colour schemes, accessibility."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from tests.service.conftest import listening, make_settings

from moltune import datasets
from moltune.run import Run
from moltune.service.models import Served, served
from moltune.service.page import assets

CHROMIUM = which("chromium") or which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SECONDS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Containers of CI have no user namespaces for the sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page; afterwards it must have complained of nothing."""
    options = {"viewport": {"width": 1200, "height": 900}, "permissions": ["clipboard-read", "clipboard-write"]}
    context = browser.new_context(base_url=address, **options | getattr(request, "param", {}))
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [one for one in said if "status of 4" not in one] == []


def predicted(page: Any, smiles: str) -> None:
    page.goto(f"./#/?smiles={smiles}")
    page.wait_for_selector(".card .number strong")
    page.wait_for_selector(".card .drawing img")


def check_accessible(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def upload(page: Any, tmp_path: Path) -> None:
    table = datasets.load("freesolv").iloc[100:160][["smiles"]].reset_index(drop=True)
    table.loc[5, "smiles"] = "C1CC"
    table.assign(compound=[f"ID-{i}" for i in range(60)]).to_csv(tmp_path / "mine.csv", index=False)
    page.goto("./#/files")
    page.set_input_files("#file", tmp_path / "mine.csv")
    page.wait_for_selector("table.rows tbody tr")


def test_an_example_gives_value_interval_domain_and_reasons(page: Any) -> None:
    page.goto("./")
    page.get_by_role("button", name="Aspirin").click()
    card = page.get_by_role("article", name="Hydration free energy")
    card.locator(".number strong").wait_for()
    assert re.fullmatch(r"−?\d+\.\d+", card.locator(".number strong").inner_text())
    assert card.locator(".badge").inner_text() in (
        "In the domain",
        "At the edge of the domain",
        "Outside of the domain",
    )
    assert "training values" in card.locator("svg.scale").first.get_attribute("aria-label")
    card.locator(".drawing img").wait_for()
    assert card.locator(".neighbours li").count() == 3
    card.get_by_text("Numbers").click()
    assert card.locator("details tbody tr").count() == 13
    assert "13" not in page.title()


def test_drawing_and_smiles_are_kept_in_step(page: Any) -> None:
    page.goto("./")
    page.wait_for_selector(".editor *")

    page.wait_for_timeout(500)
    box = page.locator(".editor").bounding_box()
    # A bond of the first tool, drawn with the mouse.
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(*middle)
    playwright.expect(page.locator("#smiles")).not_to_have_value("")
    assert page.input_value("#smiles") == "CC"
    page.fill("#smiles", "C1CC")
    assert "cannot be read" in page.locator("#smiles-help").inner_text()
    page.fill("#smiles", "C1CC1")
    assert "Enter predicts" in page.locator("#smiles-help").inner_text()


def test_a_molblock_can_be_pasted(page: Any) -> None:
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    page.goto("./")
    page.focus("#smiles")
    page.evaluate("text => navigator.clipboard.writeText(text)", block)
    page.keyboard.press("Control+V")
    playwright.expect(page.locator("#smiles")).not_to_have_value("")
    assert Chem.CanonSmiles(page.input_value("#smiles")) == "CCO"


def test_keyboard_alone_is_enough(page: Any) -> None:
    page.goto("./")
    page.wait_for_selector("#smiles")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    for _ in range(30):
        if page.evaluate("document.activeElement.id") == "smiles":
            break
        page.keyboard.press("Tab")
    page.keyboard.type(ASPIRIN)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card .number strong")
    assert page.evaluate("document.activeElement.id") == "smiles"
    # What a screen reader hears.
    assert "hydration free energy" in page.locator("#live").inner_text()


def test_copies_and_a_link_that_finds_the_molecule_again(page: Any, browser: Any) -> None:
    predicted(page, "OCC")
    copied = "navigator.clipboard.readText()"
    page.get_by_role("button", name="Copy SMILES").click()
    playwright.expect(page.locator("#live")).to_have_text("SMILES copied.")
    assert page.evaluate(copied) == "CCO"
    page.get_by_role("button", name="Copy CSV").click()
    playwright.expect(page.locator("#live")).to_have_text("Table copied.")
    assert page.evaluate(copied).splitlines()[1].startswith("CCO,hydration,")
    page.get_by_role("button", name="Copy link").click()
    playwright.expect(page.locator("#live")).to_have_text("Link copied.")
    assert page.evaluate(copied) == page.url
    page.get_by_role("button", name="Copy drawing as PNG").click()
    playwright.expect(page.locator("#live")).to_have_text("Picture copied.")


def test_errors_are_said(page: Any) -> None:
    page.goto("./#/?smiles=C1CC")
    page.wait_for_selector("[role=alert]")
    assert "unclosed ring" in page.locator("[role=alert]").inner_text()
    page.goto("./#/files/nix")
    page.wait_for_selector("[role=alert]")
    assert "no such job" in page.locator("[role=alert]").inner_text()


def test_a_file_becomes_a_table(page: Any, tmp_path: Path) -> None:
    upload(page, tmp_path)
    assert "60 rows, 59 predicted" in page.locator("main").inner_text()
    rows = page.locator("table.rows tbody tr")
    assert rows.count() == 25
    page.get_by_role("button", name=re.compile("^hydration")).click()
    page.wait_for_selector("th[aria-sort=ascending]")
    texts = page.locator("td.figure strong").all_inner_texts()
    values = [float(text.replace("−", "-")) for text in texts]
    assert values == sorted(values)
    page.get_by_role("button", name="Next").click()
    page.get_by_text("Rows 26 to 50 of 60").wait_for()
    flag, count = re.search(r"hydration: (\w+) \((\d+)\)", page.locator("#domain").inner_text()).groups()
    page.select_option("#domain", label=f"hydration: {flag} ({count})")
    page.get_by_text(re.compile(rf"of {count}$|No such rows")).wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert download.value.suggested_filename == "mine-predicted.csv"
    assert len(Path(download.value.path()).read_text().splitlines()) == 61
    # A structure leads to its molecule, and back is the table.
    page.select_option("#domain", "")
    page.locator("table.rows tbody a").first.click()
    page.wait_for_selector(".card .number strong")
    page.goto("./#/files")
    page.get_by_role("button", name="Delete").first.click()
    page.wait_for_selector(".jobs", state="detached")


SCHEMES = [{"color_scheme": scheme} for scheme in ("light", "dark")]


@pytest.mark.parametrize("page", [*SCHEMES, {"viewport": {"width": 360, "height": 800}}], indirect=True)
def test_every_state_is_accessible_and_fits(page: Any, tmp_path: Path) -> None:
    def check() -> None:
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        check_accessible(page)

    page.goto("./")
    page.wait_for_selector(".editor *")
    check()
    for smiles in (ASPIRIN, "N[Pt](N)(Cl)Cl"):
        predicted(page, smiles)
        check()
    page.goto("./#/?smiles=xx")
    page.wait_for_selector("[role=alert]")
    check()
    page.goto("./#/models")
    page.wait_for_selector(".card dl")
    check()
    upload(page, tmp_path)
    check()


@pytest.fixture(scope="module")
def address_of_classes(probe: Run, classifier: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = served([str(probe.path), str(classifier.path)], only=True)
    yield from listening(make_settings(tmp_path_factory.mktemp("classes")), models)


@pytest.mark.parametrize("options", [*SCHEMES, {"viewport": {"width": 360, "height": 800}}])
def test_a_classifier(browser: Any, address_of_classes: str, options: dict[str, Any], tmp_path: Path) -> None:
    page = browser.new_page(base_url=address_of_classes, **options)
    page.set_default_timeout(SECONDS)
    page.goto("./#/?smiles=OCC(O)CO")
    card = page.get_by_role("article", name="Solvation")
    card.locator(".drawing img").wait_for()
    page.locator(".drawing img").nth(1).wait_for()
    assert card.locator(".number strong").inner_text() == "soluble"
    text = card.inner_text()
    assert re.search(r"probability of soluble (0\.\d\d|1\.00)\n", text)
    assert "90 % prediction set" in text
    assert re.search(r"\d+ % of the training are soluble", text)
    assert re.search(r"(in)?soluble measured", text)
    scale = card.locator("svg.scale").first
    assert "on a scale from 0 (insoluble) to 1" in scale.get_attribute("aria-label")
    assert scale.locator("rect.positive").count() == 30
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    check_accessible(page)
    page.goto("./#/models")
    card = page.get_by_role("article", name="Solvation")
    card.wait_for()
    assert "ROC AUC" in card.inner_text()
    assert "RMSE" not in card.inner_text()
    check_accessible(page)
    upload(page, tmp_path)
    assert "probability of soluble" in page.locator("thead").inner_text()
    assert "set: " in page.locator("table.rows tbody").inner_text()
    assert "predicted: insoluble\u00a0" in page.locator(".summaries").inner_text()
    check_accessible(page)
    page.close()


def test_a_token_is_asked_for_once(browser: Any, models: list[Served], tmp_path: Path) -> None:
    for address in listening(make_settings(tmp_path, token="secret"), models):
        page = browser.new_page()
        page.goto(f"{address}#/?smiles=CCO")
        for text in ("wrong", "secret"):
            page.get_by_label("Whoever runs this service has one for you.").fill(text)
            page.get_by_role("button", name="Go on").click()
            page.wait_for_timeout(300)
        page.wait_for_selector(".card .number strong", timeout=SECONDS)
        page.close()


def test_the_page_is_light_and_loads_nothing_from_elsewhere(page: Any, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    predicted(page, ASPIRIN)
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    sent = sum(len(one.packed or one.content) for name, one in assets().items() if name != "LICENCES.txt")
    assert sent < 1.5e6
    assert json.dumps(sorted(assets())).count("openchemlib") == 1
