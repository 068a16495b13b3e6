"""What states the version states the same one."""

import re
from pathlib import Path

import yaml

import wespeaker_qm

ROOT = Path(__file__).parents[2]


def test_the_newest_section_of_the_changelog_is_the_version():
    newest = re.search(
        r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[1] == wespeaker_qm.__version__ == citation["version"]
    assert newest[2] == str(citation["date-released"])


def test_issue_templates_ask_for_what_the_doctor_says():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert templates
    for path in templates:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= template.keys()
        assert any("wespeaker-qm doctor" in str(part) for part in template["body"]), path
