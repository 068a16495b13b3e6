"""Sets of mini in which no two recordings share a channel: each utterance of a set through one of its own.

Most people of this corpus were recorded in one room by one microphone: whoever compares average spectra tells them
apart without knowing anything of voices (README.md of ``egs/mini``). Here that helps less.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from wespeaker_qm.audio.channel import apply_channel, draw_channel
from wespeaker_qm.audio.io import read_audio, write_wav
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.mini.tables import CHANNEL_SETS
from wespeaker_qm.corpora.mini.utterances import Utterance
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.progress import Progress


def write_channel_utterances(
    data: DataFolder, utterances: Mapping[str, Sequence[Utterance]], settings: MiniSettings, num_workers: int
) -> dict[str, list[Utterance]]:
    """Write ``wav/<set>_channel/<speaker>/`` for the sets that are validated and evaluated on.

    An utterance keeps its name, so that the trials of a set are those of the other. Its channel is a function of the
    corpus's seed and that name.

    Args:
        data: folder of the corpus.
        utterances: set -> what was written of it.
        settings: sample rate and seed.
        num_workers: processes; the result does not depend on them.

    Returns:
        ``<set>_channel`` -> its utterances.
    """
    jobs = [
        (utterance, data.wav / channel_set / utterance.speaker / f"{utterance.key}.wav")
        for name, channel_set in CHANNEL_SETS.items()
        for utterance in utterances[name]
    ]
    write = partial(_write_utterance, sample_rate=settings.sample_rate, seed=settings.seed)
    written = iter(Progress(ordered_map(write, jobs, num_workers), total=len(jobs), desc="channels", unit="recording"))
    return {channel_set: [next(written) for _ in utterances[name]] for name, channel_set in CHANNEL_SETS.items()}


def _write_utterance(job: tuple[Utterance, Path], sample_rate: int, seed: int) -> Utterance:
    utterance, path = job
    rng = np.random.default_rng([seed, *utterance.key.encode()])
    waveform, _ = read_audio(utterance.path)
    write_wav(path, apply_channel(waveform, draw_channel(rng, sample_rate), sample_rate, rng), sample_rate)
    return utterance._replace(path=str(path))
