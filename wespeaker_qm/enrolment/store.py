"""Enrolled speakers: who is in the store, and whose voice a recording is of.

Legend: N speakers, U utterances, D embedding dimension.
"""

import contextlib
import logging
import math
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.enrolment.database import BACKUP, Database, NoStoreError
from wespeaker_qm.enrolment.gallery import Gallery
from wespeaker_qm.enrolment.identification import Candidate, Identification, open_set_threshold
from wespeaker_qm.speaker.decision import check_far, rests_on
from wespeaker_qm.speaker.recordings import Recording
from wespeaker_qm.speaker.speaker import Heard, Speaker
from wespeaker_qm.utils.errors import RecipeError, nearest, shown

STORE_VARIABLE = "WESPEAKER_QM_STORE"
TOP = 5
"""Candidates that are listed."""
FPIR = 1e-2
"""The share of strangers who may be taken for somebody, where none is asked for."""
_NAME_CHARACTERS = 200
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of control and format characters, halves of characters, and ends of lines."""
_JOINERS = "\u200c\u200d"
"""The two format characters that words are written with, in Persian for example."""
_BLOCK_SPEAKERS = 1024

logger = logging.getLogger(__name__)


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


class Enrolment(NamedTuple):
    """What an enrolment did."""

    speaker: EnrolledSpeaker
    added: int
    """Recordings that are new."""
    warnings: tuple[str, ...]
    """What is wrong with them, a sentence each."""


class Nearest(NamedTuple):
    """The speakers who score highest with a recording."""

    candidates: tuple[Candidate, ...]
    """The highest first."""
    num_speakers: int
    """Of how many."""


class SpeakerStore:
    """A file of enrolled speakers::

        store, model = SpeakerStore(), Speaker.load("exp/mini/qmargin_a1.5/model")
        store.enrol("Anna", ["anna1.wav", "anna2.wav"], model)
        store.identify("who.wav", model, far=1e-2).name          # "Anna", or None for a stranger
        store.forget("Anna")

    Any number of programs and threads may use a file at once, and an object as well. An embedding means something to
    the model alone that made it, so a store belongs to one: another model is refused. What follows from the embeddings
    and the model's training speakers (cohort) is worked out at enrolment, and anew where only the cohort has changed.

    Args:
        path: the file; None for :func:`default_store`.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = default_store() if path is None else Path(path)
        self._database = Database(self.path)
        self._gallery: tuple[tuple[bytes, str], Gallery] | None = None
        self._loading = threading.Lock()

    def speakers(self) -> list[EnrolledSpeaker]:
        """All speakers, sorted by name; none where there is no store yet.

        Raises:
            RecipeError: the file is none of a store, of a later version, damaged, or cannot be read.
        """
        try:
            with self._database.reading() as connection:
                return _speakers(connection)
        except NoStoreError:
            return []

    def enrol(
        self,
        name: str,
        recordings: Sequence[Recording | Heard],
        model: Speaker,
        *,
        replace: bool = False,
        sample_rate: int | None = None,
    ) -> Enrolment:
        """Add recordings to a speaker, who may be new: all of them or, if anything goes wrong, none.

        A recording whose embedding is there already is passed over.

        Args:
            name: of the speaker, any text of a line; kept in Unicode's form NFC, blanks made single.
            recordings: at least one, as :meth:`wespeaker_qm.Speaker.verify` takes them.
            model: what embeds them.
            replace: forget the speaker's other recordings.
            sample_rate: of samples, in Hz.

        Raises:
            RecipeError: a name that is none, a recording that cannot be used, or the store is of another model, or as
                :meth:`speakers`, or cannot be written.
        """
        name = speaker_name(name)
        with contextlib.suppress(NoStoreError), self._database.reading() as connection:
            _refuse_other_model(connection, model, self.path)  # before seconds of work
        heard = [model.hear(each, sample_rate=sample_rate) for each in recordings]
        warnings = [text for each in heard for text in each.warnings]
        voices = [Voice(Path(each.name).name, each.listening.duration_s, each.embedding) for each in heard]
        speaker, added = self.enrol_voices(name, voices, model, replace=replace)
        return Enrolment(speaker, added, tuple(warnings))

    def enrol_voices(
        self, name: str, voices: Sequence[Voice], model: Speaker, *, replace: bool = False
    ) -> tuple[EnrolledSpeaker, int]:
        """Add recordings that ``model`` has embedded before; otherwise as :meth:`enrol`.

        Returns:
            The speaker, and how many recordings are new.
        """
        name = speaker_name(name)
        _refuse_bad_voices(name, voices, model)
        with self._database.writing() as connection:
            _claim(connection, model, self.path)
            number, added = _insert(connection, name, voices, replace=replace)
            _describe(connection, [number], model)
            (speaker,) = _speakers(connection, name)
        if replace:
            self._erase_traces()
        return speaker, added

    def enrol_many(self, speakers: Iterable[tuple[str, Sequence[Voice]]], model: Speaker) -> None:
        """Add recordings of many speakers, name and recordings of each, at once: all or none.

        Raises:
            RecipeError: as :meth:`enrol_voices`.
        """
        with self._database.writing() as connection:
            _claim(connection, model, self.path)
            numbers: set[int] = set()
            for name, voices in speakers:
                _refuse_bad_voices(name, voices, model)
                numbers.add(_insert(connection, speaker_name(name), voices)[0])
            _describe(connection, sorted(numbers), model)

    def forget(self, name: str) -> EnrolledSpeaker:
        """Delete a speaker for good: in the file no byte of name and voice is left.

        Returns:
            Who was there.

        Raises:
            RecipeError: there is nobody of this name; or as :meth:`speakers`, or the file cannot be written.
        """
        name = speaker_name(name)
        with self._database.reading() as connection:
            _refuse_unknown(connection, name, self.path)
        with self._database.writing() as connection:
            _refuse_unknown(connection, name, self.path)
            (speaker,) = _speakers(connection, name)
            connection.execute("DELETE FROM speaker WHERE name = ?", (name,))
        self._erase_traces()
        return speaker

    def identify(
        self,
        recording: Recording | Heard,
        model: Speaker,
        *,
        far: float = FPIR,
        top: int = TOP,
        sample_rate: int | None = None,
    ) -> Identification:
        """Whose voice a recording is of: an enrolled speaker's or a stranger's.

        Args:
            recording: as :meth:`wespeaker_qm.Speaker.verify` takes it.
            model: that of the store.
            far: the share of strangers who may be taken for one of those enrolled, however many these are;
                :mod:`wespeaker_qm.enrolment.identification` has the theory.
            top: how many of the nearest speakers are listed.
            sample_rate: of samples, in Hz.

        Raises:
            RecipeError: nobody is enrolled, the recording cannot be used, ``far`` is no rate, the store is of another
                model, or as :meth:`speakers`.
        """
        check_far(far)
        self.gallery(model)  # before seconds of work
        heard = model.hear(recording, sample_rate=sample_rate)
        candidates, num_speakers = self.nearest(
            Voice(heard.name, heard.listening.duration_s, heard.embedding), model, top
        )
        decided_at = open_set_threshold(model.info.evidence, far, num_speakers)
        is_known = decided_at.threshold is not None and candidates[0].score >= decided_at.threshold
        return Identification(
            name=candidates[0].name if is_known else None,
            candidates=candidates,
            decided_at=decided_at,
            rests_on=rests_on(model.info.evidence),
            warnings=(*heard.warnings, *decided_at.warnings),
            seconds_of_speech=heard.listening.speech_s,
        )

    def gallery(self, model: Speaker) -> Gallery:
        """All voices as a matrix, kept from call to call and read again when the store has changed.

        Raises:
            RecipeError: nobody is enrolled, or the store is of another model; or as :meth:`speakers`.
        """
        with self._loading:
            with self._database.reading() as connection:
                _refuse_other_model(connection, model, self.path)
                (scoring,) = connection.execute("SELECT scoring FROM store").fetchone()
                if scoring == model.scorer.fingerprint or _count(connection) == 0:
                    return self._fresh(connection, model)
            with self._database.writing() as connection:
                _claim(connection, model, self.path)
            with self._database.reading() as connection:
                return self._fresh(connection, model)

    def _fresh(self, connection: sqlite3.Connection, model: Speaker) -> Gallery:
        (token,) = connection.execute("SELECT token FROM store").fetchone()
        key = (token, model.scorer.fingerprint)
        if self._gallery is None or self._gallery[0] != key:
            self._gallery = (key, _load_gallery(connection, model.embed_dim, self.path))
        return self._gallery[1]

    def nearest(self, voice: Voice, model: Speaker, top: int = TOP) -> Nearest:
        """The at most ``top`` speakers who score highest with a recording that ``model`` has embedded before.

        Scored as :meth:`wespeaker_qm.Speaker.verify` does.

        Raises:
            RecipeError: as :meth:`identify`, or ``top`` is below 1.
        """
        if top < 1:
            raise RecipeError(f"top: found {top}, expected at least 1")
        gallery = self.gallery(model)
        test = model.scorer.sides(voice.embedding)
        found = []
        for row in gallery.search(test, top).tolist():
            side = gallery.side(row)
            score = float(model.scorer.scores(side, test)[0, 0])
            durations = (float(gallery.duration_s[row]), voice.duration_s)
            llr = model.scorer.log_likelihood_ratio(score, (side, test), durations)
            found.append(Candidate(gallery.names[row], score, llr))
        return Nearest(tuple(sorted(found, key=lambda candidate: -candidate.score)), len(gallery.names))

    def _erase_traces(self) -> None:
        if not self._database.erase_traces():
            logger.warning(
                "%s: another program reads this store all the time, so that its log (%s-wal) still holds what was "
                "deleted; it goes when that program ends",
                self.path,
                self.path.name,
            )


