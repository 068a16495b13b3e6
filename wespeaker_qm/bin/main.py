"""``wespeaker-qm <subcommand>``: finds the subcommand's module, sets up logging, runs it.

A subcommand is a row of :data:`SUBCOMMANDS`. Its module has ``HELP`` (one line), ``add_arguments(parser)`` and
``run(args)``, which calls one function with what was parsed, mostly one of :mod:`wespeaker_qm.stages`, and may return
an exit status that is an answer. A module with options that depend on the value of another adds them in
``add_dependent_arguments(parser, arguments)``.
"""

import argparse
import importlib
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from wespeaker_qm.utils.ending import PARENT, LostProcessError, Stopped, end_with, is_told_by_launcher
from wespeaker_qm.utils.errors import RecipeError, nearest, printable, shown
from wespeaker_qm.utils.extras import installation
from wespeaker_qm.utils.lock import unlock_all
from wespeaker_qm.utils.trouble import trouble


class Subcommand(NamedTuple):
    """What there is to know of a subcommand before its module is imported."""

    module: str
    """Where its options are declared."""
    stages: tuple[int, ...] = ()
    """Numbers of the stages of run.sh that run it."""
    failure: int = 1
    """Exit status after an error: another than 1 where 1 is an answer."""


SUBCOMMANDS: dict[str, Subcommand] = {
    "prepare": Subcommand("wespeaker_qm.bin.prepare", stages=(1,)),
    "pack": Subcommand("wespeaker_qm.bin.pack", stages=(2,)),
    "train": Subcommand("wespeaker_qm.bin.train", stages=(3,)),
    "average": Subcommand("wespeaker_qm.bin.average", stages=(4,)),
    "extract": Subcommand("wespeaker_qm.bin.extract", stages=(4,)),
    "score": Subcommand("wespeaker_qm.bin.score", stages=(5,)),
    "normalise": Subcommand("wespeaker_qm.bin.normalise", stages=(6,)),
    "calibrate": Subcommand("wespeaker_qm.bin.calibrate", stages=(7,)),
    "evaluate": Subcommand("wespeaker_qm.bin.evaluate", stages=(5, 6, 7)),
    "report": Subcommand("wespeaker_qm.bin.report", stages=(5, 6, 7)),
    "export": Subcommand("wespeaker_qm.bin.export", stages=(8,)),
    "table5": Subcommand("wespeaker_qm.bin.table5", stages=(5, 6, 7)),
    "metrics": Subcommand("wespeaker_qm.bin.metrics"),
    "threshold": Subcommand("wespeaker_qm.bin.threshold"),
    "compare": Subcommand("wespeaker_qm.bin.compare"),
    "import": Subcommand("wespeaker_qm.bin.import_model"),
    "embed": Subcommand("wespeaker_qm.bin.embed"),
    "score-files": Subcommand("wespeaker_qm.bin.score_files"),
    "evaluate-folder": Subcommand("wespeaker_qm.bin.evaluate_folder"),
    "fine-tune": Subcommand("wespeaker_qm.bin.fine_tune"),
    "verify": Subcommand("wespeaker_qm.bin.verify", failure=2),
    "enrol": Subcommand("wespeaker_qm.bin.enrol"),
    "identify": Subcommand("wespeaker_qm.bin.identify", failure=2),
    "forget": Subcommand("wespeaker_qm.bin.forget"),
    "speakers": Subcommand("wespeaker_qm.bin.speakers"),
    "verify-data": Subcommand("wespeaker_qm.bin.verify_data", failure=2),
    "demo": Subcommand("wespeaker_qm.bin.demo"),
    "bench": Subcommand("wespeaker_qm.bin.bench"),
    "doctor": Subcommand("wespeaker_qm.bin.doctor"),
}
"""In the order in which run.sh runs them, then the others."""

_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [^\s:]+:\d+ [A-Z]+ ")
"""How each log line begins that :class:`_LogFile` has written, in this version and all before."""
_OPTION = re.compile(r"--?[A-Za-z][^\s]*")
"""What can only be meant as an option: not ``-1``, a value, nor ``-``, a file."""
_LONGEST_START = 200
"""Bytes, more than that matches."""

TRAINING_PACKAGES = ("av", "lmdb", "pyroomacoustics", "tensorboard", "torch")
"""Those of the extra ``train`` that ``eval`` does not bring."""

