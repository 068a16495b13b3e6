"""The stages of run.sh as functions::

    from wespeaker_qm import stages
    from wespeaker_qm.utils.layout import DataFolder, RunFolder

    stages.score(data=DataFolder("data/mini"), run=RunFolder("exp/mini/qmargin_a1.5"))

Each is in the module of its activity (``score`` in ``scoring.py``), which is imported when the function is first asked
for, so that scoring and evaluation need no PyTorch. A stage whose inputs have not changed does nothing.
"""

import importlib
from typing import Any

_MODULES = {
    "prepare": "preparing",
    "pack": "packing",
    "train": "training",
    "average": "averaging",
    "extract": "extraction",
}
"""Function -> module."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its stages are {', '.join(_MODULES)}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
