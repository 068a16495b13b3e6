"""Every example of every page runs and prints what the page says, or is marked as needing what is not here."""

from collections import Counter
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
"""Those whose examples run here."""
NOT_RUN = {
    "the whole recipe": 0,
    "VoxCeleb": 0,
    "a GPU": 0,
    "the network": 0,
    "WeSpeaker": 0,
}
"""What examples may need that is not here -> in how many it is allowed: a new one runs, or is counted here."""


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_do_what_the_page_says(page, page_examples, world):
    runner = page_examples.Runner(main)
    for example in page_examples.examples(page):
        if example.needs is None:
            page_examples.check(example, runner.run(example))


def test_what_does_not_run_is_counted(page_examples):
    needs = Counter(example.needs for page in PAGES for example in page_examples.examples(page))
    del needs[None]
    assert needs == Counter(NOT_RUN)
