"""What the tables of a store hold (:mod:`wespeaker_qm.enrolment.database`), read and written within a transaction.

Legend: D embedding dimension.
"""

import math
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.enrolment.database import BACKUP
from wespeaker_qm.enrolment.gallery import Gallery
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import RecipeError, counted, nearest, shown

_BLOCK_SPEAKERS = 1024


class EnrolledUtterance(NamedTuple):
    """A recording of an enrolled speaker."""

    file: str
    """Name of the file, without its folder."""
    duration_s: float
    enrolled: str
    """When it came, UTC, ISO 8601."""


class EnrolledSpeaker(NamedTuple):
    """A speaker of a store."""

    name: str
    utterances: tuple[EnrolledUtterance, ...]
    """In the order in which they came."""

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(each.duration_s for each in self.utterances)


class Voice(NamedTuple):
    """A recording, heard by a model."""

    file: str
    duration_s: float
    embedding: NDArray[np.float32]
    """(D,) raw."""


def enrolled(connection: sqlite3.Connection, path: Path, name: str | None = None) -> list[EnrolledSpeaker]:
    """All speakers, or the one of a name, and their recordings."""
    rows = connection.execute(
        "SELECT name, file, duration_s, enrolled FROM speaker JOIN utterance ON utterance.speaker = speaker.id "
        "WHERE ?1 IS NULL OR name = ?1 ORDER BY name, utterance.id",
        (name,),
    )
    utterances: dict[str, list[EnrolledUtterance]] = {}
    for speaker, file, duration_s, when in rows:
        if not all(isinstance(text, str) for text in (speaker, file, when)) or not _is_finite(duration_s):
            raise RecipeError(
                f"{path}: a recording of {shown(speaker)} is {shown(file)} of {shown(duration_s)} s, expected a name "
                f"and a number; {BACKUP}"
            )
        utterances.setdefault(speaker, []).append(EnrolledUtterance(file, duration_s, when))
    return [EnrolledSpeaker(speaker, tuple(theirs)) for speaker, theirs in utterances.items()]


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def refuse_bad_voices(name: str, voices: Sequence[Voice], model: Speaker) -> None:
    """Raise where a speaker has no recordings, or one is no embedding of the model's with a duration."""
    if not voices:
        raise RecipeError(f"{name}: no recordings, expected at least one to enrol")
    for voice in voices:
        if voice.embedding.shape != (model.embed_dim,) or not np.isfinite(voice.embedding).all():
            raise RecipeError(
                f"{name}, {shown(voice.file)}: an embedding of shape {voice.embedding.shape}, expected "
                f"({model.embed_dim},) finite values, as the model makes them"
            )
        if not 0 < voice.duration_s < math.inf:
            raise RecipeError(f"{name}, {shown(voice.file)}: {voice.duration_s} s of audio, expected more than 0")


def count_speakers(connection: sqlite3.Connection) -> int:
    """How many speakers there are."""
    (number,) = connection.execute("SELECT count(*) FROM speaker").fetchone()
    return int(number)


def refuse_unknown(connection: sqlite3.Connection, name: str, path: Path) -> None:
    """Raise where nobody of the name is enrolled, with the nearest names."""
    if connection.execute("SELECT 1 FROM speaker WHERE name = ?", (name,)).fetchone() is None:
        known = [row[0] for row in connection.execute("SELECT name FROM speaker ORDER BY name")]
        like = f"; the nearest names are {nearest(name, known)}" if known else ""
        enrolled = counted(len(known), "speaker", "speakers")
        raise RecipeError(f"{path}: nobody of the name {shown(name)} is enrolled, among {enrolled}{like}")


def refuse_other_model(connection: sqlite3.Connection, model: Speaker, path: Path) -> None:
    """Refuse a model other than that whose embeddings the store holds; an empty one is anybody's."""
    fingerprint, place = connection.execute("SELECT fingerprint, model FROM store").fetchone()
    count = count_speakers(connection)
    if count and fingerprint != model.fingerprint:
        raise RecipeError(
            f"{path}: holds {counted(count, 'speaker', 'speakers')} as the model "
            f"{str(fingerprint)[:12]} ({place}) hears them, found the model {model.fingerprint[:12]} "
            f"({model.info.path}), whose embeddings cannot be compared with them; name "
            "that model (--model), or enrol everybody anew in a store for this one (--store)"
        )


