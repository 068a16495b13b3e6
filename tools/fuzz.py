#!/usr/bin/env python3
"""Does any damaged or hostile file do more than be read or be refused?

    tools/fuzz.py [--parser NAME ...] [--inputs 20000] [--first 0] [--seed 0]

Each reader of files (`tools/fuzz_parsers.py`) gets valid files in which bits, numbers, lines and lengths were changed,
cut, repeated and exchanged, and now and then bytes without any sense. It must read them, or refuse them with a
RecipeError that names the file in a few lines; what it reads and another function writes must be read again as the
same. Nothing else may happen: another exception, a crash, twenty seconds or a gigabyte of memory, a file written, a
program started, anything unpickled, a connection.

An input is a function of seed, parser and number, so that `--parser NAME --first NUMBER --inputs 1` does one again. The
program ends with a table of all parsers and, where anything was found, with exit status 1.
"""

import argparse
import contextlib
import mmap
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fuzz_parsers import PARSERS, Parser

from wespeaker_qm.utils.arguments import COUNT, COUNT_OR_NONE, SEED
from wespeaker_qm.utils.errors import RecipeError, counted, printable

MOST_SECONDS = 20
"""Of the processor, and ten times as many in all: another program may have it."""
MOST_BYTES = 1 << 30
"""By which reading one file may enlarge the process."""
_MOST_FINDINGS = 20
"""Of one parser, after which it is left."""

_TOKENS = [
    b"", b"\0", b"\n", b"\r\n", b" ", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b[2J", b"\x85", b"\xe2\x80\xae",
    b"\xc2\xa0",
    b"-", b"-1", b"0", b"1e999", b"nan", b"inf", b"9" * 30, b"9" * 5000, b"0x" + b"f" * 5000, b"1:1:1:1", b"1_0",
    b"2024-13-45",
    b"../../etc/passwd", b"/dev/zero", b"a|", b"|a", b"<script>", b"{", b"}", b"[", b"]", b"[" * 2000,
    b'{"a":' * 2000, b'"',
    b"'", b":", b",", b"#", b"&a ", b"*a", b"<<: ", b"? ", b"!!python/object/apply:os.system [ls]", b"!!int ",
    b"!!float ",
    b"!!binary ", b"!!set ", b"!!omap ", b"!!timestamp ", b"null", b"true", b"NaN", b"\\ud800", b"PK\x03\x04",
    b"PK\x05\x06",
    b"PKL", b"\x80\x04\x95", b"\0BFV \4", b"\0BFM ", b"\0BCM ", b"\x93NUMPY\x01\0", b"OggS", b"RIFF", b"WAVE",
    b"data", b"fLaC",
    b"target", b"nontarget", b"segment:0:1:", b"zip:0:1:8:00000000:", b"x" * 3000, b"\xf0\x9f\x98\x80",
]  # fmt: skip
"""What readers of some kind of file take for something."""
_NUMBERS = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
_DIGITS = re.compile(rb"[0-9]+")


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A version of a valid file with one to eight changes; one in ten has nothing to do with it."""
    if rng.randrange(10) == 0:
        parts = [_piece(rng, content) for _ in range(rng.randint(0, 12))]
        return b"".join(parts)
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(data))
        length = min(rng.choice((1, 1, 2, 4, 8, 16, 64, 512)), len(data) - at)
        kind = rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = _piece(rng, content)[: max(length, 1)]
        elif kind == 2:
            width = rng.choice("BHIQ")
            value = rng.choice(_NUMBERS) % (1 << 8 * struct.calcsize(width))
            packed = struct.pack(rng.choice("<>") + width, value)
            data[at : at + len(packed)] = packed
        elif kind == 3:
            data[at:at] = _piece(rng, content)
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * rng.choice((1, 1, 2, 50))
        elif kind == 6:
            other = rng.randint(0, len(data))
            data[at : at + length] = data[other : other + length]
        elif kind == 7 and rng.randrange(4) == 0:
            del data[at:]
        elif (numbers := list(_DIGITS.finditer(data))) != []:
            found = rng.choice(numbers)
            data[found.start() : found.end()] = str(rng.choice((-1, 1)) * rng.choice(_NUMBERS)).encode()
    return bytes(data)


def _piece(rng: random.Random, content: bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randint(1, 40))
    if kind == 1 and content:
        at = rng.randrange(len(content))
        return content[at : at + rng.choice((1, 8, 40))]
    return rng.choice(_TOKENS)


_FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "os.utime",
)
_seen: list[str] | None = None
_is_watching: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what a reader must not do. A hook cannot be removed: outside of :func:`_watched` it does nothing."""
    if _seen is None:
        return
    if event in _FORBIDDEN:
        _seen.append(f"{event} {arguments}")
    elif event in _CHANGES or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        _seen.append(f"{event} {arguments[0]}")


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    global _seen
    if not _is_watching:
        sys.addaudithook(_watch)
        _is_watching.append(True)
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


class Place:
    """A folder with the valid files of a parser, one of which is damaged again and again.

    Args:
        parser: whose files they are.
        folder: an empty one.
    """

    def __init__(self, parser: Parser, folder: Path) -> None:
        self.parser, self.folder = parser, folder / "whole"
        self.path = self.folder / parser.file
        self._other = folder / "other"
        self._other.mkdir(parents=True)
        self.path.parent.mkdir(parents=True)
        parser.write(self.path)
        self.valid = self.path.read_bytes()
        self._names = self._listed()
        self._contents = {name: (self.folder / name).read_bytes() for name in self._names}
        refusal = self.refusal(self.valid)
        assert refusal is None, refusal

    def refusal(self, content: bytes) -> str | None:
        """The message with which the parser refuses the file with this content; None where it reads it.

        Raises:
            AssertionError: it does anything else.
        """
        for name, whole in self._contents.items():
            file = self.folder / name
            if file.stat().st_size != len(whole) or self.parser.leaves:
                file.write_bytes(whole)
        self.path.write_bytes(content)
        value, message = None, None
        with _watched() as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = self.parser.read(self.path)
            except RecipeError as error:
                message = str(error)
        ours = [each for each in seen if str(self.folder) not in each]
        assert not ours, f"it did more than read: {ours}"
        self._tidy()
        if message is not None:
            assert printable(message) == message
            assert len(message) < 5000, f"a message of {len(message)} characters"
            is_named = self.path.stem in message or str(self.folder) in message
            assert is_named or not self.parser.is_named, f"a message without the file's name: {message}"
        elif self.parser.again is not None:
            self._compare(value)
        return message

    def _compare(self, value: Any) -> None:
        shutil.rmtree(self._other)
        self._other.mkdir()
        path = self._other / self.parser.file
        try:
            self.parser.again(value, path)
        except RecipeError:  # a name that no file can hold
            return
        np.testing.assert_equal(self.parser.read(path), value)

    def _listed(self) -> set[str]:
        return {
            os.path.relpath(os.path.join(folder, name), self.folder)
            for folder, _, names in os.walk(self.folder)
            for name in names
        }

    def _tidy(self) -> None:
        if self.parser.leaves:
            for name in self._listed() - self._names:
                (self.folder / name).unlink()
            for folder, _, _ in os.walk(self.folder, topdown=False):
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(folder)
        else:
            assert self._listed() == self._names, f"it left {self._listed() ^ self._names}"


class Result(NamedTuple):
    """What came of the inputs of a parser."""

    done: int
    read: int
    findings: int
    seconds: float


def fuzz(name: str, numbers: range, seed: int) -> Result:
    """Try a parser with inputs; what is found is printed.

    They are tried in a child, which is replaced when one of them ends it.
    """
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=memory) as folder:
        return _in_children(name, numbers, seed, Place(PARSERS[name], Path(folder)))


