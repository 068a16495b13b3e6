"""Beside the stages: are the files of corpora and runs what was written, and do they fit together?"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from wespeaker_qm.packing.verification import PackedTar, tar_findings
from wespeaker_qm.stages.verifying_data import data_findings, trial_lists
from wespeaker_qm.stages.verifying_run import RunFile, file_findings, run_files
from wespeaker_qm.utils.calls import AnyPath, paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, ExpRoot, RunFolder
from wespeaker_qm.utils.lock import lock_for_reading, unlock
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.stage import reading

logger = logging.getLogger(__name__)

_Folder = TypeVar("_Folder", DataFolder, RunFolder)

_FEW_BYTES = 1 << 28
"""Read by one process before others have started."""


def verify_data(*, folders: AnyPath | Sequence[AnyPath], num_workers: int = 1) -> list[str]:
    """Read every file of corpora and runs whole, and compare it with what is known of it.

    Of a corpus: the CRC-32 of each packed recording, index and lists against the tars, tables against both, trial lists
    against tables, and speakers and recordings that are both trained on and tested. Of a run: checksums, configuration,
    checkpoints, states, log, embeddings, scores (against the trial lists of the corpora that are named, too),
    calibration and model folder. Nothing is changed.

    Args:
        folders: prepared corpora (``data/mini``), runs (``exp/mini/qmargin_a1.5``), or folders of runs (``exp/mini``).
        num_workers: processes that read.

    Returns:
        A line for each finding: the file, what was found, what was expected, and what helps.

    Raises:
        RecipeError: a folder is none of these, or another process is writing there.
    """
    data, runs = _sorted(paths(folders))
    with contextlib.ExitStack() as held:
        for corpus in data:
            held.enter_context(reading(corpus))
        for run in runs:
            if lock_for_reading(run.path):
                held.callback(unlock, run.path, writer=False)
        findings: list[str] = []
        checks: list[PackedTar | RunFile] = []
        for corpus in data:
            tars, faults = data_findings(corpus)
            findings += faults
            checks += tars
        lists = {name: path for corpus in data for name, path in trial_lists(corpus).items()}
        for run in runs:
            checks += run_files(run, lists)
        sizes = [_num_bytes(check) for check in checks]
        workers = num_workers if sum(sizes) > _FEW_BYTES else 1
        with Progress(total=sum(sizes), unit="B", unit_scale=True, desc="verifying") as bar:
            for size, found in zip(sizes, ordered_map(_findings, checks, workers), strict=True):
                findings += found
                bar.update(size)
    if runs and not lists:
        logger.info("scores were not compared with trial lists: name the corpus, too (data/...)")
    logger.info("%d files, %.2f GB, were read: %d findings", len(checks), sum(sizes) / 1e9, len(findings))
    return [" ".join(finding.split()) for finding in findings]


def _sorted(folders: list[Path]) -> tuple[list[DataFolder], list[RunFolder]]:
    data: list[DataFolder] = []
    runs: list[RunFolder] = []
    if not folders:
        raise RecipeError("folders: found none, expected corpora (data/mini) or runs (exp/mini/qmargin_a1.5)")
    for folder in folders:
        if DataFolder(folder).info.is_file():
            data.append(DataFolder(folder))
            continue
        places = [each for each in (folder, ExpRoot(folder).baselines) if each.is_dir()]
        inside = sorted(each for place in places for each in place.iterdir() if _is_run(each))
        found = [folder] if _is_run(folder) else inside
        if not found:
            what = "a folder without these" if folder.is_dir() else "no such folder"
            raise RecipeError(
                f"{folder}: found {what}, expected a prepared corpus (corpus.yaml), a run (config.yaml, models, "
                "embeddings or scores) or a folder of runs; name one, e.g. data/mini exp/mini"
            )
        runs += [RunFolder(each) for each in found]
    return _without_doubles(data), _without_doubles(runs)


def _without_doubles(folders: list[_Folder]) -> list[_Folder]:
    """A run may be named by itself and by the folder that it is in."""
    return list({os.path.realpath(folder): folder for folder in folders}.values())


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder)
    return any(path.exists() for path in (run.config, run.models, run.embeddings, run.all_scores))


def _num_bytes(check: PackedTar | RunFile) -> int:
    if isinstance(check, RunFile):
        return check.num_bytes
    return os.path.getsize(check.tar) if check.tar.is_file() else 0


def _findings(check: PackedTar | RunFile) -> list[str]:
    return file_findings(check) if isinstance(check, RunFile) else tar_findings(check)