def claim(connection: sqlite3.Connection, model: Speaker, path: Path) -> None:
    """Make the store, within a transaction, one of this model and its present cohort."""
    refuse_other_model(connection, model, path)
    (scoring,) = connection.execute("SELECT scoring FROM store").fetchone()
    connection.execute(
        "UPDATE store SET fingerprint = ?, model = ?, scoring = ?",
        (model.fingerprint, str(model.info.path.absolute()), model.scorer.fingerprint),
    )
    if scoring != model.scorer.fingerprint:
        numbers = [number for (number,) in connection.execute("SELECT id FROM speaker ORDER BY id")]
        describe(connection, numbers, model, path)


def insert(
    connection: sqlite3.Connection, name: str, voices: Sequence[Voice], *, replace: bool = False
) -> tuple[int, int]:
    """Add recordings to a speaker: the speaker's number, and how many recordings are new. :func:`describe` follows."""
    connection.execute("INSERT INTO speaker (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    (number,) = connection.execute("SELECT id FROM speaker WHERE name = ?", (name,)).fetchone()
    if replace:
        connection.execute("DELETE FROM utterance WHERE speaker = ?", (number,))
    known = {blob for (blob,) in connection.execute("SELECT embedding FROM utterance WHERE speaker = ?", (number,))}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = {voice.embedding.astype("<f4").tobytes(): voice for voice in reversed(voices)}
    rows = [
        (number, voice.file, voice.duration_s, now, blob) for blob, voice in reversed(new.items()) if blob not in known
    ]
    connection.executemany(
        "INSERT INTO utterance (speaker, file, duration_s, enrolled, embedding) VALUES (?, ?, ?, ?, ?)", rows
    )
    return number, len(rows)


def describe(connection: sqlite3.Connection, numbers: Sequence[int], model: Speaker, path: Path) -> None:
    """Work out the voices of speakers from their recordings; ``numbers`` rise."""
    for first in range(0, len(numbers), _BLOCK_SPEAKERS):
        _describe_block(connection, numbers[first : first + _BLOCK_SPEAKERS], model, path)


def _describe_block(connection: sqlite3.Connection, numbers: Sequence[int], model: Speaker, path: Path) -> None:
    rows = connection.execute(
        "SELECT speaker, duration_s, embedding FROM utterance "
        f"WHERE speaker IN ({','.join(map(str, numbers))}) ORDER BY speaker, id"
    ).fetchall()
    mute = sorted(set(numbers) - {row[0] for row in rows})
    if mute:
        raise RecipeError(f"{path}: speaker {mute[0]} has no recording; {BACKUP}")
    owner = np.searchsorted(np.array(numbers), [row[0] for row in rows])
    for speaker, duration_s, blob in rows:
        embedding = np.frombuffer(blob, "<f4") if len(blob) == 4 * model.embed_dim else np.full(1, np.nan)
        if not (_is_finite(duration_s) and np.isfinite(embedding).all()):
            raise RecipeError(
                f"{path}: a recording of speaker {speaker} is no {model.embed_dim} finite values with a duration; "
                f"{BACKUP}"
            )
    embeddings = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), model.embed_dim)
    sides = model.scorer.speakers(embeddings, owner)
    duration_s = np.bincount(owner, [row[1] for row in rows])
    columns = (sides.length, sides.cohort_mean, sides.cohort_deviation, duration_s)
    connection.executemany(
        "INSERT OR REPLACE INTO voice (speaker, unit, length, cohort_mean, cohort_deviation, duration_s) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        zip(numbers, map(bytes, sides.unit.astype("<f4")), *(column.tolist() for column in columns), strict=True),
    )


def load_gallery(connection: sqlite3.Connection, embed_dim: int, path: Path) -> Gallery:
    """All voices, in one read of each table."""
    names = [name for (name,) in connection.execute("SELECT name FROM speaker ORDER BY id")]
    if not names:
        raise RecipeError(f"{path}: nobody is enrolled; enrol somebody first (`wespeaker-qm enrol`)")
    unit = np.empty((len(names), embed_dim), "<f4")
    numbers = np.empty((len(names), 4))
    rows = connection.execute(
        "SELECT unit, length, cohort_mean, cohort_deviation, duration_s FROM voice ORDER BY speaker"
    )
    try:
        for row, (blob, *values) in zip(range(len(names)), rows, strict=True):
            unit[row] = np.frombuffer(blob, "<f4").reshape(embed_dim)  # one value would be repeated
            numbers[row] = values
        if not (
            np.isfinite(unit).all() and np.isfinite(numbers).all() and all(isinstance(name, str) for name in names)
        ):
            raise ValueError("a name that is no text, or a value that is not finite")
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: a voice is missing or not {embed_dim} values ({error}); {BACKUP}") from error
    return Gallery(names, unit, *numbers.T)
