"""Trials of a set that may be too large for all its pairs."""

import bisect
import itertools
import random
from collections.abc import Iterable, Mapping

from wespeaker_qm.trials.lists import Trial


def draw_trials(speaker: Mapping[str, str], max_trials: int, seed: int) -> list[Trial]:
    """All pairs of different utterances, sorted; of more than ``max_trials`` targets or non-targets a seeded sample.

    Pairs are numbered and drawn by number, so that a list of a million utterances costs no more than its sample.

    Args:
        speaker: utterance -> speaker.
        max_trials: largest number of targets, and of non-targets.
        seed: of the sample.
    """
    rng = random.Random(seed)
    keys = sorted(speaker, key=lambda key: (speaker[key], key))
    group_sizes = [len(list(group)) for _, group in itertools.groupby(keys, key=speaker.__getitem__)]
    # Utterance p has its own speaker's later utterances up to group_end[p], then everybody else's.
    group_end = [
        end for size, end in zip(group_sizes, itertools.accumulate(group_sizes), strict=True) for _ in range(size)
    ]
    trials = []
    for is_target in (True, False):
        if is_target:
            partners = [range(position + 1, end) for position, end in enumerate(group_end)]
        else:
            partners = [range(end, len(keys)) for end in group_end]
        ends = list(itertools.accumulate(map(len, partners)))
        numbers: Iterable[int] = range(ends[-1])
        if ends[-1] > max_trials:
            numbers = rng.sample(range(ends[-1]), max_trials)
        for number in numbers:
            position = bisect.bisect_right(ends, number)
            partner = partners[position][number - ends[position]]
            enrolment, test = sorted((keys[position], keys[partner]))
            trials.append(Trial(enrolment, test, is_target))
    return sorted(trials)
