"""The cohort of score normalisation: mean embeddings of the training speakers.

They are those of the corpus, unless a finished model brought its own (:mod:`wespeaker_qm.stages.adopting`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.upstream import digests
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.layout import DataFolder, RunFolder, SetFolder
from wespeaker_qm.utils.remedies import mended
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

_BLOCK_UTTERANCES = 1 << 16
_ADOPTED = "embeddings/adopted_cohort"

logger = logging.getLogger(__name__)


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


def brings_mean(run: RunFolder) -> bool:
    """Whether the run is of a finished model that came with the mean of its training speakers' embeddings."""
    return (recorded_inputs(run.marker("adopt")) or {}).get("mean") is not None


def has_mean(run: RunFolder, info: CorpusInfo) -> bool:
    """Whether there is a mean of training embeddings: the model's or, where it brought none, the corpus's."""
    return info.train is not None or brings_mean(run)


def has_cohort(run: RunFolder, info: CorpusInfo) -> bool:
    """Whether there are training speakers to normalise by: the model's or, if it has no mean, the corpus's."""
    return run.adopted_cohort.is_file() if brings_mean(run) else info.train is not None


def cohort_sources(run: RunFolder, info: CorpusInfo) -> list[str]:
    """What the cohort is made from, as :mod:`wespeaker_qm.score.upstream` names it."""
    if brings_mean(run):
        return [_ADOPTED]
    return [f"embeddings/{info.train}", f"data/{info.train}/utt2spk"]


def load_cohort(data: DataFolder, run: RunFolder, info: CorpusInfo) -> NDArray[np.float32]:
    """The (C, D) mean embeddings of the training speakers, made once: ``embeddings/<train>/spk_xvector.scp``."""
    if brings_mean(run):
        return _all_vectors(run.adopted_cohort)
    train = info.training_set(data.info)
    target = run.speaker_xvectors(train)
    inputs = digests(cohort_sources(run, info), run, data)
    outputs = [target, target.with_suffix(".ark")]
    marker = DoneMarker(run.marker("cohort"), inputs, outputs, version=STAGE_VERSIONS["cohort"], checks_outputs=True)
    if not marker.is_current():
        with stage("cohort", marker) as is_due:
            if is_due:
                utt2spk = data.set(train).utt2spk
                if not (speaker := read_map(utt2spk)):
                    raise RecipeError(f"{utt2spk}: names no utterance, expected those of training; {mended(utt2spk)}")
                cohort = speaker_means(run.xvectors(train), speaker)
                write_vectors(target.parent, target.stem, cohort.speakers, cohort.means)
    return _all_vectors(target)


def _all_vectors(scp: Path) -> NDArray[np.float32]:
    table = VectorTable(scp)
    return table.load(table.names)


def known_speakers(run: RunFolder, other: SetFolder) -> list[str]:
    """Speakers of ``other`` who bear names of those whom a finished model brought as its cohort."""
    if not brings_mean(run) or not run.adopted_cohort.is_file():
        return []
    return sorted(set(VectorTable(run.adopted_cohort).names) & set(read_map(other.utt2spk).values()))


def check_cohort_apart(
    data: DataFolder, run: RunFolder, info: CorpusInfo, other: SetFolder, what_other: str = "the trials"
) -> None:
    """Refuse a cohort of speakers, or recordings, of ``other``, as :func:`check_apart`.

    Of a model's own cohort names are all that is known; the same name in another corpus may be somebody else, so that
    is a warning.

    Raises:
        RecipeError: they share some.
    """
    if not brings_mean(run):
        check_apart(data.set(info.training_set(data.info)), other, "the cohort", what_other)
        return
    common = known_speakers(run, other)
    if common:
        logger.warning(
            "%s of %s (%s) %s of speakers that the model was trained on: if they are the same people, "
            "the figures mislead:%s",
            counted(len(common), "speaker", "speakers"),
            what_other,
            other,
            "bears a name" if len(common) == 1 else "bear names",
            first_few(common),
        )


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
    _refuse_common("speaker", sides, f"{what} ({one}) and in {what_other} ({other})")
    if all(folder.wav_scp.is_file() and not folder.segments.is_file() for folder in (one, other)):
        sides = [set(read_map(folder.wav_scp).values()) for folder in (one, other)]
        _refuse_common("recording", sides, f"{what} ({one.wav_scp}) and in {what_other} ({other.wav_scp})")


def _refuse_common(kind: str, sides: list[set[str]], places: str) -> None:
    common = sorted(sides[0] & sides[1])
    if common:
        raise RecipeError(
            f"{counted(len(common), f'{kind} is', f'{kind}s are')} in {places}, expected none: figures of known voices "
            "mislead; take them out:" + first_few(common)
        )
