"""Every example of every page runs and prints what the page says, or is marked as needing what is not here."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import _parse, main

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "egs").glob("*/README.md")),
]
"""Those whose examples run here."""
NOT_RUN = {
    "the whole recipe": 10,
    "the model of egs/mini": 1,
    "VoxCeleb": 4,
    "recordings": 4,
    "a checkout of its own": 6,
    "a machine of its own": 1,
    "a release": 2,
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
    """Those of a page that another takes up are counted once."""
    needs = Counter(example.needs for page in PAGES for example in page_examples.examples(page))
    del needs[None]
    assert needs == Counter(NOT_RUN)


def test_commands_that_do_not_run_here_are_understood(page_examples):
    """Their subcommands and options are there."""
    found = []
    for page in PAGES:
        for example in page_examples.examples(page):
            if example.needs is None or example.language not in ("bash", "sh", "console"):
                continue
            for line in example.body.replace("\\\n", " ").splitlines():
                command = line.removeprefix("$ ").strip()
                if command.startswith("wespeaker-qm ") and "--help" not in command:
                    _parse(shlex.split(command, comments=True)[1:])
                    found.append(command)
    assert found


def test_no_command_hides_in_a_block_that_does_not_run():
    for page in PAGES:
        for language, body in re.findall(
            r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            if language in ("", "text"):
                assert not re.search(r"^(\$ )?(\./run\.sh|wespeaker-qm|python|pip) ", body, re.MULTILINE), (page, body)


def test_pages_use_all_marks_that_the_tool_knows(page_examples):
    """A mark that is spelt wrong would be none."""
    for page in PAGES:
        for example in page_examples.examples(page):
            known = (page_examples.UNTIL_CTRL_C, page_examples.EXACT, "")
            assert example.mark in known or example.needs in NOT_RUN, (page, example.line, example.mark)


def test_what_a_page_says_wrongly_is_found(page_examples, tmp_path):
    """The comparison itself: other words, other lines, and in exact examples other numbers."""
    page = tmp_path / "page.md"
    runner = page_examples.Runner()
    for body, is_right in (("a 1.5\n", True), ("a 2\n", True), ("b 1\n", False), ("a 1\na 2\n", False), ("", False)):
        page.write_text(f"```console\n$ echo a 1\n{body}```\n")
        (example,) = page_examples.examples(page)
        if is_right:
            page_examples.check(example, runner.run(example))
        else:
            with pytest.raises(page_examples.Failed, match=r"page\.md:1: the page says"):
                page_examples.check(example, runner.run(example))
    page.write_text("<!-- example: exact -->\n```pycon\n>>> 1 + 1\n3\n```\n")
    (example,) = page_examples.examples(page)
    with pytest.raises(page_examples.Failed):
        page_examples.check(example, runner.run(example))
    page.write_text("```bash\nfalse\ntrue\n```\n")
    (example,) = page_examples.examples(page)
    with pytest.raises(page_examples.Failed, match="ends with 1"):
        runner.run(example)


def test_update_writes_what_is_printed_now(page_examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    kept = "<!-- example: needs a GPU -->\n```bash\nfalse\n```\n"
    page.write_text(f"One\n```console\n$ echo 1; exit 3\nold\n$ echo $?\n0\n```\nTwo\n{kept}")
    assert page_examples.main([str(page)]) == 1
    assert page_examples.main([str(page), "--update"]) == 0
    assert page.read_text() == f"One\n```console\n$ echo 1; exit 3\n1\n$ echo $?\n3\n```\nTwo\n{kept}"
    assert page_examples.main([str(page)]) == 0
