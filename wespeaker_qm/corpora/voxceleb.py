"""The corpus VoxCeleb: VoxCeleb2 dev to train, VoxCeleb1 to evaluate, MUSAN and RIRS_NOISES to augment.

::

    vox_root: parts, zips, trees, LMDBs -> [download what is missing] -> findings -> Kaldi directories, trial lists

Keys are WeSpeaker's and those of the published trial lists: ``id10270/5r0dWxy17C8/00001.wav``. Archives are read where
they lie (:mod:`wespeaker_qm.corpus.archives`); packing decodes straight from them into shards.
"""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wespeaker_qm.corpora.voxceleb_files import TRIAL_LISTS, Findings, download_missing, find
from wespeaker_qm.corpus.archives import is_locator
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.trials.lists import Trial, make_trials, write_trials
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.done import DoneMarker, content_stamp
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the same sources and options are prepared otherwise."""

HEADLINE = "vox1_H_cleaned"
SUBSET_FILE = "SUBSET"
"""A file of this name in ``vox_root`` says, as ``--subset true`` does, that it holds a part of VoxCeleb."""

# For checks while training: enough to see a trend, few enough to cost seconds.
_VALID_UTTERANCES_PER_SPEAKER = 10
_VALID_TARGETS, _VALID_NONTARGETS = 5_000, 50_000
_NUM_SHOWN = 5

OPTIONS = ("vox_root", "download", "access_key", "subset", "augmentation")
_SETTINGS = (*OPTIONS, "kind", "name", "description", "sources", "expected")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this corpus for ``wespeaker-qm prepare``; the same names may stand in ``corpus.yaml``."""
    group = parser.add_argument_group("corpus voxceleb")
    group.add_argument(
        "--vox_root",
        type=Path,
        default=Path("downloads/voxceleb"),
        help="folder that holds, at any depth, VoxCeleb1 and 2 as official parts, zips or trees "
        "id*/video/*.m4a|wav|flac, the trial lists, and MUSAN and RIRS_NOISES as archives, trees or WeSpeaker's "
        "LMDBs (default %(default)s)",
    )
    group.add_argument(
        "--download",
        type=true_or_false,
        default=False,
        metavar="true|false",
        help="download to --vox_root what is not there, resuming what was interrupted (default %(default)s)",
    )
    group.add_argument(
        "--access_key",
        default=os.environ.get("VOXCELEB_KEY", ""),
        help="key of sources that ask for one (default: the environment variable VOXCELEB_KEY)",
    )
    group.add_argument(
        "--subset",
        type=true_or_false,
        default=False,
        metavar="true|false",
        help="go on with a part of VoxCeleb, and say so in every report (default %(default)s)",
    )
    group.add_argument(
        "--augmentation",
        type=true_or_false,
        default=True,
        metavar="true|false",
        help="prepare MUSAN and RIRS_NOISES; without them train with dataset_args.aug_prob=0 (default %(default)s)",
    )


