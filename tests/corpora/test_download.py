"""Downloads against a server of our own that interrupts, corrupts, refuses, forgets and stalls."""

import hashlib
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest

from wespeaker_qm.corpora.voxceleb import download
from wespeaker_qm.corpora.voxceleb.download import DownloadError, RemoteFile, download_files

CONTENT = {name: np.random.default_rng(ord(name[-1])).bytes(3_000_000) for name in ("parta", "partb", "partc")}
IMPATIENT = {"num_attempts": 3, "timeout_s": 0.3, "pause_s": 0.01}


class Server(ThreadingHTTPServer):
    """Serves CONTENT; what goes wrong is set by the tests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key = ""
        self.cut_after: int | None = None  # bytes of each answer
        self.corrupt = 0  # answers to spoil
        self.stalls = 0  # answers in whose middle nothing comes for a while
        self.busy = 0  # answers that say 503
        self.ranges = True
        self.requests: list[tuple[str, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

    def url(self, name: str, key: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}?key={key}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, url = self.server, urlparse(self.path)
        name, span = url.path[1:], self.headers.get("Range", "")
        server.requests.append((name, span))
        if name == "page":
            return self._answer(200, b"<html>Enter your key</html>", {"Content-Type": "text/html"})
        if server.key and parse_qs(url.query).get("key") != [server.key]:
            return self._answer(403, b"wrong key")
        if name not in CONTENT:
            return self._answer(404, b"no such file")
        if server.busy:
            server.busy -= 1
            return self._answer(503, b"busy")
        content = CONTENT[name]
        if not (server.ranges and span):
            return self._answer(200, content, {}, len(content))
        first, _, last = span.removeprefix("bytes=").partition("-")
        wanted = content[int(first) : int(last) + 1 if last else None]
        headers = {"Content-Range": f"bytes {first}-{int(first) + len(wanted) - 1}/{len(content)}"}
        return self._answer(206, wanted, headers, len(wanted))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = 0) -> None:
        server = self.server
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        if len(body) > 1000:
            if server.corrupt:
                server.corrupt -= 1
                body = body[:-1] + bytes([body[-1] ^ 1])
            if server.stalls:
                server.stalls -= 1
                self.wfile.write(body[:500_000])
                self.wfile.flush()
                time.sleep(1.0)
            if server.cut_after is not None:
                body = body[: server.cut_after]
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def _files(server: Server, key: str = "", names: tuple[str, ...] = tuple(CONTENT)) -> list[RemoteFile]:
    return [RemoteFile(name, (server.url(name, key),), hashlib.md5(CONTENT[name]).hexdigest()) for name in names]


def _assert_whole(folder: Path, names: tuple[str, ...] = tuple(CONTENT)) -> None:
    for name in names:
        assert (folder / name).read_bytes() == CONTENT[name]
    assert not list(folder.glob("*.partial"))


def test_files_arrive_and_are_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    assert download_files(_files(server), tmp_path) == [tmp_path / name for name in CONTENT]
    _assert_whole(tmp_path)
    asked = len(server.requests)
    download_files(_files(server), tmp_path)
    assert len(server.requests) == asked


def _download_in_a_container(files: list[RemoteFile], folder: Path) -> None:
    download_files(files, folder)


def test_two_programs_at_once_do_not_write_into_one_file(server: Server, tmp_path: Path) -> None:
    files = _files(server)
    (tmp_path / "parta.partial").write_bytes(CONTENT["parta"][:1_000_000])  # to be resumed
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_download_in_a_container, args=(files, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    _assert_whole(tmp_path)
    wanted = [span for name, span in server.requests if name == "parta" and span.endswith("-")]
    assert wanted == ["bytes=1000000-"], "resumed by one of them, and not fetched by another"


def test_a_complete_folder_needs_no_lock(server: Server, tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    download_files(_files(server), tmp_path)
    assert not (tmp_path / ".lock").exists() and not server.requests


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 700_000
    download_files(_files(server, names=("parta",)), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path, ("parta",))
    starts = [int(span.removeprefix("bytes=").partition("-")[0]) for _, span in server.requests[1:]]
    assert starts == [0, 700_000, 1_400_000, 2_100_000, 2_800_000]


def test_an_interrupted_run_is_resumed_by_the_next(server: Server, tmp_path: Path) -> None:
    (tmp_path / "parta.partial").write_bytes(CONTENT["parta"][:2_000_000])
    download_files(_files(server, names=("parta",)), tmp_path)
    _assert_whole(tmp_path, ("parta",))
    assert server.requests[-1] == ("parta", "bytes=2000000-")


def test_a_partial_file_that_was_complete_is_checked_and_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "parta.partial").write_bytes(CONTENT["parta"])
    download_files(_files(server, names=("parta",)), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path, ("parta",))


def test_a_server_that_cannot_resume_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "parta.partial").write_bytes(b"x" * 1000)
    download_files(_files(server, names=("parta",)), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path, ("parta",))


def test_a_corrupted_transfer_is_repeated(server: Server, tmp_path: Path) -> None:
    server.corrupt = 1
    download_files(_files(server), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path)


def test_a_file_that_is_always_wrong_is_an_error_and_never_gets_its_name(server: Server, tmp_path: Path) -> None:
    wrong = RemoteFile("parta", (server.url("parta"),), "0" * 32)
    with pytest.raises(DownloadError, match=f"MD5 {hashlib.md5(CONTENT['parta']).hexdigest()}, expected 0000"):
        download_files([wrong], tmp_path, **IMPATIENT)
    assert not (tmp_path / "parta").exists()


def test_a_wrong_key_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.key = "secret"
    with pytest.raises(DownloadError, match=r"HTTP 403 .*access key") as raised:
        download_files(_files(server, key="guess"), tmp_path, **IMPATIENT)
    assert "guess" not in str(raised.value), "messages go to log files"
    assert len(server.requests) <= len(CONTENT)
    download_files(_files(server, key="secret"), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path)


def test_a_web_page_is_not_taken_for_the_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="web page instead of the file"):
        download_files([RemoteFile("parta", (server.url("page"),), "")], tmp_path, **IMPATIENT)


def test_a_missing_file_comes_from_the_next_source(server: Server, tmp_path: Path) -> None:
    good = _files(server, names=("parta",))[0]
    download_files([good._replace(urls=(server.url("elsewhere"), *good.urls))], tmp_path, **IMPATIENT)
    _assert_whole(tmp_path, ("parta",))
    with pytest.raises(DownloadError, match=r"(?s)partb could not be downloaded:.*HTTP 404.*fetch the file by other"):
        download_files([RemoteFile("partb", (server.url("elsewhere"),), "")], tmp_path, **IMPATIENT)


def test_a_busy_and_a_stalling_server_are_asked_again(server: Server, tmp_path: Path) -> None:
    server.busy, server.stalls = 2, 1
    download_files(_files(server, names=("parta",)), tmp_path, **IMPATIENT)
    _assert_whole(tmp_path, ("parta",))


def test_a_server_that_is_gone_is_given_up_and_keeps_what_came(tmp_path: Path) -> None:
    (tmp_path / "parta.partial").write_bytes(b"x" * 10)
    with pytest.raises(DownloadError, match=r"3 times in a row.*\n.*10 bytes.* is kept"):
        download_files([RemoteFile("parta", ("http://127.0.0.1:9/parta",), "")], tmp_path, **IMPATIENT)
    assert (tmp_path / "parta.partial").stat().st_size == 10


def test_a_full_disk_is_told_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(1 << 28) + 5_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"3 files need 0.0 GB more; make room"):
        download_files(_files(server), tmp_path, **IMPATIENT)
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_user_is_never_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "parta").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="damaged, or another file of that name; remove it"):
        download_files(_files(server), tmp_path, **IMPATIENT)
    assert (tmp_path / "parta").read_bytes() == b"mine"
