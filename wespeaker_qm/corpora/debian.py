"""Debian packages as a source of audio: downloaded, checked and unpacked without root, installed nowhere.

``apt-get download`` works for any user. Where the system's package lists are missing or stale, ``apt-get update``
runs on lists of our own below the download folder. Elsewhere than on Debian and Ubuntu, a folder of ``.deb`` files
serves.
"""

import contextlib
import csv
import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, NoReturn
from urllib.parse import unquote

from tqdm import tqdm

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset({".wav", ".ogg", ".opus", ".gsm", ".au"})
_POLL_S = 0.2
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60

REMEDY = (
    "Either connect a Debian or Ubuntu machine to its package mirror, or fetch the .deb files elsewhere and name their "
    "folder with --deb_dir, or train on your own recordings: see egs/folder/README.md (run.sh --corpus egs/folder)"
)


class Package(NamedTuple):
    """A pinned package: the version that the tables of the recipe were made from."""

    name: str
    version: str
    download_mb: float
    sha256: str


def read_packages(path: Path | str) -> dict[str, Package]:
    """Read ``packages.tsv`` (columns package, version, download such as ``18.3MB``, sha256, ...): name -> package."""
    packages = {}
    for row in read_tsv(path, ("package", "version", "download", "sha256")):
        size_mb = float(row["download"].removesuffix("MB"))
        packages[row["package"]] = Package(row["package"], row["version"], size_mb, row["sha256"])
    return packages