def prepare(args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Stage 1: write Kaldi directories, trial lists and, last, ``corpus.yaml`` to ``args.data``.

    Args:
        args: the options of :func:`add_arguments`, and ``data`` and ``corpus``.
        settings: the recipe's ``corpus.yaml``, whose values are already the defaults of the options.

    Raises:
        RecipeError: something is missing or damaged, or the numbers are not those of VoxCeleb.
    """
    for key in settings:
        if key not in _SETTINGS:
            nearest = get_close_matches(key, _SETTINGS, 3, 0)
            raise RecipeError(f"{args.corpus / 'corpus.yaml'}: unknown key {key!r}; nearest: {', '.join(nearest)}")
    root, data_dir = Path(args.vox_root), Path(args.data)
    if args.download:
        download_missing(root, args.corpus / "files.tsv", settings["sources"], args.access_key, args.augmentation)
    elif not root.is_dir():
        raise RecipeError(
            f"--vox_root {root}: no such folder; name the one that holds VoxCeleb, or give --download true"
        )
    findings = find(root, data_dir, args.augmentation)
    missing = _missing(findings, args.augmentation)
    if missing:
        raise RecipeError(f"--vox_root {root}: found no {', no '.join(missing)}; add them, or give --download true")
    is_subset = args.subset or (root / SUBSET_FILE).is_file()

    inputs = [
        {name: sorted(recordings.items()) for name, recordings in findings.recordings.items()},
        [findings.noise, findings.rirs],
        [content_stamp(path) for path in findings.trial_files.values()],
        [dict(settings), is_subset, args.augmentation],
    ]
    marker = DoneMarker(data_dir / ".done" / "prepare", inputs, prepared_files(data_dir), version=VERSION)
    sets = ("vox2_dev", "vox1", "vox2_test", "musan", "rirs")
    tables = [table for name in sets for table in DataDir.tables(data_dir / name)]
    lists = [data_dir / "trials" / name for name in (*TRIAL_LISTS, "vox2_test")]
    if not begin(marker, "prepare", others=[*tables, *lists]):
        return
    (data_dir / "corpus.yaml").unlink(missing_ok=True)

    counts = _Counts(settings["expected"], is_subset)
    for name in ("vox2_dev", "vox1"):
        _write_speech(data_dir / name, findings.recordings[name], counts)
    validation = _write_validation(data_dir, findings.recordings["vox2_test"])
    if args.augmentation:
        _write_set(data_dir / "musan", findings.noise, lambda key: key.split("/")[0], counts)
        _write_set(data_dir / "rirs", findings.rirs, lambda key: "-".join(key.split("/")[:2]), counts)
    for name, path in findings.trial_files.items():
        trials = read_published_trials(path)
        kept = _known_trials(trials, findings.recordings["vox1"], path, is_subset)
        counts.check(name, [len(trials)], path)
        write_trials(data_dir / "trials" / name, kept)
    counts.finish()
    for name in TRIAL_LISTS.keys() - findings.trial_files.keys():
        logger.warning("%s: no %s, so there will be no figures for %s", root, TRIAL_LISTS[name], name)
    caveat = ""
    if is_subset:
        speakers = f"{counts.found['vox2_dev'][0]} training and {counts.found['vox1'][0]} evaluation speakers"
        caveat = f"A subset of VoxCeleb ({speakers}): not comparable with published figures."
    CorpusInfo(
        name=data_dir.name,
        description=settings["description"],
        caveat=caveat,
        train="vox2_dev",
        trials={name: "vox1" for name in TRIAL_LISTS if name in findings.trial_files},
        headline=HEADLINE,
        validation=validation,
        noise="musan" if args.augmentation else None,
        rirs="rirs" if args.augmentation else None,
    ).save(data_dir / "corpus.yaml")
    finish(marker)


def _missing(findings: Findings, augmentation: bool) -> list[str]:
    wanted = {
        "VoxCeleb2 dev (vox2_dev_aac_parta*, vox2_dev_aac.zip, or a tree dev/aac/id*/video/*.m4a)": findings.recordings[
            "vox2_dev"
        ],
        "VoxCeleb1 (vox1_dev_wav_parta*, vox1_dev_wav.zip, vox1_test_wav.zip, or a tree wav/id*/video/*.wav)": (
            findings.recordings["vox1"]
        ),
        f"trial list {TRIAL_LISTS[HEADLINE]}": HEADLINE in findings.trial_files,
    }
    if augmentation:
        wanted["MUSAN (musan.tar.gz, a folder musan, or musan/lmdb)"] = findings.noise
        wanted["RIRS_NOISES (rirs_noises.zip, a folder RIRS_NOISES, or rirs/lmdb)"] = findings.rirs
    return [name for name, found in wanted.items() if not found]


class _Counts:
    """Numbers found, compared with those of the complete corpus."""

    def __init__(self, expected: Mapping[str, Sequence[int]], is_subset: bool) -> None:
        self.expected = expected
        self.is_subset = is_subset
        self.found: dict[str, list[int]] = {}
        self.differences: list[str] = []

    def check(self, name: str, found: Sequence[int], where: Path) -> None:
        """Note a set's numbers."""
        self.found[name] = list(found)
        logger.info("%s: %s", name, _counted(name, found))
        expected = self.expected.get(name, found)
        if list(found) != list(expected):
            self.differences.append(
                f"{name} ({where}): found {_counted(name, found)}, expected {_counted(name, expected)}"
            )

    def finish(self) -> None:
        """Raise when something differs and this is not a subset."""
        if self.differences and not self.is_subset:
            raise RecipeError(
                "this is not the complete VoxCeleb:\n  "
                + "\n  ".join(self.differences)
                + "\nAdd what is missing (where "
                "VoxCeleb2 dev and test are merged, vox2_meta.csv), or say --subset true, and the reports say so too"
            )


def _counted(name: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:,} trials"
    groups = {"musan": "categories", "rirs": "rooms"}.get(name, "speakers")
    return f"{numbers[0]:,} {groups}, {numbers[1]:,} recordings"


def _write_speech(path: Path, recordings: Mapping[str, str], counts: _Counts) -> None:
    _write_set(path, recordings, lambda key: key.split("/")[0], counts)
    kinds = Counter("archive" if is_locator(source) else Path(source).suffix[1:] for source in recordings.values())
    logger.info("%s: read from %s", path.name, ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items()))