def default_store() -> Path:
    """The store of this user: ``WESPEAKER_QM_STORE``, or ``wespeaker_qm/speakers.sqlite`` where data of programs lie.

    That is ``XDG_DATA_HOME``, or ``~/.local/share``.
    """
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "wespeaker_qm" / "speakers.sqlite"


def speaker_name(text: str) -> str:
    r"""A name as the store keeps it: in Unicode's form NFC, blanks of any kind as single spaces, none at the ends.

    So two names that look alike are one.

    >>> speaker_name("  Zoe\u0308  B. ") == "Zo\u00eb B."
    True

    Raises:
        RecipeError: nothing is left, it is longer than 200 characters, or holds what cannot be seen or written.
    """
    for character in text:
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS:
            raise RecipeError(
                f"name: found {shown(text)} with {shown(character)}, expected a line of text that can be seen"
            )
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not 0 < len(name) <= _NAME_CHARACTERS:
        raise RecipeError(f"name: found {shown(text)}, expected 1 to {_NAME_CHARACTERS} characters")
    return name


def _speakers(connection: sqlite3.Connection, name: str | None = None) -> list[EnrolledSpeaker]:
    """All speakers, or the one of a name, and their recordings."""
    rows = connection.execute(
        "SELECT name, file, duration_s, enrolled FROM speaker JOIN utterance ON utterance.speaker = speaker.id "
        "WHERE ?1 IS NULL OR name = ?1 ORDER BY name, utterance.id",
        (name,),
    )
    utterances: dict[str, list[EnrolledUtterance]] = {}
    for speaker, *utterance in rows:
        utterances.setdefault(speaker, []).append(EnrolledUtterance(*utterance))
    return [EnrolledSpeaker(speaker, tuple(theirs)) for speaker, theirs in utterances.items()]


