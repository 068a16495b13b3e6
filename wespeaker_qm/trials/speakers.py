"""Who speaks in the trials: what intervals over speakers need to know."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.errors import RecipeError, first_few


class TrialSpeakers(NamedTuple):
    """The speakers of N trials."""

    enrolment: NDArray[np.int32]
    """(N,) speaker numbers from 0 on."""
    test: NDArray[np.int32]
    """(N,) likewise."""
    num_speakers: int
    """S."""


class EffectiveSpeakers(NamedTuple):
    """Over how many speakers trials are spread: Kish's effective number (1965), ``(sum of c)^2 / sum of c^2``.

    c are the trials of each speaker; a trial of two speakers is one of each. Two speakers with nearly all the trials
    are two, however many others there are.
    """

    target: float
    non_target: float


def effective_speakers(speakers: TrialSpeakers, is_target: NDArray[np.bool_]) -> EffectiveSpeakers:
    """The effective numbers of speakers of the target and of the non-target trials; 0 where there are no trials.

    >>> pairs = np.array([[0, 0], [0, 0], [1, 1], [0, 1], [0, 1]], np.int32)
    >>> effective_speakers(TrialSpeakers(pairs[:, 0], pairs[:, 1], 2), pairs[:, 0] == pairs[:, 1])
    EffectiveSpeakers(target=1.8, non_target=2.0)
    """
    numbers = []
    for chosen in (is_target, ~is_target):
        count = np.bincount(speakers.enrolment[chosen], minlength=speakers.num_speakers).astype(np.float64)
        apart = chosen & (speakers.enrolment != speakers.test)
        count += np.bincount(speakers.test[apart], minlength=speakers.num_speakers)
        numbers.append(float(count.sum() ** 2 / (count**2).sum()) if count.any() else 0.0)
    return EffectiveSpeakers(*numbers)


def trial_speakers(trials: TrialTable, speaker: Mapping[str, str]) -> TrialSpeakers:
    """Look the speakers up.

    Args:
        trials: the list.
        speaker: utterance -> speaker; may hold more.

    Raises:
        RecipeError: an utterance has no speaker, or a label disagrees with the speakers; the first few are named.
    """
    unknown = [utterance for utterance in trials.utterances if utterance not in speaker]
    if unknown:
        raise RecipeError(
            f"{trials.path}: {len(unknown)} utterances are not in utt2spk of the set that the list draws from; prepare "
            "the data again (stage 1), or name the right utt2spk:" + first_few(unknown)
        )
    names, numbers = np.unique([speaker[utterance] for utterance in trials.utterances], return_inverse=True)
    number: NDArray[np.int32] = numbers.astype(np.int32)
    speakers = TrialSpeakers(number[trials.enrolment], number[trials.test], len(names))
    wrong = np.flatnonzero((speakers.enrolment == speakers.test) != trials.is_target).tolist()
    if wrong:
        kinds = ("nontarget", "target")
        raise RecipeError(
            f"{trials.path}: {len(wrong)} labels disagree with utt2spk, expected target for one speaker on both sides "
            "and nontarget for two:"
            + first_few([f"{trials.names(trial)} {kinds[int(trials.is_target[trial])]}" for trial in wrong])
        )
    return speakers


def speakers_by_folder(trials: TrialTable) -> dict[str, str] | None:
    """Utterance -> the folder that its name begins with, as in VoxCeleb; None where a name has no folder.

    >>> "id10270/5r0dWxy17C8/00001.wav".partition("/")[0]
    'id10270'
    """
    if not all("/" in name for name in trials.utterances):
        return None
    return {name: name.partition("/")[0] for name in trials.utterances}
