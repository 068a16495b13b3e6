"""Enrolled speakers: who is in the store, and whose voice a recording is of.

Legend: N speakers, U utterances, D embedding dimension.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.enrolment import records
from wespeaker_qm.enrolment.database import Database, NoStoreError
from wespeaker_qm.enrolment.gallery import Gallery
from wespeaker_qm.enrolment.identification import Candidate, Identification, open_set_threshold
from wespeaker_qm.enrolment.records import EnrolledSpeaker, Voice
from wespeaker_qm.speaker.decision import check_far, refusal_notes, rests_on
from wespeaker_qm.speaker.recordings import Recording
from wespeaker_qm.speaker.speaker import Heard, Speaker
from wespeaker_qm.utils.errors import RecipeError, shown

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

logger = logging.getLogger(__name__)


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
                return records.enrolled(connection, self.path)
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
            records.refuse_other_model(connection, model, self.path)  # before seconds of work
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
        records.refuse_bad_voices(name, voices, model)
        with self._database.writing() as connection:
            records.claim(connection, model, self.path)
            number, added = records.insert(connection, name, voices, replace=replace)
            records.describe(connection, [number], model, self.path)
            (speaker,) = records.enrolled(connection, self.path, name)
        if replace:
            self._erase_traces()
        return speaker, added

    def enrol_many(self, speakers: Iterable[tuple[str, Sequence[Voice]]], model: Speaker) -> None:
        """Add recordings of many speakers, name and recordings of each, at once: all or none.

        Raises:
            RecipeError: as :meth:`enrol_voices`.
        """
        with self._database.writing() as connection:
            records.claim(connection, model, self.path)
            numbers: set[int] = set()
            for name, voices in speakers:
                records.refuse_bad_voices(name, voices, model)
                numbers.add(records.insert(connection, speaker_name(name), voices)[0])
            records.describe(connection, sorted(numbers), model, self.path)

    def forget(self, name: str) -> EnrolledSpeaker:
        """Delete a speaker for good: in the file no byte of name and voice is left.

        Returns:
            Who was there.

        Raises:
            RecipeError: there is nobody of this name; or as :meth:`speakers`, or the file cannot be written.
        """
        name = speaker_name(name)
        with self._database.reading() as connection:
            records.refuse_unknown(connection, name, self.path)
        with self._database.writing() as connection:
            records.refuse_unknown(connection, name, self.path)
            (speaker,) = records.enrolled(connection, self.path, name)
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
            warnings=(
                *heard.warnings,
                *decided_at.warnings,
                *refusal_notes(model.info.evidence, decided_at.threshold, candidates[0].score),
            ),
            seconds_of_speech=heard.listening.speech_s,
        )

    def gallery(self, model: Speaker) -> Gallery:
        """All voices as a matrix, kept from call to call and read again when the store has changed.

        Raises:
            RecipeError: nobody is enrolled, or the store is of another model; or as :meth:`speakers`.
        """
        with self._loading:
            with self._database.reading() as connection:
                records.refuse_other_model(connection, model, self.path)
                (scoring,) = connection.execute("SELECT scoring FROM store").fetchone()
                if scoring == model.scorer.fingerprint or records.count_speakers(connection) == 0:
                    return self._fresh(connection, model)
            with self._database.writing() as connection:
                records.claim(connection, model, self.path)
            with self._database.reading() as connection:
                return self._fresh(connection, model)

    def _fresh(self, connection: sqlite3.Connection, model: Speaker) -> Gallery:
        (token,) = connection.execute("SELECT token FROM store").fetchone()
        key = (token, model.scorer.fingerprint)
        if self._gallery is None or self._gallery[0] != key:
            self._gallery = (key, records.load_gallery(connection, model.embed_dim, self.path))
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
