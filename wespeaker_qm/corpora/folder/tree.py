"""A tree of recordings: which files there are, whose, and under which key."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.ownership import LEDGER

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a"})
_NUM_SHOWN = 5
_LOOSE = "audio that is in no speaker's folder"
_LEAST_SPEAKERS = 2
_NO_TEXT = frozenset({"Cc", "Cs"})
"""Categories of Unicode: control characters, and what stands for bytes that could not be decoded."""


class Recording(NamedTuple):
    """One audio file: unique key, speaker (both free of white space) and path."""

    key: str
    speaker: str
    path: str


class Listing(NamedTuple):
    """What a tree holds; ``others`` counts what is not audio of a speaker, by what it is."""

    recordings: list[Recording]
    others: Counter[str]


def list_recordings(root: Path) -> Listing:
    """Walk ``root``, following links, in the order of the names.

    Raises:
        RecipeError: two files or two speakers get the same key, or a name is no text.
    """
    recordings: dict[str, Recording] = {}
    folder_of_speaker: dict[str, str] = {}
    others: Counter[str] = Counter()
    for path in _walk(root, {os.path.realpath(root)}):
        parts = path.relative_to(root).parts
        if path.name == LEDGER and len(parts) > 1:
            others["corpora or runs that wespeaker-qm has made"] += 1
        elif any(part.startswith(".") for part in parts):
            others["hidden"] += 1
        elif path.suffix.lower() not in SUFFIXES:
            others[path.suffix or "without extension"] += 1
        elif len(parts) == 1:
            others[_LOOSE] += 1
        else:
            _check_name(path)
            speaker, key = safe_key(parts[:1]), safe_key((*parts[:-1], path.stem))
            if folder_of_speaker.setdefault(speaker, parts[0]) != parts[0]:
                one, other = _told_apart(folder_of_speaker[speaker], parts[0])
                raise RecipeError(
                    f"{root}: the folders '{one}' and '{other}' would both be speaker {speaker!r}; rename one"
                )
            if key in recordings:
                one, other = _told_apart(recordings[key].path, str(path))
                raise RecipeError(f"{one} and {other} would both get the key {key!r}; rename one")
            recordings[key] = Recording(key, speaker, str(path))
    return Listing(list(recordings.values()), others)


def safe_key(parts: Iterable[str]) -> str:
    """Join names to a key of letters, marks and digits of any script, and a few signs; all else becomes ``_``.

    White space, slashes and other signs upset Kaldi's tables. What can be spelt in two ways, as macOS and other systems
    spell an accent, becomes one (NFC).

    >>> safe_key(["Anna B.", "day 1", "hello (2)"])
    'Anna_B.-day_1-hello__2_'
    """
    text = unicodedata.normalize("NFC", "-".join(parts))
    return "".join(character if _stays(character) else "_" for character in text)


def _stays(character: str) -> bool:
    return character.isalnum() or character in "_.+=@-" or unicodedata.category(character).startswith("M")


def _told_apart(one: str, other: str) -> tuple[str, str]:
    """Two names for a message; those that look alike are spelt in ASCII, where they differ."""
    if unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other):
        return ascii(one)[1:-1], ascii(other)[1:-1]
    return one, other


def log_listing(listing: Listing, root: Path) -> None:
    """Log what a tree holds, and warn of files and folders that are left alone."""
    speakers = count_by_speaker(listing.recordings)
    logger.info(
        "%s: %s in %s",
        root,
        counted(len(listing.recordings), "recording", "recordings"),
        counted(len(speakers), "speaker's folder", "speakers' folders"),
    )
    if listing.others:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(listing.others.items()))
        others = counted(listing.others.total(), "other file is", "other files are")
        logger.warning("%s: %s left alone: %s", root, others, counts)
    folders = sorted(name for name in os.listdir(root) if os.path.isdir(root / name) and not name.startswith("."))
    empty = [name for name in folders if safe_key([name]) not in speakers]
    if empty:
        logger.warning(
            "%s: %s no recording: %s",
            root,
            counted(len(empty), "folder holds", "folders hold"),
            ", ".join(empty[:_NUM_SHOWN]),
        )


def refuse_without_speakers(listing: Listing, name: str) -> None:
    """Refuse a tree in which a level is missing, so that there are fewer than two speakers, with what it holds instead.

    Args:
        listing: of the tree.
        name: of the tree, for the message.

    Raises:
        RecipeError: so it is.
    """
    speakers, loose = count_by_speaker(listing.recordings), listing.others[_LOOSE]
    name = f"{name}: {counted(len(speakers), 'speaker', 'speakers')} found ({', '.join(speakers) or 'none'})"
    expected = "expected a tree speaker/.../utterance.wav, a folder for each speaker"
    if not speakers and not loose:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.others.items())) or "nothing"
        raise RecipeError(
            f"{name}: it holds {kinds}, and no recording ({', '.join(sorted(SUFFIXES))}); {expected}; name "
            "another folder"
        )
    if len(speakers) < _LEAST_SPEAKERS:
        of = counted(loose, "of its recordings lies", "of its recordings lie")
        whose = f"{of} in no speaker's folder" if loose else ""
        of_folders = counted(speakers.total(), "recording in folders lies", "recordings in folders lie")
        only = f"all its {of_folders} in '{next(iter(speakers))}'" if speakers else ""
        raise RecipeError(
            f"{name}: {' and '.join(filter(None, (whose, only)))}, and the folders right below it are the speakers; "
            f"{expected}: sort the recordings into at least {_LEAST_SPEAKERS} such folders, or name the folder that "
            "holds these"
        )


def count_by_speaker(recordings: Iterable[Recording]) -> Counter[str]:
    """Speaker -> number of recordings."""
    return Counter(recording.speaker for recording in recordings)


def list_noises(root: Path) -> dict[str, list[Path]]:
    """Category (``noise``, ``music``) -> audio files below ``root``; a folder ``music`` holds music.

    Raises:
        RecipeError: no such folder, or no such files below it.
    """
    if not root.is_dir():
        raise RecipeError(f"--noise {root}: no such folder; expected 'debian', 'babble', or a tree of audio files")
    clips: dict[str, list[Path]] = {}
    num_speech = 0
    for path in _walk(root, {os.path.realpath(root)}):
        folders = path.relative_to(root).parts[:-1]
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if "speech" in folders:
            num_speech += 1
        else:
            clips.setdefault("music" if "music" in folders else "noise", []).append(path)
    if num_speech:
        logger.info(
            "%s: %s left out; babble of the training speakers serves",
            root,
            counted(num_speech, "file below 'speech' is", "files below 'speech' are"),
        )
    if not clips:
        raise RecipeError(f"--noise {root}: no audio files ({', '.join(sorted(SUFFIXES))}) of noise or music below it")
    return clips


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Yield all files below ``folder``, each linked folder once; of what stages have made, the ledger alone."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if not os.path.isdir(path):  # DirEntry.is_dir() raises where a link leads to itself
            yield path
        elif os.path.realpath(path) not in visited:
            visited.add(os.path.realpath(path))
            yield from (path / LEDGER,) if (path / LEDGER).is_file() else _walk(path, visited)


def _check_name(path: Path) -> None:
    if any(unicodedata.category(character) in _NO_TEXT for character in str(path)):
        raise RecipeError(
            f"{str(path)!a}: the name has control characters, or bytes that are not UTF-8; rename the file (or folder)"
        )
