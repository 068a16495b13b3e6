"""What training mixes into speech: noises, music and babble in one Kaldi directory, room impulse responses in another.

Nothing here may hold the voice of an evaluation speaker: babble is made of training speakers only, and what a recipe
names as noise or music must be free of speech.
"""

import itertools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from wespeaker_qm.audio.io import read_audio, read_audio_at, write_wav
from wespeaker_qm.audio.resample import check_ratio
from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpora.joining import NO_SOUND, Piece, join_pieces, plan_utterances, sound_pieces
from wespeaker_qm.corpus.bad_audio import MEND, BadAudio, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.utils.errors import first_few
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.progress import Progress

logger = logging.getLogger(__name__)

MIN_NOISE_S = 3.0
MAX_NOISE_S = 20.0
MIN_MUSIC_S = 10.0
MAX_MUSIC_S = 15.0
NUM_BABBLE = 200
BABBLE_S = 8.0
BABBLE_SPEAKERS = (3, 7)
# Well below full scale; the level in the mixture is set by the signal-to-noise ratio anyway.
BABBLE_PEAK = 0.5


def build_noise_set(
    data: DataFolder,
    clips: Mapping[str, Sequence[Path]],
    train: DataDir,
    *,
    num_babble: int = NUM_BABBLE,
    sample_rate: int = 16000,
    seed: int = 42,
    max_bad_fraction: float | None = None,
    remedy: str = MEND,
) -> DataDir:
    """Write ``noise/`` (a Kaldi directory whose ``utt2spk`` holds the category) and ``wav/noise/`` of the corpus.

    Args:
        data: e.g. ``data/mini``.
        clips: category (``noise`` or ``music``) -> audio files, in order. Short noises are joined to pieces of 3 to
            20 s and music is cut into pieces of 10 to 15 s: training draws among the pieces, of which none should be
            much longer or shorter than the others. What is shorter in all is one piece, which training repeats; files
            of which nothing is used are named in a warning.
        train: the training speakers, of whom babble (category ``speech``) is mixed.
        num_babble: number of babble recordings, each of 8 s and 3 to 7 voices.
        sample_rate: in Hz.
        seed: of the babble.
        max_bad_fraction: largest fraction (0 to 1) of the clips that may be left out because they cannot be read;
            they are listed in ``bad_noise.tsv``. None: none may, and no option changes that.
        remedy: what helps then.

    Raises:
        RecipeError: more of them cannot be read.
    """
    waves: dict[str, str] = {}
    category: dict[str, str] = {}
    duration_s: dict[str, float] = {}
    pieces = itertools.chain(
        _clip_pieces(clips, sample_rate, max_bad_fraction, data.bad_noise, remedy),
        _babble(train, num_babble, sample_rate, seed),
    )
    for key, kind, waveform in pieces:
        path = data.wav / "noise" / kind / f"{key}.wav"
        write_wav(path, waveform, sample_rate)
        waves[key], category[key], duration_s[key] = str(path), kind, len(waveform) / sample_rate
    directory = DataDir(wav=waves, speaker=category, duration_s=duration_s)
    directory.write(data.set("noise").path)
    return directory


def build_rirs(data: DataFolder, num_rooms: int, *, sample_rate: int = 16000, seed: int = 42) -> DataDir:
    """Write ``rirs/`` (a Kaldi directory, the room in ``utt2spk``) and ``wav/rirs/``: one simulated RIR a room.

    Args:
        data: e.g. ``data/mini``.
        num_rooms: number of rooms, and of RIRs.
        sample_rate: in Hz.
        seed: of the rooms.
    """
    from wespeaker_qm.audio.rir import simulate_rirs

    waves: dict[str, str] = {}
    room: dict[str, str] = {}
    duration_s: dict[str, float] = {}
    for key, room_id, rir in Progress(
        simulate_rirs(num_rooms, seed, sample_rate), total=num_rooms, desc="rooms", unit="room"
    ):
        path = data.wav / "rirs" / f"{key}.wav"
        write_wav(path, rir, sample_rate)
        waves[key], room[key], duration_s[key] = str(path), room_id, len(rir) / sample_rate
    directory = DataDir(wav=waves, speaker=room, duration_s=duration_s)
    directory.write(data.set("rirs").path)
    return directory


