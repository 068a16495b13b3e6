"""Options of stage 1, :func:`wespeaker_qm.stages.preparing.prepare`: of any corpus, and of the chosen."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wespeaker_qm.corpora.settings import Setting, declared, option_defaults
from wespeaker_qm.corpora.table import CORPORA, corpus_kind
from wespeaker_qm.stages.preparing import prepare
from wespeaker_qm.utils.arguments import PROCESSES
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.shipped import shipped, shipped_names

HELP = "prepare data directories, trials, noise and impulse responses of a corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm prepare`` for any corpus."""
    _add_corpus_option(parser)
    parser.add_argument("--data", type=DataFolder, help="folder to write (default: data/<name of the recipe>)")
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="default: all cores, %(default)s"
    )
    parser.epilog = (
        "Keys of the corpus.yaml of egs/<corpus> that bear an option's name are that option's default. Each corpus has "
        f"options of its own: --corpus DIR --help lists those of DIR ({', '.join(_recipes())})."
    )


def add_dependent_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """The further options of the corpus that ``--corpus`` names, also for ``--help``."""
    only_corpus = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_corpus_option(only_corpus)
    try:
        recipe_dir = only_corpus.parse_known_args(arguments)[0].corpus
    except argparse.ArgumentError:
        return  # which is reported when all is parsed
    try:
        kind = corpus_kind(recipe_dir)
        defaults = option_defaults(CORPORA[kind].settings, recipe_dir)
    except RecipeError as error:
        parser.error(str(error))
    _refuse_options_of_others(parser, arguments, recipe_dir, kind)
    group = parser.add_argument_group(f"corpus {kind}")
    for name, setting in declared(CORPORA[kind].settings).items():
        if name in defaults:
            how = {"action": "store_true"} if setting.is_flag else {"type": setting.convert, "metavar": setting.metavar}
            group.add_argument(f"--{name}", default=defaults[name], help=_help(setting, defaults[name]), **how)


def _recipes() -> list[str]:
    """The recipes that come with the package, e.g. ``egs/mini``."""
    return [str(Path(name).parent) for name in shipped_names("egs/*/corpus.yaml")]


def _refuse_options_of_others(
    parser: argparse.ArgumentParser, arguments: Sequence[str], recipe_dir: Path, kind: str
) -> None:
    """Say of an option that the corpus does not have, but others do, which those are."""
    own = _option_names(kind)
    for text in arguments:
        name = text.partition("=")[0].removeprefix("--")
        others = [recipe for recipe in _recipes() if name in _option_names(corpus_kind(shipped(recipe)))]
        if text.startswith("--") and name not in own and others:
            parser.error(
                f"--{name} is an option of {' and '.join(others)}, found --corpus {recipe_dir}; "
                f"give --corpus {others[0]}"
            )


def _option_names(kind: str) -> list[str]:
    return [name for name, setting in declared(CORPORA[kind].settings).items() if setting.help]


def _help(setting: Setting, default: Any) -> str:
    """The text of an option, with its default unless there is none or the text tells it."""
    if default is None or setting.is_flag or "(default" in setting.help:
        return setting.help
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{setting.help} (default {shown.replace('%', '%%')})"


def _add_corpus_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", type=shipped, default="egs/mini", help="recipe with a corpus.yaml (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Prepare the corpus."""
    settings = declared(CORPORA[corpus_kind(args.corpus)].settings)
    prepare(
        recipe_dir=args.corpus,
        data=args.data or DataFolder(Path("data") / args.corpus.resolve().name),
        num_workers=args.num_workers,
        options={name: getattr(args, name) for name, setting in settings.items() if setting.help},
    )
