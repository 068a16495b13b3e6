"""Recordings that are no use are found by decoding each once, before anything is written."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpora.folder.tree import Recording
from wespeaker_qm.corpus.bad_audio import BadAudio, check_audio, refuse_bad_audio
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.tables import write_rows

logger = logging.getLogger(__name__)

# Babble is mixed at it, and packing brings all to it unless it is told otherwise.
_USUAL_RATE = 16000


class Facts(NamedTuple):
    """What decoding one file told; ``fault`` says why it cannot be used, and then the rest is empty."""

    duration_s: float
    sample_rate: int
    digest: str
    fault: str


def examine(recordings: Sequence[Recording], min_duration_s: float, num_workers: int) -> dict[str, Facts]:
    """Decode every file once: key -> facts."""
    results = ordered_map(partial(_examine_file, min_duration_s=min_duration_s), recordings, num_workers)
    checked = Progress(zip(recordings, results, strict=True), total=len(recordings), desc="check audio", unit=" files")
    facts = {recording.key: result for recording, result in checked}
    rates = Counter(fact.sample_rate for fact in facts.values() if not fact.fault)
    if len(rates) > 1:
        counts = ", ".join(f"{count} of {rate} Hz" for rate, count in sorted(rates.items()))
        logger.warning("sample rates differ (%s): where they differ by speaker, they give the speaker away", counts)
    return facts


def _examine_file(recording: Recording, min_duration_s: float) -> Facts:
    try:
        num_samples, sample_rate, digest = check_audio(recording.path, min_duration_s, _USUAL_RATE)
    except AudioError as error:
        return Facts(0.0, 0, "", str(error))
    return Facts(num_samples / sample_rate, sample_rate, f"{sample_rate} {digest}", "")


def refuse_unusable(
    recordings: Sequence[Recording], facts: Mapping[str, Facts], max_bad_fraction: float, data: DataFolder
) -> list[Recording]:
    """Return the recordings to use.

    Left out, when ``max_bad_fraction`` allows it: files with a fault, and second copies within one speaker, whose
    target trial any system would pass. Never allowed: the same audio under two speakers.

    Args:
        recordings: all of the tree.
        facts: key -> what decoding told.
        max_bad_fraction: largest fraction (0 to 1) that may be left out.
        data: receives the lists of what is left out or refused.

    Raises:
        RecipeError: too much bad audio (listed in ``bad_audio.tsv``), or shared audio (listed in ``shared_audio.tsv``).
    """
    bad, usable = [], []
    first_of: dict[str, Recording] = {}
    shared = []
    for recording in recordings:
        fault, digest = facts[recording.key].fault, facts[recording.key].digest
        if fault:
            bad.append(BadAudio(recording.key, recording.path, fault))
            continue
        first = first_of.setdefault(digest, recording)
        if first is recording:
            usable.append(recording)
        elif first.speaker == recording.speaker:
            bad.append(BadAudio(recording.key, recording.path, f"the same audio as {first.path}"))
        else:
            shared.append((first.speaker, first.path, recording.speaker, recording.path))
    _refuse_shared(shared, data.path / "shared_audio.tsv")
    refuse_bad_audio(bad, len(recordings), max_bad_fraction, data.bad_audio, options="--prepare_opts")
    return usable


def _refuse_shared(shared: Sequence[tuple[str, str, str, str]], list_path: Path) -> None:
    if not shared:
        list_path.unlink(missing_ok=True)
        return
    write_rows(list_path, [("speaker", "path", "other_speaker", "other_path"), *shared], separator="\t")
    shown = first_few([f"{path} = {other_path}" for _, path, _, other_path in shared])
    raise RecipeError(
        f"{list_path}: {counted(len(shared), 'pair of files holds', 'pairs of files hold')} the same audio under two "
        f"speakers:{shown}\n"
        "One of each pair has the wrong speaker, or the two folders are one person: remove the file or join the folders"
    )
