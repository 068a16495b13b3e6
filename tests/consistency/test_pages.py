"""What the pages say about commands and files is true."""

import re
import subprocess
from pathlib import Path

import pytest

from wespeaker_qm.utils.extras import EXTRAS

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "egs").glob("*/README.md")),
]
MOST_LINES = 120
"""Of the README, which is read first."""


def stages(text):
    """Stage number -> name, from lines ``  1  prepare ...`` (--help) or ``| 1 | prepare | ...`` (README)."""
    return dict(re.findall(r"^[| ]+(\d)[ |]+`?(\w+)", text, re.MULTILINE))


def test_the_readme_opens_with_the_two_commands():
    code = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    commands = [line.split("#")[0].strip() for line in "".join(code).splitlines()]
    assert [command for command in commands if command][:2] == ["./run.sh", "./tools/test.sh"]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_pages_have_the_stages_of_run_sh(page):
    text = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert len(stages(text)) == 8
    assert stages((ROOT / page).read_text(encoding="utf-8")) == stages(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_of_run_sh_that_a_page_uses_are_there(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    script = (ROOT / "run.sh").read_text(encoding="utf-8")
    (names,) = re.findall(r"^options=\((.*?)\)", script, re.DOTALL | re.MULTILINE)
    for command in re.findall(r"\./run\.sh [^\n`#]*", text):
        command = re.sub(r'"[^"]*"', "", command)  # options of prepare, overrides
        for option in re.findall(r"--(\w+)", command):
            assert option in [*names.split(), "help"], command


def test_options_of_run_sh_that_a_message_names_are_there():
    script = (ROOT / "run.sh").read_text(encoding="utf-8")
    (names,) = re.findall(r"^options=\((.*?)\)", script, re.DOTALL | re.MULTILINE)
    named = {
        option
        for path in (ROOT / "wespeaker_qm").rglob("*.py")
        for option in re.findall(r"run\.sh --(\w+)", path.read_text(encoding="utf-8"))
    }
    assert "stage" in named
    assert named <= {*names.split(), "help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_places_that_a_page_links_to_are_there(page):
    """As they are read in the repository; test_build.py looks at the pages that are built."""
    for place in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
        assert (page.parent / "".join(place)).exists(), place


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:conf|egs|tools|tests|wespeaker_qm|bin)/[\w./-]+\.\w+)`", text):
        places = (ROOT / name, page.parent / name, ROOT / "wespeaker_qm" / name)
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_installations_that_a_page_names_work_in_a_checkout(page):
    """The package is on no index: its extras are those of the folder that one has, which stays one to be edited."""
    for what in re.findall(r"(?:^|`)pip install ([^`\n]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
        extra = re.match(r"-e '\.\[(\w+)\]'$", what)
        assert extra[1] in {*EXTRAS, "dev"} if extra else not re.match(r"(-e )?'?(\.|wespeaker_qm)(\[|$)", what), what
