"""The tables of ``egs/mini``: which packages there are, and whose voice each of their clips is."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.corpora.debian.packages import Package
from wespeaker_qm.utils.errors import RecipeError, counted, nearest, shown
from wespeaker_qm.utils.tables import read_rows, read_tsv

logger = logging.getLogger(__name__)

TABLES = ("packages.tsv", "speakers.tsv", "manifest.tsv", "noise.tsv")
SETS = ("train", "valid", "eval")
CHANNEL = "_channel"
"""Ends the name of a set, and of a trial list, whose recordings have channels of their own."""
CHANNEL_SETS = {name: name + CHANNEL for name in ("valid", "eval")}
"""Set -> the same recordings, each with a channel of its own."""
UNKNOWN_GENDER = "u"
_TUXPAINT = "tuxpaint-stamps-default"
_MIN_PRESENT = 0.95
_GENDERS = {"M": "m", "F": "f", "C": "c", "?": UNKNOWN_GENDER}


class Session(NamedTuple):
    """One recording session of one speaker: a row of speakers.tsv with its clips from manifest.tsv."""

    speaker: str
    gender: str
    language: str
    package: str
    split: str
    clips: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Unique name: speaker and language."""
        return f"{self.speaker}-{self.language}"


def choose_packages(pinned: Mapping[str, Package], names: str | None, without_tuxpaint: bool) -> list[str] | None:
    """Names of the packages to use, None for all.

    Raises:
        RecipeError: an unknown name, with the nearest known ones.
    """
    if names is None and not without_tuxpaint:
        return None
    wanted = list(pinned) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in pinned:
            raise RecipeError(
                f"--packages: {shown(name)} is none of the recipe's packages.tsv; nearest: {nearest(name, pinned)}"
            )
    return [name for name in pinned if name in wanted and not (without_tuxpaint and name == _TUXPAINT)]


def read_sessions(recipe_dir: Path, roots: Mapping[str, Path]) -> list[Session]:
    """Sessions of the unpacked packages, as the tables name them, in the tables' order.

    Rows that were dropped for want of speech, and merges of two sessions into one speaker that are marked LOW in
    confidence, are left out.

    Args:
        recipe_dir: holds speakers.tsv and manifest.tsv.
        roots: package -> folder that it was unpacked to.

    Raises:
        RecipeError: fewer than 95 % of a package's files are there.
    """
    clips: dict[tuple[str, str], list[Path]] = {}
    listed: dict[str, int] = {}
    for speaker, package, root, path in _read_manifest(recipe_dir / "manifest.tsv"):
        if package in roots:
            listed[package] = listed.get(package, 0) + 1
            clip = roots[package] / root / path
            if clip.is_file():
                clips.setdefault((speaker, package), []).append(clip)
    for package, num_listed in listed.items():
        present = sum(len(paths) for (_, name), paths in clips.items() if name == package)
        if present < _MIN_PRESENT * num_listed:
            raise RecipeError(
                f"{roots[package]}: only {present} of the {num_listed} files of {recipe_dir / 'manifest.tsv'}, "
                f"expected at least {_MIN_PRESENT:.0%}: this version of {package} differs too much; leave it out "
                "(--packages) or provide the pinned version of packages.tsv with --deb_dir"
            )
        if present < num_listed:
            of = f"of {num_listed} listed files"
            logger.warning("%s: %s missing", package, counted(num_listed - present, f"{of} is", f"{of} are"))
    sessions = []
    columns = ("spk", "gender", "language", "package", "split", "label_confidence")
    for row in read_tsv(recipe_dir / "speakers.tsv", columns):
        usable = row["split"] in ("train", "eval") and not row["label_confidence"].startswith("LOW")
        paths = clips.get((row["spk"], row["package"]), [])
        if usable and paths:
            gender = _GENDERS[row["gender"]]
            # Sorted by code point, whatever the locale: the order in which clips are joined.
            ordered = tuple(sorted(paths, key=lambda path: path.as_posix()))
            sessions.append(Session(row["spk"], gender, row["language"], row["package"], row["split"], ordered))
    return sessions


def split_sessions(sessions: Sequence[Session], validation_speakers: Sequence[str]) -> dict[str, list[Session]]:
    """Divide sessions into train, valid and eval.

    Raises:
        RecipeError: fewer than two speakers to train on or to evaluate, or a validation speaker is one for evaluation.
    """
    members: dict[str, list[Session]] = {name: [] for name in SETS}
    for session in sessions:
        is_valid = session.speaker in validation_speakers
        if is_valid and session.split != "train":
            raise RecipeError(f"corpus.yaml: validation speaker {session.speaker!r} is an evaluation speaker")
        members["valid" if is_valid else session.split].append(session)
    for name in ("train", "eval"):
        speakers = {session.speaker for session in members[name]}
        if len(speakers) < 2:
            raise RecipeError(
                f"the chosen packages hold {counted(len(speakers), 'speaker', 'speakers')} for {name}, expected at "
                "least 2; add packages to --packages (klettres-data alone is enough)"
            )
    if len({session.speaker for session in members["valid"]}) < 2:
        members["valid"] = []
    return members


def _read_manifest(path: Path) -> list[list[str]]:
    """Rows speaker, package, root, path; the path may hold spaces."""
    return read_rows(path, 4)
