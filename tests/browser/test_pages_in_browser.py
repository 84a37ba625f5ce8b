"""The pages in a real browser: clicked through, by keyboard, narrow and wide, in light and dark."""

from functools import cache
from pathlib import Path

import pytest
from memrecall_kv.report import bank_page
from memrecall_kv.testing import tiny_memory
from memrecall_kv.types import Document
from page_reading import HOSTILE, answer, chunk

pytestmark = pytest.mark.browser

FORMS = ((390, "light"), (1280, "dark"))
"""Widths of a phone and of a desk, and a scheme for each: colours do not change with the width."""
LONG = "An unbroken" + "word" * 200


@cache
def axe():
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def check(page):
    """Check that a page has no problem of access that axe knows, and nothing beside its edge."""
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    for width, scheme in FORMS:
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        if page.evaluate("typeof axe") == "undefined":
            page.evaluate(axe())
        found = page.evaluate("async () => (await axe.run(document, {iframes: false})).violations")
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == [], (width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, scheme)


@pytest.fixture
def report(tmp_path):
    """The page of an answer whose every text would do something if it could."""
    text = " ".join(["Dana approves", *(each for each in HOSTILE if "\ud800" not in each), LONG])
    opened = [chunk("travel.md", 0, text), *(chunk(each, 1, f"Dana {each}") for each in HOSTILE)]
    looks = [{each.id: 0.3 for each in opened}, {**{each.id: 0.9 for each in opened}, f"{LONG}#4": 0.4, "b#2": 0.2}]
    given = answer(question=f"Who approves {HOSTILE[0]}?", chunks=opened, notes=[*HOSTILE, LONG], looks=looks)
    file = tmp_path / "report.html"
    file.write_text(given.to_html(), encoding="utf-8")
    return file.as_uri()


def test_a_report_is_read_by_mouse_and_keyboard(page, report):
    page.goto(report)
    assert page.locator("h1").inner_text() == "Who approves <script>alert(1)</script>?"
    assert page.locator("mark").first.inner_text() == "Dana"
    assert page.locator("img, iframe, script").count() == 0
    for link in page.locator("nav a").all():
        link.click()
        target = page.evaluate("location.hash")
        assert page.locator(target).is_visible()
    page.locator(".cell a").first.click()
    assert page.evaluate("location.hash") == "#t1"
    summary = page.get_by_text("All numbers")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("table").first.is_visible()
    # the first thing a keyboard comes to leads past the rest
    page.goto(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_a_report_can_be_read_by_all(page, report):
    page.goto(report)
    check(page)


def test_nothing_moves_for_who_wants_that(page, report):
    page.goto(report)
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(behaviour) == "auto"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(behaviour) == "smooth"


def test_a_notebook_can_follow_links_inside_its_frame(page, tmp_path):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><title>Notebook</title>{answer()._repr_html_()}", encoding="utf-8")
    page.goto(notebook.as_uri())
    frame = page.frame_locator("iframe")
    for _ in range(2):
        frame.locator("nav a").last.click()
        assert frame.locator("h1").inner_text() == "Who approves trips?"
    assert page.frames[1].url == "about:srcdoc#cost"


@pytest.fixture
def explorer(tmp_path):
    memory = tiny_memory()
    names = [each for each in HOSTILE if "\ud800" not in each]
    with memory.open_bank(tmp_path / "b.bank") as bank:
        memory.ingest(bank, [Document("trips.md", "Dana approves trips.", {"title": "Who travels"})])
        memory.ingest(bank, [Document(each, f"Text {each}", {"title": f"{each}!"}) for each in names])
        memory.ingest(bank, [Document(LONG, "Never compressed")], defer=True)
        page = bank_page(bank)
    file = tmp_path / "bank.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


def test_a_bank_is_searched_by_id_and_title(page, explorer):
    page.goto(explorer)
    rows = page.locator("#list tbody tr")
    every = rows.count()
    for wanted, found in (("TRIPS", 1), ("who travels", 1), ("<script>", 2), ("nothing of that name", 0), ("", every)):
        page.get_by_label("Search ids and titles").fill(wanted)
        assert page.locator("#list tbody tr:visible").count() == found, wanted
        assert page.get_by_role("status").inner_text() == f"{found} of {every} documents"
    assert page.locator("img, iframe").count() == 0


def test_the_page_of_a_bank_can_be_read_by_all(page, explorer):
    page.goto(explorer)
    check(page)


def test_the_server_is_asked_in_a_page(page, server):
    url, key = server
    page.goto(url)
    field = page.get_by_label("API key")
    field.wait_for()
    check(page)
    field.fill("mrk_wrong")
    page.keyboard.press("Enter")
    page.get_by_text("Expected an API key that this server knows").wait_for()
    page.wrong[:] = [each for each in page.wrong if "401" not in each]  # the browser reports what was refused
    field.fill(key)
    page.get_by_role("button", name="Use it").click()
    page.get_by_label("Bank").wait_for()
    assert page.locator("#bank option").all_inner_texts() == ["handbook (2 documents)"]
    page.get_by_label("Question").fill("Who approves trips?")
    page.keyboard.press("Enter")
    frame = page.frame_locator("iframe[title='Recall report']")
    assert frame.locator(".answer").inner_text().startswith("Dana approves trips of more than fifty euros.")
    assert frame.locator("mark").first.inner_text() == "Dana approves trips of more than fifty euros"
    frame.locator("nav a").last.click()
    assert frame.locator("#cost").is_visible()
    check(page)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save this page").click()
    assert "Dana" in Path(saved.value.path()).read_text(encoding="utf-8")
    page.get_by_role("button", name="Show the bank").click()
    bank = page.frame_locator("iframe[title='Page of the bank']")
    bank.get_by_label("Search ids and titles").fill("travel")
    assert bank.locator("#list tbody tr:visible").count() == 1
    assert bank.locator("img, iframe").count() == 0
    # nothing of the key is left anywhere
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_label("API key").wait_for()
    page.wrong[:] = [each for each in page.wrong if "401" not in each]
    assert key not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert page.locator("iframe").count() == 0
