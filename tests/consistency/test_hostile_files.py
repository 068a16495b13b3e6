"""Files that want to do harm: whoever reads them refuses them, in a bounded time and memory, and does nothing else.

Attacks that any file may be meet every parser of `tools/fuzz_parsers.py`; those on one format, the readers of it.
"""

import ast
import contextlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import Place
from fuzz_parsers import PARSERS

from wespeaker_qm.packing.index import write_index
from wespeaker_qm.packing.scan import Coding, IndexRow
from wespeaker_qm.utils.errors import RecipeError

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_BYTES = 30, 1 << 28


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """What takes half a gigabyte more than the process has, half a minute of work, or waits for minutes, fails."""

    def too_long(number: int, frame: Any) -> None:
        raise AssertionError(f"more than {MOST_SECONDS} s of work, or ten times as long in all")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = {number: signal.signal(number, too_long) for number in (signal.SIGALRM, signal.SIGPROF)}
    # Work, since beside other programs an honest reader may take a minute; waiting is what the other one notices.
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    signal.alarm(10 * MOST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2 * MOST_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    for number, handler in before.items():
        signal.signal(number, handler)


def _socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def _sparse(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(3 * MOST_BYTES)  # more than there is memory


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a pipe that nobody writes into": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a device of random bytes": lambda path: path.symlink_to("/dev/urandom"),
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a link that leads nowhere": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
OPENED = [name for name, parser in PARSERS.items() if parser.file != "text" and name != "audio in a tar"]
"""Those of files; others read what was read before."""
NEED_NOT_BE = {"checksum", "done marker", "ledger", "vox2_meta.csv"}
"""What is no file counts as one that is not there."""


@pytest.mark.parametrize("name", OPENED)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    for attack, make in NO_FILES.items():
        place.path.unlink()
        make(place.path)
        try:
            PARSERS[name].read(place.path)
        except RecipeError:
            pass
        else:
            assert name in NEED_NOT_BE, attack
        if place.path.is_dir():
            place.path.rmdir()
            place.path.touch()


@pytest.mark.parametrize("name", OPENED)
def test_a_file_with_a_hole_takes_no_more_memory_than_another(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    _sparse(place.path)
    with contextlib.suppress(RecipeError):
        PARSERS[name].read(place.path)


@pytest.mark.parametrize("name", PARSERS)
def test_no_message_holds_what_a_terminal_obeys(tmp_path: Path, name: str) -> None:
    """Place compares each message with what may be shown."""
    place = Place(PARSERS[name], tmp_path / "a\x1b[2Jb\u202ec<script>")
    for content in (
        b"",
        b"\x1b[2J \xe2\x80\xae\x9b1m\n" * 3,
        b'{"\x1b[31m": "\\u001b[2J"}',
        b"\x1b]0;x\x07: [\x1b[2J]\n",
    ):
        place.refusal(content)


class _Runs:
    """Unpickling it makes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.ran,)


def _numpy(save: Callable[..., None], *arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays)
    return buffer.getvalue()


def _torch(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


PICKLES: dict[str, Callable[[_Runs], bytes]] = {
    "pickle": pickle.dumps,
    "npy": lambda runs: _numpy(np.save, np.array([runs], object)),
    "npz": lambda runs: _numpy(np.savez, np.array([runs], object)),
    "zip of PyTorch": lambda runs: _torch({"model": runs}),
    "PyTorch 1.5": lambda runs: _torch({"model": runs}, _use_new_zipfile_serialization=False),
    "ark": lambda runs: b"id0-0 PKL" + pickle.dumps(runs),
    "npy in an ark": lambda runs: b"id0-0 NPY" + _numpy(np.save, np.array([runs], object)),
    "npy of records": lambda runs: _numpy(np.save, np.array([(runs, 1)], [("key", object), ("shard", int)])),
}


HARMLESS = {"done marker", "ledger", "zip"}
"""Readers to which such a file says nothing, or that it is a zip of files."""


@pytest.mark.parametrize("name", OPENED)
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    runs = _Runs(tmp_path / "ran")
    place = Place(PARSERS[name], tmp_path / "place")
    for kind, content in PICKLES.items():
        assert place.refusal(content(runs)) is not None or name in HARMLESS, kind
        assert not runs.ran.exists(), kind


_FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput", "kaldiio.load_mat", "kaldiio.load_ark",
    "kaldiio.load_scp", "kaldiio.ReadHelper", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "tempfile.mktemp",
    "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load", "shutil.unpack_archive", "pd.read_pickle",
}  # fmt: skip
_NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
}


def _faults(source: str) -> list[str]:
    """Calls and imports that may run what a file says."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            faults += [module for module in modules if module.partition(".")[0] in _FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        options = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
        is_unpacking = call.endswith(".extractall") or (call.endswith(".extract") and call != "stages.extract")
        if call in _FORBIDDEN_CALLS or options.get("shell") is True or is_unpacking:
            faults.append(call)
        if call in _NEEDED and options.get(_NEEDED[call][0]) is not _NEEDED[call][1]:
            faults.append(f"{call} without {_NEEDED[call][0]}={_NEEDED[call][1]}")
        if call == "yaml.load" and ast.unparse(node.args[-1]) != "_Loader":
            faults.append(call)
    return faults


@pytest.mark.parametrize("folder", ["wespeaker_qm", "examples", "docs", "setup.py"])
def test_no_code_of_ours_runs_what_a_file_says(folder: str) -> None:
    paths = [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = {str(path.relative_to(ROOT)): _faults(path.read_text(encoding="utf-8")) for path in paths}
    assert not {path: faults for path, faults in found.items() if faults}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)", "eval(text)", "subprocess.run(text, shell=True)", "os.system(text)",
        "yaml.load(text, yaml.Loader)", "archive.extractall(folder)", "kaldiio.load_mat(place)",
    ],
)  # fmt: skip
def test_the_search_would_find_it(source: str) -> None:
    assert _faults(source)


NAMES = [
    "../x.wav", "../../../../tmp/x.wav", "/tmp/x.wav", "//x.wav", "a/../../x.wav", "a\nb.wav", "a\rb.wav",
    "a\x1b[2Jb.wav",
    "a\x9b1mb.wav", "\u202evaw.x.wav", "\ufeffx.wav", "a\tb.wav", "<img src=x onerror=alert(1)>.wav",
    "x" * 300 + ".wav",
    "x/" * 2000 + "x.wav", "-rf.wav", "a|.wav", "a!/b.wav", "C:\\x.wav", ".wav", "con.wav", "a\udcffb.wav", "~/x.wav",
]  # fmt: skip


def _tar(name: str = "x.wav", content: bytes = b"x" * 700, **fields: Any) -> bytes:
    """A tar with a file, whose header may say anything."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % 512) + bytes(1024)


def _zip(name: str = "x.wav", content: bytes = b"x" * 700, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as output:
        output.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


TARS = ["tar", "tar of another program"]


def _around(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")} | {str(path) for path in Path("/tmp").glob("x.wav")}


@pytest.mark.parametrize("name", [*TARS, "zip"])
def test_members_of_any_name_are_refused_or_read_where_they_lie(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path / "place")
    before = _around(tmp_path)
    for member in NAMES:
        if name != "zip":
            place.refusal(_tar(member))
        elif member.isprintable() or "\udcff" not in member:
            place.refusal(_zip(member))
    assert _around(tmp_path) == before


TYPES = {
    "a link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "a hard link": {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"},
    "a device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "a disk": {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0},
    "a pipe": {"type": tarfile.FIFOTYPE},
    "a folder": {"type": tarfile.DIRTYPE},
    "a sparse file of a terabyte": {"type": tarfile.GNUTYPE_SPARSE, "size": 0},
    "a file of a petabyte": {"size": 1 << 50},
    "a file of less than nothing": {"size": -1},
    "a file that ends before itself": {"size": -(1 << 40)},
    "a name of a gigabyte": {"type": tarfile.GNUTYPE_LONGNAME, "size": 1 << 30},
    "a header of a gigabyte": {"type": tarfile.XHDTYPE, "size": 1 << 30},
    "a type that there is not": {"type": b"\xff"},
}


@pytest.mark.parametrize("name", TARS)
def test_members_that_are_no_files_are_not_followed(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    for kind, fields in TYPES.items():
        refusal = place.refusal(_tar(content=b"" if "type" in fields else b"x" * 700, **fields))
        assert refusal is not None or PARSERS[name].read(place.path) in ({}, []), kind


def _twice(content: bytes) -> bytes:
    return content.removesuffix(bytes(1024)) + content


def _sparse_tar(size: int) -> bytes:
    """A member of which everything is a hole, as GNU tar writes it."""
    header = bytearray(_tar(content=b"", type=tarfile.GNUTYPE_SPARSE)[:512])
    header[386:398] = b"00000000000\0"
    header[398:410] = b"00000000000\0"
    header[483:495] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tar", _twice(_tar()), "1 name of a member stands twice"),
        ("tar of another program", _twice(_tar("a.spk", b"anna")), "a has two members spk"),
        ("tar", _sparse_tar(1 << 40), "is sparse"),
        ("tar of another program", _sparse_tar(1 << 40), r"\(sparse\)"),
        ("tar", _tar("a\x1bb.wav"), r"1 name of a member holds characters that cannot be seen"),
        ("zip", _zip("a\x1bb.wav"), r"1 name of a member holds characters that cannot be seen"),
        ("tar of another program", _tar("a\x1bb.wav"), "expected whole files under names without control"),
    ],
)  # fmt: skip
def test_archives_that_would_deceive_are_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    assert re.search(message, place.refusal(content) or "")


def test_a_zip_in_which_a_name_stands_twice_is_told(tmp_path: Path) -> None:
    place, buffer = Place(PARSERS["zip"], tmp_path), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as output, pytest.warns(UserWarning, match="Duplicate name"):
        output.writestr("x.wav", b"1")
        output.writestr("x.wav", b"2")
    assert "1 name of a member stands twice" in (place.refusal(buffer.getvalue()) or "")


def _deb(tar: bytes) -> bytes:
    header = f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(tar):<10}`\n".encode()
    return b"!<arch>\n" + header + tar


def test_what_is_unpacked_lies_in_the_folder_that_is_meant(tmp_path: Path) -> None:
    place = Place(PARSERS["Debian package"], tmp_path / "place")
    before = _around(tmp_path)
    unpacked = place.folder / "unpacked"
    for member in NAMES:
        place.path.write_bytes(_deb(_tar(member)))
        with contextlib.suppress(RecipeError):
            PARSERS["Debian package"].read(place.path)
        assert all(path.startswith(str(unpacked)) for path in _around(tmp_path) - before), member
        shutil.rmtree(unpacked, ignore_errors=True)


def test_nothing_but_files_is_unpacked(tmp_path: Path) -> None:
    place = Place(PARSERS["Debian package"], tmp_path)
    for fields in TYPES.values():
        place.path.write_bytes(_deb(_tar(content=b"", **fields)))
        with contextlib.suppress(RecipeError):
            PARSERS["Debian package"].read(place.path)
        assert not [path for path in tmp_path.rglob("*.wav") if path.is_symlink() or not path.is_file()]


@pytest.mark.parametrize("size", [b"-60       ", b"-1", b"abc", b"", b"9" * 10, b"0x10"])
def test_a_package_whose_parts_have_no_size_ends_the_search(tmp_path: Path, size: bytes) -> None:
    place = Place(PARSERS["Debian package"], tmp_path)
    header = f"{'debian-binary':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}".encode() + size.ljust(10) + b"`\n"
    assert "holds no data.tar" in (place.refusal(b"!<arch>\n" + header) or "")


def test_a_package_that_grows_without_end_is_not_unpacked(tmp_path: Path) -> None:
    place, inner = Place(PARSERS["Debian package"], tmp_path), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as output:
        info = tarfile.TarInfo("x.wav")
        info.size = 1 << 24
        output.addfile(info, io.BytesIO(bytes(info.size)))
    assert "more than 100 times its size" in (place.refusal(_deb(inner.getvalue())) or "")


def _laughs(levels: int = 12) -> str:
    lines = ["a0: &a0 [x]"] + [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)
    ]
    return "\n".join(lines)


YAML = {
    "a billion laughs": _laughs(),
    "merged laughs": "a: &a {x: 1}\n" + "\n".join(f"b{level}: {{<<: [{'*a, ' * 1100}]}}" for level in range(99)),
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 100_000,
    "deep lines": "\n".join(" " * level + "- a:" for level in range(0, 1900, 2)),
    "itself": "a: &a [*a]",
    "a number of a million digits": "seed: " + "9" * 1_000_000,
    "a hexadecimal number of a million digits": "seed: 0x" + "f" * 1_000_000,
    "a number in base 60": "seed: 1" + ":59" * 100_000,
    "a float in base 60": "seed: 1" + ":59" * 100_000 + ".5",
    "a million keys": "\n".join(f"k{number}: 1" for number in range(1_000_000)),
    "an object": "a: !!python/object/apply:os.system [ls]",
    "a name of Python": "a: !!python/name:os.system",
    "a module": "a: !!python/module:os",
    "a tuple": "? !!python/tuple [1, 2]\n: 3",
    "a key twice": "seed: 1\nseed: 2",
    "a list as a key": "? [1, 2]\n: 3",
    "a mapping as a key": "? {a: 1}\n: 3",
    "a date as a key": "2024-01-01: 1",
    "bytes as a key": "!!binary aGVsbG8=: 1",
    "nothing as a number": "seed: !!int ''",
    "nothing as a float": "seed: !!float ''",
    "a set of lists": "a: !!set {[1]: , [2]: }",
    "two documents": "a: 1\n---\nb: 2",
    "an alias of nothing": "a: *b",
    "a merge of a number": "<<: 3",
    "half a character": 'a: "\\ud800"',
    "no list": "- 1\n- 2",
    "no mapping": "3",
    "control characters": "a: \x07",
}  # fmt: skip
YAML_PARSERS = ["configuration", "corpus.yaml", "recipe of a folder"]


@pytest.mark.parametrize("name", YAML_PARSERS)
def test_yaml_that_explodes_is_refused(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    for kind, text in YAML.items():
        assert place.refusal(text.encode("utf-8", "surrogatepass")) is not None, kind


@pytest.mark.parametrize(
    "text",
    ["a." * 5000 + "b=1", "a=" + "[" * 5000, "a", "=", ".=1", "a..b=1", "seed=0x" + "f" * 100_000, "seed=2024-01-01"],
)
def test_overrides_that_explode_are_refused(tmp_path: Path, text: str) -> None:
    assert Place(PARSERS["override"], tmp_path).refusal(text.encode()) is not None


ARKS = {
    "a vector of two billion values": b"\0BFV \4" + struct.pack("<i", 2**31 - 1),
    "a vector of less than nothing": b"\0BFV \4" + struct.pack("<i", -1),
    "doubles of less than nothing": b"\0BDV \4" + struct.pack("<i", -(2**31)),
    "a matrix of a billion rows": b"\0BFM \4" + struct.pack("<i", 10**9) + b"\4" + struct.pack("<i", 10**9),
    "a matrix of negative rows": b"\0BFM \4" + struct.pack("<i", -5) + b"\4" + struct.pack("<i", -5),
    "a compressed matrix of a billion rows": b"\0BCM " + struct.pack("<ffii", 0, 1, 10**9, 10**9),
    "a compressed matrix of negative rows": b"\0BCM2 " + struct.pack("<ffii", 0, 1, -1, -1),
    "integers": b"\0B\4" + struct.pack("<i", 10**9),
    "a kind that there is not": b"\0BXX \4" + struct.pack("<i", 4),
    "text without an end": b" [ 1 2 3",
    "text of nothing": b" [ ]",
    "text of words": b" [ a b c ]",
    "text of a million brackets": b" [" * 1_000_000,
    "audio": b"RIFF\0\0\0\0WAVE",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ["ark of floats", "ark of doubles", "ark of text"])
def test_arks_that_claim_what_they_have_not_are_refused(tmp_path: Path, name: str) -> None:
    """The scp names the places of eight entries in turn."""
    place = Place(PARSERS[name], tmp_path)
    offsets = [int(line.rpartition(":")[2]) for line in place.path.with_suffix(".scp").read_text().splitlines()]
    for kind, entry in ARKS.items():
        for offset in offsets:
            assert place.refusal(place.valid[:offset] + entry) is not None, kind


def _npy(header: str, version: tuple[int, int] = (1, 0), length: int | None = None, rest: bytes = b"\0" * 64) -> bytes:
    text = header.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + rest


NPY = {
    "a million million values": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "less than nothing": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
    "more than there are numbers": _npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8), }"
    ),
    "a billion values of nothing": _npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000,), }"),
    "a value of a gigabyte": _npy("{'descr': '|S2147483647', 'fortran_order': False, 'shape': (1000,), }"),
    "objects": _npy("{'descr': '|O', 'fortran_order': False, 'shape': (8,), }"),
    "a call": _npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,), }"),
    "a deep header": _npy("(" * 5000),
    "a header of 4 GB": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", (2, 0), 2**32 - 1),
    "a version that there is not": _npy("{}", (9, 9)),
    "a type that there is not": _npy("{'descr': 'zz', 'fortran_order': False, 'shape': (1,), }"),
    "text": _npy("{'descr': '<U4', 'fortran_order': False, 'shape': (2,), }"),
}


@pytest.mark.parametrize("name", ["mean vector", "table of shards", "score cache"])
def test_arrays_that_claim_what_they_have_not_are_refused(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    for kind, content in NPY.items():
        if name == "score cache":
            whole = io.BytesIO()
            with zipfile.ZipFile(whole, "w") as archive:
                for array in ("text", "utterances", "enrolment", "test", "is_target", "scores", "measures"):
                    archive.writestr(f"{array}.npy", content)
            content = whole.getvalue()
        assert place.refusal(content) is not None, kind


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("enrolment", np.full(16, 99, np.int32)), ("test", np.full(16, -1, np.int32)), ("enrolment", np.zeros(3,
        np.int32)),
        ("scores", np.full(16, np.nan)), ("scores", np.zeros((4, 4))), ("scores", np.zeros(16, "<U4")),
        ("is_target", np.zeros(16)), ("measures", np.zeros((3, 4))), ("utterances", np.frombuffer(b"a\na", np.uint8)),
        ("utterances", np.frombuffer(b"\xff" * 9, np.uint8)),
    ],
)  # fmt: skip
def test_a_cache_of_scores_that_no_score_file_has_is_refused(tmp_path: Path, array: str, value: Any) -> None:
    place = Place(PARSERS["score cache"], tmp_path)
    with np.load(io.BytesIO(place.valid), allow_pickle=False) as whole:
        arrays = {name: whole[name] for name in whole.files}
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, array: value})
    assert place.refusal(buffer.getvalue()) is not None


STORES = {
    "no tables": [],
    "other tables": ["CREATE TABLE store (x)", "CREATE TABLE speaker (y)"],
    "a view in the place of a table": ["DROP TABLE voice", "CREATE VIEW voice AS SELECT 1 AS speaker"],
    "a trigger": ["CREATE TRIGGER x AFTER DELETE ON speaker BEGIN DELETE FROM utterance; END"],
    "no model": ["DELETE FROM store"],
    "a model that is a number": ["UPDATE store SET fingerprint = x'00'"],
    "a name of bytes": ["UPDATE speaker SET name = x'00ff' WHERE id = 1"],
    "a name that is no text": ["UPDATE speaker SET name = CAST(x'ff' AS TEXT) WHERE id = 1"],
    "a file of bytes": ["UPDATE utterance SET file = x'00ff'"],
    "a duration that is a word": ["UPDATE utterance SET duration_s = 'x'"],
    "an embedding of three bytes": ["UPDATE utterance SET embedding = x'010203'", "UPDATE store SET scoring = 'x'"],
    "an embedding that is not finite": [
        f"UPDATE utterance SET embedding = x'{'00' * 28}0000c07f'", "UPDATE store SET scoring = 'x'"
    ],
    "a voice of three bytes": ["UPDATE voice SET unit = x'010203'"],
    "a voice that is not finite": [f"UPDATE voice SET unit = x'{'00' * 28}0000c07f'"],
    "a length that is a word": ["UPDATE voice SET length = 'x'"],
    "no voice": ["DELETE FROM voice WHERE speaker = 2"],
    "a description that is no text": [
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE x (', name = CAST(x'fffe' AS TEXT) WHERE name = 'voice'",
    ],
    "a later version": ["PRAGMA user_version = 99"],
    "another program's": ["PRAGMA application_id = 7"],
}  # fmt: skip


@pytest.mark.parametrize("kind", STORES)
def test_a_store_that_is_none_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    place = Place(PARSERS["store of speakers"], tmp_path)
    path = tmp_path / "made.sqlite"
    path.write_bytes(place.valid)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA foreign_keys = OFF")
        if kind in ("no tables", "other tables"):
            for table in ("voice", "utterance", "speaker", "store"):
                connection.execute(f"DROP TABLE {table}")
        for statement in STORES[kind]:
            connection.execute(statement)
    assert place.refusal(path.read_bytes()) is not None


JSON = {
    "deep lists": b"[" * 1_000_000,
    "deep mappings": b'{"a":' * 1_000_000,
    "a number of a million digits": b'{"version": ' + b"9" * 1_000_000 + b"}",
    "a number beyond all numbers": b'{"version": 1e999, "model": {"deviation": 1e999}}',
    "no number": b'{"version": NaN}',
    "half a character": b'{"version": "\\ud800"}',
    "null": b"null",
    "a list": b"[1, 2]",
    "a text": b'"x"',
    "an open text": b'{"a',
}
JSON_PARSERS = ["metrics.json", "training log", "calibration", "index of shards", "model.json"]


@pytest.mark.parametrize("name", JSON_PARSERS)
def test_json_that_explodes_is_refused(tmp_path: Path, name: str) -> None:
    place = Place(PARSERS[name], tmp_path)
    for kind, content in JSON.items():
        assert place.refusal(content) is not None, kind


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _changed(value[path[0]], path[1:], new)
    return copied


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where the values stand in a nested one; of a list the first."""
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, each in items:
        yield from ((name, *rest) for rest in _places(each))


@pytest.mark.parametrize("name", ["calibration", "index of shards", "model.json"])
def test_no_value_of_another_kind_does_harm(tmp_path: Path, name: str) -> None:
    """Each value of a JSON file is exchanged for others in turn."""
    place = Place(PARSERS[name], tmp_path)
    whole = json.loads(place.valid)
    for path in list(_places(whole))[1:]:
        for new in (None, "x", 0, 10**12, [], [-1], {}):
            place.refusal(json.dumps(_changed(whole, path, new)).encode())


def _riff(
    *, rate: int = 8000, channels: int = 1, bits: int = 16, code: int = 1, size: int = 800, align: int | None = None
) -> bytes:
    align = channels * bits // 8 % 65536 if align is None else align
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, code, channels, rate, rate * align % 2**32,
        align,
        bits, b"data", size,
    ) + bytes(range(100)) * 8  # fmt: skip


