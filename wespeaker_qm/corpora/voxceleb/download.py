"""Large files over HTTP: in parallel, resumed where they stopped, checked before they get their name."""

import hashlib
import logging
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple, TypeVar

from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.lock import lock_for_writing, unlock
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.trouble import writing

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_BLOCK_BYTES = 1 << 18
_HASH_BLOCK_BYTES = 1 << 22
# Kept free on the disk: a file system that is full to the last byte breaks other programs.
_SPARE_BYTES = 1 << 28
_LONGEST_PAUSE_S = 60.0
_TEMPORARY_STATUS = (408, 429)  # and 5xx


class RemoteFile(NamedTuple):
    """A file and where it may be had.

    Attributes:
        name: of the file once it is here.
        urls: tried in turn.
        md5: of its content, in hexadecimal; empty where none is published.
    """

    name: str
    urls: tuple[str, ...]
    md5: str


class _Patience(NamedTuple):
    num_attempts: int
    timeout_s: float
    pause_s: float


class DownloadError(RecipeError):
    """A file could not be had; what has arrived stays for the next attempt."""


class _RefusedError(Exception):
    """The server will never give this file to this request: asking again does not help."""


def download_files(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    num_parallel: int = 4,
    num_attempts: int = 8,
    timeout_s: float = 60.0,
    pause_s: float = 2.0,
) -> list[Path]:
    """Make all ``files`` present in ``folder``, whole and with the right MD5.

    A file lies in ``<name>.partial`` until it is complete and its MD5 is right, so that what bears its name can be
    used. An interrupted transfer goes on from the byte where it stopped, in this run or the next. A file that is there
    already is not fetched; one with another MD5 is an error, because it may be the user's. One program at a time
    fetches into a folder: another, on this machine or in a container that shares the folder, waits and finds all there.

    Args:
        files: what is wanted; names differ.
        folder: made if need be.
        num_parallel: transfers at the same time.
        num_attempts: failures in a row, without a byte arriving, after which a source is given up.
        timeout_s: a server that sends nothing for so long is asked anew.
        pause_s: before the second attempt; each further pause is twice as long, up to a minute.

    Returns:
        Their paths, in the same order.

    Raises:
        RecipeError: the folder cannot be written to.
        DownloadError: a server refuses (wrong access key), no source has a file, the disk is too small, a file comes
            with another MD5 time after time, or one of that name with another MD5 is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_present(file, folder)]
    if missing:
        patience = _Patience(num_attempts, timeout_s, pause_s)
        transfers = [_Transfer(file, folder, patience) for file in missing]
        with ThreadPoolExecutor(num_parallel) as pool:
            for _ in pool.map(_Transfer.probe, transfers):
                pass
            _check_space(transfers, folder)
            lock_for_writing(folder, "download")
            try:
                # Another program may have fetched them meanwhile.
                _run([transfer for transfer in transfers if not _is_present(transfer.file, folder)], pool)
            finally:
                unlock(folder, writer=True)
    return [folder / file.name for file in files]


def md5_of(path: Path) -> str:
    """MD5 of a file's content, in hexadecimal, with a progress bar for large ones."""
    digest = hashlib.md5(usedforsecurity=False)
    size = path.stat().st_size
    with (
        path.open("rb") as handle,
        Progress(total=size, unit="B", unit_scale=True, desc=f"check {path.name}", leave=False, delay=1.0) as bar,
    ):
        while block := handle.read(_HASH_BLOCK_BYTES):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _is_present(file: RemoteFile, folder: Path) -> bool:
    path = folder / file.name
    if not path.is_file():
        return False
    checked = folder / f".{file.name}.md5"  # ten gigabytes are not read again for every run
    status = path.stat()
    stamp = f"{file.md5} {status.st_size} {status.st_mtime_ns}\n"
    if not file.md5 or (checked.is_file() and checked.read_bytes() == stamp.encode()):
        return True
    found = md5_of(path)
    if found != file.md5:
        raise DownloadError(
            f"{path}: MD5 {found}, expected {file.md5}: damaged, or another file of that name; remove it and run again"
        )
    checked.write_text(stamp, encoding="ascii")
    return True


def _check_space(transfers: Sequence["_Transfer"], folder: Path) -> None:
    needed = sum(transfer.num_bytes - transfer.arrived for transfer in transfers)
    free = shutil.disk_usage(folder).free - _SPARE_BYTES
    if needed > free:
        raise DownloadError(
            f"{folder}: {max(free, 0) / 1e9:.1f} GB are free, but "
            f"{counted(len(transfers), 'file needs', 'files need')} {needed / 1e9:.1f} GB more; "
            "make room or choose another folder"
        )


def _run(transfers: Sequence["_Transfer"], pool: ThreadPoolExecutor) -> None:
    """Run the transfers; the first one that fails stops the others, which keep what they have."""
    total, arrived = sum(item.num_bytes for item in transfers), sum(item.arrived for item in transfers)
    with Progress(total=total, initial=arrived, unit="B", unit_scale=True, desc="download") as bar:
        lock = threading.Lock()

        def count(num_bytes: int) -> None:
            with lock:
                bar.update(num_bytes)

        futures = [pool.submit(transfer.run, count) for transfer in transfers]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            for transfer in transfers:
                transfer.stop.set()


