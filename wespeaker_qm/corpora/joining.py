"""Utterances made of short clips: cut out the silence, then join what is left of a session in its order.

Prompts of telephone exchanges and games last 0.3 to 2 s, too short for speaker verification; a few of them in a row
make an utterance of natural length. The rules work on durations, so that only the clips that are used are resampled.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wespeaker_qm.audio.resample import resample_audio

FRAME_S = 0.02
# Below the loudest frame: speech spans about 30 dB; recordings with more noise than that are not trimmed.
TRIM_RANGE_DB = 35.0
SILENCE_DB = -60.0
MARGIN_S = 0.06
# Longer pauses inside a clip are cut out: one speaker's clips are two thirds digital silence.
MAX_PAUSE_S = 0.3
MIN_CLIP_S = 0.1
# The rest of a clip that was cut at the maximal length of an utterance is used if it is longer than this.
MIN_REST_S = 0.3
FADE_S = 0.005
NO_SOUND = "no sound above -60 dB of full scale, or shorter than 0.1 s"
"""Why :func:`sound_pieces` finds nothing."""


class Piece(NamedTuple):
    """A stretch of a clip: index of the clip, first and last second."""

    clip: int
    start_s: float
    end_s: float


def sound_pieces(clip: int, waveform: np.ndarray, sample_rate: int) -> list[Piece]:
    """Where a clip is not silent: frames of 20 ms within 35 dB of the loudest, pauses up to 0.3 s included.

    Args:
        clip: its index, written into the pieces.
        waveform: (S,) in [-1, 1].
        sample_rate: in Hz.

    Returns:
        pieces in order, each with margins of up to 60 ms; none for a clip that is silent (no frame above -60 dB of full
        scale) or shorter than 100 ms.
    """
    frame = round(FRAME_S * sample_rate)
    num_frames = len(waveform) // frame
    if num_frames == 0:
        return []
    frames = waveform[: num_frames * frame].reshape(num_frames, frame)
    # The variance, because some clips have an offset that comes and goes with the sound.
    level_db = 10 * np.log10(frames.var(axis=1) + 1e-12)
    loud = np.flatnonzero(level_db > max(level_db.max() - TRIM_RANGE_DB, SILENCE_DB))
    if len(loud) == 0:
        return []
    pieces = []
    for run in np.split(loud, np.flatnonzero(np.diff(loud) * FRAME_S > MAX_PAUSE_S) + 1):
        start_s = max(0.0, run[0] * FRAME_S - MARGIN_S)
        end_s = min(len(waveform) / sample_rate, (run[-1] + 1) * FRAME_S + MARGIN_S)
        if end_s - start_s >= MIN_CLIP_S:
            pieces.append(Piece(clip, float(start_s), float(end_s)))
    return pieces


def plan_utterances(
    pieces: Iterable[Piece], min_s: float, max_s: float, *, even_if_short: bool = False
) -> Iterator[list[Piece]]:
    """Join a row of pieces to utterances of ``min_s`` to ``max_s`` seconds, in order, each as soon as it is known.

    Pieces are joined until there are ``min_s``; one that would go beyond ``max_s`` is cut there, and its rest begins
    the next utterance. What is left at the end is appended to the last utterance where there is room, else dropped.

    Args:
        pieces: of all clips of a session, from :func:`sound_pieces`; used up no sooner than they are needed.
        min_s: shortest utterance.
        max_s: longest utterance.
        even_if_short: where all pieces together are shorter than ``min_s``, they are one utterance; else there is none.
    """
    previous: list[Piece] = []
    current: list[Piece] = []
    length_s = 0.0
    for clip, start_s, end_s in pieces:
        shortest_s = 0.0
        while end_s - start_s > shortest_s:
            taken_s = min(end_s - start_s, max_s - length_s)
            current.append(Piece(clip, start_s, start_s + taken_s))
            start_s, length_s, shortest_s = start_s + taken_s, length_s + taken_s, MIN_REST_S
            if length_s >= min_s:
                if previous:
                    yield previous
                previous, current, length_s = current, [], 0.0
    if previous and length_s + sum(piece.end_s - piece.start_s for piece in previous) <= max_s:
        previous += current
    if previous:
        yield previous
    elif current and even_if_short:
        yield current


def choose_evenly(count: int, wanted: int) -> list[int]:
    """Indices of ``wanted`` of ``count`` things, spread evenly; all where there are no more."""
    if wanted >= count:
        return list(range(count))
    return [math.floor((index + 0.5) * count / wanted) for index in range(wanted)]


def share_out(counts: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` places among sessions of ``counts`` utterances, equally; what one cannot fill goes to others.

    >>> share_out([100, 5, 100], 60)
    [28, 5, 27]
    """
    shares = [0] * len(counts)
    for _ in range(min(total, sum(counts))):
        open_sessions = [index for index, count in enumerate(counts) if shares[index] < count]
        shares[min(open_sessions, key=lambda index: shares[index])] += 1
    return shares


def join_pieces(pieces: Sequence[Piece], read: Callable[[int], tuple[np.ndarray, int]], sample_rate: int) -> np.ndarray:
    """Put an utterance together, each piece resampled and faded in and out over 5 ms so that joints do not click.

    Args:
        pieces: from :func:`plan_utterances`.
        read: clip index -> waveform (S,) and its sample rate.
        sample_rate: of the result, in Hz.

    Returns:
        waveform (S,) float32.
    """
    joined = []
    fade = np.linspace(0, 1, round(FADE_S * sample_rate), dtype=np.float32)
    for piece in pieces:
        waveform, original_rate = read(piece.clip)
        part = waveform[round(piece.start_s * original_rate) : round(piece.end_s * original_rate)]
        part = resample_audio(part, original_rate, sample_rate).copy()
        ramp = fade[: len(part) // 2]
        part[: len(ramp)] *= ramp
        part[len(part) - len(ramp) :] *= ramp[::-1]
        joined.append(part)
    return np.concatenate(joined)
