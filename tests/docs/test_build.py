"""The documentation builds without a warning, and a page of it needs nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "use": "href"}
"""Elements that a browser fetches something for -> the attribute that says what."""
ELSEWHERE = {
    "https://arxiv.org/abs/2606.31664",
    "https://github.com/pradyunsg/furo",  # the theme
    "https://keepachangelog.com/en/1.1.0/",
    "https://mutmut.readthedocs.io",
    "https://semver.org",
    "https://ui.perfetto.dev",
}
"""Addresses that pages link to. No test can reach them: a release asks them (docs/releasing.md)."""


class _Page(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.names |= {value for key in ("id", "name") if (value := values.get(key))}
        if tag in LOADING and (place := values.get(LOADING[tag])):
            self.loads.append(place)
        if tag == "a" and (place := values.get("href")):
            self.leads.append(place)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as CONTRIBUTING.md says."""
    out = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "docs", str(out)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def test_pages_load_nothing_from_elsewhere(built):
    pages = {path: _Page(path) for path in built.rglob("*.html")}
    assert built / "use.html" in pages
    for path, page in pages.items():
        for place in page.loads:
            assert not re.match(r"\w+:|//", place) or place.startswith("data:"), (path, place)
            file = place.partition("?")[0].partition("#")[0]
            if file and not place.startswith("data:"):
                assert (path.parent / file).is_file(), (path, place)
    for path in (built / "_static").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_formulas_are_drawn_by_the_browser_itself(built):
    text = (built / "derivation.html").read_text(encoding="utf-8")
    assert text.count("<math") > 50
    body = re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
    assert not re.search(r"\\(frac|sum|theta|alpha)|\$\$", body)


@needs_browser
@pytest.mark.parametrize("width", [390, 820, 1024, 1280, 1366])
def test_no_page_is_wider_than_the_screen(built, width):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in sorted(built.glob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            hidden = page.evaluate("[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)")
            assert hidden == [], path.name
        browser.close()
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_links_lead_somewhere(built):
    pages = {path: _Page(path) for path in built.rglob("*.html")}
    for path, page in pages.items():
        for place in page.leads:
            if re.match(r"\w+:", place):
                continue
            file, _, name = place.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), (path, place)
            if name and target in pages:
                assert name in pages[target].names, (path, place)


def test_links_that_leave_the_pages_are_known(built):
    pages = [_Page(path).leads for path in built.rglob("*.html")]
    found = {place for leads in pages for place in leads if re.match(r"\w+:|//", place)}
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"))
    found |= set(re.findall(r"\]\((\w+:[^)]+)\)", written))
    assert found == ELSEWHERE
    for place in found:
        address = urlsplit(place)
        assert (address.scheme, address.query, address.fragment) == ("https", "", ""), place
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]+", address.netloc), place
