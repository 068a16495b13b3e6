"""Which speakers train, which validate, which are evaluated: disjoint, seeded, and refused when a part is too small."""

import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wespeaker_qm.utils.errors import RecipeError, counted, nearest, shown
from wespeaker_qm.utils.remedies import with_run_sh
from wespeaker_qm.utils.text import as_number, read_names

MIN_SPEAKERS = 2
"""Fewer cannot be told apart: neither a class to learn nor an impostor to refuse."""
ALL = "all"
"""The value of ``eval_speakers`` that leaves nobody to train on."""


class Part(NamedTuple):
    """The speakers are dealt into parts, each of which is evaluated in one run of a cross-validation."""

    number: int
    """From 1."""
    num_parts: int
    """At least 2."""


class SpeakerSplit(NamedTuple):
    """Disjoint sorted lists of speakers; ``valid`` may be empty."""

    train: list[str]
    valid: list[str]
    evaluation: list[str]


def parse_eval_speakers(choice: str | float | Sequence[str]) -> float | Part | list[str] | None:
    """Read the option ``eval_speakers``.

    That is how many (a whole number), a fraction, a part of a cross-validation, names, or a file of them; None is all.
    One name would be too few, so what stands alone and looks like a number is one, whatever speakers are called.

    >>> parse_eval_speakers("0.25"), parse_eval_speakers("5"), parse_eval_speakers("2of5"), parse_eval_speakers("all")
    (0.25, 5, Part(number=2, num_parts=5), None)
    >>> parse_eval_speakers("anna,ben"), parse_eval_speakers("103,1034")
    (['anna', 'ben'], ['103', '1034'])

    Raises:
        RecipeError: a number that is neither a count nor a fraction, a part that is none, or no name.
    """
    if not isinstance(choice, str | float | int):
        names = [str(name) for name in choice]
    elif (text := str(choice).strip()) == ALL:
        return None
    elif (part := re.fullmatch(r"([0-9]{1,9})of([0-9]{1,9})", text)) is not None:
        number, num_parts = int(part[1]), int(part[2])
        if num_parts < 2 or not 1 <= number <= num_parts:
            raise RecipeError(f"--eval_speakers {text}: expected 1ofN to NofN with N at least 2, e.g. 1of5")
        return Part(number, num_parts)
    elif re.fullmatch(r"[1-9][0-9]{0,17}", text):
        return int(text)
    elif (fraction := as_number(text)) is not None:
        if not 0 < fraction < 1:
            raise RecipeError(
                f"--eval_speakers {shown(choice)}: expected how many (a whole number of at least {MIN_SPEAKERS}), a "
                "fraction between 0 and 1, names separated by commas, or a file with one name a line (./FILE where "
                "its name is a number)"
            )
        return fraction
    elif os.path.isfile(text):
        names = read_names(text)
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise RecipeError(f"--eval_speakers {shown(choice)}: names no speaker; expected at least {MIN_SPEAKERS}")
    return sorted(set(names))


def split_speakers(
    num_utterances: Mapping[str, int],
    eval_speakers: float | Part | Sequence[str] | None,
    valid_speakers: float,
    seed: int,
) -> SpeakerSplit:
    """Divide the speakers.

    Args:
        num_utterances: speaker -> number of recordings.
        eval_speakers: names, or how many (a fraction of all below 1, and at least two; else a number) to draw among
            those with two or more recordings; a speaker with one recording has no target trial. Or one of the parts
            into which those are dealt. None evaluates all, those with one recording as impostors, and trains nobody.
        valid_speakers: fraction (up to 1) or number of the other speakers that validate; when a fraction is fewer than
            two, nobody does.
        seed: of both draws.

    Raises:
        RecipeError: an unknown name, evaluation speakers with a single recording, more speakers than there are, or
            fewer than two to train on (unless all are evaluated) or to evaluate.
    """
    rng = random.Random(seed)
    speakers = sorted(num_utterances)
    single = [speaker for speaker in speakers if num_utterances[speaker] < 2]
    if eval_speakers is None:
        evaluation = speakers
        if len(single) == len(speakers):
            raise RecipeError(
                f"{with_run_sh('--eval_speakers all: ')}nobody has the two recordings that a target trial needs; "
                "add some"
            )
    elif isinstance(eval_speakers, Part):
        dealt = rng.sample([speaker for speaker in speakers if speaker not in set(single)], len(speakers) - len(single))
        evaluation = sorted(dealt[eval_speakers.number - 1 :: eval_speakers.num_parts])
    elif isinstance(eval_speakers, float | int):
        evaluation = _draw_evaluation(speakers, single, eval_speakers, rng)
    else:
        evaluation = sorted(eval_speakers)
        _check_names(evaluation, speakers, single)
    if len(evaluation) == len(speakers) >= MIN_SPEAKERS:
        return SpeakerSplit([], [], evaluation)
    rest = [speaker for speaker in speakers if speaker not in set(evaluation)]
    valid = _draw_validation(
        [speaker for speaker in rest if speaker not in set(single)], len(rest), valid_speakers, rng
    )
    train = [speaker for speaker in rest if speaker not in set(valid)]
    for purpose, members in (("evaluate", evaluation), ("train on", train)):
        if len(members) < MIN_SPEAKERS:
            raise RecipeError(
                f"{counted(len(members), 'speaker', 'speakers')} to {purpose} ({', '.join(members) or 'none'}) of "
                f"{len(speakers)} in all, expected at least {MIN_SPEAKERS}; add speakers"
                + ("" if eval_speakers is None else " or change --eval_speakers (to all, for a finished model)")
            )
    return SpeakerSplit(train, valid, evaluation)


