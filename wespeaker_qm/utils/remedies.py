"""How a file of a corpus or run is made again, by its name (:mod:`wespeaker_qm.utils.layout`); for messages.

One place, so that every program that finds such a file lost or damaged names the same command. That is advice for files
that stages made: what somebody brought is neither to be deleted nor made again by a stage, whatever it is called.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path, PurePath

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import is_of_stages, made_by_stages

_EXTRACT = "extract again (run.sh --stage 4)"
_NORMALISE = "normalise again (run.sh --stage 6)"
_PREPARE = "prepare the data again (run.sh --stage 1)"
_EVALUATE = "evaluate again (run.sh --stage 5)"
_EXPORT = "export the model again (run.sh --stage 8)"
_MADE_BY = {
    "avg_model.pt": "average again (run.sh --stage 4), or put back a copy where the checkpoints are gone",
    "spk_xvector.*": _NORMALISE,
    "*xvector.*": _EXTRACT,
    "mean_vec.npy": _EXTRACT,
    "utt2bandwidth": _EXTRACT,
    "config.yaml": "go on with the training, which writes it again (run.sh --stage 3)",
    "scores/calibration.json": "calibrate again (run.sh --stage 7)",
    "*.asnorm.score": _NORMALISE,
    "*.snorm.score": _NORMALISE,
    "*.calibrated.score": "calibrate again (run.sh --stage 7)",
    "*.score": "score the trials again (run.sh --stage 5)",
    "metrics.json": _EVALUATE,
    "report.*": _EVALUATE,
    "det.*": _EVALUATE,
    "training.png": _EVALUATE,
    "model/*": _EXPORT,
    "model.zip": _EXPORT,
    "trials/*": _PREPARE,
    "utt2spk": _PREPARE,
    "utt2dur": _PREPARE,
    "wav.scp": _PREPARE,
}
"""Pattern of the end of a path -> what makes such a file; the first that fits counts."""
_KEPT = {
    "avg_model.pt": f"delete it and {_MADE_BY['avg_model.pt']}",
    "resume/step_*.pt": "put back a copy of it, or delete resume/ and .done/train to train from the first epoch",
    "resume.pt": "put back a copy of it, or delete it and .done/train to train from the first epoch",
    "*.pt": "put back a copy of it, or train again into another --exp_dir",
    "train_log.jsonl": (
        "put back a copy of it, or delete it with its checksum: reports then go without the training's curves"
    ),
    "provenance.json": "put back a copy of it, or delete it: a model's card then goes without what it was made with",
}
"""Likewise, of files that no stage makes by itself."""


_FOREIGN = "make it again with the program that wrote it, or name another file"
_SAME_COMMAND = "run the same command again"

_in_one_command: ContextVar[bool] = ContextVar("in_one_command", default=False)
_OPTION = re.compile(r"(?:\brun\.sh|\bwespeaker-qm [a-z-]+|\begs/\w+)\b[^;()\n]*|(?<![\w'/=-])--[a-z]\w+")
"""An option in a message, alone; or a whole command, whose options are its own."""


@contextlib.contextmanager
def one_command(options: Mapping[str, str]) -> Iterator[None]:
    """Until the end of the block, messages are for the user of one program that runs the stages itself.

    Args:
        options: option of a stage -> what the program calls it, where that is something else.

    >>> with one_command({"--audio_root": "DIR"}):
    ...     raise RecipeError("--audio_root none: no such folder")
    Traceback (most recent call last):
    wespeaker_qm.utils.errors.RecipeError: DIR none: no such folder
    """
    token = _in_one_command.set(True)
    try:
        yield
    except RecipeError as error:
        error.args = (_OPTION.sub(lambda found: options.get(found[0], found[0]), str(error)),)
        raise
    finally:
        _in_one_command.reset(token)


def with_run_sh(advice: str) -> str:
    """``advice`` for users of run.sh, or nothing in a program that runs the stages itself."""
    return advice if not _in_one_command.get() else ""


def made_again(path: Path | str) -> str:
    """What to do to have a file again that is not there, or that does not fit what it belongs to.

    >>> made_again("elsewhere/all.asnorm.score")
    'normalise again (run.sh --stage 6), or name another file'
    """
    remedy = (
        _first(_MADE_BY, path) or _first(_KEPT, path) or "run the stage that makes it (run.sh --help lists the stages)"
    )
    if Path(path).is_file() and not made_by_stages(Path(path)):
        return _FOREIGN
    if not is_of_stages(Path(path)):
        return f"{remedy}, or name another file"
    return remedy if not _in_one_command.get() else _SAME_COMMAND


def mended(path: Path | str) -> str:
    """What to do with a file that is not what was written.

    >>> mended("elsewhere/all.score")
    'make it again with the program that wrote it, or name another file'
    """
    if not made_by_stages(Path(path)):
        return _FOREIGN
    return _first(_KEPT, path) or f"delete it and {made_again(path)}"


def _first(remedies: Mapping[str, str], path: Path | str) -> str:
    name = PurePath(str(path).removesuffix(".npz"))
    return next((remedy for pattern, remedy in remedies.items() if name.match(pattern)), "")
