"""How a file of a corpus or run is made again, by its name (:mod:`wespeaker_qm.utils.layout`); for messages.

One place, so that every program that finds such a file lost or damaged names the same command.
"""

from collections.abc import Mapping
from pathlib import Path, PurePath

_EXTRACT = "extract again (run.sh --stage 4)"
_NORMALISE = "normalise again (run.sh --stage 6)"
_PREPARE = "prepare the data again (run.sh --stage 1)"
_MADE_BY = {
    "avg_model.pt": "average again (run.sh --stage 4), or put back a copy where the checkpoints are gone",
    "spk_xvector.*": _NORMALISE,
    "*xvector.*": _EXTRACT,
    "mean_vec.npy": _EXTRACT,
    "*.asnorm.score": _NORMALISE,
    "*.snorm.score": _NORMALISE,
    "*.calibrated.score": "calibrate again (run.sh --stage 7)",
    "*.score": "score the trials again (run.sh --stage 5)",
    "trials/*": _PREPARE,
    "utt2spk": _PREPARE,
    "utt2dur": _PREPARE,
    "wav.scp": _PREPARE,
}
"""Pattern of the end of a path -> what makes such a file; the first that fits counts."""
_KEPT = {
    "avg_model.pt": f"delete it and {_MADE_BY['avg_model.pt']}",
    "resume.pt": "put back a copy of it, or delete it and .done/train to train from the first epoch",
    "*.pt": "put back a copy of it, or train again into another --exp_dir",
}
"""Likewise, of files that no stage makes by itself."""


def made_again(path: Path | str) -> str:
    """What to do to have a file again that is not there.

    >>> made_again("exp/mini/qmargin/scores/all.asnorm.score")
    'normalise again (run.sh --stage 6)'
    """
    return _first(_MADE_BY, path) or "run the stage that makes it (run.sh --help lists the stages)"


def mended(path: Path | str) -> str:
    """What to do with a file that is not what was written.

    >>> mended("exp/mini/qmargin/scores/all.score")
    'delete it and score the trials again (run.sh --stage 5)'
    """
    return _first(_KEPT, path) or f"delete it and {made_again(path)}"


def _first(remedies: Mapping[str, str], path: Path | str) -> str:
    name = PurePath(str(path).removesuffix(".npz"))
    return next((remedy for pattern, remedy in remedies.items() if name.match(pattern)), "")