WAVES = {
    "four gigabytes": {"size": 2**32 - 2},
    "sixty thousand channels": {"channels": 65535},
    "no channel": {"channels": 0},
    "four gigahertz": {"rate": 2**32 - 1},
    "no rate": {"rate": 0},
    "one hertz": {"rate": 1},
    "samples of no bit": {"bits": 0},
    "samples of sixty thousand bits": {"bits": 65535},
    "blocks of nothing": {"align": 0},
    "blocks of a tenth of all": {"align": 65535, "code": 17, "bits": 4},
    "a code that there is not": {"code": 0xABCD},
    "MP3": {"code": 0x55},
    "GSM": {"code": 0x31, "bits": 0, "align": 65},
    "less than one block": {"size": 1},
    "nothing": {"size": 0},
}


@pytest.mark.parametrize("kind", WAVES)
@pytest.mark.parametrize("name", ["wav", "audio in a tar"])
def test_headers_of_audio_that_claim_what_is_not_there_do_no_harm(tmp_path: Path, name: str, kind: str) -> None:
    """Some are read as what is there: a length that nobody knows is a pipe's."""
    refusal = Place(PARSERS[name], tmp_path).refusal(_riff(**WAVES[kind]))
    harmless = {"nothing", "less than one block", "blocks of nothing", "four gigabytes", "blocks of a tenth of all"}
    assert refusal is not None or kind in harmless