def _refuse_bad_voices(name: str, voices: Sequence[Voice], model: Speaker) -> None:
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


def _count(connection: sqlite3.Connection) -> int:
    """How many speakers there are."""
    (count,) = connection.execute("SELECT count(*) FROM speaker").fetchone()
    return int(count)


def _refuse_unknown(connection: sqlite3.Connection, name: str, path: Path) -> None:
    if connection.execute("SELECT 1 FROM speaker WHERE name = ?", (name,)).fetchone() is None:
        known = [row[0] for row in connection.execute("SELECT name FROM speaker ORDER BY name")]
        like = f"; the nearest names are {nearest(name, known)}" if known else ""
        raise RecipeError(f"{path}: nobody of the name {shown(name)} is enrolled, among {len(known):,} speakers{like}")


def _refuse_other_model(connection: sqlite3.Connection, model: Speaker, path: Path) -> None:
    """Refuse a model other than that whose embeddings the store holds; an empty one is anybody's."""
    fingerprint, place = connection.execute("SELECT fingerprint, model FROM store").fetchone()
    count = _count(connection)
    if count and fingerprint != model.fingerprint:
        raise RecipeError(
            f"{path}: holds {count:,} speakers as the model {fingerprint[:12]} ({place}) hears them, found the model "
            f"{model.fingerprint[:12]} ({model.info.path}), whose embeddings cannot be compared with them; name that "
            "model (--model), or enrol everybody anew in a store for this one (--store)"
        )


