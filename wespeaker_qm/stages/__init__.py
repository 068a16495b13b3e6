"""The stages of run.sh, and the programs beside them, as functions::

    from wespeaker_qm import DataFolder, RunFolder, stages

    stages.score(data=DataFolder("data/mini"), run=RunFolder("exp/mini/qmargin_a1.5"))

Each is in a module that bears the name of its activity (``score`` in ``scoring.py``) and is imported when it is first
asked for, so that scoring and evaluation need no PyTorch. A stage whose inputs have not changed does nothing.
"""

from wespeaker_qm.utils.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
