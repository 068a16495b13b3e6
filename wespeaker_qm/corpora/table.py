"""Which corpora there are: one row each. A corpus is a dataclass of settings and a function that prepares it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from wespeaker_qm.corpora.folder.prepare import prepare as prepare_folder
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.corpora.mini.prepare import prepare as prepare_mini
from wespeaker_qm.corpora.mini.settings import MiniSettings
from wespeaker_qm.corpora.settings import KIND
from wespeaker_qm.corpora.voxceleb.prepare import prepare as prepare_voxceleb
from wespeaker_qm.corpora.voxceleb.settings import VoxcelebSettings
from wespeaker_qm.utils.errors import RecipeError, found_at, shown
from wespeaker_qm.utils.shipped import shipped_names
from wespeaker_qm.utils.yaml_files import read_yaml_mapping


class Corpus(NamedTuple):
    """A row.

    Attributes:
        settings: dataclass of the keys of ``corpus.yaml`` and the options (:mod:`wespeaker_qm.corpora.settings`).
        prepare: called as ``prepare(settings, data=..., recipe_dir=..., num_workers=...)``; writes the Kaldi
            directories, the trial lists and, last, ``corpus.yaml`` (:class:`wespeaker_qm.corpus.info.CorpusInfo`) to
            the :class:`~wespeaker_qm.utils.layout.DataFolder` ``data``, unless they are there and nothing has changed.
            ``recipe_dir`` holds the recipe's own files.
    """

    settings: type
    prepare: Callable[..., None]


CORPORA: dict[str, Corpus] = {
    "mini": Corpus(MiniSettings, prepare_mini),
    "folder": Corpus(FolderSettings, prepare_folder),
    "voxceleb": Corpus(VoxcelebSettings, prepare_voxceleb),
}
"""``kind`` in the ``corpus.yaml`` of a recipe -> corpus."""


def corpus_kind(recipe_dir: Path) -> str:
    """The ``kind`` in ``<recipe_dir>/corpus.yaml``, a key of :data:`CORPORA`.

    Raises:
        RecipeError: no such file, or of an unknown kind.
    """
    path = recipe_dir / "corpus.yaml"
    if not path.is_file():
        known = [str(Path(name).parent) for name in shipped_names("egs/*/corpus.yaml")]
        raise RecipeError(
            f"{path}: {found_at(path)}; --corpus names a recipe's folder: {', '.join(known) or 'none here'}"
        )
    kind: Any = read_yaml_mapping(path).get(KIND)
    if kind not in CORPORA:
        raise RecipeError(f"{path}: kind is {shown(kind)}, expected one of {', '.join(CORPORA)}")
    return str(kind)