def read_tsv(path: Path | str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header line and tab-separated fields.

    Raises:
        RecipeError: no such file, or one of ``columns`` is missing from the header.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; it belongs to the recipe, check out the project again")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise RecipeError(f"{path}: no column {missing[0]!r}, expected {', '.join(columns)} (tab-separated)")
    return rows


def fetch_packages(packages: Sequence[Package], downloads: Path, deb_dir: Path | None = None) -> dict[str, Path]:
    """Make the ``.deb`` files available, downloading what is not in ``downloads`` yet.

    A file of the pinned version must have the pinned SHA-256: in ``downloads`` a damaged one is fetched again. Files of
    another version (another release of the distribution) are accepted with a warning.

    Args:
        packages: what is wanted.
        downloads: folder of the downloaded files; made if need be.
        deb_dir: folder of ready ``.deb`` files; nothing is downloaded then.

    Returns:
        package name -> path of its ``.deb``.

    Raises:
        RecipeError: a package is missing in ``deb_dir`` or damaged, there is no apt-get, or the download fails.
    """
    folder = downloads if deb_dir is None else deb_dir
    found = {package.name: _find_deb(package, folder) for package in packages}
    missing = [package for package in packages if found[package.name] is None]
    if missing and deb_dir is not None:
        raise RecipeError(
            f"{deb_dir}: no {missing[0].name}_{missing[0].version}_*.deb of the right SHA-256 ({missing[0].sha256}), "
            f"{len(missing)} of {len(packages)} packages missing or damaged: "
            f"{', '.join(package.name for package in missing)}. {REMEDY}"
        )
    if missing:
        _download(missing, downloads)
    debs = {}
    for package in packages:
        deb = found[package.name] or _find_deb(package, folder)
        if deb is None:
            raise RecipeError(f"{folder}: {package.name} is still missing or damaged after its download. {REMEDY}")
        version = _version(deb)
        if version != package.version:
            logger.warning(
                "%s: version %s instead of %s; its files will be checked against the manifest",
                package.name, version, package.version,
            )  # fmt: skip
        debs[package.name] = deb
    return debs


def unpack_packages(packages: Sequence[Package], downloads: Path, deb_dir: Path | None = None) -> dict[str, Path]:
    """Fetch packages (:func:`fetch_packages`), unpack their audio: name -> folder ``downloads/unpacked/<name>``."""
    debs = fetch_packages(packages, downloads, deb_dir)
    roots = {name: downloads / "unpacked" / name for name in debs}
    for name, deb in tqdm(debs.items(), desc="unpack"):
        unpack_audio(deb, roots[name])
    return roots


def unpack_audio(deb: Path, folder: Path) -> None:
    """Unpack the audio files of ``deb`` below ``folder``, once: a second call with the same package returns at once.

    Raises:
        RecipeError: not a Debian package, or damaged.
    """
    marker = folder / ".unpacked"
    digest = sha256_of(deb)
    if marker.is_file() and marker.read_text(encoding="utf-8").strip() == digest:
        return
    begun = folder / ".unpacking"
    if folder.is_dir() and any(folder.iterdir()) and not (marker.is_file() or begun.is_file()):
        raise RecipeError(f"{folder}: holds files of another origin than {deb.name}; move it away, or remove it")
    write_text(begun, digest + "\n")
    marker.unlink(missing_ok=True)
    try:
        with _open_data_tar(deb) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or name.suffix.lower() not in AUDIO_SUFFIXES or ".." in name.parts:
                    continue
                target = folder.joinpath(*[part for part in name.parts if part != "/"])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RecipeError(f"{deb}: cannot be unpacked ({error}); delete the file and run again") from error
    write_text(marker, digest + "\n")
    begun.unlink()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _version(deb: Path) -> str:
    """The version in the file name ``name_version_arch.deb``, whose colon is written %3a."""
    return unquote(deb.stem.split("_")[1])


def _find_deb(package: Package, folder: Path) -> Path | None:
    """The package's file in ``folder``: the pinned version if it is there and whole, else another version."""
    debs = sorted(folder.glob(f"{package.name}_*.deb"))
    for deb in debs:
        if _version(deb) == package.version:
            if sha256_of(deb) == package.sha256:
                return deb
            logger.warning("%s: SHA-256 differs from that of version %s, not used", deb, package.version)
    others = [deb for deb in debs if _version(deb) != package.version]
    return others[-1] if others else None


def _download(packages: Sequence[Package], downloads: Path) -> None:
    if shutil.which("apt-get") is None:
        raise RecipeError(
            f"apt-get: command not found, so {len(packages)} Debian packages cannot be downloaded. {REMEDY}"
        )
    downloads.mkdir(parents=True, exist_ok=True)
    total_mb = sum(package.download_mb for package in packages)
    logger.info("downloading %d Debian packages (%.0f MB) to %s", len(packages), total_mb, downloads)
    lists_are_ours = False
    with (
        # Files are moved out of here when apt-get has verified them: what lies in `downloads` is whole.
        tempfile.TemporaryDirectory(prefix=".partial-", dir=downloads) as partial,
        tqdm(total=round(total_mb * 1e6), unit="B", unit_scale=True, desc="download") as progress,
    ):
        for package in packages:
            before = progress.n
            progress.set_postfix_str(package.name)
            error = _apt_download(package.name, Path(partial), downloads, lists_are_ours, progress)
            if error and not lists_are_ours:
                logger.info("the system's package lists do not serve for %s: fetching lists of our own", package.name)
                lists_are_ours = True
                progress.update(before - progress.n)
                error = _apt_update(downloads) or _apt_download(package.name, Path(partial), downloads, True, progress)
            if error:
                raise RecipeError(f"apt-get could not download {package.name}: {error}. {REMEDY}")


def _apt_options(downloads: Path, lists_are_ours: bool) -> list[str]:
    apt = (downloads / "apt").resolve()
    options = {
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "Dir::Cache": apt / "cache",
    }
    (apt / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    if lists_are_ours:
        options["Dir::State::lists"] = apt / "lists"
        (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _apt_update(downloads: Path) -> str:
    """Fetch package lists into a folder of our own; returns what went wrong, or an empty string."""
    command = ["apt-get", *_apt_options(downloads, True), "update"]
    result = subprocess.run(command, capture_output=True, text=True, env=_c_locale(), check=False)
    return _reason(result.stdout + result.stderr) if result.returncode else ""


def _apt_download(name: str, partial: Path, downloads: Path, lists_are_ours: bool, progress: "tqdm[NoReturn]") -> str:
    """Download one package and move it to ``downloads``; returns what went wrong, or an empty string."""
    for file in partial.iterdir():  # of a failed attempt
        file.unlink()
    log = downloads / "apt-get.log"
    command = ["apt-get", *_apt_options(downloads, lists_are_ours), "download", name]
    counted = 0
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=partial, stdout=output, stderr=subprocess.STDOUT, env=_c_locale())
        try:
            while True:
                finished = process.poll() is not None
                with contextlib.suppress(FileNotFoundError):  # apt-get renames its files meanwhile
                    size = sum(file.stat().st_size for file in partial.iterdir())
                    progress.update(size - counted)
                    counted = size
                if finished:
                    break
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
    debs = list(partial.glob("*.deb"))
    if process.returncode or not debs:
        return _reason(log.read_text(encoding="utf-8"))
    debs[0].replace(downloads / debs[0].name)
    return ""


def _c_locale() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _reason(output: str) -> str:
    """The errors among apt-get's messages, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:"))]
    return " | ".join(errors[:3] or lines[-1:]) or "apt-get gave no reason"


@contextlib.contextmanager
def _open_data_tar(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package, as a tar archive to be read from front to end."""
    if shutil.which("dpkg-deb") is None:
        with deb.open("rb") as handle:
            _seek_data_tar(deb, handle)
            with tarfile.open(fileobj=handle, mode="r|*") as archive:
                yield archive
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
            process.communicate()  # the padding behind the archive
            if process.returncode:
                raise OSError(f"dpkg-deb ended with {process.returncode}: the package is damaged")
        finally:
            process.kill()


def _seek_data_tar(deb: Path, handle: BinaryIO) -> None:
    """Move to the start of ``data.tar.*``: a .deb is an ``ar`` archive, each member behind 60 bytes of header."""
    if handle.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise RecipeError(f"{deb}: not a Debian package; delete the file and run again")
    while header := handle.read(_AR_HEADER_BYTES):
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name == "data.tar.zst":
            raise RecipeError(f"{deb}: compressed with zstd, which needs dpkg-deb (not found) to unpack. {REMEDY}")
        if name.startswith("data.tar"):
            return
        handle.seek(size + size % 2, 1)
    raise RecipeError(f"{deb}: holds no data.tar; delete the file and run again")
