"""Which model is used where none is named."""

import os
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import LATEST_MODEL
from wespeaker_qm.utils.text import read_text

VARIABLE = "WESPEAKER_QM_MODEL"
POINTER = "model made last: "
"""Begins the line of the file that stage 8 leaves; the folder follows, relative to where the file lies."""


def default_model(model: Path | None = None) -> Path:
    """The model to use: ``model``, or ``WESPEAKER_QM_MODEL``, or what run.sh has made last here.

    Args:
        model: what was asked for; None for nothing.

    Raises:
        RecipeError: there is none of these.
    """
    if model is not None:
        return model
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if LATEST_MODEL.is_file():
        line = read_text(LATEST_MODEL).removesuffix("\n")
        if line.startswith(POINTER):
            return Path(os.path.normpath(LATEST_MODEL.parent / line.removeprefix(POINTER)))
    raise RecipeError(
        f"no model: name one (--model DIR), or set {VARIABLE}, or make one here (./run.sh, or run.sh --stage 8 where "
        f"the rest is done): there is no {LATEST_MODEL} in {Path.cwd()} that says where it lies"
    )
