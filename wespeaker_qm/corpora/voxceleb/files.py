"""Where the files of VoxCeleb, MUSAN and RIRS_NOISES are, in any layout that users have; and fetching those missing."""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

from wespeaker_qm.corpora.voxceleb.download import RemoteFile, download_files
from wespeaker_qm.corpus.archives import Member, is_locator, list_lmdb, list_tar, list_zip
from wespeaker_qm.utils.done import DoneMarker, file_stamp
from wespeaker_qm.utils.errors import RecipeError, counted, refuse_no_file
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.tables import read_tsv
from wespeaker_qm.utils.text import lines_of, read_text

logger = logging.getLogger(__name__)

_MAX_INFLATION = 100
"""Times that an archive may grow when it is decompressed; recordings grow by a tenth."""

TRIAL_LISTS = {
    "vox1_O": "veri_test.txt",
    "vox1_O_cleaned": "veri_test2.txt",
    "vox1_E": "list_test_all.txt",
    "vox1_E_cleaned": "list_test_all2.txt",
    "vox1_H": "list_test_hard.txt",
    "vox1_H_cleaned": "list_test_hard2.txt",
}
"""Trial list -> the file that VoxCeleb publishes."""

_SUFFIXES = (".wav", ".flac", ".m4a")
"""Of an utterance that is there several times the first of these is taken, and a file before an archive."""

# As published, and as WeSpeaker's recipe joins the parts.
_ZIPS = ("vox1_dev_wav.zip", "vox1_test_wav.zip", "vox2_dev_aac.zip", "vox2_aac.zip", "vox2_test_aac.zip")
_PART = re.compile(r"_part[a-z][a-z]$")
_SPEAKER = re.compile(r"id[01]\d{4}")
_NOISE_KINDS = ("music", "noise", "speech")
_NUM_SHOWN = 5


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


def find(root: Path, data: DataFolder, augmentation: bool) -> Findings:
    """Look for everything below ``root``; an utterance that is there several times is taken once, the best copy.

    Args:
        root: any layout; folders ``id?????`` are speakers wherever they lie.
        data: receives ``archives/musan.tar`` where MUSAN comes as ``musan.tar.gz``, which gives no random access.
        augmentation: look for MUSAN and RIRS_NOISES too.

    Raises:
        RecipeError: an archive is damaged or incomplete.
    """
    places = _Places(root)
    speech = _Speech(_vox2_test_speakers(places.files.get("vox2_meta.csv")))
    for folder in Progress(places.speaker_folders, desc="speakers' folders", unit="folder", delay=1.0):
        for path in sorted(folder.rglob("*")):
            speech.take(path.relative_to(root).as_posix(), str(path))
    for zip_name in [name for name in _ZIPS if name in places.archives]:
        archive = places.archives[zip_name]
        logger.info("%s: reading the table of contents", archive)
        # The members of VoxCeleb2 test's archive do not say that they are.
        folder_name = "test" if zip_name == "vox2_test_aac.zip" else "archive"
        for member in list_zip(archive):
            speech.take(f"{folder_name}/{member.name}", member.locator)
    speech.report(root)
    noise = _augmentation(places, "musan", data) if augmentation else {}
    rirs = _augmentation(places, "rirs", data) if augmentation else {}
    trial_files = {name: places.files[file] for name, file in TRIAL_LISTS.items() if file in places.files}
    return Findings(speech.recordings(), trial_files, noise, rirs)


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
        visited: set[str] = set()
        for folder, subfolders, files in os.walk(root, followlinks=True):
            path = Path(folder)
            if os.path.realpath(path) in visited:  # links may lead round in circles
                subfolders.clear()
                continue
            visited.add(os.path.realpath(path))
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
                kind = next(
                    (kind for kind in ("musan", "rirs") if kind in path.relative_to(root).as_posix().lower()), None
                )
                if kind is not None:
                    self.lmdb.setdefault(kind, path)
            for name in files:
                archive = _PART.sub(".zip", name)
                if archive in (*_ZIPS, "rirs_noises.zip"):
                    self.archives.setdefault(archive, path / archive)
                elif name in wanted:
                    self.files.setdefault(name, path / name)


