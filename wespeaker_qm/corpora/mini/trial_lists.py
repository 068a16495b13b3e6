"""The trial lists of mini: the same target trials, and impostors that are more or less hard to tell apart."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wespeaker_qm.corpora.mini.tables import CHANNEL, CHANNEL_SETS, UNKNOWN_GENDER
from wespeaker_qm.corpora.mini.utterances import Utterance
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.layout import DataFolder

logger = logging.getLogger(__name__)

HEADLINES = ("same_package_gender", "same_gender", "all")
"""In this order the first list with both kinds of trials is the headline (a subset of packages may lack some), between
recordings that have channels of their own."""


def list_paths(data: DataFolder) -> list[Path]:
    """The lists that :func:`write_trial_lists` may write."""
    twice = (*HEADLINES, "valid")
    return [data.trials(name) for name in (*twice, *(name + CHANNEL for name in twice), "cross_session")]


def write_trial_lists(
    data: DataFolder, directories: Mapping[str, DataDir], utterances: Mapping[str, Sequence[Utterance]]
) -> dict[str, str]:
    """Write the lists for evaluation and validation; a list without both target and non-target trials is left out.

    The targets are all pairs of utterances of one speaker, but that who has no impostor in a list has no targets in it:
    nobody can be mistaken for them there. The lists differ in their impostors: ``all``; of the ``same_gender`` (a
    speaker of unknown gender is nobody's impostor there); of the ``same_package_gender``, because there the channel
    tells less. In ``cross_session`` the targets come from two sessions of a speaker, the impostors from speakers of the
    same gender.

    The hardest list, and ``valid``, are there a second time (``..._channel``): the same trials, between recordings that
    have channels of their own.

    Returns:
        evaluation list -> the set that it draws from; the first is the headline.
    """
    directory = directories["eval"]
    package = {utterance.key: utterance.package for utterance in utterances["eval"]}

    def same_speaker(a: str, b: str) -> bool:
        return directory.speaker[a] == directory.speaker[b]

    def across_sessions(a: str, b: str) -> bool:
        if same_speaker(a, b):
            return directory.session[a] != directory.session[b]
        return _same_gender(directory, a, b)

    rules: dict[str, Callable[[str, str], bool] | None] = {
        "same_package_gender": lambda a, b: (
            same_speaker(a, b) or (package[a] == package[b] and _same_gender(directory, a, b))
        ),
        "same_gender": lambda a, b: same_speaker(a, b) or _same_gender(directory, a, b),
        "all": None,
        "cross_session": across_sessions,
    }
    for path in list_paths(data):
        path.unlink(missing_ok=True)
    lists: dict[str, str] = {}
    for name, rule in rules.items():
        trials = _with_rivals(make_trials(directory.speaker, accept=rule), directory)
        if {trial.is_target for trial in trials} == {True, False}:
            if not lists:
                lists[name + CHANNEL] = CHANNEL_SETS["eval"]
                _write_list(data, name + CHANNEL, trials)
            lists[name] = "eval"
            _write_list(data, name, trials)
        else:
            logger.info("trials %s: left out, the chosen packages hold no such targets and impostors", name)
    if "valid" in directories:
        valid = directories["valid"]
        trials = make_trials(
            valid.speaker, accept=lambda a, b: valid.speaker[a] == valid.speaker[b] or _same_gender(valid, a, b)
        )
        for name in ("valid", CHANNEL_SETS["valid"]):
            _write_list(data, name, _with_rivals(trials, valid))
    return lists


def _with_rivals(trials: Sequence[Trial], directory: DataDir) -> list[Trial]:
    """The trials without the targets of speakers who are nobody's impostor."""
    impostors = {directory.speaker[key] for trial in trials if not trial.is_target for key in trial[:2]}
    return [trial for trial in trials if not trial.is_target or directory.speaker[trial.enrolment] in impostors]


def _same_gender(directory: DataDir, a: str, b: str) -> bool:
    gender = directory.gender[directory.speaker[a]]
    return gender != UNKNOWN_GENDER and gender == directory.gender[directory.speaker[b]]


def _write_list(data: DataFolder, name: str, trials: Sequence[Trial]) -> None:
    write_trials(data.trials(name), trials)
    num_targets = sum(trial.is_target for trial in trials)
    logger.info(
        "trials %s: %s, %s",
        name,
        counted(num_targets, "target", "targets"),
        counted(len(trials) - num_targets, "non-target", "non-targets"),
    )
