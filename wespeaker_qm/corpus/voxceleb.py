"""The corpus VoxCeleb: VoxCeleb2 dev to train, VoxCeleb1 to evaluate, MUSAN and RIRS_NOISES to augment.

::

    vox_root: parts, zips, trees, LMDBs -> findings -> [download what is missing] -> Kaldi directories, trial lists

Keys are WeSpeaker's and those of the published trial lists: ``id10270/5r0dWxy17C8/00001.wav``. Archives are read where
they lie (:mod:`wespeaker_qm.corpus.archives`); packing decodes straight from them into shards.
"""

import argparse
import gzip
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from tqdm import tqdm

from wespeaker_qm.corpus.archives import Member, archive_files, list_lmdb, list_tar, list_zip, recording_stamps
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.debian import read_tsv
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.trials import Trial, make_trials, write_trials
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.done import DoneMarker, content_stamp, file_stamp
from wespeaker_qm.utils.download import RemoteFile, download_files
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path

logger = logging.getLogger(__name__)

TRIAL_LISTS = {
    "vox1_O": "veri_test.txt",
    "vox1_O_cleaned": "veri_test2.txt",
    "vox1_E": "list_test_all.txt",
    "vox1_E_cleaned": "list_test_all2.txt",
    "vox1_H": "list_test_hard.txt",
    "vox1_H_cleaned": "list_test_hard2.txt",
}
"""Trial list -> the file that VoxCeleb publishes."""

HEADLINE = "vox1_H_cleaned"
SUBSET_FILE = "SUBSET"
"""A file of this name in ``vox_root`` says that it holds a part of VoxCeleb: what it contains is shown in reports."""

# Names of the archives, as published and as WeSpeaker's recipe joins them.
_ZIPS = {
    "vox1": ("vox1_dev_wav.zip", "vox1_test_wav.zip"),
    "vox2_dev": ("vox2_dev_aac.zip", "vox2_aac.zip"),
    "vox2_test": ("vox2_test_aac.zip",),
}
# The better copy of an utterance that is there twice: decoded files first, those within reach before archives.
_SUFFIXES = (".wav", ".flac", ".m4a")
_SPEAKER = re.compile(r"id[01]\d{4}")
_NOISE_KINDS = ("music", "noise", "speech")
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


class Findings(NamedTuple):
    """What lies below ``vox_root``.

    Attributes:
        recordings: set (``vox1``, ``vox2_dev``, ``vox2_test``) -> key -> path or locator.
        trial_files: trial list -> published file.
        noise: key -> path or locator of MUSAN; rirs: the same of the simulated RIRs.
    """

    recordings: dict[str, dict[str, str]]
    trial_files: dict[str, Path]
    noise: dict[str, str]
    rirs: dict[str, str]


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
        _download_missing(args, settings)
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
        list(recording_stamps(_archived(findings))),
        [findings.noise, findings.rirs],
        [content_stamp(path) for path in findings.trial_files.values()],
        [dict(settings), is_subset, args.augmentation],
    ]
    marker = DoneMarker(data_dir / ".done" / "prepare", inputs, [data_dir / "corpus.yaml"])
    if marker.is_current():
        logger.info("stage prepare: nothing changed since the last run, skipped (delete %s to force)", marker.path)
        return
    marker.clear()
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
    marker.write()


# --------------------------------------------------------------------------------------------------------- finding


def find(root: Path, data_dir: Path, augmentation: bool) -> Findings:
    """Look for everything below ``root``; an utterance that is there several times is taken once, the best copy.

    Args:
        root: any layout; folders ``id?????`` are speakers wherever they lie.
        data_dir: receives ``archives/musan.tar`` where MUSAN comes as ``musan.tar.gz``, which gives no random access.
        augmentation: look for MUSAN and RIRS_NOISES too.

    Raises:
        RecipeError: an archive is damaged or incomplete.
    """
    best: dict[str, dict[str, tuple[int, str]]] = {"vox1": {}, "vox2_dev": {}, "vox2_test": {}}
    places = _Places(root)
    test_speakers = _vox2_test_speakers(places.files.get("vox2_meta.csv"))
    for folder in tqdm(places.speaker_folders, desc="speakers' folders", disable=None, delay=1.0):
        for path in _utterances_below(folder):
            _take(best, path.as_posix(), str(path), test_speakers, _SUFFIXES.index(path.suffix))
    for name, archives in _ZIPS.items():
        for archive in [places.archives[zip_name] for zip_name in archives if zip_name in places.archives]:
            logger.info("%s: reading the table of contents", archive)
            in_test = {"id00000"} if name == "vox2_test" else frozenset()
            for member in list_zip(archive):
                path_in_zip = f"test/{member.name}" if in_test else member.name
                if PurePosixPath(member.name).suffix in _SUFFIXES:
                    _take(best, path_in_zip, member.locator, test_speakers, len(_SUFFIXES))
    recordings = {name: {key: path for key, (_, path) in sorted(found.items())} for name, found in best.items()}
    noise = _augmentation(places, "musan", data_dir) if augmentation else {}
    rirs = _augmentation(places, "rirs", data_dir) if augmentation else {}
    trial_files = {name: places.files[file] for name, file in TRIAL_LISTS.items() if file in places.files}
    return Findings(recordings, trial_files, noise, rirs)


