"""Stage 1: make the data directories of a corpus. What follows knows nothing of the corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.corpora.settings import read_settings
from wespeaker_qm.corpora.table import CORPORA, corpus_kind
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.shipped import shipped


def prepare(
    *, recipe_dir: AnyPath, data: AnyPath, num_workers: int = 1, options: Mapping[str, Any] | None = None
) -> None:
    """Write the Kaldi directories, trial lists, noises and impulse responses of a corpus, last its ``corpus.yaml``.

    Args:
        recipe_dir: a recipe with a ``corpus.yaml``, e.g. ``egs/mini``, here or as the package brings it.
        data: folder to write, e.g. ``data/mini``.
        num_workers: processes; the result does not depend on them.
        options: name -> value of settings that override ``corpus.yaml``: the options of ``wespeaker-qm prepare``.

    Raises:
        RecipeError: no such recipe, an unknown option, a value that means nothing, or as the corpus says.
    """
    data = DataFolder(data)
    recipe_dir = shipped(Path(recipe_dir))
    corpus = CORPORA[corpus_kind(recipe_dir)]
    settings: Any = read_settings(corpus.settings, recipe_dir, options)
    corpus.prepare(settings, data=data, recipe_dir=recipe_dir, num_workers=num_workers)
