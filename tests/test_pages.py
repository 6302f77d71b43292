"""The built pages: every page in a real browser, and every link in their HTML."""

import os
import re
import shutil
import threading
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from bookfiles import ROOT, repository
from bs4 import BeautifulSoup

SITE = ROOT / "_build" / "html"
CHECKS = (Path(__file__).parent / "browser_checks.js").read_text(encoding="utf-8")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update"]  # fmt: skip
# While a colour changes, what is between two colours has no meaning.
STILL = "* { transition: none !important; animation: none !important }"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]

every_page = pytest.mark.parametrize(
    "page", [TOC["root"], *CHAPTERS, "search"], ids=lambda page: Path(page).name
)


def built(page):
    path = SITE / f"{page}.html"
    assert path.exists(), f"{path.relative_to(ROOT)} is not built: run `make book`"
    return path


@pytest.fixture(scope="module")
def site():
    """The address of the built pages, served from this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=SITE)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        missing = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        missing("no Chromium or Chrome on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield chromium
        chromium.close()


@every_page
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_page_in_browser(browser, site, page, mode):
    built(page)
    faults = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=mode)

    def stay_here(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            faults.append(f"asks another host: {route.request.url}")
            route.abort()

    def listen(said):
        if said.type == "error":
            faults.append(f"console: {said.text}")

    context.route("**/*", stay_here)
    tab = context.new_page()
    tab.on("console", listen)
    tab.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    tab.goto(f"{site}/{page}.html", wait_until="load")
    tab.add_style_tag(content=STILL)
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        faults += [f"{width} px: {fault}" for fault in tab.evaluate(CHECKS)]
    assert tab.get_attribute("html", "data-theme") == mode
    if mode == "dark":  # figures are dark, too
        pictures = tab.locator("article figure img")
        for filters in pictures.evaluate_all("all => all.map((i) => getComputedStyle(i).filter)"):
            assert "invert(1)" in filters
    context.close()
    assert not faults, "\n".join(faults)


@cache
def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path):
    return {tag["id"] for tag in soup(path).find_all(id=True)} | {"", "top"}


@every_page
def test_links_lead_somewhere(page):
    path = built(page)
    faults = []
    for tag in soup(path).find_all(["a", "link", "script", "img"]):
        address = tag.get("href") or tag.get("src")
        if tag.name == "a" and address and urlsplit(address).scheme:
            if urlsplit(address).scheme not in ("https", "mailto"):
                faults.append(f"neither inside the book nor https: {address}")
            continue
        if not address or address.startswith("data:"):
            continue
        if urlsplit(address).netloc:
            faults.append(f"<{tag.name}> from another host: {address}")
            continue
        parts = urlsplit(urljoin(path.as_uri(), address))
        target = Path(unquote(parts.path))
        if not target.is_file():
            faults.append(f"no such file: {address}")
        elif target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
            faults.append(f"no such anchor: {address}")
    assert not faults, "\n".join(faults)


@every_page
def test_colab_links_are_exact(page):
    slug = repository().removeprefix("https://github.com/")
    text = built(page).read_text(encoding="utf-8")
    links = set(re.findall(r'href="(https://colab\.research\.google\.com/[^"]*)"', text))
    notebook = ROOT / f"{page}.ipynb"
    if notebook.exists():
        right = f"https://colab.research.google.com/github/{slug}/blob/main/{page}.ipynb"
        assert links == {right}
        assert text.count(f'href="{right}"') >= 2, "a link in the text and the button above it"
        assert f'href="https://github.com/{slug}"' in text, "the repository button"
    else:
        assert not links