class _Speech:
    """The best copy of each utterance, by set: ``vox1``, ``vox2_dev``, ``vox2_test``."""

    def __init__(self, test_speakers: frozenset[str]) -> None:
        self.test_speakers = test_speakers
        self.best: dict[str, dict[str, tuple[int, str]]] = {"vox1": {}, "vox2_dev": {}, "vox2_test": {}}
        self.astray: list[str] = []

    def take(self, name: str, source: str) -> None:
        """File ``.../id10001/video/00001.wav``, below ``vox_root`` or in an archive, unless a better copy is there."""
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix not in _SUFFIXES:
            return
        folders = stem.split("/")
        if len(folders) < 3 or not _SPEAKER.fullmatch(folders[-3]):
            self.astray.append(source)
            return
        speaker, key = folders[-3], "/".join(folders[-3:]) + ".wav"
        if speaker.startswith("id1"):
            found = self.best["vox1"]
        else:
            is_test = "test" in folders[:-3] or speaker in self.test_speakers
            found = self.best["vox2_test" if is_test else "vox2_dev"]
        rank = _SUFFIXES.index(dot + suffix) + (len(_SUFFIXES) if is_locator(source) else 0)
        if key not in found or rank < found[key][0]:
            found[key] = (rank, source)

    def report(self, root: Path) -> None:
        """Tell of audio that is no utterance of a speaker."""
        if self.astray:
            logger.warning(
                "%s: %s left alone, expected id?????/video/utterance: %s",
                root,
                counted(len(self.astray), "audio file is", "audio files are"),
                ", ".join(self.astray[:_NUM_SHOWN]),
            )

    def recordings(self) -> dict[str, dict[str, str]]:
        """Set -> key -> path or locator, sorted by key."""
        return {name: {key: source for key, (_, source) in sorted(found.items())} for name, found in self.best.items()}


def _vox2_test_speakers(meta: Path | None) -> frozenset[str]:
    """Speakers of VoxCeleb2 test by ``vox2_meta.csv``, for trees in which dev and test are merged."""
    if meta is None:
        return frozenset()
    rows = [[cell.strip() for cell in line.text.split(",")] for line in lines_of(read_text(meta))]
    return frozenset(row[0] for row in rows if row and row[-1] == "test")


def _augmentation(places: _Places, kind: str, data: DataFolder) -> dict[str, str]:
    """Key -> path or locator of ``musan`` or ``rirs``: the first of tree, archive and LMDB that is there."""
    trees = {"musan": places.musan, "rirs": places.rirs}[kind]
    members: Iterable[Member]
    if trees:
        members = [Member(str(path), str(path)) for tree in trees for path in sorted(tree.rglob("*.wav"))]
    elif kind == "musan" and "musan.tar" in places.files:
        members = list_tar(places.files["musan.tar"])
    elif kind == "musan" and "musan.tar.gz" in places.files:
        members = list_tar(_decompressed(places.files["musan.tar.gz"], data.path / "archives" / "musan.tar"))
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
        with stage(f"decompress {archive.name}", marker) as is_due:
            if is_due:
                _decompress(archive, target)
    return target


def _decompress(archive: Path, target: Path) -> None:
    refuse_no_file(archive)
    try:
        with (
            archive.open("rb") as compressed,
            Progress.wrapattr(
                compressed, "read", total=archive.stat().st_size, desc=f"decompress {archive.name}"
            ) as counted,
            gzip.open(cast(IO[bytes], counted), "rb") as content,
            atomic_path(target) as temporary,
            temporary.open("wb") as output,
        ):
            limit = _MAX_INFLATION * archive.stat().st_size
            while block := content.read(1 << 20):
                output.write(block)
                if output.tell() > limit:
                    raise RecipeError(
                        f"{archive}: more than {_MAX_INFLATION} times its size when decompressed, expected recordings, "
                        "which hardly shrink; fetch it again"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise RecipeError(f"{archive}: cannot be decompressed ({error}); fetch it again") from error


def download_missing(
    root: Path, table: Path, sources: Mapping[str, Sequence[str]], access_key: str, wanted: Collection[str]
) -> None:
    """Fetch to ``root`` the files of every source of which nothing usable is there yet.

    Args:
        root: made if need be.
        table: ``files.tsv`` of the recipe: file, source, MD5.
        sources: source -> URLs in the order of trying, with ``{file}`` and, where one is asked for, ``{key}``.
        access_key: may be empty; URLs that want one are left out then.
        wanted: the sources of which something is needed.

    Raises:
        RecipeError: a source has only URLs that want a key, or as :func:`download_files`.
    """
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
    for row in read_tsv(table, ("file", "source", "md5")):
        source, name = row["source"], row["file"]
        if source not in wanted:
            continue
        is_joined = (root / _PART.sub(".zip", name)).is_file() and _PART.search(name) is not None
        # What lies in vox_root itself under its own name goes through the check of its MD5.
        elsewhere = places.archives.get(name, places.files.get(name, root / name)) != root / name
        is_here = has_tree[source] or elsewhere or is_joined
        if is_here:
            continue
        urls = [url for url in sources[source] if access_key or "{key}" not in url]
        if not urls and not (root / name).is_file():
            raise RecipeError(
                f"corpus.yaml: sources.{source} all want an access key; give --access_key, or set "
                "the environment variable VOXCELEB_KEY"
            )
        files.append(RemoteFile(name, tuple(url.format(key=access_key, file=name) for url in urls), row["md5"]))
    download_files(files, root)