class _Clips:
    """Files of one category, each decoded once, and forgotten when no piece needs it any more."""

    def __init__(self, kind: str, paths: Sequence[Path], sample_rate: int) -> None:
        self.kind, self.paths, self.sample_rate = kind, paths, sample_rate
        self.bad: list[BadAudio] = []
        self.unused: dict[int, str] = {}
        self._held: dict[int, tuple[np.ndarray, int]] = {}

    def pieces(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Key, category and waveform of each piece."""
        limits_s = (MIN_MUSIC_S, MAX_MUSIC_S) if self.kind == "music" else (MIN_NOISE_S, MAX_NOISE_S)
        for index, piece in enumerate(plan_utterances(self._sounds(), *limits_s, even_if_short=True)):
            waveform = join_pieces(piece, self._held.__getitem__, self.sample_rate)
            for clip, _, _ in piece:
                self.unused.pop(clip, None)
            for clip in [clip for clip in self._held if clip < piece[-1].clip]:
                del self._held[clip]
            if len(waveform) < limits_s[0] * self.sample_rate:
                logger.warning(
                    "%s: %.1f s of sound in all, expected at least %g s: one short piece, which training repeats",
                    self.kind,
                    len(waveform) / self.sample_rate,
                    limits_s[0],
                )
            yield f"{self.kind}-{index:04d}", self.kind, waveform
        if self.unused:
            named = [f"{self.paths[clip]}: {reason}" for clip, reason in sorted(self.unused.items())]
            logger.warning(
                "%s: nothing of %d of %d files is used:%s", self.kind, len(named), len(self.paths), first_few(named)
            )

    def _sounds(self) -> Iterator[Piece]:
        for clip, path in enumerate(Progress(self.paths, desc=self.kind, unit="clip")):
            try:
                waveform, original_rate = read_audio(path)
                check_ratio(original_rate, self.sample_rate)
            except AudioError as error:
                self.bad.append(BadAudio(self.kind, str(path), str(error).removeprefix(f"{path}: ")))
                continue
            sounds = sound_pieces(clip, waveform, original_rate)
            if not sounds:
                self.unused[clip] = NO_SOUND
                continue
            self.unused[clip] = "what is left at the end is too short for a piece of its own"
            self._held[clip] = waveform, original_rate
            yield from sounds


def _clip_pieces(
    clips: Mapping[str, Sequence[Path]],
    sample_rate: int,
    max_bad_fraction: float | None,
    list_path: Path,
    remedy: str,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Key, category and waveform of each piece of noise and music; then bad files are judged."""
    bad: list[BadAudio] = []
    for kind, paths in sorted(clips.items()):
        files = _Clips(kind, paths, sample_rate)
        yield from files.pieces()
        bad += files.bad
    options = None if max_bad_fraction is None else "--prepare_opts"
    num_clips = sum(map(len, clips.values()))
    refuse_bad_audio(bad, num_clips, max_bad_fraction or 0.0, list_path, options=options, remedy=remedy)


def _babble(train: DataDir, count: int, sample_rate: int, seed: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Key, category and waveform of mixtures of training speakers, each at the same power."""
    by_speaker: dict[str, list[str]] = {}
    for key in sorted(train.speaker):
        by_speaker.setdefault(train.speaker[key], []).append(key)
    speakers = sorted(by_speaker)
    num_samples = round(BABBLE_S * sample_rate)
    for index in Progress(range(count), desc="babble", unit="mixture"):
        rng = random.Random(f"{seed} babble {index}")
        num_voices = min(rng.randint(*BABBLE_SPEAKERS), len(speakers))
        mixture = np.zeros(num_samples, dtype=np.float32)
        for speaker in rng.sample(speakers, num_voices):
            mixture += _voice(train, by_speaker[speaker], num_samples, sample_rate, rng)
        yield f"speech-{index:04d}", "speech", mixture * (BABBLE_PEAK / np.abs(mixture).max())


def _voice(train: DataDir, keys: Sequence[str], num_samples: int, sample_rate: int, rng: random.Random) -> np.ndarray:
    """Random utterances of one speaker in a row, (num_samples,), unit power."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < num_samples:
        parts.append(read_audio_at(train.wav[rng.choice(keys)], sample_rate, num_samples))
    waveform: np.ndarray = np.concatenate(parts)[:num_samples]
    waveform /= np.sqrt(np.square(waveform).mean() + 1e-12)
    return waveform