def more_speakers(num_speakers: int, least: int) -> str:
    """What helps where fewer than ``least`` of ``num_speakers`` speakers are evaluated, in words.

    >>> print(*more_speakers(10, 5).split("; "), sep=chr(10))
    --eval_speakers 0.5 evaluates 5
    --eval_speakers 1of5 to 5of5 evaluate all in turns, a training each (egs/folder/README.md)
    --eval_speakers all evaluates all with a finished model (run.sh --model)
    """
    remedies = []
    if num_speakers >= least + MIN_SPEAKERS:
        fraction = math.ceil(100 * least / num_speakers) / 100
        remedies.append(f"--eval_speakers {fraction:g} evaluates {round(fraction * num_speakers)}")
    if num_speakers >= 2 * MIN_SPEAKERS:
        num_parts = min(5, num_speakers // MIN_SPEAKERS)
        remedies.append(
            f"--eval_speakers 1of{num_parts} to {num_parts}of{num_parts} evaluate all in turns, a training each "
            "(egs/folder/README.md)"
        )
    return "; ".join([*remedies, "--eval_speakers all evaluates all with a finished model (run.sh --model)"])


def _draw_evaluation(speakers: list[str], single: list[str], share: float, rng: random.Random) -> list[str]:
    if len(speakers) < 2 * MIN_SPEAKERS:
        raise RecipeError(
            f"{counted(len(speakers), 'speaker', 'speakers')} found ({', '.join(speakers) or 'none'}), expected at "
            f"least {2 * MIN_SPEAKERS}: {MIN_SPEAKERS} to train on and {MIN_SPEAKERS} to evaluate; add speakers"
        )
    wanted = int(share) if share >= 1 else max(MIN_SPEAKERS, round(share * len(speakers)))
    eligible = [speaker for speaker in speakers if speaker not in set(single)]
    if len(eligible) < wanted:
        alone = f"; {_count(single)} one: {_names(single)}" if single else ""
        is_name = f"; for the speaker {wanted} name others, too, with commas" if str(wanted) in speakers else ""
        raise RecipeError(
            f"--eval_speakers {share:g} asks for {counted(wanted, 'speaker', 'speakers')}, but only "
            f"{counted(len(eligible), 'has', 'have')} the two "
            f"recordings that a target trial needs{alone}; add recordings or ask for fewer{is_name}"
        )
    return sorted(rng.sample(eligible, wanted))


def _draw_validation(eligible: list[str], num_rest: int, share: float, rng: random.Random) -> list[str]:
    wanted = int(share) if share > 1 else round(share * num_rest)
    if share > 1 and (len(eligible) < wanted or num_rest - wanted < MIN_SPEAKERS):
        most = min(len(eligible), num_rest - MIN_SPEAKERS)
        raise RecipeError(
            f"--valid_speakers {share:g}: of the {counted(num_rest, 'speaker who is', 'speakers who are')} not "
            f"evaluated {counted(len(eligible), 'has', 'have')} the two recordings that a target "
            f"trial needs, and {MIN_SPEAKERS} have to be left to train on; give "
            f"{most if most >= MIN_SPEAKERS else 0}{' or fewer' if most > MIN_SPEAKERS else ''}, or add speakers"
        )
    if wanted < MIN_SPEAKERS or len(eligible) < wanted or num_rest - wanted < MIN_SPEAKERS:
        return []
    return sorted(rng.sample(eligible, wanted))


def _check_names(evaluation: Sequence[str], speakers: Sequence[str], single: Sequence[str]) -> None:
    unknown = [name for name in evaluation if name not in set(speakers)]
    if unknown:
        raise RecipeError(
            f"--eval_speakers: {_names(unknown)} is not among the {counted(len(speakers), 'speaker', 'speakers')} with "
            f"recordings; nearest to {unknown[0]}: {nearest(unknown[0], speakers)}"
        )
    alone = [name for name in evaluation if name in set(single)]
    if alone:
        raise RecipeError(
            f"--eval_speakers: {_count(alone)} one recording only, and a target trial needs two: {_names(alone)}; add "
            "recordings of them or leave them out of the evaluation"
        )


def _count(speakers: Sequence[str]) -> str:
    return counted(len(speakers), "speaker has", "speakers have")


def _names(speakers: Sequence[str], shown: int = 20) -> str:
    more = f" and {len(speakers) - shown} more" if len(speakers) > shown else ""
    return ", ".join(speakers[:shown]) + more
