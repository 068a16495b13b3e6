"""Run the examples of a page, and compare what they print with what the page says.

    python tools/page_examples.py docs/use.md            # here, where ./run.sh has run: tells the first that differs
    python tools/page_examples.py docs/use.md --update   # writes what they print into the page instead

An example is a fenced block: `console` (commands after ``$``, each with what it prints), `bash` (commands alone),
`python` (a program) or `pycon` (an interactive session). What cannot run everywhere has a comment in the line before,
``<!-- example: needs a GPU -->``, and a command that runs until it is interrupted ``<!-- example: until Ctrl-C -->``.

The two are compared without their numbers and spaces, since figures are those of the machine that trained;
``<!-- example: exact -->`` compares them to the letter. The tests of the pages do the same with a tiny model
(tests/docs/test_examples.py).
"""

import argparse
import contextlib
import doctest
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LANGUAGES = ("console", "bash", "sh", "python", "pycon")
UNTIL_CTRL_C = "until Ctrl-C"
EXACT = "exact"
NEEDS = "needs "
_BLOCK = re.compile(
    r"^(?:<!-- example: (?P<mark>[^\n]+) -->\n)?(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*?$",
    re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_SHELL = re.compile(r"[|&;<>$`*?]")

Program = Callable[[Sequence[str]], int]


class Example(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    body: str
    span: tuple[int, int]
    """Where the body stands in the text of the page."""

    @property
    def needs(self) -> str | None:
        """What it cannot run without; None where it runs everywhere."""
        return self.mark.removeprefix(NEEDS) if self.mark.startswith(NEEDS) else None

    def commands(self) -> list[tuple[str, str]]:
        """Of a console, what is typed and what it prints."""
        typed = re.split(r"^\$ ", self.body, flags=re.MULTILINE)
        if typed[0].strip():
            raise ValueError(f"{self.page}:{self.line}: begins with no command after `$ `")
        pairs = [re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", text, re.DOTALL) for text in typed[1:]]
        return [(pair[1], pair[2]) for pair in pairs if pair]


def examples(page: Path) -> list[Example]:
    """All that can run, marked or not, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Example(
            page,
            text.count("\n", 0, found.start("body")),
            found["language"],
            found["mark"] or "",
            found["body"],
            found.span("body"),
        )
        for found in _BLOCK.finditer(text)
        if found["language"] in LANGUAGES
    ]


def shape(text: str) -> list[str]:
    """Lines without their numbers, and with single spaces."""
    lines = [" ".join(_NUMBER.sub("#", line).split()) for line in text.strip().splitlines()]
    return [line for line in lines if line]


class Failed(Exception):  # noqa: N818
    """An example does not do what the page says."""


class Runner:
    """Runs the examples of a page in the current folder.

    Args:
        program: ``wespeaker-qm`` within this process, which is faster; None: as a process of its own.
    """

    def __init__(self, program: Program | None = None) -> None:
        self._program = program
        self._status = 0

    def run(self, example: Example) -> str:
        """The body of an example as it would be with what it prints now.

        Raises:
            Failed: a program ends with an error.
        """
        if example.language == "python":
            exec(compile(example.body, f"{example.page}:{example.line}", "exec"), {"__name__": "__example__"})
            return example.body
        if example.language in ("bash", "sh"):
            self._must(example, *self._bash(f"set -e\n{example.body}"))
            return example.body
        if example.language == "pycon":
            return self._session(example)
        said = []
        for command, expected in example.commands():
            if example.mark == UNTIL_CTRL_C:
                output = _until(command, len(expected.strip().splitlines()))
            elif command == "echo $?":
                output = f"{self._status}\n"
            else:
                output, self._status = self._command(command)
            said.append(f"$ {command}\n{output}")
        return "".join(said)

    def _command(self, command: str) -> tuple[str, int]:
        words = shlex.split(command, comments=True)
        if self._program is None or words[0] != "wespeaker-qm" or _SHELL.search(command.partition(" #")[0]):
            return self._bash(command)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = self._program(words[1:])
        return output.getvalue(), status

    def _bash(self, script: str) -> tuple[str, int]:
        result = subprocess.run(
            ["bash", "-c", f"{_FUNCTIONS}{script}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(),
        )
        return result.stdout, result.returncode

    def _must(self, example: Example, output: str, status: int) -> None:
        if status:
            raise Failed(f"{example.page}:{example.line}: ends with {status}:\n{output}")

    def _session(self, example: Example) -> str:
        said, names = [], {"__name__": "__example__"}
        for part in doctest.DocTestParser().get_examples(example.body):
            output = io.StringIO()
            with contextlib.redirect_stdout(output), _raising_into(output):
                exec(compile(part.source, f"{example.page}:{example.line}", "single"), names)
            first, *more = part.source.rstrip("\n").split("\n")
            said.append(
                "\n".join([f">>> {first}", *(f"... {line}".rstrip() for line in more)]) + "\n" + output.getvalue()
            )
        return "".join(said)


@contextlib.contextmanager
def _raising_into(output: io.StringIO) -> Iterator[None]:
    """An exception is written as a session shows it, without the lines where it came from."""
    try:
        yield
    except Exception as error:
        lines = traceback.format_exception_only(error)
        output.write("Traceback (most recent call last):\n" + "".join(lines))


_FUNCTIONS = """
wespeaker-qm() { "${EXAMPLES_PYTHON}" -m wespeaker_qm.bin.main "$@"; }
python() { "${EXAMPLES_PYTHON}" "$@"; }
"""
"""What a reader has in the active environment is this interpreter's here."""


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "EXAMPLES_PYTHON": sys.executable,
        "COLUMNS": "120",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _until(command: str, num_lines: int) -> str:
    """The first lines that a command of ours prints, which is then interrupted as by Ctrl-C."""
    program, *arguments = shlex.split(command)
    if program != "wespeaker-qm":
        raise ValueError(f"{command}: expected wespeaker-qm")

    def heeding() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in the background of a script, and inherited

    with subprocess.Popen(
        [sys.executable, "-m", "wespeaker_qm.bin.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        preexec_fn=heeding,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(num_lines)]
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return "".join(lines)


def check(example: Example, found: str) -> None:
    """Compare an example with what it does now.

    Raises:
        Failed: they differ in more than numbers.
    """
    is_same = found == example.body if example.mark == EXACT else shape(found) == shape(example.body)
    if not is_same:
        raise Failed(f"{example.page}:{example.line}: the page says\n{example.body}\nand it does\n{found}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one page; the exit status is 1 where an example does something else than the page says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--update", action="store_true", help="write what the examples print into the page")
    args = parser.parse_args(arguments)
    text, moved, runner = args.page.read_text(encoding="utf-8"), 0, Runner()
    for example in examples(args.page):
        if example.needs is not None:
            print(f"{args.page}:{example.line}: needs {example.needs}: not run")
            continue
        try:
            found = runner.run(example)
            if not args.update:
                check(example, found)
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 1
        start, end = (position + moved for position in example.span)
        text, moved = text[:start] + found + text[end:], moved + len(found) - (end - start)
        print(f"{args.page}:{example.line}: ran")
    if args.update:
        args.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
