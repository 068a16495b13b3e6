"""Trial lists: which pairs of utterances are compared. One ``enrolment test target|nontarget`` a line.

Lists are read back, as arrays, by :mod:`wespeaker_qm.trials.table`.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.utils.tables import write_rows


class Trial(NamedTuple):
    """One comparison: are ``enrolment`` and ``test`` of the same speaker?"""

    enrolment: str
    test: str
    is_target: bool


def write_trials(path: Path | str, trials: Iterable[Trial]) -> None:
    """Write a trial list, in the order given."""
    write_rows(path, ((t.enrolment, t.test, "target" if t.is_target else "nontarget") for t in trials))


def make_trials(
    speaker: Mapping[str, str],
    *,
    accept: Callable[[str, str], bool] | None = None,
    max_targets: int | None = None,
    max_nontargets: int | None = None,
    seed: int = 42,
) -> list[Trial]:
    """All unordered pairs of different utterances that ``accept`` lets through, sorted; the same on every call.

    Args:
        speaker: utterance key -> speaker.
        accept: called with two keys, the first the smaller; says whether the pair is a trial. Default: every pair.
        max_targets: keep a seeded sample of that many target trials; default all.
        max_nontargets: the same for non-target trials.
        seed: of the two samples.
    """
    keys = sorted(speaker)
    targets: list[Trial] = []
    nontargets: list[Trial] = []
    for position, enrolment in enumerate(keys):
        for test in keys[position + 1 :]:
            if accept is None or accept(enrolment, test):
                is_target = speaker[enrolment] == speaker[test]
                (targets if is_target else nontargets).append(Trial(enrolment, test, is_target))
    rng = random.Random(seed)
    kept = []
    for trials, limit in ((targets, max_targets), (nontargets, max_nontargets)):
        kept += trials if limit is None or len(trials) <= limit else rng.sample(trials, limit)
    return sorted(kept)
