"""Utterances of mini: the sounds in the clips of a session, joined to 3.5 to 6 s and written, a speaker at a time."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.audio.io import read_audio, write_wav
from wespeaker_qm.audio.source import AudioError, RawFormat
from wespeaker_qm.corpora.joining import (
    NO_SOUND,
    Piece,
    choose_evenly,
    join_pieces,
    plan_utterances,
    share_out,
    sound_pieces,
)
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.mini.tables import Session
from wespeaker_qm.corpus.bad_audio import BadAudio, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.tables import write_rows

logger = logging.getLogger(__name__)

_MAX_BAD_CLIPS = 0.05
_MIN_UTTERANCES = 2
# The two formats without a header: asterisk's GSM prompts and the mu-law digits of saytime.
_RAW_FORMATS = {".gsm": RawFormat(8000, "gsm610"), ".au": RawFormat(8000, "ulaw")}


class Utterance(NamedTuple):
    """A written utterance."""

    key: str
    speaker: str
    session: str
    package: str
    path: str
    duration_s: float


class BuiltSpeaker(NamedTuple):
    """What became of the clips of one speaker."""

    utterances: list[Utterance]
    bad: list[BadAudio]


def build_utterances(
    data: DataFolder, members: Mapping[str, Sequence[Session]], settings: MiniSettings, num_workers: int
) -> dict[str, list[Utterance]]:
    """Write all utterances to ``wav/<set>/<speaker>/``, each speaker in one of ``num_workers`` processes.

    Args:
        data: folder of the corpus.
        members: set -> its sessions.
        settings: lengths and numbers of utterances.
        num_workers: processes; the result does not depend on them.

    Returns:
        set -> its utterances.

    Raises:
        RecipeError: more than 5 % of the clips hold no sound or cannot be read; they are listed in ``bad_audio.tsv``.
    """
    jobs = []
    for name, sessions in members.items():
        for speaker in sorted({session.speaker for session in sessions}):
            own = [session for session in sessions if session.speaker == speaker]
            jobs.append((name, data.wav / name / speaker, own))
    # The longest first, so that no worker is left with much to do at the end.
    jobs.sort(key=lambda job: (-sum(len(session.clips) for session in job[2]), job[1]))
    build = partial(_build_speaker, settings=settings)
    built = ordered_map(build, [(folder, own) for _, folder, own in jobs], num_workers)
    utterances: dict[str, list[Utterance]] = {name: [] for name in members}
    bad: list[BadAudio] = []
    for (name, _, own), made in Progress(
        zip(jobs, built, strict=True), total=len(jobs), desc="speakers", unit="speaker"
    ):
        bad += made.bad
        if len(made.utterances) < _MIN_UTTERANCES:
            logger.warning("%s: %s, left out", own[0].speaker, counted(len(made.utterances), "utterance", "utterances"))
            continue
        utterances[name] += made.utterances
    num_clips = sum(len(session.clips) for _, _, own in jobs for session in own)
    refuse_bad_audio(bad, num_clips, _MAX_BAD_CLIPS, data.bad_audio, remedy=settings.bad_clips_remedy)
    return utterances


def _build_speaker(job: tuple[Path, list[Session]], settings: MiniSettings) -> BuiltSpeaker:
    """Find the sounds in the clips of one speaker, plan utterances, choose among them and write those."""
    folder, sessions = job
    plans, bad = [], []
    for session in sessions:
        sounds: list[Piece] = []
        for clip, path in enumerate(session.clips):
            try:
                pieces = sound_pieces(clip, *_read_clip(session.clips, clip))
                reason = "" if pieces else NO_SOUND
            except AudioError as error:
                pieces, reason = [], str(error)
            sounds += pieces
            if reason:
                bad.append(BadAudio(session.name, str(path), reason))
        plans.append(list(plan_utterances(sounds, settings.min_utterance_s, settings.max_utterance_s)))
    most = (
        settings.max_eval_utterances_per_session if sessions[0].split == "eval" else settings.max_utterances_per_speaker
    )
    shares = share_out([min(len(plan), most) for plan in plans], settings.max_utterances_per_speaker)
    utterances = []
    for session, plan, share in zip(sessions, plans, shares, strict=True):
        for index in choose_evenly(len(plan), share):
            key = f"{session.name}-{index:04d}"
            path = folder / f"{key}.wav"
            waveform = join_pieces(plan[index], partial(_read_clip, session.clips), settings.sample_rate)
            write_wav(path, waveform, settings.sample_rate)
            duration_s = len(waveform) / settings.sample_rate
            utterances.append(Utterance(key, session.speaker, session.name, session.package, str(path), duration_s))
    return BuiltSpeaker(utterances, bad)


def _read_clip(clips: Sequence[Path], index: int) -> tuple[np.ndarray, int]:
    return read_audio(clips[index], raw_format=_RAW_FORMATS.get(clips[index].suffix))


def write_set(path: Path, utterances: Sequence[Utterance], sessions: Sequence[Session]) -> DataDir:
    """Write a Kaldi directory with ``spk2gender``, ``utt2session`` and ``utt2package``."""
    speakers = {utterance.speaker for utterance in utterances}
    directory = DataDir(
        wav={utterance.key: utterance.path for utterance in utterances},
        speaker={utterance.key: utterance.speaker for utterance in utterances},
        duration_s={utterance.key: utterance.duration_s for utterance in utterances},
        gender={session.speaker: session.gender for session in sessions if session.speaker in speakers},
        session={utterance.key: utterance.session for utterance in utterances},
    )
    directory.write(path)
    write_rows(path / "utt2package", sorted((utterance.key, utterance.package) for utterance in utterances))
    logger.info(
        "%s: %s, %s, %.2f h",
        path.name,
        counted(len(directory.speakers), "speaker", "speakers"),
        counted(len(directory), "utterance", "utterances"),
        sum(directory.duration_s.values()) / 3600,
    )
    return directory
