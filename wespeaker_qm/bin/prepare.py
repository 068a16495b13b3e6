"""Stage 1: make the data directories of a corpus. What follows knows nothing of the corpus."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from wespeaker_qm.corpora import folder, mini, voxceleb
from wespeaker_qm.utils.arguments import PROCESSES
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

HELP = "prepare data directories, trials, noise and impulse responses of a corpus (stage 1)"

KINDS: dict[str, ModuleType] = {"mini": mini, "folder": folder, "voxceleb": voxceleb}
"""``kind`` in ``egs/<corpus>/corpus.yaml`` -> module with ``add_arguments(parser)`` and ``prepare(args, settings)``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm prepare``; those of the chosen corpus join them when the command line is parsed."""
    _add_common_arguments(parser)
    parser.epilog = "Keys of the corpus.yaml of egs/<corpus> that bear an option's name are that option's default."
    parse_known_args = parser.parse_known_args

    def parse_with_corpus(arguments: Sequence[str] | None = None, namespace: Any = None) -> Any:
        # --corpus decides which other options there are, also for --help.
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.error = parser.error  # type: ignore[method-assign]
        _add_common_arguments(first)
        try:
            settings = read_settings(first.parse_known_args(arguments)[0].corpus)
        except RecipeError as error:
            parser.error(str(error))
        KINDS[settings["kind"]].add_arguments(parser)
        parser.set_defaults(**_defaults(parser, settings))
        return parse_known_args(arguments, namespace)

    parser.parse_known_args = parse_with_corpus  # type: ignore[assignment, method-assign]


def _defaults(parser: argparse.ArgumentParser, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that bear an option's name, checked as if they were typed: argparse checks no default but text."""
    defaults: dict[str, Any] = {}
    for action in parser._actions:
        if action.dest not in settings:
            continue
        value = settings[action.dest]
        if value is not None and callable(action.type):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            try:
                value = action.type(text)
            except argparse.ArgumentTypeError as error:
                parser.error(f"corpus.yaml: {action.dest}: {error}")
        defaults[action.dest] = value
    return defaults


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", type=Path, default=Path("egs/mini"), help="recipe with a corpus.yaml (default %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="folder to write (default: data/<name of the recipe>)")
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="default: all cores, %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    """Prepare the corpus."""
    settings = read_settings(args.corpus)
    args.data = args.data or Path("data") / args.corpus.resolve().name
    KINDS[settings["kind"]].prepare(args, settings)


def read_settings(corpus: Path) -> dict[str, Any]:
    """Read ``<corpus>/corpus.yaml``.

    Raises:
        RecipeError: no such file, or its ``kind`` is not one of :data:`KINDS`.
    """
    path = corpus / "corpus.yaml"
    if not path.is_file():
        known = sorted(str(other.parent) for other in Path("egs").glob("*/corpus.yaml"))
        raise RecipeError(f"{path}: no such file; --corpus names a recipe's folder: {', '.join(known) or 'none here'}")
    settings = read_yaml_mapping(path)
    if settings.get("kind") not in KINDS:
        raise RecipeError(f"{path}: kind is {settings.get('kind')!r}, expected one of {', '.join(KINDS)}")
    return settings
