"""Which speakers train, which validate, which are evaluated: disjoint, seeded, and refused when a part is too small."""

import os
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wespeaker_qm.utils.errors import RecipeError, nearest
from wespeaker_qm.utils.text import read_names

MIN_SPEAKERS = 2
"""Fewer cannot be told apart: neither a class to learn nor an impostor to refuse."""


class SpeakerSplit(NamedTuple):
    """Disjoint sorted lists of speakers; ``valid`` may be empty."""

    train: list[str]
    valid: list[str]
    evaluation: list[str]


def parse_eval_speakers(choice: str | float | Sequence[str]) -> float | list[str]:
    """Read the option ``eval_speakers``: a fraction between 0 and 1, names with commas, or a file with a name a line.

    >>> parse_eval_speakers("0.25")
    0.25
    >>> parse_eval_speakers("anna,ben")
    ['anna', 'ben']

    Raises:
        RecipeError: a number that is not a fraction, or no name.
    """
    if isinstance(choice, str) and os.path.isfile(choice):
        names = read_names(choice)
    elif isinstance(choice, str | float | int):
        try:
            fraction = float(choice)
        except ValueError:
            names = [name.strip() for name in str(choice).split(",") if name.strip()]
        else:
            if not 0 < fraction < 1:
                raise RecipeError(
                    f"--eval_speakers {choice}: expected a fraction between 0 and 1, names separated by commas, or a "
                    "file with one name a line"
                )
            return fraction
    else:
        names = [str(name) for name in choice]
    if not names:
        raise RecipeError(f"--eval_speakers {choice}: names no speaker; expected at least {MIN_SPEAKERS}")
    return sorted(set(names))


def split_speakers(
    num_utterances: Mapping[str, int], eval_speakers: float | Sequence[str], valid_fraction: float, seed: int
) -> SpeakerSplit:
    """Divide the speakers.

    Args:
        num_utterances: speaker -> number of recordings.
        eval_speakers: names, or the fraction of all speakers (at least two) to draw among those with two or more
            recordings; a speaker with one recording has no target trial.
        valid_fraction: fraction of the other speakers that validate; when that is fewer than two, nobody does.
        seed: of both draws.

    Raises:
        RecipeError: an unknown name, evaluation speakers with a single recording, or fewer than two speakers to train
            on or to evaluate.
    """
    rng = random.Random(seed)
    speakers = sorted(num_utterances)
    single = [speaker for speaker in speakers if num_utterances[speaker] < 2]
    if isinstance(eval_speakers, float):
        evaluation = _draw_evaluation(speakers, single, eval_speakers, rng)
    else:
        evaluation = sorted(eval_speakers)
        _check_names(evaluation, speakers, single)
    rest = [speaker for speaker in speakers if speaker not in set(evaluation)]
    valid = _draw_validation(
        [speaker for speaker in rest if speaker not in set(single)], len(rest), valid_fraction, rng
    )
    train = [speaker for speaker in rest if speaker not in set(valid)]
    for purpose, members in (("evaluate", evaluation), ("train on", train)):
        if len(members) < MIN_SPEAKERS:
            raise RecipeError(
                f"{len(members)} speaker(s) to {purpose} ({', '.join(members) or 'none'}) of {len(speakers)} in all, "
                f"expected at least {MIN_SPEAKERS}; add speakers or change --eval_speakers"
            )
    return SpeakerSplit(train, valid, evaluation)


def _draw_evaluation(speakers: list[str], single: list[str], fraction: float, rng: random.Random) -> list[str]:
    if len(speakers) < 2 * MIN_SPEAKERS:
        raise RecipeError(
            f"{len(speakers)} speaker(s) found ({', '.join(speakers) or 'none'}), expected at least "
            f"{2 * MIN_SPEAKERS}: {MIN_SPEAKERS} to train on and {MIN_SPEAKERS} to evaluate; add speakers"
        )
    wanted = max(MIN_SPEAKERS, round(fraction * len(speakers)))
    eligible = [speaker for speaker in speakers if speaker not in set(single)]
    if len(eligible) < wanted:
        raise RecipeError(
            f"--eval_speakers {fraction:g} asks for {wanted} speakers, but only {len(eligible)} have the two "
            f"recordings that a target trial needs; {_count(single)} one: {_names(single)}; add recordings or ask for "
            "fewer"
        )
    return sorted(rng.sample(eligible, wanted))


def _draw_validation(eligible: list[str], num_rest: int, fraction: float, rng: random.Random) -> list[str]:
    wanted = round(fraction * num_rest)
    if wanted < MIN_SPEAKERS or len(eligible) < wanted or num_rest - wanted < MIN_SPEAKERS:
        return []
    return sorted(rng.sample(eligible, wanted))


def _check_names(evaluation: Sequence[str], speakers: Sequence[str], single: Sequence[str]) -> None:
    unknown = [name for name in evaluation if name not in set(speakers)]
    if unknown:
        raise RecipeError(
            f"--eval_speakers: {_names(unknown)} is not among the {len(speakers)} speakers with recordings; "
            f"nearest to {unknown[0]}: {nearest(unknown[0], speakers)}"
        )
    alone = [name for name in evaluation if name in set(single)]
    if alone:
        raise RecipeError(
            f"--eval_speakers: {_count(alone)} one recording only, and a target trial needs two: {_names(alone)}; add "
            "recordings of them or leave them out of the evaluation"
        )


def _count(speakers: Sequence[str]) -> str:
    return "1 speaker has" if len(speakers) == 1 else f"{len(speakers)} speakers have"


def _names(speakers: Sequence[str], shown: int = 20) -> str:
    more = f" and {len(speakers) - shown} more" if len(speakers) > shown else ""
    return ", ".join(speakers[:shown]) + more
