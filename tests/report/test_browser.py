"""The gallery in a browser, as wide as on a desk and on a phone: navigation, filters, model switch, no error, usable by anyone.

Skipped, saying so, where neither Playwright's Chromium nor one of the system is found.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.results import NASTY, claim, result

from safesteer_interp.report.pages import build

playwright = pytest.importorskip("playwright.sync_api", reason="the gallery is looked at in a browser: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core checks the pages: pip install axe-playwright-python")
ROOT = Path(__file__).resolve().parents[2]
SCREEN = 800
"""Pixels of a screen's height."""
WIDTHS = (1280, 420)
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

AXE = {"resultTypes": ["violations"], "preload": False}
"""axe-core with its usual rules: names, roles, landmarks, order of headings, contrast of WCAG AA and the rest."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        except playwright.Error as cause:
            pytest.skip(f"no Chromium to look at the gallery with: {str(cause).splitlines()[0]}")
        yield opened
        opened.close()


def _chromium() -> str | None:
    """A browser of the system, or None for Playwright's own."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed results, whose pages are built here, with a hostile finding on two models besides."""
    target: Path = tmp_path_factory.mktemp("gallery") / "figures"
    shutil.copytree(ROOT / "figures", target)
    for model in ("mini", "mini-grounded"):
        place = result(target, "zz_hostile", model, model=model.replace("-", ":"), order=99)
        record = json.loads((place / "claims.json").read_text())
        about = json.loads((place / "provenance.json").read_text())
        known = json.loads((ROOT / "figures" / "refusal_lens" / model / "provenance.json").read_text())
        about["model"]["fingerprint"] = known["model"]["fingerprint"]  # the weights that the committed results are of
        (place / "provenance.json").write_text(json.dumps(about))
        verdict = "supported" if model == "mini" else "undecided"
        told = claim(verdict, statement=f"A hostile claim {NASTY} <img src=x onerror=alert(1)>", note=NASTY)
        (place / "claims.json").write_text(json.dumps({**record, "claims": [told]}))
    build(target)
    return target


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, figures: Path) -> Iterator[Any]:
    """The first page of the gallery; whatever the console says, fails the test."""
    opened = browser.new_page(viewport={"width": request.param, "height": SCREEN}, reduced_motion="reduce")
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or said.append(f"asked {asked.url}"))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.goto(f"file://{figures}/index.html")
    yield opened
    opened.close()
    assert said == []


def all_pages(figures: Path) -> list[str]:
    return [path.relative_to(figures).as_posix() for path in sorted(figures.rglob("*.html"))]


def test_every_page_can_be_used_by_anyone_and_fits_its_width(page: Any, figures: Path) -> None:
    wide = page.viewport_size["width"] == max(WIDTHS)
    for name in all_pages(figures):
        page.goto(f"file://{figures}/{name}")
        if wide or "/" not in name or "zz_hostile" in name:  # what differs at a phone's width is in every finding's page the same
            found = axe.Axe().run(page, options=AXE).response["violations"]
            assert [(v["id"], v["help"], v["nodes"][0]["html"][:200]) for v in found] == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], name
        screens = page.evaluate("document.documentElement.scrollHeight") / SCREEN
        assert not wide or screens <= 6, f"{name} is {screens:.1f} screens high"
        broken = page.evaluate("""async () => {
            const all = [...document.images].filter((i) => i.closest("[hidden]") === null);
            for (const i of all) i.loading = "eager";
            await Promise.all(all.map((i) => i.decode().catch(() => null)));
            return all.filter((i) => !i.naturalWidth && !i.src.includes("zz_hostile")).map((i) => i.src);
        }""")
        assert broken == [], name


