"""Whoever changes figures raises the stage's version, so that results of the earlier code do not count as current."""

import re
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import SUBCOMMANDS
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8").partition("## [")[2]

OF_THE_FIRST_VERSION = 10
"""Lines of the time before stages had versions. There will be no more."""


def faults(changelog, versions, num_unnamed):
    """What does not go together in a changelog and a table of versions, in words."""
    found = []
    marks = re.findall(r"\*\*\[numbers(.*?)\]\*\*", changelog)
    if marks.count("") != num_unnamed:
        found.append(f"{marks.count('')} lines say [numbers] alone: name the stage whose version you raised")
    raised = []
    for mark in filter(None, marks):
        for entry in mark.removeprefix(":").split(","):
            stage, _, version = entry.strip().partition(" ")
            if stage not in (versions if version else {*SUBCOMMANDS} - versions.keys()):
                found.append(
                    f"[numbers{mark}]: {entry.strip()!r} is neither a stage and its version nor another program"
                )
            elif version:
                raised.append((stage, version))
    for stage, version in versions.items():
        named = sorted(int(other) for name, other in raised if name == stage)
        if named != list(range(2, version + 1)):
            found.append(f"{stage} has version {version}, but the changelog raised it to {named}")
    return found


def test_changelog_and_table_agree():
    assert faults(CHANGELOG, STAGE_VERSIONS, OF_THE_FIRST_VERSION) == []


@pytest.mark.parametrize(
    ("line", "version", "message"),
    [
        ("- Ties. **[numbers]**", 1, "1 lines say [numbers] alone"),
        ("- Ties. **[numbers: score 2]**", 1, "score has version 1, but the changelog raised it to [2]"),
        ("- Ties.", 2, "score has version 2, but the changelog raised it to []"),
        ("- Ties. **[numbers: score 3]**", 2, "score has version 2, but the changelog raised it to [3]"),
        ("- Ties. **[numbers: score 2]**\n- More. **[numbers: score 2]**", 2, "raised it to [2, 2]"),
        ("- Ties. **[numbers: score]**", 1, "'score' is neither"),
        ("- Ties. **[numbers: metrics 2]**", 1, "'metrics 2' is neither"),
        ("- Ties. **[numbers: scores 2]**", 1, "'scores 2' is neither"),
    ],
)
def test_what_a_contributor_may_forget(line, version, message):
    (found,) = faults(line, {"score": version}, 0)
    assert message in found


@pytest.mark.parametrize(
    ("line", "version"),
    [("- Faster.", 1), ("- Ties. **[numbers: score 2, metrics]** of **[numbers: score 3]**", 3)],
)
def test_what_a_contributor_should_write(line, version):
    assert faults(line, {"score": version}, 0) == []


def test_every_stage_with_a_marker_has_a_version():
    stages = {"prepare", "pack", "train", "average", "extract", "score", "normalise", "calibrate", "evaluate", "report"}
    stages |= {"export", "import"}
    assert stages | {"cohort", "export_onnx"} == STAGE_VERSIONS.keys()
    assert stages <= {*SUBCOMMANDS}
