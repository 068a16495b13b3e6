"""Audio that must not be trained or tested on: found, listed with its reason, and counted against a named limit."""

import contextlib
import hashlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.audio.io import check_finite, read_audio, stream_audio
from wespeaker_qm.audio.resample import check_ratio
from wespeaker_qm.audio.source import AudioError, AudioStream
from wespeaker_qm.corpus.archives import is_locator, open_recording
from wespeaker_qm.corpus.segments import read_span, split_segment
from wespeaker_qm.utils.errors import RecipeError, first_few
from wespeaker_qm.utils.tables import write_rows

logger = logging.getLogger(__name__)

# Speech whose largest swing around its mean stays below this level has drowned in the quantisation of 16-bit audio.
SILENCE_PEAK_DB = -60.0
_TOO_SHORT = re.compile(r"too short: (\d+\.\d{3}) s")
# Of float files, which hold anything; what lies beyond does not tell copies apart.
_DIGEST_RANGE = (-(2.0**30), 2.0**30)


class BadAudio(NamedTuple):
    """One refused recording: its key, its file and why."""

    key: str
    path: str
    reason: str


class CheckedAudio(NamedTuple):
    """What is known of a recording that will do; ``digest`` is that of its samples at 16 bits."""

    num_samples: int
    sample_rate: int
    digest: str


def check_audio(
    path: Path | str, min_duration_s: float, target_rate: int, silence_peak_db: float = SILENCE_PEAK_DB
) -> CheckedAudio:
    """Check a recording as :func:`read_checked_audio` does, without ever having all of it in memory.

    Args:
        path: a file or a locator.
        min_duration_s: as there.
        target_rate: the sample rate that it will be brought to, in Hz.
        silence_peak_db: as there.

    Raises:
        AudioError: as there, or it cannot be brought to that rate.
    """
    with _reasons_alone(str(path)):
        extent = stream_audio(open_recording(str(path)), _measure)
        check_finite(str(path), extent.peak)
    check_ratio(extent.sample_rate, target_rate)
    swing = extent.swing / max(extent.peak, 1.0)
    _refuse_useless(extent.num_samples / extent.sample_rate, swing, min_duration_s, silence_peak_db)
    return CheckedAudio(extent.num_samples, extent.sample_rate, extent.digest)


class _Extent(NamedTuple):
    """How long a recording is, and how far its samples go: from 0 (peak) and from their mean (swing)."""

    num_samples: int
    sample_rate: int
    peak: float
    swing: float
    digest: str


def _measure(stream: AudioStream) -> _Extent:
    num_samples, total, lowest, highest = 0, 0.0, math.inf, -math.inf
    digest = hashlib.sha256()
    with np.errstate(all="ignore"):  # of samples that are not finite, which the peak tells
        for block in stream.blocks:
            num_samples += len(block)
            total += float(block.sum(dtype=np.float64))
            lowest = float(np.minimum(lowest, block.min()))  # unlike min(), they keep what is not a number
            highest = float(np.maximum(highest, block.max()))
            # Rounded to 16 bits, so that a wav file and its flac copy agree.
            digest.update(np.clip(np.rint(block * 32767), *_DIGEST_RANGE).astype("<i4").tobytes())
        peak = float(np.maximum(-lowest, highest))
        mean = total / num_samples
    return _Extent(num_samples, stream.sample_rate, peak, max(highest - mean, mean - lowest), digest.hexdigest())


def read_checked_audio(
    path: Path | str, min_duration_s: float, silence_peak_db: float = SILENCE_PEAK_DB
) -> tuple[np.ndarray, int]:
    """Read a recording as :func:`wespeaker_qm.audio.io.read_audio` does, and refuse it when it is too short or silent.

    Args:
        path: a file, a locator (:mod:`wespeaker_qm.corpus.archives`) or a segment of either
            (:mod:`wespeaker_qm.corpus.segments`).
        min_duration_s: shortest that will do, in seconds.
        silence_peak_db: a recording whose largest deviation from its mean is below this level (0 is full scale) is
            silent; minus infinity refuses only what has no signal at all.

    Raises:
        AudioError: the file cannot be used; the message, made for one cell of a table, is the reason alone.
    """
    recording, span = split_segment(str(path))
    with _reasons_alone(recording):
        source = open_recording(recording)
        waveform, sample_rate = read_audio(source) if span is None else read_span(source, span)
    swing = float(np.max(np.abs(waveform - np.mean(waveform, dtype=np.float64))))
    _refuse_useless(len(waveform) / sample_rate, swing, min_duration_s, silence_peak_db)
    return waveform, sample_rate


