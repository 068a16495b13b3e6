"""Speaker-embedding networks."""

from wespeaker_qm.utils.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
