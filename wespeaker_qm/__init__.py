"""Speaker verification with sparsity-inducing divergence losses (Q-Margin, A3M, EntMax)."""

__version__ = "0.1.0"