def _claim(connection: sqlite3.Connection, model: Speaker, path: Path) -> None:
    """Make the store, within a transaction, one of this model and its present cohort."""
    _refuse_other_model(connection, model, path)
    (scoring,) = connection.execute("SELECT scoring FROM store").fetchone()
    connection.execute(
        "UPDATE store SET fingerprint = ?, model = ?, scoring = ?",
        (model.fingerprint, str(model.info.path.absolute()), model.scorer.fingerprint),
    )
    if scoring != model.scorer.fingerprint:
        numbers = [number for (number,) in connection.execute("SELECT id FROM speaker ORDER BY id")]
        _describe(connection, numbers, model)


def _insert(
    connection: sqlite3.Connection, name: str, voices: Sequence[Voice], *, replace: bool = False
) -> tuple[int, int]:
    """Add recordings to a speaker: the speaker's number, and how many recordings are new. :func:`_describe` follows."""
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


def _describe(connection: sqlite3.Connection, numbers: Sequence[int], model: Speaker) -> None:
    """Work out the voices of speakers from their recordings; ``numbers`` rise."""
    for first in range(0, len(numbers), _BLOCK_SPEAKERS):
        _describe_block(connection, numbers[first : first + _BLOCK_SPEAKERS], model)


def _describe_block(connection: sqlite3.Connection, numbers: Sequence[int], model: Speaker) -> None:
    rows = connection.execute(
        "SELECT speaker, duration_s, embedding FROM utterance "
        f"WHERE speaker IN ({','.join(map(str, numbers))}) ORDER BY speaker, id"
    ).fetchall()
    owner = np.searchsorted(np.array(numbers), [row[0] for row in rows])
    embeddings = np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), model.embed_dim)
    sides = model.scorer.speakers(embeddings, owner)
    duration_s = np.bincount(owner, [row[1] for row in rows])
    columns = (sides.length, sides.cohort_mean, sides.cohort_deviation, duration_s)
    connection.executemany(
        "INSERT OR REPLACE INTO voice (speaker, unit, length, cohort_mean, cohort_deviation, duration_s) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        zip(numbers, map(bytes, sides.unit.astype("<f4")), *(column.tolist() for column in columns), strict=True),
    )


def _load_gallery(connection: sqlite3.Connection, embed_dim: int, path: Path) -> Gallery:
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
    except ValueError as error:
        raise RecipeError(f"{path}: a voice is missing or not {embed_dim} values ({error}); {BACKUP}") from error
    return Gallery(names, unit, *numbers.T)
