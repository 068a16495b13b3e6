"""The cohort of score normalisation: mean embeddings of the training speakers."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.upstream import digests
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError, first_few
from wespeaker_qm.utils.layout import DataFolder, RunFolder, SetFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

_BLOCK_UTTERANCES = 1 << 16


class Cohort(NamedTuple):
    """C speakers."""

    speakers: list[str]
    """C names, sorted."""
    means: NDArray[np.float32]
    """(C, D) mean raw embedding of each."""


def speaker_means(scp: Path | str, speaker: Mapping[str, str]) -> Cohort:
    """The mean embedding of each speaker in ``speaker`` (utterance -> speaker), read a block at a time.

    Raises:
        RecipeError: as :class:`VectorTable`; an utterance has no embedding.
    """
    table = VectorTable(scp)
    speakers = sorted(set(speaker.values()))
    numbers = {name: number for number, name in enumerate(speakers)}
    utterances = list(speaker)
    sums: NDArray[np.float64] | None = None
    for start in range(0, len(utterances), _BLOCK_UTTERANCES):
        block = utterances[start : start + _BLOCK_UTTERANCES]
        vectors = table.load(block)
        if sums is None:
            sums = np.zeros((len(speakers), vectors.shape[1]))
        np.add.at(sums, [numbers[speaker[utterance]] for utterance in block], vectors)
    if sums is None:
        raise RecipeError(f"{scp}: no utterances for the cohort; extract the training set (stage 4)")
    counts = np.bincount([numbers[name] for name in speaker.values()], minlength=len(speakers))
    return Cohort(speakers, (sums / counts[:, None]).astype(np.float32))


def cohort_sources(info: CorpusInfo) -> list[str]:
    """What the cohort is made from, as :mod:`wespeaker_qm.score.upstream` names it."""
    return [f"embeddings/{info.train}", f"data/{info.train}/utt2spk"]


def load_cohort(data: DataFolder, run: RunFolder, info: CorpusInfo) -> NDArray[np.float32]:
    """The (C, D) mean embeddings of the training speakers, made once: ``embeddings/<train>/spk_xvector.scp``."""
    target = run.speaker_xvectors(info.train)
    inputs = digests(cohort_sources(info), run, data)
    marker = DoneMarker(run.marker("cohort"), inputs, [target], version=STAGE_VERSIONS["cohort"], checks_outputs=True)
    if not marker.is_current():
        with stage("cohort", marker, others=[target.with_suffix(".ark")]) as is_due:
            if is_due:
                cohort = speaker_means(run.xvectors(info.train), read_map(data.set(info.train).utt2spk))
                write_vectors(target.parent, target.stem, cohort.speakers, cohort.means)
    table = VectorTable(target)
    return table.load(table.names)


def check_apart(one: SetFolder, other: SetFolder, what: str, what_other: str = "the trials") -> None:
    """Refuse two Kaldi directories that share speakers, or recordings under other speakers' names.

    Recordings are compared where both have a ``wav.scp``, and neither has ``segments``: of a conversation each may hold
    another speaker.

    Args:
        one: a Kaldi directory.
        other: that must have nothing in common with it.
        what: what ``one`` is, for the message, e.g. ``the cohort``.
        what_other: what ``other`` is.

    Raises:
        RecipeError: they share some; the first few are named.
    """
    sides = [set(read_map(folder.utt2spk).values()) for folder in (one, other)]
    _refuse_common("speakers", sides, f"{what} ({one}) and in {what_other} ({other})")
    if all(folder.wav_scp.is_file() and not folder.segments.is_file() for folder in (one, other)):
        sides = [set(read_map(folder.wav_scp).values()) for folder in (one, other)]
        _refuse_common("recordings", sides, f"{what} ({one.wav_scp}) and in {what_other} ({other.wav_scp})")


def _refuse_common(kind: str, sides: list[set[str]], places: str) -> None:
    common = sorted(sides[0] & sides[1])
    if common:
        raise RecipeError(
            f"{len(common)} {kind} are in {places}, expected none: figures of known voices mislead; take them out:"
            + first_few(common)
        )