def _in_children(name: str, numbers: range, seed: int, place: Place) -> Result:
    shared = mmap.mmap(-1, 16)  # the number in turn, and how many were read
    started, findings, first = time.monotonic(), 0, numbers.start
    while first < numbers.stop and findings < _MOST_FINDINGS:
        child = os.fork()
        if child == 0:
            # Notes of readers, and what decoders in C say of damage: a hundred thousand lines around a few findings.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(_child(name, range(first, numbers.stop), seed, place, shared))
        _, status = os.waitpid(child, 0)
        (at,) = struct.unpack_from("<q", shared, 0)
        if status == 0:
            first = numbers.stop
            break
        findings += 1
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            end = (
                f"more than {MOST_SECONDS} s"
                if number in (signal.SIGALRM, signal.SIGPROF)
                else signal.Signals(number).name
            )
            print(f"{name}: input {at}: {end}", flush=True)
        print(f"  again: tools/fuzz.py --parser '{name}' --first {at} --inputs 1 --seed {seed}", flush=True)
        first = at + 1
    read = struct.unpack_from("<q", shared, 8)[0]
    return Result(first - numbers.start, read, findings, time.monotonic() - started)


def _child(name: str, numbers: range, seed: int, place: Place, shared: mmap.mmap) -> int:
    """Try the inputs, with little memory and time for each; 1 after the first with which something is wrong."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * mmap.PAGESIZE + 2 * MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        struct.pack_into("<q", shared, 0, number)
        content = mutated(random.Random(f"{seed} {name} {number}"), place.valid)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.alarm(10 * MOST_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            is_read = place.refusal(content) is None
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            assert grown < MOST_BYTES, f"{grown >> 20} MiB of memory"
        except BaseException:
            print(f"{name}: input {number}:\n{traceback.format_exc(limit=-4)}", flush=True)
            return 1
        struct.pack_into("<q", shared, 8, struct.unpack_from("<q", shared, 8)[0] + is_read)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--parser",
        nargs="+",
        choices=list(PARSERS),
        default=list(PARSERS),
        metavar="NAME",
        help="of tools/fuzz_parsers.py (default: all)",
    )
    parser.add_argument(
        "--inputs", type=COUNT, default=20_000, help="of each parser (default: %(default)s, more than a million in all)"
    )
    parser.add_argument("--first", type=COUNT_OR_NONE, default=0, help="number of the first (default: %(default)s)")
    parser.add_argument("--seed", type=SEED, default=0, help="default: %(default)s")
    args = parser.parse_args(arguments)
    rows = {}
    for name in args.parser:
        rows[name] = fuzz(name, range(args.first, args.first + args.inputs), args.seed)
        row = rows[name]
        print(
            f"{name}: {counted(row.done, 'input', 'inputs')}, {row.read:,} read, "
            f"{row.done - row.read - row.findings:,} refused, "
            f"{counted(row.findings, 'finding', 'findings')}, {row.done / max(row.seconds, 1e-9):,.0f} inputs/s",
            flush=True,
        )
    total = sum(row.done for row in rows.values())
    findings = sum(row.findings for row in rows.values())
    numbers = (len(rows), "parser", "parsers"), (total, "input", "inputs"), (findings, "finding", "findings")
    print(", ".join(counted(*number) for number in numbers))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
