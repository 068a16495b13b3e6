"""The trial lists of mini: the same target trials, and impostors that are more or less hard to tell apart."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wespeaker_qm.corpora.mini.tables import UNKNOWN_GENDER
from wespeaker_qm.corpora.mini.utterances import Utterance
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.layout import DataFolder

logger = logging.getLogger(__name__)

HEADLINES = ("same_package_gender", "same_gender", "all")
"""In this order the first list with both kinds of trials is the headline (a subset of packages may lack some)."""


def list_paths(data: DataFolder) -> list[Path]:
    """The lists that :func:`write_trial_lists` may write."""
    return [data.trials(name) for name in (*HEADLINES, "cross_session", "valid")]


def write_trial_lists(
    data: DataFolder, directories: Mapping[str, DataDir], utterances: Mapping[str, Sequence[Utterance]]
) -> dict[str, list[Trial]]:
    """Write the evaluation lists and ``valid``; a list without both target and non-target trials is left out.

    All lists but ``cross_session`` hold the same target trials: every pair of utterances of one speaker. They differ in
    their impostors: ``all``; of the ``same_gender`` (a speaker of unknown gender is nobody's impostor there); of the
    ``same_package_gender``, which is the headline, because there the channel tells little. In ``cross_session`` the
    targets come from two sessions of a speaker, the impostors from speakers of the same gender.

    Returns:
        evaluation list -> its trials.
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
    lists = {}
    for name, rule in rules.items():
        trials = make_trials(directory.speaker, accept=rule)
        if {trial.is_target for trial in trials} == {True, False}:
            lists[name] = trials
            _write_list(data, name, trials)
        else:
            logger.info("trials %s: left out, the chosen packages hold no such targets and impostors", name)
    if "valid" in directories:
        valid = directories["valid"]
        trials = make_trials(
            valid.speaker, accept=lambda a, b: valid.speaker[a] == valid.speaker[b] or _same_gender(valid, a, b)
        )
        _write_list(data, "valid", trials)
    return lists


def _same_gender(directory: DataDir, a: str, b: str) -> bool:
    gender = directory.gender[directory.speaker[a]]
    return gender != UNKNOWN_GENDER and gender == directory.gender[directory.speaker[b]]


def _write_list(data: DataFolder, name: str, trials: Sequence[Trial]) -> None:
    write_trials(data.trials(name), trials)
    num_targets = sum(trial.is_target for trial in trials)
    logger.info("trials %s: %d targets, %d non-targets", name, num_targets, len(trials) - num_targets)