class _Transfer:
    """One file on its way."""

    def __init__(self, file: RemoteFile, folder: Path, patience: _Patience) -> None:
        self.file = file
        self.path = folder / file.name
        self.partial = folder / f"{file.name}.partial"
        self.patience = patience
        self.sources = list(file.urls)
        self.refusals: list[str] = []
        self.num_bytes = 0
        self.stop = threading.Event()

    @property
    def arrived(self) -> int:
        """Bytes that are here."""
        return self.partial.stat().st_size if self.partial.is_file() else 0

    @property
    def _source(self) -> str:
        """The source in turn, for messages: without its query, which may hold a secret key."""
        return self.sources[0].partition("?")[0]

    def probe(self) -> None:
        """Learn the size, before anything is written; sources that do not have the file drop out."""
        self.num_bytes = self._persist(self._size)
        if self.arrived > self.num_bytes:
            logger.warning("%s is longer than the file itself (%d bytes), begun anew", self.partial, self.num_bytes)
            self.partial.unlink()

    def run(self, count: Callable[[int], None]) -> None:
        """Fetch what is missing, check it, and give the file its name."""
        while not self.stop.is_set():
            self._persist(lambda: self._fetch(count))
            if self.stop.is_set():
                return
            found = md5_of(self.partial) if self.file.md5 else ""
            if found == self.file.md5:
                self.partial.replace(self.path)
                _is_present(self.file, self.path.parent)  # notes that it has been checked
                return
            # Once more from each source: a byte may have changed on its way, but hardly twice.
            logger.warning("%s came with MD5 %s, expected %s", self.file.name, found, self.file.md5)
            count(-self.arrived)
            self.partial.unlink()
            self.refusals.append(f"{self._source}: MD5 {found}, expected {self.file.md5}")
            if sum(refusal.startswith(f"{self._source}: MD5 ") for refusal in self.refusals) == 2:
                self._give_up_source()

    def _size(self) -> int:
        with closing(self._request(f"bytes={self.arrived}-{self.arrived}")) as response:
            if response.status == 206:
                return int(response.headers["Content-Range"].rpartition("/")[2])
            return int(response.headers.get("Content-Length", 0))

    def _fetch(self, count: Callable[[int], None]) -> None:
        """Append to the partial file until it is complete.

        Raises:
            OSError: the connection broke, or closed early.
        """
        start = self.arrived
        if start == self.num_bytes > 0:
            return
        with closing(self._request(f"bytes={start}-")) as response:
            if start and response.status != 206:  # a server that cannot resume sends the whole file
                count(-start)
                start = 0
            with self.partial.open("ab" if start else "wb") as partial:
                while not self.stop.is_set() and (block := response.read(_BLOCK_BYTES)):
                    with writing(self.partial):
                        partial.write(block)
                    count(len(block))
        if not self.stop.is_set() and self.arrived < self.num_bytes:
            raise ConnectionError(f"the connection closed after {self.arrived} of {self.num_bytes} bytes")

    def _request(self, span: str) -> HTTPResponse:
        request = urllib.request.Request(self.sources[0], headers={"Range": span})
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=self.patience.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code >= 500 or error.code in _TEMPORARY_STATUS:
                    raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
                remedy = "; is the access key right?" if error.code in (401, 403) else ""
                raise _RefusedError(f"HTTP {error.code} {error.reason}{remedy}") from error
        except ValueError as error:
            raise _RefusedError(str(error)) from error
        if response.headers.get_content_type() == "text/html":
            response.close()
            raise _RefusedError("sent a web page instead of the file; is the access key right?")
        return response

    def _persist(self, action: Callable[[], Result]) -> Result:
        """Try ``action`` with one source after another, each until it refuses or fails too often in a row."""
        failures = 0
        while True:
            before = self.arrived
            try:
                return action()
            except _RefusedError as error:
                self.refusals.append(f"{self._source}: {error}")
                self._give_up_source()
                failures = 0
            except (OSError, HTTPException) as error:
                failures = 1 if self.arrived > before else failures + 1
                if failures == self.patience.num_attempts:
                    self.refusals.append(f"{self._source}: {error} ({failures} times in a row)")
                    self._give_up_source()
                    failures = 0
                    continue
                logger.info("%s: %s; trying again", self.file.name, error)
                self.stop.wait(min(self.patience.pause_s * 2 ** (failures - 1), _LONGEST_PAUSE_S))

    def _give_up_source(self) -> None:
        self.sources.pop(0)
        if not self.sources:
            reasons = "".join(f"\n  {refusal}" for refusal in self.refusals)
            raise DownloadError(
                f"{self.file.name} could not be downloaded:{reasons}\n"
                f"What has arrived ({self.arrived} bytes) is kept; run again to go on, or fetch the file by other "
                f"means and put it into {self.path.parent}"
            )
