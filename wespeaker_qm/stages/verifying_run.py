"""Is a run whole? Each of its files is compared with its checksum, and read as the stages read it."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wespeaker_qm.config import config_of, load_config
from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.score.calibration_file import load_calibration
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.train.log import read_log
from wespeaker_qm.train.state_check import refuse_unfit_for_itself
from wespeaker_qm.train.states import read_state
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.variants import VARIANTS
from wespeaker_qm.utils.checksums import checksum_path, refuse_changed, verify
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.vectors import VectorTable
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

_LOG_REMEDY = "put back a copy of it, or train again into another --exp_dir"
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
    refuse_unfit_for_itself(read_state(path), path, mended(path))


def _read_vectors(path: Path) -> None:
    table = VectorTable(path)
    table.load(table.names)


_READERS: Mapping[str, Callable[[Path], object]] = {
    "config.yaml": _read_config,
    "resume.pt": _read_state,  # of earlier versions, also in models/
    "models/*.pt": _read_model,
    "resume/step_*.pt": _read_state,
    "train_log.jsonl": lambda path: read_log(path, _LOG_REMEDY),
    "*xvector.scp": _read_vectors,
    "mean_vec.npy": load_mean,
    "scores/calibration.json": load_calibration,
    "scores/*.score": read_scores,
    "model/model.json": lambda path: ModelFolder.read(path.parent),
    "model.zip": ModelFolder.read,
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
        return self.path.stat().st_size if self.path.is_file() else 0


def run_files(run: RunFolder, lists: Mapping[str, Path]) -> Iterator[RunFile]:
    """The files of a run, and of the systems in it (baselines), that can be verified.

    Args:
        run: a folder of results.
        lists: name -> trial list of its corpus; empty where it is not known.
    """
    # A folder in the place of a file, too.
    paths = [Path(place, name) for place, folders, names in os.walk(run) for name in [*names, *folders]]
    with_checksum = {path.with_suffix("") for path in paths if path.suffix == _SUFFIX}
    for path in sorted({*paths, *with_checksum}):
        if path in with_checksum or _reader(path) is not None:
            yield RunFile(path, lists.get(_trial_list(path)))


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
    except RecipeError as error:
        return [str(error)]
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
