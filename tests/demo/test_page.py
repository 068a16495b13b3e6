"""The page in a browser that has a microphone: recording, choosing files, and what is then seen."""

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.demo import app as module

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    # Playwright's own threads and sockets end with its process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)"),
]
expect.set_options(timeout=30_000)  # of machines with much to do

SIZES = {"desktop": (1200, 900), "phone": (390, 844)}
SCREENSHOTS = os.environ.get("WESPEAKER_QM_SCREENSHOTS")
"""A folder for pictures of the page, for people."""


@pytest.fixture
def browser(wav):
    """Chromium whose microphone hears a pitch of 300 Hz."""
    microphone = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav(300.0, 5)}",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *microphone])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Function: open the page of a server; its ``problems`` are what console and network complained of."""

    def open_url(server, size="desktop"):
        width, height = SIZES[size]
        opened = browser.new_context(viewport={"width": width, "height": height}).new_page()
        opened.problems = []
        opened.on("console", lambda message: opened.problems.append(message.text))
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.on("request", lambda request: is_own(request.url, server) or opened.problems.append(request.url))
        opened.goto(server.url)
        expect(opened.locator("#about")).to_contain_text("The model is")
        return opened

    return open_url


def is_own(url, server):
    return url.startswith((server.url, "data:", "blob:"))


def shoot(page, name):
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def choose(page, slot, path):
    page.locator(f"#{slot} input[type=file]").set_input_files(path)
    expect(page.locator(f"#{slot} .state")).to_contain_text("speech")


def record(page, slot, seconds=2):
    page.locator(f"#{slot} .record").click()
    expect(page.locator(f"#{slot} .record")).to_contain_text(re.compile(rf"Stop \(([{seconds}-9]|[1-9]\d) s\)"))
    page.locator(f"#{slot} .record").click()
    expect(page.locator(f"#{slot} .state")).to_contain_text("speech")
    expect(page.locator(f"#{slot} .record")).to_have_text("Record")


@pytest.mark.parametrize("size", SIZES)
def test_two_recordings_are_compared(page, open_page, wav, model, monkeypatch, size):
    """One from the microphone, one from a file."""
    sent = []
    hear = model.hear
    monkeypatch.setattr(model, "hear", lambda each, **options: (sent.append(each), hear(each, **options))[1])
    opened = open_page(page, size)
    record(opened, "slot-one")
    choose(opened, "slot-other", wav(300.0, 1))
    opened.wait_for_selector("#decision .verdict")
    recording = next(each for each in sent if getattr(each, "name", "") == "recording")
    recording.seek(0)
    samples, rate = read_audio(recording)
    assert 2.0 <= len(samples) / rate < 5
    assert 0.1 < abs(samples).max() <= 1
    verdict = opened.locator("#decision .verdict").inner_text()
    assert verdict in ("The same person", "Different people")
    assert opened.locator("#figures").is_visible()
    assert opened.locator("#histogram .score").count() == 1
    assert opened.locator("main").inner_text().count("300-1.wav: 1.9 s of speech") == 1
    assert opened.locator("#det circle.at-score").count() == 1
    assert opened.locator("#det circle.at-threshold").count() == 1
    assert re.search(r"[0-9.]+ % score as high as yours", opened.locator("#det-caption").inner_text())
    assert opened.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    shoot(opened, f"verify-{size}")
    assert opened.problems == []


def test_the_decision_follows_the_rate(page, open_page, wav, model):
    opened = open_page(page)
    choose(opened, "slot-one", wav(300.0, 1))
    choose(opened, "slot-other", wav(900.0, 1))
    for rate in ("0.1", "0.01", "0.0001"):
        opened.locator("#far").select_option(rate)
        decision = model.verify(wav(300.0, 1), wav(900.0, 1), far=float(rate))
        if decision.threshold is None:
            expect(opened.locator("#decision dt", has_text="threshold")).to_have_count(0)
        else:
            expect(opened.locator("#decision dd").nth(1)).to_have_text(f"{decision.threshold:.2f}")
        verdict = {True: "The same person", False: "Different people", None: "No decision"}[decision.same]
        expect(opened.locator("#decision .verdict")).to_have_text(verdict)
    assert opened.problems == []


@pytest.mark.parametrize("size", SIZES)
def test_speakers_are_enrolled_identified_and_forgotten(page, open_page, wav, size):
    opened = open_page(page, size)
    opened.locator("#tab-identify").click()
    name = "<img src=x onerror=alert(1)>"
    for who, pitch_hz in ((name, 300.0), ("Ben", 900.0)):
        choose(opened, "slot-enrol", wav(pitch_hz, 1))
        opened.locator("#name").fill(who)
        opened.locator("#enrol").click()
        expect(opened.locator("#speakers td", has_text=who)).to_have_count(1)
    record(opened, "slot-who")
    opened.wait_for_selector("#identification .verdict")
    assert opened.locator("#identification td").first.inner_text() == name
    assert "of strangers are taken for one of 2" in opened.locator("#identification").inner_text()
    assert opened.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    shoot(opened, f"identify-{size}")
    opened.get_by_role("button", name="Forget Ben").click()
    expect(opened.locator("#speakers tr")).to_have_count(1)
    assert [each.name for each in page.store.speakers()] == [name]
    assert opened.problems == []


def test_what_goes_wrong_is_said(page, open_page, tmp_path, wav, monkeypatch):
    opened = open_page(page)
    bad = tmp_path / "notes.txt"
    bad.write_text("no audio")
    opened.locator("#slot-one input[type=file]").set_input_files(bad)
    expect(opened.locator("#slot-one .state")).to_contain_text("notes.txt")
    monkeypatch.setattr(module, "MAX_UPLOAD_BYTES", 100)
    opened.locator("#slot-one input[type=file]").set_input_files(wav(300.0))
    expect(opened.locator("#slot-one .state")).to_contain_text("shorter")
    assert opened.locator("#decision .verdict").count() == 0
    assert [text for text in opened.problems if "Failed to load resource" not in text] == []