DEMO_PACKAGES = ("fastapi", "uvicorn")
"""Those of the extra ``demo``."""

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """Full option names only; a wrong command line exits with 1, as run.sh does, and is told the nearest right names.

    Subcommands are parsed by a parser of this class each, so that what is told is theirs, and so the exit status.
    """

    failure = 1

    def __init__(self, **kwargs: object) -> None:
        super().__init__(allow_abbrev=False, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        message += f" (see {self.prog} --help)"
        if not is_told_by_launcher(f"{self.prog}: {message}", is_final=True):
            self.print_usage(sys.stderr)
            sys.stderr.write(printable(f"{self.prog}: error: {message}\n"))
        self.exit(self.failure)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # First, because a missing argument would be told instead: in `metrics --scroes FILE` the file is one.
        for text, before in zip(args, ["", *args], strict=False):
            if text == "--" or (self._subparsers is not None and not text.startswith("-")):
                break  # what follows are no options, or those of a subcommand
            option = text.partition("=")[0]
            if _OPTION.fullmatch(option) and option not in self._option_string_actions:
                near = nearest(option, self._option_string_actions)
                takes_value = before in self._option_string_actions and self._option_string_actions[before].nargs != 0
                as_value = f", and as the value of {before} it is written {before}={text}" if takes_value else ""
                self.error(f"unknown option {shown(option)}; the nearest are {near}{as_value}")
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"found {', '.join(map(shown, unknown))}, which belongs to no option")
        return parsed, unknown

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # As a path, an empty text is the current folder: what a script that lost a variable never meant.
        if not arg_string and action.nargs != argparse.PARSER:  # a subcommand's arguments are for its own parser
            raise argparse.ArgumentError(action, "found '', expected a value that is not empty")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(name) for name in action.choices]
            near = f"; the nearest are {nearest(value, names)}" if len(names) > 3 else ""
            raise argparse.ArgumentError(action, f"found {shown(value)}, expected one of {', '.join(names)}{near}")


class _Formatter(logging.Formatter):
    """Lines of which a terminal shows every character and obeys none, whatever names they hold."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Log lines above the progress bar: warnings and errors on standard error, the rest on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        from wespeaker_qm.utils.progress import Progress  # whose package may be missing, which must be said, not raised

        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        Progress.write(self.format(record), file=stream)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: the command line without the program's name; None = ``sys.argv[1:]``.

    Returns:
        The exit status: 0, or what the subcommand answers; 1, or what the subcommand has for it, after a RecipeError or
        trouble with the machine (:mod:`wespeaker_qm.utils.trouble`), whose message is printed without a traceback; 2
        after any other exception, which is a bug and keeps its traceback; 130 after an interruption; 128 and the number
        of a signal that ended what can be gone on with.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_first = os.environ.get("RANK", "0") == "0"
    _set_up_logging(is_first)
    if PARENT in os.environ:
        end_with(int(os.environ[PARENT]))
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a child of torchrun, which, killed, would leave it at work
        end_with(os.getppid())
    log = None
    failure = _failure(arguments)
    try:
        args, module = _parse(arguments)
        if args.log is not None and is_first:
            log = _open_log(args.log, arguments)
        status: int | None = module.run(args)
    except RecipeError as error:
        lost = isinstance(error, LostProcessError)
        _tell(str(error), log, lost=lost, is_final=not lost)
        if log is not None:
            log.remove_if_nothing_was_done()
        return failure
    except Stopped as stopped:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            logger.error("%s", stopped)
        return 128 + stopped.number
    except KeyboardInterrupt:
        logger.error("interrupted; the same command goes on where it stopped")
        return 130
    except Exception as error:
        if (message := trouble(error)) is not None:
            _tell(message, log)
            return failure
        logger.exception("this is a bug in wespeaker-qm, please report it:")
        is_told_by_launcher(f"a bug in wespeaker-qm, whose traceback stands above: {error!r}")
        return 2
    finally:
        unlock_all()
    return status or 0


def _tell(message: str, log: "_LogFile | None", *, lost: bool = False, is_final: bool = False) -> None:
    """Say what ended the command; of several training processes, the program that started them says it."""
    if not is_told_by_launcher(message, lost=lost, is_final=is_final):
        logger.error("error: %s", message)
    elif log is not None:
        log.note("error: %s", message, level=logging.ERROR)


def _failure(arguments: Sequence[str]) -> int:
    """The exit status after an error in a command line."""
    return next((SUBCOMMANDS[name].failure for name in arguments[:1] if name in SUBCOMMANDS), 1)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, ModuleType]:
    """Parse the command line, importing only the chosen subcommand (all of them when none is chosen: --help)."""
    parser = _Parser(prog="wespeaker-qm", description="Speaker verification with sparsity-inducing divergence losses.")
    parser.failure = _failure(arguments)
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    chosen = [name for name in SUBCOMMANDS if name in arguments[:1]] or list(SUBCOMMANDS)
    modules = {name: _module(name) for name in chosen}
    for name, module in modules.items():
        if isinstance(module, str):
            subparsers.add_parser(name, help=f"needs {module}: {_installation(module)}".replace("%", "%%"))
            continue
        text = f"{module.HELP}{_when(SUBCOMMANDS[name].stages)}"
        subparser = subparsers.add_parser(name, help=text, description=text)
        subparser.failure = SUBCOMMANDS[name].failure
        module.add_arguments(subparser)
        if name in arguments[:1] and hasattr(module, "add_dependent_arguments"):
            module.add_dependent_arguments(subparser, arguments[1:])
        subparser.add_argument("--log", type=Path, metavar="FILE", help="append the log lines to FILE, too")
    for name in arguments[:1]:
        if isinstance(lacking := modules.get(name), str):
            parser.error(f"{name} needs the package {lacking}, which is not installed: {_installation(lacking)}")
    args = parser.parse_args(arguments)
    return args, modules[args.subcommand]


def _installation(package: str) -> str:
    """How to install a package that a subcommand lacks: with the smallest extra that brings it."""
    extra = "train" if package in TRAINING_PACKAGES else "demo" if package in DEMO_PACKAGES else "eval"
    return installation(extra)


def _module(name: str) -> Any:
    """The module of a subcommand, or the name of the package that it needs and that is not installed."""
    try:
        return importlib.import_module(SUBCOMMANDS[name].module)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "wespeaker_qm":
            raise
        return package


def _when(stages: tuple[int, ...]) -> str:
    """When run.sh runs a subcommand, for its help; several stages end with it."""
    if not stages:
        return ""
    return f" (stage {stages[0]})" if len(stages) == 1 else f" (end of stages {stages[0]} to {stages[-1]})"


def _set_up_logging(is_first: bool) -> None:
    """To the console; of several training processes the first alone speaks of what is no error, since all see it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    console = _ConsoleHandler()
    console.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING if is_first else logging.ERROR, handlers=[console], force=True)
    logging.getLogger("wespeaker_qm").setLevel(logging.INFO if is_first else logging.ERROR)
    logging.captureWarnings(True)