@contextlib.contextmanager
def _reasons_alone(recording: str) -> Iterator[None]:
    """Errors without the file's name and in one line, for a cell of a table."""
    try:
        yield
    except AudioError as error:
        name = "audio in memory" if is_locator(recording) else recording
        raise AudioError(" ".join(str(error).removeprefix(f"{name}: ").split())) from error


def _refuse_useless(duration_s: float, swing: float, min_duration_s: float, silence_peak_db: float) -> None:
    if duration_s < min_duration_s:
        raise AudioError(f"too short: {duration_s:.3f} s, expected at least {min_duration_s:g} s")
    if swing == 0:
        raise AudioError("silent: no signal at all")
    if swing < 10 ** (silence_peak_db / 20):
        raise AudioError(
            f"silent: peak {20 * np.log10(swing):.0f} dB of full scale, expected at least {silence_peak_db:.0f} dB"
        )


def refuse_bad_audio(bad: Sequence[BadAudio], num_files: int, max_bad_fraction: float, list_path: Path) -> None:
    """Write the list of bad audio (columns key, path, reason) and stop when it is longer than allowed.

    Without bad audio, a list that an earlier run left behind is removed.

    Args:
        bad: the refused recordings.
        num_files: recordings examined in all.
        max_bad_fraction: largest fraction (0 to 1) that may be left out.
        list_path: where the list goes, e.g. ``data/mini/train/bad_audio.tsv``.

    Raises:
        RecipeError: more than ``max_bad_fraction`` of the files are bad, or all of them.
    """
    if not bad:
        list_path.unlink(missing_ok=True)
        return
    bad = sorted(bad)
    write_rows(list_path, [("key", "path", "reason"), *bad], separator="\t")
    fraction = len(bad) / num_files
    if is_too_much(len(bad), num_files, max_bad_fraction):
        shown = first_few([f"{entry.key} ({entry.path}): {entry.reason}" for entry in bad])
        raise RecipeError(
            f"{list_path}: {len(bad)} of {num_files} recordings cannot be used "
            f"(fraction {fraction:.4g}, allowed {max_bad_fraction:g}):{shown}\n"
            f"{_remedies(bad, num_files)}"
        )
    logger.warning("%d of %d recordings are left out, listed with their reasons in %s", len(bad), num_files, list_path)


def is_too_much(num_bad: int, num_files: int, max_bad_fraction: float) -> bool:
    """Whether so many recordings may not be left out: more than the limit, or all."""
    return num_bad > 0 and (num_bad / num_files > max_bad_fraction or num_bad == num_files)


def _remedies(bad: Sequence[BadAudio], num_files: int) -> str:
    """What to do about recordings that cannot be used; of those that are short only, the limit that takes them."""
    remedies = "Mend or remove them"
    if len(bad) < num_files:
        remedies += f", or leave them out with --max_bad_fraction {_round_up(len(bad) / num_files):g}"
    durations_s = [float(match[1]) for entry in bad if (match := _TOO_SHORT.match(entry.reason))]
    if durations_s:
        # Reasons are rounded to milliseconds.
        longest_limit_s = max(0.0, math.floor((min(durations_s) - 0.0005) * 100) / 100)
        remedies += (
            f"; {len(durations_s)} of them are too short and nothing else: --min_duration {longest_limit_s:g} takes "
            "these, too"
        )
    return f"{remedies} (with run.sh in --prepare_opts for stage 1, in --pack_opts for stage 2)"


def _round_up(fraction: float) -> float:
    return min(1.0, float(np.ceil(fraction * 1000) / 1000))
