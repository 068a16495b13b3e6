"""Whether what lies in an experiment's folder was made from what lies before it.

A stage's marker (:mod:`wespeaker_qm.utils.done`) names what it was made from, and a name tells where that lies::

    models/model_3.pt     a file of the experiment
    scores/all.score      scores of the experiment, as text or as their cache alone
    embeddings/eval       an scp of the experiment and every ark that it refers to
    data/trials/all       a file of the corpus
    audio/eval            a packed set of the corpus

So a later program can ask whether that is still there, or was replaced since, without knowing the stage's options.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.variants import CALIBRATED, NORMALISED
from wespeaker_qm.utils.checksums import Checksum, checksum_path, refuse_changed, verify
from wespeaker_qm.utils.done import ABSENT, differences, file_digest, recorded_inputs, recorded_outputs, value_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.remedies import mended
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map
from wespeaker_qm.utils.vectors import place_of_ark


def digests(names: Iterable[str], run: RunFolder, data: DataFolder) -> dict[str, str]:
    """Digest of the content of each named artefact, or ``absent``.

    Raises:
        RecipeError: weights, embeddings or scores are not what their checksum says. The stage that makes them again
            comes before any stage that would be run again because they have changed.
    """
    return {name: _digest(name, run, data) for name in dict.fromkeys(names)}


def _digest(name: str, run: RunFolder, data: DataFolder) -> str:
    kind, _, rest = name.partition("/")
    if kind == "data":
        return file_digest(data.path / rest)
    if kind == "audio":
        return _packed(data.path / rest)
    if kind == "embeddings" and run.xvectors(rest).is_file():
        return _vectors(run.xvectors(rest))
    path = run.path / name
    if kind == "scores" and not path.is_file():
        path = cache_path(path)
    return _checked(path) if kind in _WITH_CHECKSUMS else file_digest(path)


_WITH_CHECKSUMS = ("models", "embeddings", "scores")


def _checked(path: Path) -> str:
    """Digest of a file that must be what was written, where there is a record of that."""
    recorded = verify(path, mended(path)) if path.is_file() else {}
    return str(recorded[path.name]) if recorded else file_digest(path)


def _packed(folder: Path) -> str:
    try:
        return packed_digest(folder)
    except RecipeError:  # whoever needs the audio says so better
        return ABSENT


def _vectors(scp: Path) -> str:
    """Names and places of all vectors, and the content of every ark; where an ark lies is of no matter."""
    recorded = verify(scp, mended(scp))
    try:
        places = {name: place.rpartition(":") for name, place in read_map(scp).items()}
    except RecipeError as error:
        raise RecipeError(f"{error}\n{scp}: {mended(scp)}") from None
    arks = {ark: offset for ark, _, offset in places.values()}
    gone = [ark for ark, offset in arks.items() if offset.isdigit() and not place_of_ark(scp, ark).is_file()]
    if gone:
        place = f"current directory {Path.cwd()}"
        raise RecipeError(f"{gone[0]}: no such file ({place}), but {scp} names it; {mended(scp)}")
    number = {ark: position for position, ark in enumerate(arks)}
    rows = [(name, number[ark], offset) for name, (ark, _, offset) in places.items()]
    return value_digest([rows, [_ark(place_of_ark(scp, ark), recorded.get(Path(ark).name), scp) for ark in arks]])


def _ark(ark: Path, expected: Checksum | None, scp: Path) -> str:
    if expected is not None:
        refuse_changed(ark, expected, checksum_path(scp), mended(ark))
        return str(expected)
    return file_digest(ark)


def stale(stage: str, run: RunFolder, data: DataFolder) -> list[str] | None:
    """Why a stage's result is not what the stage would make now, in words; None where the stage left no record.

    Either what it was made from is another thing now, or the stage's code has changed its figures since.

    What is gone meanwhile, as checkpoints are after the average, says nothing.
    """
    recorded = recorded_inputs(run.marker(stage))
    if recorded is None:
        return None
    code = _code_of(stage)
    before = {"code": recorded.get("code", code)}
    named = {name: value for name, value in recorded.items() if "/" in name}
    return differences(before, {"code": code}) + _changed(named, run, data)


def _changed(named: dict[str, str], run: RunFolder, data: DataFolder) -> list[str]:
    now = digests(named, run, data)
    return differences({name: named[name] for name in named if now[name] != ABSENT}, _without_absent(now))


_OF_CORPUS = ("data/", "audio/")


def corpus_of(run: RunFolder, corpora: Sequence[DataFolder]) -> DataFolder | None:
    """Which of several corpora a run was extracted and scored on: the one of which it has recorded the most.

    A single one is taken as it is, so that what has changed in it can be told; None where nobody can know.
    """
    if len(corpora) == 1:
        return corpora[0]
    recorded: dict[str, str] = {}
    for marker in _markers(run):
        recorded |= recorded_inputs(marker) or {}
    recorded = {name: value for name, value in recorded.items() if name.startswith(_OF_CORPUS)}
    shared = [sum(recorded[name] == now for name, now in digests(recorded, run, each).items()) for each in corpora]
    return corpora[shared.index(max(shared))] if any(shared) else None


def exchanged(run: RunFolder) -> Iterator[tuple[Path, str]]:
    """The files of a run that are others than those which its stages say to have written, each with what to say of it.

    That tells what a checksum beside a file cannot: a file that came with its checksum from another run.
    """
    for marker in _markers(run):
        folder, _ = _place_of(marker.name)
        written_here = recorded_outputs(marker) if folder is not None else {}
        for name, written in written_here.items():
            places = (run.path / str(folder) / name, run.path / name)
            path = next((each for each in places if each.is_file()), None)
            if path is not None and (found := file_digest(path)) != written:
                yield (
                    path,
                    f"{path}: {found}, expected {written} as {marker} says: another file in its place; {mended(path)}",
                )


def outdated(run: RunFolder, data: DataFolder | None) -> Iterator[str]:
    """What stages of a run have made from files that are others now: a line each.

    Args:
        run: whose files are each what was written.
        data: its corpus; None where it is not known, and nothing is said of it.
    """
    for marker in _markers(run):
        recorded = recorded_inputs(marker) or {}
        named = {name: value for name, value in recorded.items() if "/" in name or name == run.training_log.name}
        if data is None:
            named = {name: value for name, value in named.items() if not name.startswith(_OF_CORPUS)}
        if changes := _changed(named, run, data or DataFolder(run.path)):
            _, number = _place_of(marker.name)
            yield (
                f"{marker}: made from others than there are now ({'; '.join(changes)}): these were made again since, "
                f"or came from elsewhere; put back what it was made from, or run.sh --stage {number} makes it again"
            )


def marker_remedy(path: Path) -> str:
    """What to do where the marker of a run's stage is lost: whatever its stage made is made again with it."""
    _, number = _place_of(path.name)
    by = f"run.sh --stage {number}" if number else "the command that wrote it"
    return f"put back a copy of it, or let {by} make it and its results again"


