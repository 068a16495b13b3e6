"""Is a run whole? Each of its files is compared with its checksum, and read as the stages read it."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wespeaker_qm.config import config_of, load_config
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.report.runs import read_metrics
from wespeaker_qm.score.calibration_file import load_calibration
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.score.upstream import exchanged, marker_remedy, outdated
from wespeaker_qm.train.log import read_log
from wespeaker_qm.train.resume import BATCH_SIZE, settings_of
from wespeaker_qm.train.state_check import refuse_unfit_for_itself
from wespeaker_qm.train.states import read_state, state_paths
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.variants import VARIANTS
from wespeaker_qm.utils.checksums import checksum_path, refuse_changed, verify
from wespeaker_qm.utils.done import differences, refuse_no_marker
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.ownership import LEDGER, refuse_no_ledger
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.text import parse_json, read_text
from wespeaker_qm.utils.trouble import UNREADABLE, told
from wespeaker_qm.utils.vectors import VectorTable
from wespeaker_qm.utils.yaml_files import parse_yaml, read_yaml_mapping

_SUFFIX = checksum_path("x").suffix


def _read_config(path: Path) -> None:
    config_of(read_yaml_mapping(path), path)


def _read_model(path: Path) -> None:
    """As averaging does, and as extraction does, where the configuration says what network it is of."""
    checkpoint.mean_weights([path])
    try:
        config = load_config([RunFolder(path.parents[1]).config], for_training=False)
    except RecipeError:
        return  # told where it is read itself, or there is none
    with torch.device("meta"):
        encoder = build_encoder(dataclasses.replace(config, model_init=None))
    checkpoint.load_encoder(encoder.to_empty(device="cpu"), checkpoint.load(path), path)


def _read_state(path: Path) -> None:
    """As a training that goes on, with the settings that the run says."""
    state = read_state(path)
    refuse_unfit_for_itself(state, path, mended(path))
    source = RunFolder(path.parents[1]).config
    try:
        config = config_of(read_yaml_mapping(source), source)
    except UNREADABLE:
        return  # told where it is read itself, or there is none
    before, now = settings_of(config_of(parse_yaml(state["config"], str(path)), path)), settings_of(config)
    # The batch may be another one after --allow_world_size_change.
    if changes := differences({**before, BATCH_SIZE: 0}, {**now, BATCH_SIZE: 0}):
        raise RecipeError(
            f"{path}: made with other settings than {source} has: {'; '.join(changes)}: one of the two is of another "
            f"run; put back the right {source.name}, or of the state: {mended(path)}"
        )


def _read_vectors(path: Path) -> None:
    table = VectorTable(path)
    table.load(table.names)


_READERS: Mapping[str, Callable[[Path], object]] = {
    "config.yaml": _read_config,
    "resume.pt": _read_state,  # of earlier versions, also in models/
    "models/*.pt": _read_model,
    "resume/step_*.pt": _read_state,
    "train_log.jsonl": lambda path: read_log(path, mended(path)),
    "*xvector.scp": _read_vectors,
    "mean_vec.npy": load_mean,
    "provenance.json": lambda path: parse_json(read_text(path), path, mended(path)),
    "fine_tuned_from.json": lambda path: parse_json(read_text(path), path, mended(path)),
    "metrics.json": lambda path: read_metrics(RunFolder(path.parent)),
    "scores/calibration.json": load_calibration,
    "scores/*.score": read_scores,
    "model/model.json": lambda path: ModelFolder.read(path.parent),
    "model.zip": ModelFolder.read,
    ".done/[!.]*": lambda path: refuse_no_marker(path, marker_remedy(path)),
    LEDGER: refuse_no_ledger,
}
"""Pattern of the end of a path -> what reads such a file as a stage does."""
_GROWS = "train_log.jsonl"


class RunFile(NamedTuple):
    """A file of a run, to be verified."""

    path: Path
    trials: Path | None
    """The trial list of a score file, where it is known."""

    @property
    def trial_list(self) -> str:
        """The list that a score file is of, by its name."""
        return _trial_list(self.path)

    @property
    def lacks_trials(self) -> bool:
        """Whether these are scores of a list that is not known."""
        return self.path.suffix == ".score" and self.trials is None

    @property
    def num_bytes(self) -> int:
        """Of the file; 0 where it is gone."""
        return os.path.getsize(self.path) if os.path.isfile(self.path) else 0


def run_files(run: RunFolder, lists: Mapping[str, Path]) -> tuple[list[RunFile], list[str]]:
    """The files of a run, and of the systems in it (baselines), that can be verified; and folders that cannot be read.

    Args:
        run: a folder of results.
        lists: name -> trial list of its corpus; empty where it is not known.
    """
    paths, findings = _walk(run)
    with_checksum = {path.with_suffix("") for path in paths if path.suffix == _SUFFIX}
    chosen = [path for path in sorted({*paths, *with_checksum}) if path in with_checksum or _reader(path) is not None]
    return [RunFile(path, lists.get(_trial_list(path))) for path in chosen], findings


def _walk(run: RunFolder) -> tuple[list[Path], list[str]]:
    """All that lies in a run, also folders, since one may be in the place of a file; and what cannot be looked into.

    Links are followed: folders of checkpoints lie on another disk. Each folder is looked into once, if links lead in a
    circle.
    """
    paths: list[Path] = []
    findings: list[str] = []
    seen = {os.path.realpath(run)}
    for place, folders, names in os.walk(run, followlinks=True, onerror=lambda error: findings.append(told(error))):
        paths += [Path(place, name) for name in [*names, *folders]]
        real = {name: os.path.realpath(Path(place, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in seen]
        seen.update(real.values())
    return paths, findings


def run_findings(run: RunFolder, data: DataFolder | None, before: Sequence[str]) -> list[str]:
    """Whether the files of a run, and of the systems in it, are of one another.

    Args:
        run: a folder of results.
        data: the corpus that it is of; None where it is not known.
        before: what was found in their files, of which nothing is said again: what was made from a damaged file cannot
            be compared with it.
    """
    findings: list[str] = []
    for system in (RunFolder(path) for path in sorted({run.path, *(path.parent for path in _walk(run)[0])})):
        try:
            findings += [line for path, line in exchanged(system) if not _is_told(path, before)]
            findings += _lost_end_of_log(system)
            if not findings and not _in(run.path, before):
                findings += outdated(system, data if data is not None and not _in(data.path, before) else None)
        except UNREADABLE as error:
            findings.append(told(error))
    return findings


def _lost_end_of_log(run: RunFolder) -> Iterator[str]:
    """Where a log without a checksum ends before the training did: each epoch is told there before it is saved.

    One with a checksum is as long as that says; and a log that was deleted begins where the training went on.
    """
    path = run.training_log
    if not path.is_file() or checksum_path(path).is_file():
        return
    numbers = [each.stem.removeprefix("model_") for each in run.models.glob("model_*.pt")]
    saved = {run.model(int(number)): int(number) for number in numbers if number.isdecimal()}
    saved |= {state: read_state(state)["epoch"] for state in state_paths(run)}
    if not saved:
        return
    last = max(saved, key=lambda each: saved[each])
    told_of = {record["type"]: record["epoch"] for record in read_log(path, mended(path))}
    is_cut = told_of.get("epoch", 0) < saved[last]
    if run.marker("train").is_file():  # of a training that was killed half a line may be left
        is_cut |= told_of.get("valid", saved[last]) < saved[last] or not path.read_bytes().endswith(b"\n")
    if is_cut:
        yield (
            f"{path}: cut off, and its checksum is gone: expected all records up to epoch {saved[last]}, of which "
            f"{last} is; {mended(path)}"
        )


def _in(folder: Path, findings: Sequence[str]) -> bool:
    return any(line.startswith(f"{folder}{os.sep}") for line in findings)


def _is_told(path: Path, findings: Sequence[str]) -> bool:
    return any(line.startswith((f"{path}: ", f"{path}{os.sep}", f"{checksum_path(path)}: ")) for line in findings)


def file_findings(file: RunFile) -> list[str]:
    """What is wrong with a file."""
    path = file.path
    reader = _reader(path)
    try:
        if not path.is_file():
            return [_no_file(path, checksum_path(path))]
        for name, expected in verify(path, mended(path), grows=path.name == _GROWS).items():
            other = path.parent / name  # the ark of an scp, which may name another, where this is a copy
            if not other.is_file():
                return [_no_file(other, checksum_path(path), path)]
            if other != path:
                refuse_changed(other, expected, checksum_path(path), mended(path))
        if file.trials is not None and path.suffix == ".score":
            read_scores(path, read_trial_table(file.trials))
        elif reader is not None:
            reader(path)
    except UNREADABLE as error:
        return [told(error)]
    return []


def _no_file(path: Path, checksum: Path, named: Path | None = None) -> str:
    """What is said of something that should be a file, and is none or is gone."""
    expected = f", expected what {checksum.name} is of" if not os.path.lexists(path) else ""
    return f"{path}: {found_at(path)}{expected}; {made_again(named or path)}"


def _reader(path: Path) -> Callable[[Path], Any] | None:
    return next((reader for pattern, reader in _READERS.items() if path.match(pattern)), None)


def _trial_list(path: Path) -> str:
    """The list that a score file is of, by its name."""
    name = path.name.removesuffix(".score")
    plain, _, variant = name.rpartition(".")
    return plain if variant in VARIANTS else name
