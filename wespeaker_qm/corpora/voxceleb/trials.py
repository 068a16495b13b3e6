"""The trial lists that VoxCeleb publishes, and the one for checks while training, which is made here."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.errors import RecipeError, counted, shown_line
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.text import fields_of, lines_of, read_text

logger = logging.getLogger(__name__)

# For checks while training: enough to see a trend, few enough to cost seconds.
_VALID_UTTERANCES_PER_SPEAKER = 10
_VALID_TARGETS, _VALID_NONTARGETS = 5_000, 50_000
_NUM_SHOWN = 5


def read_published_trials(path: Path) -> list[Trial]:
    """Read a trial list as VoxCeleb publishes it: ``1 enrolment test`` for a target trial, 0 for another.

    Raises:
        RecipeError: a line that is none of the two; the message has its number.
    """
    trials = []
    for number, line in lines_of(read_text(path)):
        fields = fields_of(line)
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise RecipeError(
                f"{path}:{number}: found {shown_line(line)}, expected '1 enrolment test' or '0 enrolment test'"
            )
        trials.append(Trial(fields[1], fields[2], fields[0] == "1"))
    return trials


def known_trials(trials: Sequence[Trial], known: Mapping[str, str], path: Path, is_subset: bool) -> list[Trial]:
    """The trials whose utterances are there: all, but for a subset.

    Args:
        trials: of a published list.
        known: key -> place of each utterance that is there.
        path: of the list, for messages.
        is_subset: whether trials may be lost.

    Raises:
        RecipeError: trials would be lost.
    """
    kept = [trial for trial in trials if trial.enrolment in known and trial.test in known]
    lost = len(trials) - len(kept)
    of = f"of {len(trials)} trials"
    if lost and not is_subset:
        absent = sorted({key for trial in trials for key in trial[:2] if key not in known})
        raise RecipeError(
            f"{path}: {counted(lost, f'{of} names', f'{of} name')} {counted(len(absent), 'utterance', 'utterances')} "
            f"that VoxCeleb1 here does not hold, e.g. {', '.join(absent[:_NUM_SHOWN])}; "
            "add them, or say --subset true to leave these trials out"
        )
    if lost:
        told = counted(lost, f"{of} is left out, its", f"{of} are left out, their")
        logger.warning("%s: %s utterances are not there", path, told)
    return kept


def write_validation(data: DataFolder, recordings: Mapping[str, str]) -> str | None:
    """Of VoxCeleb2 test, whose speakers are in no other set, some utterances of each: the check while training."""
    if not recordings:
        logger.info("no VoxCeleb2 test (vox2_test_aac.zip): no check on held-out speakers while training")
        return None
    by_speaker: dict[str, list[str]] = {}
    for key in sorted(recordings):
        by_speaker.setdefault(key.split("/")[0], []).append(key)
    speaker: dict[str, str] = {}
    for name, keys in by_speaker.items():
        count = min(len(keys), _VALID_UTTERANCES_PER_SPEAKER)
        speaker |= {keys[len(keys) * number // count]: name for number in range(count)}
    DataDir(wav={key: recordings[key] for key in speaker}, speaker=speaker).write(data.set("vox2_test").path)
    trials = make_trials(speaker, max_targets=_VALID_TARGETS, max_nontargets=_VALID_NONTARGETS)
    write_trials(data.trials("vox2_test"), trials)
    return "vox2_test"
