"""Audio that must not be trained or tested on: found, listed with its reason, and counted against a named limit."""

import contextlib
import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from wespeaker_qm.audio.io import check_level, stream_audio
from wespeaker_qm.audio.resample import check_ratio
from wespeaker_qm.audio.source import AudioError, AudioStream
from wespeaker_qm.corpus.archives import is_locator, open_recording
from wespeaker_qm.corpus.segments import read_span, split_segment
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.remedies import with_run_sh
from wespeaker_qm.utils.tables import write_rows

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Speech whose largest swing around its mean stays below this level has drowned in the quantisation of 16-bit audio.
SILENCE_PEAK_DB = -60.0
MEND = "Mend or remove them"
"""What helps with any bad audio."""
_TOO_SHORT = re.compile(r"too short: (\d+\.\d{3}) s")


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


def check_audio(path: Path | str, min_duration_s: float, target_rate: int) -> CheckedAudio:
    """Check a recording as :func:`take_checked` does.

    Args:
        path: as there.
        min_duration_s: as there.
        target_rate: the sample rate that it will be brought to, in Hz.

    Raises:
        AudioError: as there, or it cannot be brought to that rate.
    """
    return take_checked(path, partial(_digest, target_rate=target_rate), min_duration_s)


def _digest(stream: AudioStream, target_rate: int) -> CheckedAudio:
    check_ratio(stream.sample_rate, target_rate)
    num_samples, digest = 0, hashlib.sha256()
    for block in stream.blocks:
        num_samples += len(block)
        # Rounded to 16 bits, so that a wav file and its flac copy agree.
        digest.update(np.rint(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
    return CheckedAudio(num_samples, stream.sample_rate, digest.hexdigest())


def take_checked(
    path: Path | str,
    take: Callable[[AudioStream], Result],
    min_duration_s: float,
    silence_peak_db: float = SILENCE_PEAK_DB,
) -> Result:
    """What ``take`` makes of a recording, in blocks; a recording that is too short or silent is refused afterwards.

    Samples are those of :func:`wespeaker_qm.audio.io.read_audio`: where some are beyond full scale, ``take`` is called
    again, with all of them scaled to a peak of 1.

    Args:
        path: a file, a locator (:mod:`wespeaker_qm.corpus.archives`) or a segment of either
            (:mod:`wespeaker_qm.corpus.segments`).
        take: must use up the blocks.
        min_duration_s: shortest that will do, in seconds.
        silence_peak_db: a recording whose largest deviation from its mean is below this level (0 is full scale) is
            silent; minus infinity refuses only what has no signal at all.

    Raises:
        AudioError: the file cannot be used; the message, made for one cell of a table, is the reason alone.
    """
    recording, span = split_segment(str(path))
    with _reasons_alone(recording):
        source = open_recording(recording)
        if span is not None:
            waveform, sample_rate = read_span(source, span)
            extent, result = _measured(AudioStream(sample_rate, 1, iter([waveform])), take)
        else:
            extent, result = stream_audio(source, partial(_measured, take=take))
            check_level(recording, extent.peak)
            if extent.peak > 1:
                source = open_recording(recording)
                extent, result = stream_audio(source, partial(_measured, take=take, scale=np.float32(extent.peak)))
    _refuse_useless(extent, min_duration_s, silence_peak_db)
    return result


@dataclass
class _Extent:
    """How long a recording is, and how far its samples go, as a whole and from their mean."""

    sample_rate: int
    num_samples: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, block: np.ndarray) -> None:
        self.num_samples += len(block)
        self.total += float(block.sum(dtype=np.float64))
        self.lowest = float(np.minimum(self.lowest, block.min()))  # unlike min(), it keeps what is not a number
        self.highest = float(np.maximum(self.highest, block.max()))

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return float(np.maximum(-self.lowest, self.highest))

    @property
    def swing(self) -> float:
        """Largest deviation from the mean."""
        mean = self.total / self.num_samples
        return max(self.highest - mean, mean - self.lowest)


def _measured(
    stream: AudioStream, take: Callable[[AudioStream], Result], scale: np.float32 | None = None
) -> tuple[_Extent, Result]:
    """What ``take`` makes of a recording divided by ``scale``, and the extent of that."""
    extent = _Extent(stream.sample_rate)

    def blocks() -> Iterator[np.ndarray]:
        for block in stream.blocks:
            scaled = block if scale is None else block / scale
            extent.add(scaled)
            yield scaled

    with np.errstate(all="ignore"):  # of samples that are not finite, which the peak tells
        return extent, take(stream._replace(blocks=blocks()))


@contextlib.contextmanager
def _reasons_alone(recording: str) -> Iterator[None]:
    """Errors without the file's name and in one line, for a cell of a table."""
    try:
        yield
    except AudioError as error:
        name = "audio in memory" if is_locator(recording) else recording
        raise AudioError(" ".join(str(error).removeprefix(f"{name}: ").split())) from error


def _refuse_useless(extent: _Extent, min_duration_s: float, silence_peak_db: float) -> None:
    duration_s, swing = extent.num_samples / extent.sample_rate, extent.swing
    if duration_s < min_duration_s:
        raise AudioError(f"too short: {duration_s:.3f} s, expected at least {min_duration_s:g} s")
    if swing == 0:
        raise AudioError("silent: no signal at all")
    if swing < 10 ** (silence_peak_db / 20):
        raise AudioError(
            f"silent: peak {20 * np.log10(swing):.0f} dB of full scale, expected at least {silence_peak_db:.0f} dB"
        )


def refuse_bad_audio(
    bad: Sequence[BadAudio],
    num_files: int,
    max_bad_fraction: float,
    list_path: Path,
    *,
    options: str | None = None,
    remedy: str = MEND,
) -> None:
    """Write the list of bad audio (columns key, path, reason) and stop when it is longer than allowed.

    Without bad audio, a list that an earlier run left behind is removed.

    Args:
        bad: the refused recordings.
        num_files: recordings examined in all.
        max_bad_fraction: largest fraction (0 to 1) that may be left out.
        list_path: where the list goes, e.g. ``data/mini/train/bad_audio.tsv``.
        options: of run.sh, by which the limits of this stage can be changed, for the message; None: they are fixed.
        remedy: what helps where they are fixed.

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
            f"{remedy if options is None else _remedies(bad, num_files, options)}"
        )
    of = f"of {num_files:,} recordings"
    told = counted(
        len(bad), f"{of} is left out, listed with its reason", f"{of} are left out, listed with their reasons"
    )
    logger.warning("%s in %s", told, list_path)


def is_too_much(num_bad: int, num_files: int, max_bad_fraction: float) -> bool:
    """Whether so many recordings may not be left out: more than the limit, or all."""
    return num_bad > 0 and (num_bad / num_files > max_bad_fraction or num_bad == num_files)


def _remedies(bad: Sequence[BadAudio], num_files: int, options: str) -> str:
    """What to do about recordings that cannot be used; of those that are short only, the limit that takes them."""
    remedies = MEND
    if len(bad) < num_files:
        remedies += f", or leave them out with --max_bad_fraction {_round_up(len(bad) / num_files):g}"
    durations_s = [float(match[1]) for entry in bad if (match := _TOO_SHORT.match(entry.reason))]
    if durations_s:
        # Reasons are rounded to milliseconds.
        longest_limit_s = max(0.0, math.floor((min(durations_s) - 0.0005) * 100) / 100)
        remedies += (
            f"; {len(durations_s)} of them are too short: --min_duration {longest_limit_s:g} takes these, where "
            "nothing else is wrong with them"
        )
    return f"{remedies}{with_run_sh(f' (with run.sh in {options})')}"


def _round_up(fraction: float) -> float:
    return min(1.0, float(np.ceil(fraction * 1000) / 1000))
