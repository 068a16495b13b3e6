"""The hardest errors of a run: the non-targets that score highest, the targets that score lowest, to be listened to."""

import base64
import io
from typing import NamedTuple

import numpy as np

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.report.runs import ScoredSystem
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.tables import read_map

NUM_ERRORS = 10
MAX_SECONDS = 6.0


class HardTrial(NamedTuple):
    """One trial; audio is a data URL, or empty where the recording is not at hand."""

    score: float
    enrolment: str
    test: str
    enrolment_speaker: str
    test_speaker: str
    enrolment_audio: str
    test_audio: str


class HardErrors(NamedTuple):
    """The worst first."""

    nontargets: list[HardTrial]
    targets: list[HardTrial]


def hard_errors(system: ScoredSystem, data: DataFolder, trial_list: str) -> HardErrors:
    """The ``NUM_ERRORS`` worst trials of each kind, no recording more than twice in a list.

    Args:
        system: on ``trial_list``.
        data: the prepared corpus; where the set is packed the first seconds of each recording are at hand.
        trial_list: of the corpus.
    """
    folder = data.set(CorpusInfo.load(data.info).trials[trial_list])
    speaker = read_map(folder.utt2spk)
    reader = ShardReader(folder.shard_list) if folder.shard_list.is_file() else None
    clips: dict[str, str] = {}

    def clip(name: str) -> str:
        if reader is not None and name not in clips:
            clips[name] = _audio_url(reader, name)
        return clips.get(name, "")

    def worst(order: np.ndarray) -> list[HardTrial]:
        trials, seen, result = system.trials, dict[str, int](), []
        for trial in order.tolist():
            one, two = trials.utterances[trials.enrolment[trial]], trials.utterances[trials.test[trial]]
            if max(seen.get(one, 0), seen.get(two, 0)) >= 2:
                continue
            seen[one], seen[two] = seen.get(one, 0) + 1, seen.get(two, 0) + 1
            score = float(system.scores[trial])
            result.append(HardTrial(score, one, two, speaker[one], speaker[two], clip(one), clip(two)))
            if len(result) == NUM_ERRORS:
                break
        return result

    order = np.argsort(system.scores, kind="stable")
    is_target = system.trials.is_target[order]
    return HardErrors(worst(order[~is_target][::-1]), worst(order[is_target]))


def _audio_url(reader: ShardReader, name: str) -> str:
    """The first seconds as MP3 in a data URL."""
    import soundfile

    rate = reader.sample_rate
    waveform = reader.read(reader.index_of(name))[: int(MAX_SECONDS * rate)]
    content = io.BytesIO()
    soundfile.write(content, waveform, rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
