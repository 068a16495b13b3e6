"""Packages by ``apt-get download``, which works for any user and installs nothing.

Where the system's package lists are missing or stale, ``apt-get update`` runs on lists of our own below the download
folder.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from wespeaker_qm.corpora.debian.packages import REMEDY, Package
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.files import temporary_folder
from wespeaker_qm.utils.progress import Progress

logger = logging.getLogger(__name__)

_POLL_S = 0.2


def download_packages(packages: Sequence[Package], downloads: Path) -> None:
    """Download the newest version of each package that the mirror has to ``downloads``.

    Raises:
        RecipeError: there is no apt-get, or it fails.
    """
    what = counted(len(packages), "Debian package", "Debian packages")
    if shutil.which("apt-get") is None:
        raise RecipeError(f"apt-get: command not found, so {what} cannot be downloaded. {REMEDY}")
    downloads.mkdir(parents=True, exist_ok=True)
    total_mb = sum(package.download_mb for package in packages)
    logger.info("downloading %s (%.0f MB) to %s", what, total_mb, downloads)
    lists_are_ours = False
    with (
        # Files are moved out of here when apt-get has verified them: what lies in `downloads` is whole.
        temporary_folder(downloads / "packages") as partial,
        Progress(total=round(total_mb * 1e6), unit="B", unit_scale=True, desc="download") as progress,
    ):
        for package in packages:
            before = progress.n
            progress.set_postfix_str(package.name)
            error = _apt_download(package.name, partial, downloads, lists_are_ours, progress)
            if error and not lists_are_ours:
                logger.info("the system's package lists do not serve for %s: fetching lists of our own", package.name)
                lists_are_ours = True
                progress.update(before - progress.n)
                error = _apt_update(downloads) or _apt_download(package.name, partial, downloads, True, progress)
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


def _apt_download(name: str, partial: Path, downloads: Path, lists_are_ours: bool, progress: Progress) -> str:
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
        return _reason(log.read_text(encoding="utf-8", errors="replace"))
    debs[0].replace(downloads / debs[0].name)
    return ""


def _c_locale() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _reason(output: str) -> str:
    """The errors among apt-get's messages, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:"))]
    return " | ".join(errors[:3] or lines[-1:]) or "apt-get gave no reason"