class _Places:
    """One walk below ``root`` that does not enter speakers' folders."""

    def __init__(self, root: Path) -> None:
        self.speaker_folders: list[Path] = []
        self.archives: dict[str, Path] = {}
        self.files: dict[str, Path] = {}
        self.musan: list[Path] = []
        self.rirs: list[Path] = []
        self.lmdb: dict[str, Path] = {}
        wanted = {*TRIAL_LISTS.values(), "vox2_meta.csv", "musan.tar.gz", "musan.tar"}
        zips = {*(name for names in _ZIPS.values() for name in names), "rirs_noises.zip"}
        for folder, subfolders, files in os.walk(root, followlinks=True):
            path = Path(folder)
            subfolders.sort()
            self.speaker_folders += [path / name for name in subfolders if _SPEAKER.fullmatch(name)]
            subfolders[:] = [name for name in subfolders if not _SPEAKER.fullmatch(name) and not name.startswith(".")]
            if set(_NOISE_KINDS) <= set(subfolders):
                self.musan.append(path)
                subfolders[:] = []
            if "simulated_rirs" in subfolders:
                self.rirs.append(path / "simulated_rirs")
                subfolders[:] = []
            if "data.mdb" in files:
                kind = next((kind for kind in ("musan", "rirs") if kind in path.as_posix().lower()), None)
                if kind is not None:
                    self.lmdb.setdefault(kind, path)
            for name in files:
                # A joined archive is known by its name, one in parts by its first part.
                archive = f"{name.removesuffix('_partaa')}.zip" if name.endswith("_partaa") else name
                if archive in zips:
                    self.archives.setdefault(archive, path / archive)
                elif name in wanted:
                    self.files.setdefault(name, path / name)


def _utterances_below(folder: Path) -> Iterator[Path]:
    for video in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if video.is_dir():
            for entry in sorted(os.scandir(video.path), key=lambda entry: entry.name):
                if entry.name.endswith(_SUFFIXES):
                    yield Path(entry.path)


def _take(
    best: dict[str, dict[str, tuple[int, str]]], name: str, path: str, test_speakers: frozenset[str], rank: int
) -> None:
    """File the recording ``.../id10001/video/00001.wav`` under its set and key, unless a better copy is there."""
    parts = name.split("/")
    if len(parts) < 3 or not _SPEAKER.fullmatch(parts[-3]):
        return
    speaker, video, file = parts[-3:]
    if speaker.startswith("id1"):
        set_name = "vox1"
    else:
        set_name = "vox2_test" if "test" in parts[:-3] or speaker in test_speakers else "vox2_dev"
    key = f"{speaker}/{video}/{file.rpartition('.')[0]}.wav"
    if rank < best[set_name].get(key, (len(_SUFFIXES) + 1, ""))[0]:
        best[set_name][key] = (rank, path)


def _vox2_test_speakers(meta: Path | None) -> frozenset[str]:
    """Speakers of VoxCeleb2 test by ``vox2_meta.csv``, for trees in which dev and test are merged."""
    if meta is None:
        return frozenset()
    rows = [[cell.strip() for cell in line.split(",")] for line in meta.read_text(encoding="utf-8").splitlines()]
    return frozenset(row[0] for row in rows if row and row[-1] == "test")


def _augmentation(places: _Places, kind: str, data_dir: Path) -> dict[str, str]:
    """Key -> path or locator of ``musan`` or ``rirs``: the first of tree, archive and LMDB that is there."""
    trees = {"musan": places.musan, "rirs": places.rirs}[kind]
    members: Iterable[Member]
    if trees:
        members = [Member(str(path), str(path)) for tree in trees for path in sorted(tree.rglob("*.wav"))]
    elif kind == "musan" and "musan.tar" in places.files:
        members = list_tar(places.files["musan.tar"])
    elif kind == "musan" and "musan.tar.gz" in places.files:
        members = list_tar(_decompressed(places.files["musan.tar.gz"], data_dir / "archives" / "musan.tar"))
    elif kind == "rirs" and "rirs_noises.zip" in places.archives:
        members = [entry for entry in list_zip(places.archives["rirs_noises.zip"]) if "/simulated_rirs/" in entry.name]
    elif kind in places.lmdb:
        members = list_lmdb(places.lmdb[kind])
    else:
        members = []
    return {"/".join(name.split("/")[-3:]): locator for name, locator in members if name.endswith(".wav")}


