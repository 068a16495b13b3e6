"""Packages made on the spot, and an apt-get of our own on PATH: nothing is downloaded."""

import hashlib
import io
import logging
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from wespeaker_qm.corpora.debian.deb import unpack_audio
from wespeaker_qm.corpora.debian.fetching import fetch_packages, unpack_packages
from wespeaker_qm.corpora.debian.packages import Package, read_packages
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import sha256_of
from wespeaker_qm.utils.tables import read_tsv

FILES = {
    "./usr/share/voice/a.wav": b"sound a",
    "./usr/share/voice/ㄅ/b.OGG": b"sound b",
    "./usr/share/doc/readme.txt": b"no sound",
    "./../../escape.wav": b"must not leave the folder",
}


def make_deb(
    folder: Path, name: str, version: str, files: dict[str, bytes] = FILES, compression: str = "xz"
) -> Package:
    """Write ``folder/name_version_all.deb`` and return its description."""

    def archive(content: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
            for path, data in content.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            link = tarfile.TarInfo("./usr/share/voice/link.wav")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        return buffer.getvalue()

    control = archive({"./control": f"Package: {name}\nVersion: {version}\n".encode()})
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar.{compression}": control,
        f"data.tar.{compression}": archive(files),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    with path.open("wb") as handle:
        handle.write(b"!<arch>\n")
        for member, data in members.items():
            handle.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            handle.write(data + b"\n" * (len(data) % 2))
    return Package(name, version, path.stat().st_size / 1e6, sha256_of(path))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages behind an ``apt-get`` that copies from it (and writes down how it was called)."""
    folder, binaries = tmp_path / "mirror", tmp_path / "bin"
    folder.mkdir()
    binaries.mkdir()
    script = binaries / "apt-get"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {folder}/calls\n'
        'for last in "$@"; do :; done\n'
        f'case "$*" in *" update") touch {folder}/updated; exit 0;; esac\n'
        f"if [ -e {folder}/needs_update ] && [ ! -e {folder}/updated ]; then\n"
        '  echo "E: Unable to locate package $last" >&2; exit 100\n'
        "fi\n"
        f'cp {folder}/"$last"_*.deb . || {{ echo "E: Failed to fetch $last" >&2; exit 100; }}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(mirror: Path) -> list[str]:
    path = mirror / "calls"
    return path.read_text().splitlines() if path.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".unpacked"
    }


def test_download_once_then_never_again(mirror: Path, tmp_path: Path) -> None:
    packages = [make_deb(mirror, "one", "1.0"), make_deb(mirror, "two", "4:2.0-1")]
    downloads = tmp_path / "downloads"
    debs = fetch_packages(packages, downloads)
    assert [debs["one"].name, debs["two"].name] == ["one_1.0_all.deb", "two_4%3a2.0-1_all.deb"]
    assert len(calls(mirror)) == 2
    assert all("Debug::NoLocking=1" in call for call in calls(mirror))
    assert fetch_packages(packages, downloads) == debs
    assert len(calls(mirror)) == 2


def test_a_damaged_download_is_fetched_again(mirror: Path, tmp_path: Path) -> None:
    package = make_deb(mirror, "one", "1.0")
    downloads = tmp_path / "downloads"
    deb = fetch_packages([package], downloads)["one"]
    deb.write_bytes(deb.read_bytes()[:-10])
    assert sha256_of(fetch_packages([package], downloads)["one"]) == package.sha256
    assert len(calls(mirror)) == 2


def test_lists_of_our_own_where_the_system_has_none(mirror: Path, tmp_path: Path) -> None:
    packages = [make_deb(mirror, "one", "1.0"), make_deb(mirror, "two", "1.0")]
    (mirror / "needs_update").touch()
    assert set(fetch_packages(packages, tmp_path / "downloads")) == {"one", "two"}
    lists = f"Dir::State::lists={tmp_path / 'downloads' / 'apt' / 'lists'}"
    assert [call.split()[-1] for call in calls(mirror)] == ["one", "update", "one", "two"]
    assert [lists in call for call in calls(mirror)] == [False, True, True, True]


def test_another_version_is_used_with_a_warning(mirror: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_deb(mirror, "one", "2.0")
    with caplog.at_level(logging.WARNING):
        fetch_packages([Package("one", "1.0", 0.1, "0" * 64)], tmp_path / "downloads")
    assert "version 2.0 instead of 1.0" in caplog.text


def test_offline_names_the_alternatives(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Failed to fetch absent.*--deb_dir.*egs/folder"):
        fetch_packages([Package("absent", "1.0", 0.1, "0" * 64)], tmp_path / "downloads")


def test_no_apt_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"apt-get: command not found.*--deb_dir.*egs/folder"):
        fetch_packages([Package("absent", "1.0", 0.1, "0" * 64)], tmp_path / "downloads")


def test_deb_dir_downloads_nothing(mirror: Path, tmp_path: Path) -> None:
    package = make_deb(tmp_path / "debs", "one", "1.0")
    assert fetch_packages([package], tmp_path / "downloads", tmp_path / "debs")["one"].parent == tmp_path / "debs"
    other = Package("two", "1.0", 0.1, "0" * 64)
    with pytest.raises(RecipeError, match=r"no two_1\.0.*1 of 2 packages missing or damaged: two"):
        fetch_packages([package, other], tmp_path / "downloads", tmp_path / "debs")
    assert calls(mirror) == []


@pytest.mark.parametrize("compression", ["xz", "gz"])
@pytest.mark.parametrize("with_dpkg", [True, False])
def test_unpacking_takes_the_audio_only(
    tmp_path: Path, compression: str, with_dpkg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_deb(tmp_path, "one", "1.0", compression=compression)
    if not with_dpkg:
        monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "out" / "one"
    deb = tmp_path / f"{package.name}_{package.version}_all.deb"
    unpack_audio(deb, folder)
    assert contents(tmp_path / "out") == {
        "one/usr/share/voice/a.wav": b"sound a",
        "one/usr/share/voice/ㄅ/b.OGG": b"sound b",
    }
    (folder / "usr/share/voice/a.wav").unlink()
    unpack_audio(deb, folder)
    assert len(contents(folder)) == 1, "a second call with the same package does nothing"
    make_deb(tmp_path, "one", "1.0", {"./usr/new.wav": b"new"})
    unpack_audio(deb, folder)
    assert "usr/new.wav" in contents(folder)


@pytest.mark.parametrize("with_dpkg", [True, False])
def test_damaged_packages_are_named(tmp_path: Path, with_dpkg: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_dpkg:
        monkeypatch.setenv("PATH", str(tmp_path))
    make_deb(tmp_path, "one", "1.0", {"./a.wav": os.urandom(100_000)})
    deb = tmp_path / "one_1.0_all.deb"
    whole = deb.read_bytes()
    cut_gzip = b"!<arch>\n" + b"data.tar.gz".ljust(48) + b"3         `\n\x1f\x8b\x08\n"
    for content in (whole[: len(whole) // 2], b"no package at all", cut_gzip):
        deb.write_bytes(content)
        with pytest.raises(RecipeError, match=r"one_1\.0_all\.deb"):
            unpack_audio(deb, tmp_path / "out")
        assert not (tmp_path / "out" / ".unpacked").exists()


def test_nothing_is_unpacked_over_files_of_another_origin(tmp_path: Path) -> None:
    make_deb(tmp_path, "one", "1.0", {"./a.wav": b"theirs"})
    deb = tmp_path / "one_1.0_all.deb"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.wav").write_bytes(b"mine")
    with pytest.raises(RecipeError, match=r"out: holds files of another origin than one_1\.0_all\.deb"):
        unpack_audio(deb, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.wav": b"mine"}
    (tmp_path / "out" / "a.wav").unlink()
    (tmp_path / "out" / ".unpacking").touch()  # interrupted
    (tmp_path / "out" / "a.wav").write_bytes(b"half")
    unpack_audio(deb, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.wav": b"theirs"}


def test_a_folder_partial_of_the_user_stays(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "downloads" / "partial").mkdir(parents=True)
    (tmp_path / "downloads" / "partial" / "mine").touch()
    fetch_packages([make_deb(mirror, "one", "1.0")], tmp_path / "downloads")
    assert (tmp_path / "downloads" / "partial" / "mine").exists()
    assert not list((tmp_path / "downloads").glob(".partial-*"))


def test_unpack_packages_in_one_go(mirror: Path, tmp_path: Path) -> None:
    roots = unpack_packages([make_deb(mirror, "one", "1.0")], tmp_path / "downloads")
    assert roots == {"one": tmp_path / "downloads" / "unpacked" / "one"}
    assert "usr/share/voice/a.wav" in contents(roots["one"])
    shutil.rmtree(roots["one"])
    assert "usr/share/voice/a.wav" in contents(unpack_packages([*_pinned(mirror)], tmp_path / "downloads")["one"])


def _pinned(mirror: Path) -> list[Package]:
    return [Package("one", "1.0", 0.1, hashlib.sha256((mirror / "one_1.0_all.deb").read_bytes()).hexdigest())]


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "packages.tsv"
    path.write_text("package\tversion\tdownload\tsha256\none\t4:1.0\t18.3MB\tabc\n")
    assert read_packages(path) == {"one": Package("one", "4:1.0", 18.3, "abc")}
    with pytest.raises(RecipeError, match="no column 'colour'"):
        read_tsv(path, ("package", "colour"))
    with pytest.raises(RecipeError, match="no such file"):
        read_packages(tmp_path / "absent.tsv")
