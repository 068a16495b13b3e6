"""Beside the stages: are the files of corpora and runs what was written, and do they fit together?"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from wespeaker_qm.packing.verification import PackedTar, tar_findings
from wespeaker_qm.score.upstream import corpus_of
from wespeaker_qm.stages.verifying_data import data_findings, trial_lists
from wespeaker_qm.stages.verifying_run import RunFile, file_findings, run_files, run_findings
from wespeaker_qm.utils.calls import AnyPath, paths
from wespeaker_qm.utils.errors import NUM_SHOWN, RecipeError, counted, printable
from wespeaker_qm.utils.layout import DataFolder, ExpRoot, RunFolder
from wespeaker_qm.utils.lock import lock_for_reading, unlock
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.stage import reading
from wespeaker_qm.utils.trouble import UNREADABLE, told

logger = logging.getLogger(__name__)

_Folder = TypeVar("_Folder", DataFolder, RunFolder)

_FEW_BYTES = 1 << 28
"""Read by one process before others have started."""


def verify_data(*, folders: AnyPath | Sequence[AnyPath], num_workers: int = 1) -> list[str]:
    """Read every file of corpora and runs whole, and compare it with what is known of it.

    Of a corpus: the CRC-32 of each packed recording, index and lists against the tars, tables against both, trial lists
    against tables, and speakers and recordings that are both trained on and tested. Of a run: checksums, configuration,
    checkpoints, states, log, embeddings, scores (against the trial lists of the corpora that are named, too),
    calibration and model folder. Nothing need be written; where it can be, an index is kept that shards lack.

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
        corpora = {run: corpus_of(run, data) for run in runs}
        for run, own in corpora.items():
            files, faults = run_files(run, trial_lists([own] if own is not None else data))
            findings += faults
            checks += files
        sizes = [_num_bytes(check) for check in checks]
        workers = num_workers if sum(sizes) > _FEW_BYTES else 1
        with Progress(total=sum(sizes), unit="B", unit_scale=True, desc="verifying") as bar:
            for size, found in zip(sizes, ordered_map(_findings, checks, workers), strict=True):
                findings += found
                bar.update(size)
        for run, own in corpora.items():
            findings += run_findings(run, own, findings)
    alone = {check.trial_list: None for check in checks if isinstance(check, RunFile) and check.lacks_trials}
    if alone:
        logger.info(
            "scores of %s were not compared with trial lists: name their corpus, too (data/...)",
            _line(", ".join(alone)),
        )
    # What is wrong with a trial list is met again by all that is compared with it.
    lines = list(dict.fromkeys(_line(finding) for finding in findings))
    num_files = counted(len(checks), "file was read", "files were read")
    logger.info("%s, %.2f GB: %s", num_files, sum(sizes) / 1e9, counted(len(lines), "finding", "findings"))
    return lines


def _line(text: str) -> str:
    """A text in one line, whatever names it has in it."""
    return printable(" ".join(text.split()))


def _sorted(folders: list[Path]) -> tuple[list[DataFolder], list[RunFolder]]:
    data: list[DataFolder] = []
    runs: list[RunFolder] = []
    if not folders:
        raise RecipeError("folders: found none, expected corpora (data/mini) or runs (exp/mini/qmargin_a1.5)")
    for folder in folders:
        if _is_corpus(folder):
            data.append(DataFolder(folder))
            continue
        found = [folder] if _is_run(folder) else _runs_in(folder)
        if not found:
            what = "a folder without these" if folder.is_dir() else "no such folder"
            raise RecipeError(
                f"{folder}: found {what}, expected a prepared corpus (corpus.yaml), a run (config.yaml, models, "
                f"embeddings or scores) or a folder of runs; name {_meant(folder)}"
            )
        runs += [RunFolder(each) for each in found]
    return _without_doubles(data), _without_doubles(runs)


def _runs_in(folder: Path) -> list[Path]:
    places = [each for each in (folder, ExpRoot(folder).baselines) if each.is_dir()]
    closed = [each for each in places if _is_closed(each)]
    return sorted(
        [*closed, *(run for place in places if place not in closed for run in place.iterdir() if _is_run(run))]
    )


def _meant(folder: Path) -> str:
    """What may have been meant by a folder that is nothing of it: what is in it, or what it is a part of."""
    above = [each for each in list(folder.absolute().parents)[:2] if _is_whole(each)]
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    meant = [each for each in below if _is_whole(each) or _runs_in(each)] or above
    return " ".join(map(str, meant[:NUM_SHOWN])) + " ..." * (len(meant) > NUM_SHOWN) or "one, e.g. data/mini exp/mini"


def _is_whole(folder: Path) -> bool:
    return _is_corpus(folder) or _is_run(folder)


def _is_corpus(folder: Path) -> bool:
    """Also where its description cannot be read, which is told then."""
    return os.path.lexists(DataFolder(folder).info)


def _without_doubles(folders: list[_Folder]) -> list[_Folder]:
    """A run may be named by itself and by the folder that it is in."""
    return list({os.path.realpath(folder): folder for folder in folders}.values())


def _is_run(folder: Path) -> bool:
    """Also where nobody may look into it, which is told then."""
    run = RunFolder(folder)
    return _is_closed(folder) or any(
        os.path.exists(path) for path in (run.config, run.models, run.embeddings, run.all_scores)
    )


def _is_closed(folder: Path) -> bool:
    return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)


def _num_bytes(check: PackedTar | RunFile) -> int:
    if isinstance(check, RunFile):
        return check.num_bytes
    return os.path.getsize(check.tar) if os.path.isfile(check.tar) else 0


def _findings(check: PackedTar | RunFile) -> list[str]:
    if isinstance(check, RunFile):
        return file_findings(check)
    try:
        return tar_findings(check)
    except UNREADABLE as error:
        return [told(error)]
