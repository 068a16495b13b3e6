"""Trials of recordings that do not reach equally far up the spectrum."""

from collections.abc import Mapping

import numpy as np

from wespeaker_qm.trials.table import TrialTable

MIXED_RATIO = 1.5
"""A trial is mixed where one recording has so many times the bandwidth of the other: 4 kHz beside 7 or 8."""


def mixed_bandwidths_note(trials: TrialTable, bandwidth_hz: Mapping[str, float]) -> str | None:
    """What a reader must know of a list that mixes bandwidths; None where no trial does.

    Args:
        trials: the list.
        bandwidth_hz: utterance -> highest frequency in Hz; trials of utterances without one (or silent, 0) are not
            counted.
    """
    known = np.array([bandwidth_hz.get(key) or np.nan for key in trials.utterances], dtype=np.float64)
    sides = np.stack([known[trials.enrolment], known[trials.test]])
    is_mixed = sides.max(axis=0) > MIXED_RATIO * sides.min(axis=0)
    if not is_mixed.any():
        return None
    counts = [
        f"{(is_mixed & chosen).sum():,} of {chosen.sum():,} {kind} trials"
        for kind, chosen in (("target", trials.is_target), ("non-target", ~trials.is_target))
    ]
    narrow, wide = np.median(sides[:, is_mixed].min(axis=0)), np.median(sides[:, is_mixed].max(axis=0))
    return (
        f"{' and '.join(counts)} compare a recording of narrow bandwidth with one of wide (medians {narrow / 1000:.1f} "
        f"and {wide / 1000:.1f} kHz): their scores tell recordings apart, besides voices"
    )
