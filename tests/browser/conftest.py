"""A browser of its own for all tests: headless, offline but for this machine, without anybody's settings."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from memrecall_kv.serve.keys import KeyFile
from page_reading import HOSTILE
from patience import PATIENCE

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVER = Path(__file__).parents[1] / "serve" / "loopback_server.py"
TRAVEL = {"id": "travel.md", "text": "Dana approves trips of more than fifty euros. Nobody else does."}
WEIRD = {"id": HOSTILE[1], "text": f"Lunch. {HOSTILE[0]}", "metadata": {"title": HOSTILE[0]}}


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM} is not there: apt-get install chromium, or name one in CHROMIUM.", pytrace=False)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        context.set_default_timeout(PATIENCE * 1000)
        yield context
        context.close()


@pytest.fixture
def page(browser):
    """A page that must not complain, open a dialog, or ask any other machine for anything."""
    page, wrong = browser.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: wrong.append(request.url) if not is_ours(request.url) else None)
    page.wrong = wrong
    yield page
    page.close()
    assert wrong == []


def is_ours(url):
    return bool(re.match(r"file:///|about:|blob:|http://127\.0\.0\.1:\d+/", url))


@pytest.fixture(scope="session")
def server(tmp_path_factory, browser):
    """The address of a server of two banks, and a key that opens one of them, which holds TRAVEL and WEIRD."""
    place = tmp_path_factory.mktemp("served")
    keys = KeyFile(place / "keys.json")
    key, operator = keys.add("ann", ["handbook"]), keys.add("operator", None)
    banks = [str(place / "handbook.bank"), str(place / "secret.bank")]
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "serve", *banks, "--port", "0", "--api-key-file", str(place / "keys.json")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SERVER.parents[2] / "core"), str(SERVER.parents[1])])},
    )
    try:
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        headers = {"Authorization": f"Bearer {operator}"}
        job = browser.request.post(
            f"{url}/v1/banks/handbook/documents", headers=headers, data={"documents": [TRAVEL, WEIRD]}
        )
        browser.request.get(f"{url}{job.headers['location']}/events", headers=headers)
        yield url, key
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        rest.join(PATIENCE)
        process.stderr.close()