def _write_set(path: Path, recordings: Mapping[str, str], speaker_of: Callable[[str], str], counts: _Counts) -> None:
    directory = DataDir(wav=dict(recordings), speaker={key: speaker_of(key) for key in recordings})
    directory.write(path)
    counts.check(path.name, [len(directory.speakers), len(directory)], path)


def _write_validation(data_dir: Path, recordings: Mapping[str, str]) -> str | None:
    """Of VoxCeleb2 test, whose speakers are in no other set, some utterances of each: the check while training."""
    if not recordings:
        logger.info("no VoxCeleb2 test (vox2_test_aac.zip): no check on held-out speakers while training")
        return None
    by_speaker: dict[str, list[str]] = {}
    for key in sorted(recordings):
        by_speaker.setdefault(key.split("/")[0], []).append(key)
    speaker: dict[str, str] = {}
    for name, keys in by_speaker.items():
        count = min(len(keys), _VALID_UTTERANCES_PER_SPEAKER)
        speaker |= {keys[len(keys) * number // count]: name for number in range(count)}
    DataDir(wav={key: recordings[key] for key in speaker}, speaker=speaker).write(data_dir / "vox2_test")
    trials = make_trials(speaker, max_targets=_VALID_TARGETS, max_nontargets=_VALID_NONTARGETS)
    write_trials(data_dir / "trials" / "vox2_test", trials)
    return "vox2_test"


def read_published_trials(path: Path) -> list[Trial]:
    """Read a trial list as VoxCeleb publishes it: ``1 enrolment test`` for a target trial, 0 for another.

    Raises:
        RecipeError: a line that is none of the two; the message has its number.
    """
    trials = []
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 3 or fields[0] not in ("0", "1"):
                raise RecipeError(
                    f"{path}:{number}: found {line.strip()!r}, expected '1 enrolment test' or '0 enrolment test'"
                )
            trials.append(Trial(fields[1], fields[2], fields[0] == "1"))
    return trials


def _known_trials(trials: Sequence[Trial], known: Mapping[str, str], path: Path, is_subset: bool) -> list[Trial]:
    """The trials whose utterances are there: all, but for a subset."""
    kept = [trial for trial in trials if trial.enrolment in known and trial.test in known]
    lost = len(trials) - len(kept)
    if lost and not is_subset:
        absent = sorted({key for trial in trials for key in trial[:2] if key not in known})
        raise RecipeError(
            f"{path}: {lost} of {len(trials)} trials name {len(absent)} utterances that VoxCeleb1 here does not hold, "
            f"e.g. {', '.join(absent[:_NUM_SHOWN])}; add them, or say --subset true to leave these trials out"
        )
    if lost:
        logger.warning("%s: %d of %d trials are left out, their utterances are not there", path, lost, len(trials))
    return kept