def _decompressed(archive: Path, target: Path) -> Path:
    """The tar inside ``archive``, written once."""
    marker = DoneMarker(target.parent / f".{target.name}.done", file_stamp(archive), [target])
    if not marker.is_current():
        try:
            with (
                archive.open("rb") as compressed,
                tqdm.wrapattr(
                    compressed, "read", total=archive.stat().st_size, desc=f"decompress {archive.name}"
                ) as counted,
                gzip.open(cast(IO[bytes], counted), "rb") as content,
                atomic_path(target) as temporary,
                temporary.open("wb") as output,
            ):
                shutil.copyfileobj(content, output, 1 << 20)
        except (OSError, EOFError) as error:
            raise RecipeError(f"{archive}: cannot be decompressed ({error}); fetch it again") from error
        marker.write()
    return target


def _archived(findings: Findings) -> Iterator[str]:
    """One recording of each set that lies in an archive."""
    for recordings in (*findings.recordings.values(), findings.noise, findings.rirs):
        yield from [path for path in recordings.values() if "!/" in path][:1]


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


# ------------------------------------------------------------------------------------------------------ downloading


def _download_missing(args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Fetch the files of every source of which nothing usable is there yet."""
    root = Path(args.vox_root)
    root.mkdir(parents=True, exist_ok=True)
    places = _Places(root)
    has_tree = {
        "voxceleb1": any(folder.name.startswith("id1") for folder in places.speaker_folders),
        "voxceleb2": any(folder.name.startswith("id0") for folder in places.speaker_folders),
        "musan": bool(places.musan or "musan" in places.lmdb or "musan.tar" in places.files),
        "rirs": bool(places.rirs or "rirs" in places.lmdb),
        "trials": False,
    }
    files = []
    for row in read_tsv(args.corpus / "files.tsv", ("file", "source", "md5")):
        source, name = row["source"], row["file"]
        joined = archive_files(root / f"{re.sub('_part..$', '', name)}.zip") if "_part" in name else []
        # What lies in vox_root itself under its own name goes through the check of its MD5.
        elsewhere = places.archives.get(name, places.files.get(name, root / name)) != root / name
        is_here = has_tree[source] or elsewhere or any(path.suffix == ".zip" for path in joined)
        if is_here or (source in ("musan", "rirs") and not args.augmentation):
            continue
        urls = [url for url in settings["sources"][source] if args.access_key or "{key}" not in url]
        if not urls and not (root / name).is_file():
            raise RecipeError(
                f"{args.corpus / 'corpus.yaml'}: sources.{source} all want an access key; give --access_key, or set "
                "the environment variable VOXCELEB_KEY"
            )
        files.append(RemoteFile(name, tuple(url.format(key=args.access_key, file=name) for url in urls), row["md5"]))
    download_files(files, root)


# ---------------------------------------------------------------------------------------------------------- writing


class _Counts:
    """Numbers found, compared with those of the complete corpus."""

    def __init__(self, expected: Mapping[str, Any], is_subset: bool) -> None:
        self.expected = expected
        self.is_subset = is_subset
        self.found: dict[str, list[int]] = {}
        self.differences: list[str] = []

    def check(self, name: str, found: Sequence[int], where: Path) -> None:
        """Note a set's numbers."""
        expected = self.expected.get(name)
        self.found[name] = list(found)
        logger.info("%s: %s", name, _counted(found))
        if expected is not None and list(found) != (expected if isinstance(expected, list) else [expected]):
            wanted = expected if isinstance(expected, list) else [expected]
            self.differences.append(f"{name} ({where}): found {_counted(found)}, expected {_counted(wanted)}")

    def finish(self) -> None:
        """Raise when something differs and this is not a subset."""
        if self.differences and not self.is_subset:
            raise RecipeError(
                "this is not the complete VoxCeleb:\n  "
                + "\n  ".join(self.differences)
                + "\nAdd what is missing (where "
                "VoxCeleb2 dev and test are merged, vox2_meta.csv), or say --subset true, and the reports say so too"
            )


def _counted(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:,} trials"
    return f"{numbers[0]:,} speakers or kinds, {numbers[1]:,} recordings"


def _write_speech(path: Path, recordings: Mapping[str, str], counts: _Counts) -> None:
    _write_set(path, recordings, lambda key: key.split("/")[0], counts)
    kinds = Counter("archive" if "!/" in source else Path(source).suffix[1:] for source in recordings.values())
    logger.info("%s: read from %s", path.name, ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items()))


def _write_set(path: Path, recordings: Mapping[str, str], speaker_of: Any, counts: _Counts) -> None:
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
