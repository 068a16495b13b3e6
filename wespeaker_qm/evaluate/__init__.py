"""Numbers from scores: operating points at low false-accept rates, their intervals, and comparisons of systems."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
