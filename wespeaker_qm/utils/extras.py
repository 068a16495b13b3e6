"""The extras of the package, and the command that installs one.

Needs no package but Python's own, since it is asked where others are lacking.
"""

import shlex
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import wespeaker_qm

EXTRAS = {
    "losses": "the losses alone",
    "eval": "scoring, evaluation, reports",
    "train": "preparation, training, extraction",
    "onnx": "models as one file, used without torch",
    "demo": "the page in the browser",
    "trackers": "Weights & Biases and MLflow",
    "docs": "building the documentation",
    "test": "the tests",
}
"""Extra -> what it is for."""


def installation(extra: str) -> str:
    """The command that brings what an extra needs into the environment of this program.

    The package is on no index. In a checkout its folder is installed, so that it can still be edited, as path.sh does.
    An installed package need only be named, since pip asks nobody for what is there, and reads in it what its extras
    need. Where the environment has no pip of its own (as uv makes them), one from outside is told where to install.

    Args:
        extra: one of :data:`EXTRAS`.
    """
    root = Path(wespeaker_qm.__file__).parents[1]
    is_checkout = (root / "requirements" / "base.txt").is_file()
    # Where files lie, and not what importlib.util asks: a hook of setuptools warns there when it hears of pip.
    pip = "pip" if PathFinder.find_spec("pip") else f"pip --python {shlex.quote(sys.executable)}"
    what = shlex.quote(f"{root if is_checkout else 'wespeaker_qm'}[{extra}]")
    return f"{pip} install {'-e ' if is_checkout else ''}{what}"
