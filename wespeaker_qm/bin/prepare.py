"""Options of stage 1, :func:`wespeaker_qm.stages.preparing.prepare`: of any corpus, and of the chosen."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from wespeaker_qm.corpora.settings import declared, option_defaults
from wespeaker_qm.corpora.table import CORPORA, corpus_kind
from wespeaker_qm.stages.preparing import prepare
from wespeaker_qm.utils.arguments import PROCESSES
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.parallel import available_cpus
from wespeaker_qm.utils.shipped import shipped

HELP = "prepare data directories, trials, noise and impulse responses of a corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm prepare`` for any corpus."""
    _add_corpus_option(parser)
    parser.add_argument("--data", type=DataFolder, help="folder to write (default: data/<name of the recipe>)")
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="default: all cores, %(default)s"
    )
    parser.epilog = "Keys of the corpus.yaml of egs/<corpus> that bear an option's name are that option's default."


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
    group = parser.add_argument_group(f"corpus {kind}")
    for name, setting in declared(CORPORA[kind].settings).items():
        if name in defaults:
            default = defaults[name]
            if setting.is_flag:
                group.add_argument(f"--{name}", action="store_true", default=default, help=setting.help)
                continue
            shown = str(default).lower() if isinstance(default, bool) else default
            # A default of no value, or one that the text itself gives, is not shown.
            ending = "" if default is None or "(default" in setting.help else f" (default {shown})".replace("%", "%%")
            group.add_argument(
                f"--{name}",
                type=setting.convert,
                default=default,
                metavar=setting.metavar,
                help=f"{setting.help}{ending}",
            )


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