def _markers(run: RunFolder) -> list[Path]:
    """Those of stages that say in which folder of the run they write; none where nobody may look."""
    folder = run.marker("train").parent
    found = sorted(folder.iterdir()) if os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK) else []
    return [path for path in found if path.is_file() and _place_of(path.name)[1]]


def _place_of(marker: str) -> tuple[str | None, int]:
    """The folder in which the stage of a marker writes, and the number of run.sh that makes it again; or None and 0."""
    kind, _, name = marker.partition("_")
    return (f"embeddings/{name}", 4) if kind == "extract" else _PLACES.get(marker, (None, 0))


_PLACES: dict[str, tuple[str | None, int]] = {
    "train": ("models", 3),
    "average": ("models", 4),
    "score": ("scores", 5),
    "cohort": (None, 6),  # in the embeddings of the training set, with a checksum, and read by all that follow
    **dict.fromkeys(NORMALISED, ("scores", 6)),
    CALIBRATED: ("scores", 7),
    "evaluate": ("", 5),
    "report": ("", 5),
    "export": ("model", 8),
    "export_onnx": ("model", 8),
}


def _code_of(marker: str) -> int:
    """The present version of the stage that writes a marker: several, where a stage has one a set or a method."""
    name = marker.partition("_")[0]
    return STAGE_VERSIONS[{**dict.fromkeys(NORMALISED, "normalise"), CALIBRATED: "calibrate"}.get(name, name)]


def _without_absent(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value != ABSENT}


def refuse_stale(run: RunFolder, data: DataFolder, info: CorpusInfo, *, scored: bool = True) -> None:
    """Refuse embeddings that are not of the present weights and audio, and cosines not of the present embeddings.

    Folders without embeddings hold scores of another origin, which are taken as they are.

    Args:
        run: the system.
        data: the prepared corpus.
        info: its description.
        scored: False before scoring, when only the embeddings count.

    Raises:
        RecipeError: what has to be made again, why, and by which stage.
    """
    sets = dict.fromkeys([*info.trials.values(), *([] if info.train is None else [info.train])])
    stages = {"average": 4, **{f"extract_{name}": 4 for name in sets}, **({"score": 5} if scored else {})}
    for stage, number in stages.items():
        reasons = stale(stage, run, data)
        if stage == "score" and reasons is not None:
            recorded = recorded_inputs(run.marker(stage)) or {}
            reasons += [
                f"{name}: not scored with the others" for name in info.trials if f"data/trials/{name}" not in recorded
            ]
        if reasons:
            raise RecipeError(
                f"{run}: stage {stage} must run again before anything is made of it ({'; '.join(reasons)}); "
                f"run.sh --stage {number}"
            )
        if reasons is None and stage == "score" and run.embeddings.is_dir():
            raise RecipeError(
                f"{run.all_scores}: no record of what they were made from: scoring was interrupted, or an earlier "
                "version made them; score again (run.sh --stage 5)"
            )