def test_the_first_page_is_short_at_either_width(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollHeight") / SCREEN <= 6
    folded = page.locator(".conclusions:visible details.more:not([open])").count()
    assert (folded > 0) == (page.viewport_size["width"] == min(WIDTHS)), "sentences are folded on a phone only"
    if folded:
        page.locator(".conclusions:visible details.more summary").first.click()
    assert page.locator(".conclusions:visible details.more").first.locator("li").first.is_visible()


def test_a_page_without_its_script_shows_everything(browser: Any, figures: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    bare = context.new_page()
    bare.goto(f"file://{figures}/zz_hostile/index.html")
    assert bare.locator(".entry:visible").count() == 2
    bare.goto(f"file://{figures}/index.html")
    assert bare.locator(".conclusions li:visible").count() == bare.locator(".conclusions li").count() > 7
    context.close()


def test_one_gets_about_at_either_width(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_text("Go to a finding").click()
    menu = page.locator("details.menu a", has_text="Is image-borne harm stealthier?").first
    assert menu.is_visible()
    menu.click()
    page.wait_for_url("**/modality_stealth/index.html*")
    assert page.locator("h1").inner_text() == "Is image-borne harm stealthier?"
    page.locator(".around a").last.click()
    page.locator(".bar a", has_text="Glossary").click()
    assert page.locator("h1").inner_text() == "Glossary"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.get_by_role("link", name="Back to top").click()
    assert page.evaluate("scrollY") == 0


def test_what_was_learned_leads_to_the_claim_opened(page: Any) -> None:
    assert page.locator("h2").first.inner_text() == "What was learned"
    page.locator(".conclusions:visible li a[href*='index.html']").first.click()
    page.wait_for_load_state()
    target = page.locator(page.evaluate("'#' + CSS.escape(location.hash.slice(1))"))
    assert target.get_attribute("open") is not None and target.locator(".body").is_visible()


def test_the_filters_leave_what_matches(page: Any) -> None:
    every = page.locator(".card:visible").count()
    page.keyboard.press("/")
    page.keyboard.type("hostile claim")
    assert page.locator(".card:visible").count() == 1 and page.locator(".hits li:visible").count() == 1
    assert page.locator("#count").inner_text() == "1 finding, 1 claim"
    page.select_option("#verdict", "contradicted")
    assert page.locator(".card:visible").count() == 0 and page.locator("#nothing").is_visible()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function(f"[...document.querySelectorAll('.card')].filter((c) => !c.hidden).length === {every}")
    page.select_option("#item", "Table 3")
    cards = page.locator(".card:visible")
    assert 0 < cards.count() < every
    assert all("Table 3" in text for text in cards.evaluate_all("(cards) => cards.map((c) => c.dataset.items)"))
    page.select_option("#item", "-")
    assert 0 < cards.count() < every and not any(cards.evaluate_all("(cards) => cards.map((c) => c.dataset.items)"))


def test_the_model_stays_chosen_on_every_page(page: Any) -> None:
    page.select_option("#model", "mini:grounded")
    assert page.locator(".conclusions:visible").get_attribute("data-entry") == "mini:grounded"
    page.locator(".card h3 a", has_text="zz_hostile").click()
    page.wait_for_url("**model=mini*")
    assert page.locator(".entry:visible").get_attribute("data-entry") == "mini:grounded"
    page.select_option("#model", "*")
    assert page.locator(".entry:visible").count() == 2
    page.locator(".bar a", has_text="The paper, item by item").click()
    page.locator(".bar a", has_text="Models side by side").click()
    assert page.locator("tr.differs", has_text="A hostile claim").count() == 1


def test_a_model_that_a_finding_has_not_is_said(page: Any, figures: Path) -> None:
    page.goto(f"file://{figures}/throughput/index.html?model=mini%3Agrounded")
    assert page.locator("[data-absent]:visible").inner_text() == "Not measured on mini:grounded. Shown here: mini."
    assert page.locator(".entry:visible").count() == 1


def test_hostile_text_is_shown_as_text(page: Any, figures: Path) -> None:
    page.goto(f"file://{figures}/zz_hostile/index.html")
    page.locator("details.claim summary").first.click()
    assert NASTY in page.locator("details.claim").first.inner_text()
    assert page.locator("main script, main img[src='x']").count() == 0


def test_a_word_is_explained_on_focus_and_on_hover(page: Any, figures: Path) -> None:
    page.goto(f"file://{figures}/modality_stealth/index.html")
    page.locator("details.claim summary").first.click()
    word = page.locator("main a.term:visible").first
    word.focus()
    assert len(page.evaluate("(e) => getComputedStyle(e, '::after').content", word.element_handle())) > 20
    assert word.get_attribute("aria-description") == word.get_attribute("data-tip")
    words = page.locator(".term:visible")
    for number in range(min(words.count(), 8)):
        words.nth(number).hover()
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], "the meaning stays on the page"