def test_tensors_that_repeat_one_value_a_billion_times_are_refused(tmp_path: Path) -> None:
    """PyTorch writes the one value, and how often it stands there."""
    for name in ("checkpoint", "checkpoint of PyTorch 1.5"):
        place = Place(PARSERS[name], tmp_path / name)
        for value in ({"a": torch.zeros(1).expand(10**9)}, {"model": {"a": torch.zeros(2, 1).expand(2, 10**9)}}):
            options = {} if name == "checkpoint" else {"_use_new_zipfile_serialization": False}
            assert "of which the file holds but some" in (place.refusal(_torch(value, **options)) or "")


@pytest.mark.parametrize("location", ["../../../../../../etc/passwd", "/etc/passwd", "../x.bin", "/dev/zero"])
def test_an_onnx_file_reads_no_other(tmp_path: Path, location: str) -> None:
    import onnx

    place = Place(PARSERS["model.onnx"], tmp_path / "place")
    (place.folder.parent / "x.bin").write_bytes(bytes(1 << 20))
    model = onnx.load_model_from_string(place.valid)
    tensor = next(each for each in model.graph.initializer if each.raw_data)
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    assert "no ONNX graph that onnxruntime reads" in (place.refusal(model.SerializeToString()) or "")


def test_a_key_of_a_megabyte_does_not_become_the_width_of_a_table(tmp_path: Path) -> None:
    """Each recording takes as many bytes in the index as the longest key has."""
    keys = {"a" * 10**6: "anna", "b": "ben"}
    rows = (IndexRow(key, name, Coding.PCM, 0, 9, 0, 8000, 4, 0) for key, name in keys.items())
    (tmp_path / "x.tar").write_bytes(bytes(1024))
    with pytest.raises(RecipeError, match=r"x\.list: the key 'aaa.* has 1,000,000 bytes, expected at most 1,000"):
        write_index(tmp_path / "x.list", [(tmp_path / "x.tar", rows)])
