"""The configurations in ``conf/`` and the corpora in ``egs/`` that come with the package, wherever it is installed."""

from pathlib import Path

import wespeaker_qm

_PACKAGE = Path(wespeaker_qm.__file__).parent
FOLDERS = ("conf", "egs")


def shipped(path: Path | str) -> Path:
    """What ``path`` names: that file or folder, or where there is none, the one of that name that the package brings.

    In a checkout ``conf/`` and ``egs/`` lie beside the package, in an installed package they lie inside. A path that
    names neither is returned as it is, so that whoever reads it says what is missing.

    Args:
        path: e.g. ``conf/resnet34.yaml`` or ``egs/mini``.
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or path.parts[:1] not in [(folder,) for folder in FOLDERS]:
        return path
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / path).exists():
            return root / path
    return path


def shipped_names(pattern: str) -> list[str]:
    """All that ``pattern`` names, e.g. ``egs/*/corpus.yaml``, here or in the package, as one would type it."""
    roots = (Path(), _PACKAGE, _PACKAGE.parent)
    return sorted({str(found.relative_to(root)) for root in roots for found in root.glob(pattern)})
