"""What augmentation mixes in, for corpora that bring none: babble, trees of noise files, simulated rooms.

Each function returns a Kaldi data directory, so that several sources can be merged and written as one set. For noise
the "speaker" is the category (``noise``, ``music`` or ``speech``), for impulse responses the room.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wespeaker_qm.audio.io import read_audio_at, write_wav
from wespeaker_qm.audio.rir import simulate_rirs
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.utils.errors import RecipeError

CATEGORIES = ("noise", "music", "speech")
NUM_TALKERS = (3, 7)
_PEAK = 0.7


def make_babble(
    train: DataDir,
    folder: Path,
    *,
    num_files: int = 60,
    duration_s: float = 10.0,
    seed: int = 42,
    sample_rate: int = 16000,
) -> DataDir:
    """Mix training speakers into babble files ``<folder>/babble-0000.wav`` ..., category ``speech``.

    Each file has 3 to 7 talkers at once (fewer where there are fewer speakers), as in Kaldi's recipe; a talker is
    random utterances of one speaker, end to end, and all talkers are equally loud. File number ``i`` is a function of
    (train, seed, i).

    Args:
        train: training speakers only: voices of the evaluation must not be heard in training.
        folder: where the wav files go.
        num_files: number of files.
        duration_s: length of each.
        seed: non-negative.
        sample_rate: in Hz.
    """
    utterances: dict[str, list[str]] = {}
    for key in sorted(train.speaker):
        utterances.setdefault(train.speaker[key], []).append(train.wav[key])
    speakers = list(utterances)
    babble = DataDir(wav={}, speaker={}, duration_s={})
    for index in range(num_files):
        rng = np.random.default_rng([seed, index])
        num_talkers = min(len(speakers), int(rng.integers(NUM_TALKERS[0], NUM_TALKERS[1] + 1)))
        talkers = rng.choice(len(speakers), size=num_talkers, replace=False)
        num_samples = round(duration_s * sample_rate)
        mixture = sum(_talk(utterances[speakers[talker]], num_samples, sample_rate, rng) for talker in talkers)
        key = f"babble-{index:04d}"
        path = folder / f"{key}.wav"
        write_wav(path, _PEAK * mixture / np.abs(mixture).max(), sample_rate)
        babble.wav[key], babble.speaker[key], babble.duration_s[key] = str(path), "speech", duration_s
    return babble


def _talk(paths: list[str], num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Utterances in random order, repeated as needed, cut to (num_samples,) and scaled to unit power."""
    parts: list[np.ndarray] = []
    missing = num_samples
    while missing > 0:
        for position in rng.permutation(len(paths)):
            parts.append(read_audio_at(paths[position], sample_rate))
            missing -= len(parts[-1])
            if missing <= 0:
                break
    speech: np.ndarray = np.concatenate(parts)[:num_samples].astype(np.float64)
    return speech / max(float(np.sqrt(np.mean(speech**2))), 1e-6)


def simulate_rooms(folder: Path, *, num_rooms: int = 200, seed: int = 42, sample_rate: int = 16000) -> DataDir:
    """Simulate ``num_rooms`` rooms with :func:`wespeaker_qm.audio.rir.simulate_rirs` into ``<folder>/<key>.wav``."""
    rooms = DataDir(wav={}, speaker={}, duration_s={})
    for key, room_id, rir in simulate_rirs(num_rooms, seed, sample_rate):
        path = folder / f"{key}.wav"
        write_wav(path, rir, sample_rate)
        rooms.wav[key], rooms.speaker[key], rooms.duration_s[key] = str(path), room_id, len(rir) / sample_rate
    return rooms


def merge(parts: Iterable[DataDir]) -> DataDir:
    """Return one directory with the recordings of all parts.

    Raises:
        RecipeError: a key stands in two parts.
    """
    merged = DataDir(wav={}, speaker={}, duration_s={})
    for part in parts:
        common = sorted(merged.wav.keys() & part.wav.keys())
        if common:
            raise RecipeError(f"noise: key {common[0]!r} stands in two sources; keys must be unique, rename the file")
        merged.wav.update(part.wav)
        merged.speaker.update(part.speaker)
        merged.duration_s.update(part.duration_s)
    return merged
