"""Kaldi's ``segments``: utterances that are parts of longer recordings.

``segments`` stands beside ``wav.scp``, whose keys then name recordings; an end of -1 is the recording's end::

    rec1-0001  rec1   0.35   4.10
    rec1-0002  rec1  12.00     -1

In memory a segment stands in the place of a path: ``segment:0.35:4.10:<path or archive locator of the recording>``.
"""

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.audio.io import audio_info, read_audio
from wespeaker_qm.audio.source import AudioError, Source
from wespeaker_qm.utils.errors import RecipeError, shown, shown_line
from wespeaker_qm.utils.tables import read_rows
from wespeaker_qm.utils.text import fields_of

_LOCATOR = re.compile(r"segment:(?P<start>[0-9]+(\.[0-9]+)?):(?P<end>-1|[0-9]+(\.[0-9]+)?):(?P<recording>.+)")
_TO_THE_END = -1
# Times are rounded, usually to hundredths: an end may lie so far behind that of the recording.
_TOLERANCE_S = Decimal("0.01")
# A time of as many digits as an exponent asks for would fill the memory, and be more than arithmetic can hold.
_MAX_POWER, _MIN_EXPONENT = 9, -400


class Span(NamedTuple):
    """Part of a recording, in seconds, exact as written; an end of -1 is that of the recording."""

    start_s: Decimal
    end_s: Decimal


def read_segments(path: Path, recordings: dict[str, str]) -> dict[str, str]:
    """Read ``segments``: utterance -> what stands in the place of its path.

    Args:
        path: the table.
        recordings: ``wav.scp``.

    Raises:
        RecipeError: a line that is none of four fields, an utterance that stands twice, a recording that is not in
            ``wav.scp``, or a start that is negative or not before the end.
    """
    utterances: dict[str, str] = {}
    for key, recording, *times in read_rows(path, 4):
        start, end = times[0], fields_of(times[1])
        if len(end) != 1:
            found = shown_line(" ".join([recording, *times]))
            raise RecipeError(
                f"{path}: {shown(key)} has the fields {found}, expected recording, start and end; a channel cannot be "
                "chosen here: write it into a file of its own"
            )
        if recording not in recordings:
            raise RecipeError(
                f"{path}: {shown(key)} is of recording {shown(recording)}, which is not in wav.scp; add or remove it"
            )
        if key in utterances:
            raise RecipeError(f"{path}: utterance {shown(key)} stands twice; keys must be unique")
        span = Span(_seconds(path, key, start), _seconds(path, key, end[0]))
        if span.start_s < 0 or not (span.end_s == _TO_THE_END or span.start_s < span.end_s):
            raise RecipeError(
                f"{path}: {shown(key)} goes from {start} to {end[0]} s, expected 0 <= start < end, or -1 for the "
                "recording's end"
            )
        last = "-1" if span.end_s == _TO_THE_END else f"{span.end_s:f}"
        utterances[key] = f"segment:{span.start_s:f}:{last}:{recordings[recording]}"
    return utterances


def split_segment(path: str) -> tuple[str, Span | None]:
    """The recording that an entry names, and the part of it that is meant; None is all of it."""
    match = _LOCATOR.fullmatch(path)
    if match is None:
        return path, None
    return match["recording"], Span(Decimal(match["start"]), Decimal(match["end"]))


def segment_duration_s(path: str) -> float | None:
    """How long the part is that an entry names; None where only the recording tells."""
    _, span = split_segment(path)
    return None if span is None or span.end_s == _TO_THE_END else float(span.end_s - span.start_s)


def read_span(source: Source, span: Span) -> tuple[np.ndarray, int]:
    """Read a part of a recording as :func:`wespeaker_qm.audio.io.read_audio` does: samples from start up to end.

    A time stands for the last sample at or before it, as in Kaldi's ``extract-segments``.

    Raises:
        AudioError: as there, or the recording ends before the part does.
    """
    info = audio_info(source)
    if not isinstance(source, Path | str):
        source.seek(0)
    first = int(span.start_s * info.sample_rate)
    end = info.num_samples if span.end_s == _TO_THE_END else int(span.end_s * info.sample_rate)
    if first >= info.num_samples or end - info.num_samples > _TOLERANCE_S * info.sample_rate:
        duration_s = info.num_samples / info.sample_rate
        raise AudioError(f"segment {span.start_s} to {span.end_s} s, but the recording has {duration_s:.3f} s")
    num_samples = min(end, info.num_samples) - first
    waveform, sample_rate = read_audio(source, start=first, num_samples=num_samples)
    if len(waveform) != num_samples:
        raise AudioError(f"segment {span.start_s} to {span.end_s} s: {len(waveform)} of {num_samples} samples")
    return waveform, sample_rate


def _seconds(path: Path, key: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise RecipeError(f"{path}: {shown(key)} has the time {shown(text)}, expected seconds")
    if value.is_zero():
        return Decimal(0)  # without a sign or an exponent
    if value.adjusted() > _MAX_POWER or value.adjusted() - len(value.as_tuple().digits) < _MIN_EXPONENT:
        raise RecipeError(
            f"{path}: {shown(key)} has the time {shown(text)}, expected seconds: below 1e{_MAX_POWER + 1}, with at "
            f"most {-_MIN_EXPONENT} decimals"
        )
    return value
