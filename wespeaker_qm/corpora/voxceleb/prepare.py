"""The corpus VoxCeleb: VoxCeleb2 dev to train, VoxCeleb1 to evaluate, MUSAN and RIRS_NOISES to augment.

::

    vox_root: parts, zips, trees, LMDBs -> [download what is missing] -> findings -> Kaldi directories, trial lists

Keys are WeSpeaker's and those of the published trial lists: ``id10270/5r0dWxy17C8/00001.wav``. Archives are read where
they lie (:mod:`wespeaker_qm.corpus.archives`); packing decodes straight from them into shards.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wespeaker_qm.corpora.few_speakers import warn_of_few_speakers
from wespeaker_qm.corpora.voxceleb.files import TRIAL_LISTS, Findings, download_missing, find
from wespeaker_qm.corpora.voxceleb.settings import VoxcelebSettings
from wespeaker_qm.corpora.voxceleb.trials import known_trials, read_published_trials, write_validation
from wespeaker_qm.corpus.archives import is_locator
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo, prepared_files
from wespeaker_qm.trials.lists import write_trials
from wespeaker_qm.utils.done import DoneMarker, content_stamp
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)

HEADLINES = ("vox1_H_cleaned", "vox1_E_cleaned", "vox1_O_cleaned", "vox1_H", "vox1_E", "vox1_O")
"""The first that there is is the headline; of the whole corpus it must be the first."""
HEADLINE = HEADLINES[0]
SUBSET_FILE = "SUBSET"
"""A file of this name in ``vox_root`` says, as ``--subset true`` does, that it holds a part of VoxCeleb."""


def prepare(settings: VoxcelebSettings, *, data: DataFolder, recipe_dir: Path, num_workers: int) -> None:
    """Write Kaldi directories, trial lists and, last, ``corpus.yaml``, unless nothing has changed.

    Args:
        settings: where VoxCeleb is, and what to take of it.
        data: folder to write.
        recipe_dir: holds ``files.tsv``, what may be downloaded.
        num_workers: not used: nothing is decoded.

    Raises:
        RecipeError: something is missing or damaged, or the numbers are not those of VoxCeleb.
    """
    root = settings.vox_root
    if settings.download:
        key = settings.access_key or os.environ.get("VOXCELEB_KEY", "")
        download_missing(root, recipe_dir / "files.tsv", settings.sources, key, _wanted(settings))
    elif not root.is_dir():
        raise RecipeError(
            f"--vox_root {root}: no such folder; name the one that holds VoxCeleb, or give --download true"
        )
    with_augmentation = "musan" in _wanted(settings)
    findings = find(root, data, with_augmentation)
    missing = _missing(findings, settings.eval_only, with_augmentation)
    if missing:
        raise RecipeError(f"--vox_root {root}: found no {', no '.join(missing)}; add them, or give --download true")
    is_subset = settings.subset or (root / SUBSET_FILE).is_file()

    inputs = [
        {name: sorted(recordings.items()) for name, recordings in findings.recordings.items()},
        [findings.noise, findings.rirs],
        [content_stamp(path) for path in findings.trial_files.values()],
        [_stated(settings), is_subset, with_augmentation, settings.eval_only],
    ]
    outputs = prepared_files(data)
    marker = DoneMarker(data.marker("prepare"), inputs, outputs, version=STAGE_VERSIONS["prepare"])
    sets = ("vox2_dev", "vox1", "vox2_test", "musan", "rirs")
    tables = [table for name in sets for table in DataDir.tables(data.path / name)]
    lists = [data.trials(name) for name in (*TRIAL_LISTS, "vox2_test")]
    with stage("prepare", marker, others=[*tables, *lists]) as is_due:
        if is_due:
            _build(settings, data, findings, is_subset)


def _build(settings: VoxcelebSettings, data: DataFolder, findings: Findings, is_subset: bool) -> None:
    data.info.unlink(missing_ok=True)

    # Who only evaluates needs no more of VoxCeleb1 than the trials name; their numbers are checked.
    expected = {
        name: numbers for name, numbers in settings.expected.items() if name != "vox1" or not settings.eval_only
    }
    counts = _Counts(expected, is_subset)
    train, validation = None, None
    if not settings.eval_only:
        train = "vox2_dev"
        _write_speech(data.set(train).path, findings.recordings[train], counts)
        validation = write_validation(data, findings.recordings["vox2_test"])
    _write_speech(data.set("vox1").path, findings.recordings["vox1"], counts)
    with_augmentation = "musan" in _wanted(settings)
    if with_augmentation:
        _write_set(data.set("musan").path, findings.noise, lambda key: key.split("/")[0], counts)
        _write_set(data.set("rirs").path, findings.rirs, lambda key: "-".join(key.split("/")[:2]), counts)
    lists = _write_lists(settings, data, findings, counts)
    counts.finish()
    warn_of_few_speakers(counts.found["vox1"][0], "fetch more of VoxCeleb1")
    caveat = ""
    if is_subset:
        training = "" if train is None else f"{counts.found[train][0]} training and "
        speakers = f"{training}{counted(counts.found['vox1'][0], 'evaluation speaker', 'evaluation speakers')}"
        caveat = f"A subset of VoxCeleb ({speakers}): not comparable with published figures."
    CorpusInfo(
        name=data.path.name,
        description=settings.description,
        caveat=caveat,
        licence="VoxCeleb's: CC BY 4.0; the copyright of the videos remains with their owners",
        train=train,
        trials=dict.fromkeys(lists, "vox1"),
        headline=next(name for name in HEADLINES if name in lists),
        validation=validation,
        noise="musan" if with_augmentation else None,
        rirs="rirs" if with_augmentation else None,
    ).save(data.info)


def _write_lists(settings: VoxcelebSettings, data: DataFolder, findings: Findings, counts: "_Counts") -> list[str]:
    """Write the trial lists that are there; which those are. Who only evaluates gets those that are whole here."""
    for name in TRIAL_LISTS:
        data.trials(name).unlink(missing_ok=True)
    known = findings.recordings["vox1"]
    lists = []
    for name in TRIAL_LISTS:
        path = findings.trial_files.get(name)
        if path is None:
            logger.warning("%s: no %s, so there will be no figures for %s", settings.vox_root, TRIAL_LISTS[name], name)
            continue
        trials = read_published_trials(path)
        absent = settings.eval_only and not counts.is_subset and not all(key in known for t in trials for key in t[:2])
        if absent:
            logger.info("%s: left out, VoxCeleb1 here does not hold all of its utterances", name)
            continue
        counts.check(name, [len(trials)], path)
        write_trials(data.trials(name), known_trials(trials, known, path, counts.is_subset))
        lists.append(name)
    if not lists:
        raise RecipeError(
            f"--vox_root {settings.vox_root}: VoxCeleb1 here holds all utterances of no trial list; add "
            "vox1_test_wav.zip, which has those of the lists O, or say --subset true to leave trials out"
        )
    return lists


def _wanted(settings: VoxcelebSettings) -> tuple[str, ...]:
    """The sources of files.tsv of which something is needed."""
    if settings.eval_only:
        return ("voxceleb1", "trials")
    return ("voxceleb2", "voxceleb1", "trials", *(("musan", "rirs") if settings.augmentation else ()))


def _stated(settings: VoxcelebSettings) -> dict[str, object]:
    """What the recipe states of the corpus, whatever the machine."""
    names = ("name", "description", "sources", "expected")
    return {"kind": "voxceleb"} | {name: getattr(settings, name) for name in names}


def _missing(findings: Findings, eval_only: bool, augmentation: bool) -> list[str]:
    wanted: dict[str, object] = {}
    if not eval_only:
        wanted["VoxCeleb2 dev (vox2_dev_aac_parta*, vox2_dev_aac.zip, or a tree dev/aac/id*/video/*.m4a)"] = (
            findings.recordings["vox2_dev"]
        )
    wanted["VoxCeleb1 (vox1_dev_wav_parta*, vox1_dev_wav.zip, vox1_test_wav.zip, or a tree wav/id*/video/*.wav)"] = (
        findings.recordings["vox1"]
    )
    if eval_only:
        wanted[f"trial list ({', '.join(TRIAL_LISTS.values())})"] = findings.trial_files
    else:
        wanted[f"trial list {TRIAL_LISTS[HEADLINE]}"] = HEADLINE in findings.trial_files
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
        return counted(numbers[0], "trial", "trials")
    groups = {"musan": ("category", "categories"), "rirs": ("room", "rooms")}.get(name, ("speaker", "speakers"))
    return f"{counted(numbers[0], *groups)}, {counted(numbers[1], 'recording', 'recordings')}"


def _write_speech(path: Path, recordings: Mapping[str, str], counts: _Counts) -> None:
    _write_set(path, recordings, lambda key: key.split("/")[0], counts)
    kinds = Counter("archive" if is_locator(source) else Path(source).suffix[1:] for source in recordings.values())
    logger.info("%s: read from %s", path.name, ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items()))


def _write_set(path: Path, recordings: Mapping[str, str], speaker_of: Callable[[str], str], counts: _Counts) -> None:
    directory = DataDir(wav=dict(recordings), speaker={key: speaker_of(key) for key in recordings})
    directory.write(path)
    counts.check(path.name, [len(directory.speakers), len(directory)], path)
