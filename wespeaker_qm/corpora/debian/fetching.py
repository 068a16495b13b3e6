"""Debian packages as a source of audio: downloaded, checked and unpacked without root, installed nowhere.

Elsewhere than on Debian and Ubuntu, a folder of ``.deb`` files serves.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from wespeaker_qm.corpora.debian.apt import download_packages
from wespeaker_qm.corpora.debian.deb import unpack_audio
from wespeaker_qm.corpora.debian.packages import REMEDY, Package
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import sha256_of
from wespeaker_qm.utils.progress import Progress

logger = logging.getLogger(__name__)


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
        download_packages(missing, downloads)
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
    for name, deb in Progress(debs.items(), desc="unpack", unit="package"):
        unpack_audio(deb, roots[name])
    return roots


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
