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
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

VERSION = 1
"""Of the code; raised when the means of the same embeddings change."""

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


def load_cohort(data: Path, exp_dir: Path, info: CorpusInfo) -> NDArray[np.float32]:
    """The (C, D) mean embeddings of the training speakers, made once: ``embeddings/<train>/spk_xvector.scp``."""
    folder = exp_dir / "embeddings" / info.train
    source, target = folder / "xvector.scp", folder / "spk_xvector.scp"
    speaker_path = data / info.train / "utt2spk"
    inputs = digests(cohort_sources(info), exp_dir, data)
    marker = DoneMarker(exp_dir / ".done" / "cohort", inputs, [target], version=VERSION, checks_outputs=True)
    if not marker.is_current() and begin(marker, "cohort", others=[target.with_suffix(".ark")]):
        cohort = speaker_means(source, read_map(speaker_path))
        write_vectors(folder, target.stem, cohort.speakers, cohort.means)
        finish(marker)
    table = VectorTable(target)
    return table.load(table.names)


def check_apart(one: Path, other: Path, what: str, what_other: str = "the trials") -> None:
    """Refuse two Kaldi directories that share speakers, or recordings under other speakers' names.

    Recordings are compared where both have a ``wav.scp``, and neither has ``segments``: of a conversation each may hold
    another speaker.

    Raises:
        RecipeError: they share some; the first few are named.
    """
    sides = [set(read_map(folder / "utt2spk").values()) for folder in (one, other)]
    _refuse_common("speakers", sides, f"{what} ({one}) and in {what_other} ({other})")
    lists = [folder / "wav.scp" for folder in (one, other)]
    if all(path.is_file() and not path.with_name("segments").is_file() for path in lists):
        sides = [set(read_map(path).values()) for path in lists]
        _refuse_common("recordings", sides, f"{what} ({lists[0]}) and in {what_other} ({lists[1]})")


def _refuse_common(kind: str, sides: list[set[str]], places: str) -> None:
    common = sorted(sides[0] & sides[1])
    if common:
        raise RecipeError(
            f"{len(common)} {kind} are in {places}, expected none: figures of known voices mislead; take them out:"
            + first_few(common)
        )
