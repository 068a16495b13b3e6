"""Who speaks in the trials: what intervals over speakers need to know."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.text import in_another_form

logger = logging.getLogger(__name__)


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
        advice = "prepare the data again (run.sh --stage 1) if it is of run.sh, or name the right utt2spk"
        raise RecipeError(
            f"{trials.path}: {counted(len(unknown), 'utterance is', 'utterances are')} not in utt2spk of the set that "
            "the list draws from; "
            f"{in_another_form(unknown, speaker) or advice}:{first_few(unknown)}"
        )
    speakers = _numbered(trials, [speaker[utterance] for utterance in trials.utterances])
    wrong = _contradictions(trials, speakers)
    if wrong:
        raise RecipeError(
            f"{trials.path}: {counted(len(wrong), 'label disagrees', 'labels disagree')} with utt2spk, expected target "
            "for one speaker on both sides and nontarget for two:"
            + first_few([f"{trials.names(trial)} {_KINDS[int(trials.is_target[trial])]}" for trial in wrong])
        )
    return speakers


def speakers_by_folder(trials: TrialTable) -> TrialSpeakers | None:
    """The guess that names begin with the speaker's folder, as in VoxCeleb: ``id10270/5r0dWxy17C8/00001.wav``.

    Returns:
        None where a name has no folder, or where the labels say otherwise, which is logged: folders are not speakers
        then, as in ``wav/anna/1.wav``.
    """
    if not all("/" in name for name in trials.utterances):
        return None
    speakers = _numbered(trials, [name.partition("/")[0] for name in trials.utterances])
    wrong = _contradictions(trials, speakers)
    if wrong:
        logger.warning(
            "%s: the folders that names begin with are not the speakers: %s otherwise (%s is %s); "
            "to name the speakers: --utt2spk",
            trials.path,
            counted(len(wrong), "label says", "labels say"),
            trials.names(wrong[0]),
            _KINDS[int(trials.is_target[wrong[0]])],
        )
        return None
    return speakers


_KINDS = ("nontarget", "target")


def _numbered(trials: TrialTable, speaker: Sequence[str]) -> TrialSpeakers:
    """The speakers of the trials, given that of each utterance."""
    names, numbers = np.unique(speaker, return_inverse=True)
    number: NDArray[np.int32] = numbers.astype(np.int32)
    return TrialSpeakers(number[trials.enrolment], number[trials.test], len(names))


def _contradictions(trials: TrialTable, speakers: TrialSpeakers) -> list[int]:
    """The trials whose label is not target for one speaker on both sides, or not nontarget for two."""
    wrong: list[int] = np.flatnonzero((speakers.enrolment == speakers.test) != trials.is_target).tolist()
    return wrong