class _LogFile(logging.FileHandler):
    """Appends log lines to a file, whose folders are made."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._made = [folder for folder in log.absolute().parents if not folder.exists()]
        self._num_lines = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.is_file():
            _refuse_other_files(log)
        super().__init__(log, encoding="utf-8", errors="backslashreplace")

    def note(self, text: str, *values: str, level: int = logging.INFO) -> None:
        """Write a line that the console does not show."""
        self.handle(logger.makeRecord(logger.name, level, __file__, 0, text, values, None))

    def emit(self, record: logging.LogRecord) -> None:
        self._num_lines += 1
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Say once, not with a traceback for each line, that the log cannot be written (a full disk); all goes on."""
        logging.getLogger().removeHandler(self)
        error = sys.exception()
        message = None if error is None else trouble(error)
        logger.warning("--log %s: cannot be written any more: %s", self._log, message or error)

    def remove_if_nothing_was_done(self) -> None:
        """Leave no folder behind that was made for nothing but the log of a command that was refused at once.

        Such a log holds the command and the error, which the console shows, too.
        """
        if self._num_lines > 2 or not self._made or len(list(self._made[-1].rglob("*"))) > len(self._made):
            return
        logging.getLogger().removeHandler(self)
        self.close()
        self._log.unlink()
        for folder in self._made:
            folder.rmdir()


def _open_log(log: Path, arguments: Sequence[str]) -> _LogFile:
    """Append the log lines to a file, too, the command first.

    Raises:
        RecipeError: there is such a file, but it is no log; or it cannot be written.
    """
    try:
        handler = _LogFile(log)
    except OSError as error:
        raise RecipeError(
            f"--log {log}: cannot be written ({error.strerror}), expected a log of wespeaker-qm, or a new file"
        ) from error
    handler.setFormatter(_Formatter("%(asctime)s %(name)s:%(lineno)d %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    handler.note("$ wespeaker-qm %s", shlex.join(arguments))
    return handler


def _refuse_other_files(log: Path) -> None:
    with log.open("rb") as handle:
        start = handle.read(_LONGEST_START)
    if start and not _LOG_LINE.match(start):
        first = start.partition(b"\n")[0][:40].decode("utf-8", "replace")
        raise RecipeError(
            f"--log {log}: begins with {first!r}, expected a log of wespeaker-qm (`2030-01-31 12:00:00,000 module:1 "
            "INFO ...`), to which lines are appended; nothing was written: name another file, or a new one"
        )


if __name__ == "__main__":
    sys.exit(main())
