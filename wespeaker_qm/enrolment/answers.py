"""What ``enrol``, ``identify``, ``forget`` and ``speakers`` print: lines for people, or JSON, one line an answer."""

import dataclasses
import json
from typing import Any

from wespeaker_qm.enrolment.identification import Identification
from wespeaker_qm.enrolment.records import EnrolledSpeaker
from wespeaker_qm.enrolment.store import Enrolment, SpeakerStore
from wespeaker_qm.export.cohort import SCORE_DECIMALS
from wespeaker_qm.utils.errors import counted, printable


def print_enrolment(enrolment: Enrolment) -> None:
    """Who was enrolled, and what is wrong with the recordings."""
    speaker, count = enrolment.speaker, len(enrolment.speaker.utterances)
    _print(f"{speaker.name}: {enrolment.added} added, now {_recordings(count)} of {speaker.duration_s:.1f} s")
    for text in enrolment.warnings:
        _print(f"mind: {text}")


def print_forgotten(speaker: EnrolledSpeaker) -> None:
    """Who is no longer there."""
    _print(f"{speaker.name}: forgotten, with {_recordings(len(speaker.utterances))}")


def print_speakers(store: SpeakerStore, *, as_json: bool) -> None:
    """A line a speaker: name, recordings, seconds, when the first and the last of them came."""
    speakers = store.speakers()
    for speaker in speakers:
        if as_json:
            utterances = [each._asdict() for each in speaker.utterances]
            print(json.dumps({"name": speaker.name, "duration_s": speaker.duration_s, "utterances": utterances}))
            continue
        times = sorted(each.enrolled[:10] for each in speaker.utterances)
        span = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
        _print(f"{speaker.name}: {_recordings(len(speaker.utterances))} of {speaker.duration_s:.1f} s, {span}")
    if not as_json:
        _print(f"{len(speakers):,} enrolled in {store.path}")


def print_identification(identification: Identification, *, as_json: bool) -> None:
    """Who it is, in lines for people or in one of JSON (:func:`identification_json`)."""
    if as_json:
        print(json.dumps(identification_json(identification), allow_nan=False))
        return
    _print("\n".join(identification_lines(identification)))


def identification_json(identification: Identification) -> dict[str, Any]:
    """The fields of :class:`.Identification`, as plain values."""
    fields = dataclasses.asdict(identification)
    return {**fields, "candidates": [each._asdict() for each in identification.candidates]}


def identification_lines(identification: Identification) -> list[str]:
    """An identification in words."""
    decided = identification.decided_at
    if decided.threshold is None:
        said = ["no decision"]
    else:
        said = ["nobody who is enrolled" if identification.name is None else identification.name]
        said[0] += f" (threshold {_score(decided.threshold)}"
        if decided.threshold_interval is not None:
            said[0] += f", 95 % interval {' to '.join(map(_score, decided.threshold_interval))}"
        said[0] += f": {100 * decided.fpir:.3g} % of strangers are taken for one of {decided.num_speakers:,})"
    for candidate in identification.candidates:
        llr = "" if candidate.llr is None else f", log-likelihood ratio {candidate.llr:+.2f}"
        said.append(f"  {candidate.name}: score {_score(candidate.score)}{llr}")
    said.append(f"speech: {identification.seconds_of_speech:.1f} s")
    said.append(f"the threshold rests on {identification.rests_on}")
    return [*said, *(f"mind: {text}" for text in identification.warnings)]


def _print(text: str) -> None:
    print(printable(text))  # names may be anybody's


def _score(value: float) -> str:
    return f"{value:.{SCORE_DECIMALS}f}"


def _recordings(count: int) -> str:
    return f"{counted(count, 'recording', 'recordings')}"
