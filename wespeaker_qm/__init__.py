"""Speaker verification with sparsity-inducing divergence losses (Q-Margin, A3M, EntMax).

The public names of each package stand in its ``__init__.pyi``; what they stand for is imported when it is first asked
for, so that ``import wespeaker_qm`` costs nothing, and evaluation needs no torch.
"""

from wespeaker_qm.utils.lazy import attach_stub

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
